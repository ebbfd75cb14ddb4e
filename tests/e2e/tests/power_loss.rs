//! The power goes at any moment: what was acknowledged is there afterwards, and nothing is half made.
//!
//! The engine's root is an ext4 file system on a loop device. At random moments the daemon is stopped and
//! the file behind the device copied: it holds what the disk has got so far, and nothing of what the
//! kernel still keeps in memory. A second daemon starts on the copy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use support::daemon::Daemon;
use support::image::{Blobs, Compression, Layer, busybox_layer, docker_archive, header, noise, sha256};
use support::registry::{Answer, Scripted, honest};
use tar::{Builder, EntryType};

const ROUNDS: u32 = 8;
const SIZE: u64 = 192 << 20;

/// As hard as ext4 can be to programs that don't sync: no commit by itself, no order between data and
/// names, no flush on rename.
const OPTIONS: &str = "loop,commit=300,data=writeback,noauto_da_alloc";

/// A file system in a file, mounted while this lives.
struct Disk {
    file: PathBuf,
    at: PathBuf,
}

fn command(program: &str, args: &[&str]) -> Result<String> {
    let output = stdx::process::command(program).args(args).output().with_context(|| program.to_owned())?;
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {err}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Disk {
    fn mount(file: &Path, at: &Path) -> Result<Self> {
        let (from, to) = (file.display().to_string(), at.display().to_string());
        command("/bin/mount", &["-t", "ext4", "-o", OPTIONS, &from, &to])?;
        Ok(Self { file: file.to_owned(), at: at.to_owned() })
    }

    /// Writes that the device has finished, and requests under way.
    fn written(&self) -> Result<(u64, u64)> {
        let listed = command("/sbin/losetup", &["-n", "-O", "NAME", "-j", &self.file.display().to_string()])?;
        let device = listed.lines().next().unwrap_or_default().trim().trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{device}/stat"))?;
        let field = |at: usize| stat.split_whitespace().nth(at).and_then(|n| n.parse().ok()).context("stat");
        Ok((field(4)?, field(8)?))
    }

    /// Copies what the disk has got, at one moment: anew where the kernel wrote meanwhile.
    fn copy(&self, to: &Path) -> Result<()> {
        for _ in 0..100 {
            let before = self.written()?;
            std::fs::copy(&self.file, to)?;
            let after = self.written()?;
            if before == after && after.1 == 0 {
                return Ok(());
            }
        }
        bail!("the kernel does not stop writing to {}", self.file.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = stdx::process::command("/bin/umount").arg("-l").arg(&self.at).status();
    }
}

/// What each object may be: as acknowledged, or one of several while a request is under way.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<String, Vec<Option<String>>>>);

impl Ledger {
    /// Does something that turns what is known of `key` into `after`.
    fn change(&self, key: &str, after: Option<&str>, act: impl FnOnce() -> Result<()>) -> Result<()> {
        let after = after.map(str::to_owned);
        {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(key.to_owned()).or_insert_with(|| vec![None]).push(after.clone());
        }
        act()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), vec![after]);
        Ok(())
    }

    fn known(&self) -> BTreeMap<String, Vec<Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What happens until the end: three workers, each with objects of its own.
struct Work {
    address: String,
    dir: PathBuf,
    /// An image at a registry, and the digest of a file in it.
    remote: (String, String),
    containers: Ledger,
    /// By name; the value is the digest of a file in it, or empty.
    images: Ledger,
    is_over: AtomicBool,
}

impl Work {
    fn docker(&self, args: &[&str]) -> Result<()> {
        let mut command = stdx::process::command("docker");
        let output = command.env("DOCKER_HOST", &self.address).args(args).output()?;
        ensure!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn on_containers(&self) -> Result<()> {
        let named = |n: u32| if n.is_multiple_of(2) { format!("renamed-{n}") } else { format!("made-{n}") };
        for n in (0_u32..).take_while(|_| self.goes_on()) {
            let (key, first, name) = (format!("c{n}"), format!("made-{n}"), named(n));
            let label = format!("key={key}");
            let create = ["create", "--name", &first, "--label", &label, "--network", "none", "busybox"];
            let run = ["sh", "-c", "echo $0", &key];
            self.containers
                .change(&key, Some(&first), || self.docker(&[create.as_slice(), &run].concat()))?;
            if n.is_multiple_of(2) {
                self.containers.change(&key, Some(&name), || self.docker(&["rename", &first, &name]))?;
            }
            if n.is_multiple_of(3) {
                self.docker(&["start", &name])?;
            }
            if n >= 5 {
                let (key, name) = (format!("c{}", n - 5), named(n - 5));
                self.containers.change(&key, None, || self.docker(&["rm", "-f", &name]))?;
            }
        }
        Ok(())
    }

    fn on_pulls(&self) -> Result<()> {
        let (name, digest) = (&self.remote.0, &self.remote.1);
        while self.goes_on() {
            self.images.change(name, Some(digest), || self.docker(&["pull", "-q", name]))?;
            self.images.change(name, None, || self.docker(&["rmi", name]))?;
        }
        Ok(())
    }

    fn on_images(&self) -> Result<()> {
        let file = self.dir.join("image.tar").display().to_string();
        for n in (0_u32..).take_while(|_| self.goes_on()) {
            let (name, other, made) = (format!("loaded-{n}"), format!("tagged-{n}"), format!("made-{n}"));
            let data = noise(u64::from(n) * 2 + 1, 200_000);
            let mut layer = Builder::new(Vec::new());
            // Its directory is implied, and has another mode below.
            layer.append_data(
                &mut header(EntryType::Regular, 0o644, 200_000),
                "root/data",
                data.as_slice(),
            )?;
            let layers = [busybox_layer()?, layer.into_inner()?];
            let config = serde_json::json!({ "Env": ["PATH=/bin"] });
            std::fs::write(&file, docker_archive(&name, &layers, &config)?)?;
            let digest = sha256(&data);
            self.images.change(&name, Some(&digest), || self.docker(&["load", "-i", &file]))?;
            self.images.change(&other, Some(&digest), || self.docker(&["tag", &name, &other]))?;
            if n.is_multiple_of(2) {
                self.images.change(&name, None, || self.docker(&["rmi", &name]))?;
            } else {
                self.images.change(&made, Some(""), || self.docker(&["commit", "base", &made]))?;
            }
            if n >= 2 {
                let (name, other) = (format!("made-{}", n - 2), format!("tagged-{}", n - 2));
                self.images.change(&other, None, || self.docker(&["rmi", &other]))?;
                if !n.is_multiple_of(2) {
                    self.images.change(&name, None, || self.docker(&["rmi", &name]))?;
                }
            }
        }
        Ok(())
    }
}

/// An image with a file, as a registry has it, and the digest of the file.
fn remote_image() -> Result<(Blobs, String)> {
    let data = noise(1001, 300_000);
    let mut layer = Builder::new(Vec::new());
    layer.append_data(&mut header(EntryType::Regular, 0o644, 300_000), "root/data", data.as_slice())?;
    let layers = vec![
        Layer::pack(&busybox_layer()?, Compression::Gzip)?,
        Layer::pack(&layer.into_inner()?, Compression::Zstd)?,
    ];
    Ok((Blobs::new(layers, &serde_json::json!({ "Env": ["PATH=/bin"] })), sha256(&data)))
}

/// Stops every thread of a process; those in the kernel finish there first.
fn stop(pid: Pid) -> Result<()> {
    kill_process(pid, Signal::STOP)?;
    let began = Instant::now();
    let is_stopped = || -> Result<bool> {
        for task in std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
            let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
            if !stat.rsplit(')').next().unwrap_or_default().starts_with(" T") {
                return Ok(false);
            }
        }
        Ok(true)
    };
    while !is_stopped()? {
        ensure!(began.elapsed() < Duration::from_secs(10), "the daemon does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether what was found of each key is what it may be.
fn compare(
    what: &str,
    known: &BTreeMap<String, Vec<Option<String>>>,
    found: &BTreeMap<String, String>,
) -> Result<()> {
    for (key, may_be) in known {
        let is = found.get(key).cloned();
        ensure!(may_be.contains(&is), "{what} {key} is {is:?}, and may be {may_be:?}");
    }
    let unknown: Vec<&String> = found.keys().filter(|key| !known.contains_key(*key)).collect();
    ensure!(unknown.is_empty(), "{what}s nobody made: {unknown:?}");
    Ok(())
}

fn check_containers(after: &Daemon, known: &BTreeMap<String, Vec<Option<String>>>) -> Result<()> {
    let format = "{{.Label \"key\"}} {{.Names}}";
    let listed = after.docker_ok(&["ps", "-a", "--filter", "label=key", "--format", format])?;
    let found: BTreeMap<String, String> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(key, name)| (key.into(), name.into()))
        .collect();
    ensure!(found.len() == listed.lines().count(), "one container twice: {listed}");
    compare("container", known, &found)?;
    for (key, name) in &found {
        let said = after.docker(&["start", "-a", name])?;
        ensure!(said.code == 0 && said.out == *key, "container {name} of {key}: {said:?}");
    }
    Ok(())
}

fn check_images(after: &Daemon, known: &BTreeMap<String, Vec<Option<String>>>) -> Result<()> {
    let listed = after.docker_ok(&["images", "--format", "{{.Repository}}"])?;
    let mut found = BTreeMap::new();
    for name in listed
        .lines()
        .filter(|name| ["loaded-", "tagged-", "made-", "127."].iter().any(|p| name.starts_with(p)))
    {
        let script = "stat -c %a /root; test -e /root/data && sha256sum /root/data";
        let said =
            after.docker(&["run", "--rm", "--network", "none", name, "busybox", "sh", "-c", script])?;
        ensure!(said.out.starts_with("700"), "image {name}: {said:?}");
        let digest = said.out.lines().nth(1).and_then(|line| line.split(' ').next()).unwrap_or_default();
        found.insert(name.to_owned(), digest.to_owned());
    }
    let unnamed = listed.lines().filter(|name| name.starts_with('<')).count();
    ensure!(unnamed == 0, "images without a name: {listed}");
    compare("image", known, &found)?;
    // What save and push would send.
    let blobs = after.dir().join("root/blobs/sha256");
    for name in after.entries("root/blobs/sha256") {
        ensure!(sha256(&std::fs::read(blobs.join(&name))?) == name, "the blob {name} is another");
    }
    Ok(())
}

/// Everything is taken away, and nothing may be left of it.
fn check_leftovers(after: &Daemon) -> Result<()> {
    let ids = after.docker_ok(&["ps", "-aq"])?;
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if !ids.is_empty() {
        after.docker_ok(&[["rm", "-f"].as_slice(), &ids].concat())?;
    }
    after.docker_ok(&["image", "prune", "-af"])?;
    after.wait_for("an empty trash", || after.entries("root/trash").is_empty())?;
    // The welcome image's own stay.
    for (dir, count) in [
        ("layers", 1),
        ("blobs/sha256", 1),
        ("implied", 0),
        ("ingest", 0),
        ("snapshots", 0),
        ("containers", 0),
    ] {
        let mut entries = after.entries(&format!("root/{dir}"));
        // A blob whose image was not finished is what the next pull would go on from.
        entries.retain(|name| !name.ends_with(".partial"));
        ensure!(entries.len() == count, "left in {dir}: {entries:?}");
    }
    Ok(())
}

fn check_databases(root: &Path) -> Result<()> {
    for name in ["engine.db", "images.db"] {
        let connection = rusqlite::Connection::open(root.join(name))?;
        let said: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(said == "ok", "{name}: {said}");
    }
    Ok(())
}

/// Between 100 and 500 ms, at random.
fn a_moment() -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    Duration::from_millis(100 + random % 400)
}

/// Why loop devices can't be had here, if so.
fn missing() -> Result<Option<&'static str>> {
    if !support::is_root()? {
        return Ok(Some("it mounts a file system, which only root can"));
    }
    if !Path::new("/sbin/mkfs.ext4").exists() {
        return Ok(Some("mkfs.ext4 is missing: install e2fsprogs"));
    }
    if command("/sbin/losetup", &["--find"]).is_err() {
        return Ok(Some("there are no loop devices"));
    }
    Ok(None)
}

#[test]
fn what_was_acknowledged_outlives_a_power_cut() -> Result<()> {
    if let Some(why) = missing()? {
        support::skip(why);
        return Ok(());
    }
    let memory = tempfile::Builder::new().prefix("cove-disk").tempdir_in("/dev/shm")?;
    let file = memory.path().join("disk");
    std::fs::File::create(&file)?.set_len(SIZE)?;
    let now = "lazy_itable_init=0,lazy_journal_init=0";
    command("/sbin/mkfs.ext4", &["-q", "-F", "-E", now, &file.display().to_string()])?;
    let mut before = Daemon::start_empty(&[])?;
    before.crash()?;
    let disk = Disk::mount(&file, &before.dir().join("root"))?;
    before.launch()?;
    before.load_busybox()?;
    before.docker_ok(&["create", "--name", "base", "--network", "none", "busybox"])?;
    let mut after = Daemon::start_empty(&[])?;
    after.crash()?;

    let (image, digest) = remote_image()?;
    // In pieces, so that pulls are cut in the middle too.
    let registry = Scripted::serve(move |request, _| Answer {
        pace: Duration::from_millis(2),
        ..honest(&image, request)
    })?;
    let remote = format!("{}/app", registry.host());
    let work = Arc::new(Work {
        address: before.address(),
        dir: before.dir().to_owned(),
        remote: (remote.clone(), digest),
        containers: Ledger::default(),
        images: Ledger::default(),
        is_over: AtomicBool::new(false),
    });
    let spawn = |act: fn(&Work) -> Result<()>| {
        let work = Arc::clone(&work);
        std::thread::spawn(move || act(&work))
    };
    let workers = [spawn(Work::on_containers), spawn(Work::on_images), spawn(Work::on_pulls)];
    let pid = Pid::from_raw(i32::try_from(before.pid().context("no daemon")?)?).context("no pid")?;
    let (mut outcome, mut seen) = (Ok(()), 0);
    for round in 0..ROUNDS {
        std::thread::sleep(a_moment());
        stop(pid)?;
        let (containers, images) = (work.containers.known(), work.images.known());
        seen +=
            [&containers, &images].iter().flat_map(|all| all.values()).filter(|one| one.len() == 1).count();
        let copy = memory.path().join("copy");
        let copied = disk.copy(&copy);
        let checked = copied.and_then(|()| check(&mut after, &copy, &containers, &images, &remote));
        kill_process(pid, Signal::CONT)?;
        outcome = checked.with_context(|| format!("round {round}; the daemon's log:\n{}", after.log()));
        if outcome.is_err() || workers.iter().any(std::thread::JoinHandle::is_finished) {
            break;
        }
    }
    work.is_over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
    }
    support::tell(&format!("after {ROUNDS} power cuts, {seen} times something was as acknowledged"));
    drop(after);
    let ids = before.docker_ok(&["ps", "-aq"])?;
    before.docker_ok(&[vec!["rm", "-f"], ids.split_whitespace().collect()].concat())?;
    before.crash()?;
    drop(disk);
    outcome
}

/// One power cut: the copy is what the next start finds.
fn check(
    after: &mut Daemon,
    copy: &Path,
    containers: &BTreeMap<String, Vec<Option<String>>>,
    images: &BTreeMap<String, Vec<Option<String>>>,
    remote: &str,
) -> Result<()> {
    let root = after.dir().join("root");
    // What is in memory goes with the power.
    let _ = std::fs::remove_dir_all(after.dir().join("run"));
    let disk = Disk::mount(copy, &root)?;
    after.launch()?;
    check_databases(&root)?;
    check_containers(after, containers)?;
    check_images(after, images)?;
    // Whatever is kept of a pull that was cut off does not stand in the way of the next.
    after.docker_ok(&["pull", "-q", remote])?;
    check_leftovers(after)?;
    check_databases(&root)?;
    after.crash()?;
    drop(disk);
    Ok(())
}
