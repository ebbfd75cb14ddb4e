//! Changes of files on the host as programs in containers hear of them: each once, in their order, and soon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::machine::Machine;

/// How long the slowest machine may take for the next event of many.
const PATIENCE: Duration = Duration::from_secs(30);
/// Deeds of a burst; each is one to four events.
const DEEDS: usize = 5004;

/// One test at a time has the processors, for times are measured.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watcher of a folder in a container, and what it says.
struct Watcher {
    client: Child,
    lines: Receiver<String>,
    folder: PathBuf,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

impl Watcher {
    fn start(machine: &Machine, folder: &Path) -> Result<Self> {
        Self::start_with(machine, folder, &[])
    }

    /// One that is given more words.
    fn start_with(machine: &Machine, folder: &Path, words: &[&str]) -> Result<Self> {
        let program = machine.compile(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watcher.c")))?;
        let mount = format!("{0}:{0}", machine.shared().display());
        let other = format!("{0}:{0}", folder.display());
        let (program, watched) = (program.display().to_string(), folder.display().to_string());
        let mut run = vec!["run", "--rm", "--network", "none", "-v", &mount];
        if !folder.starts_with(machine.shared()) {
            run.extend(["-v", &other]);
        }
        run.extend(["busybox", &program, &watched]);
        run.extend(words);
        let mut client = machine.command(&run)?.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let (told, lines) = channel();
        let out = BufReader::new(client.stdout.take().context("its output")?);
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        let watcher = Watcher { client, lines, folder: folder.to_owned() };
        ensure!(watcher.next()? == "ready");
        Ok(watcher)
    }

    fn next(&self) -> Result<String> {
        self.lines.recv_timeout(PATIENCE).context("no further event")
    }

    /// What is seen until a file of this name, made now, appears.
    fn until(&self, name: &str) -> Result<Vec<String>> {
        std::fs::write(self.folder.join(name), "")?;
        let mut seen = Vec::new();
        loop {
            let line = self.next().with_context(|| format!("after {} events", seen.len()))?;
            if line == format!("create {name}") {
                return Ok(seen);
            }
            seen.push(line);
        }
    }
}

fn append(path: &Path) -> Result<()> {
    Ok(std::fs::File::options().append(true).open(path)?.write_all(b"more")?)
}

/// Does the deed of this number, and says what is to be seen of it.
fn deed(folder: &Path, number: usize) -> Result<Vec<String>> {
    let at = |name: &str| folder.join(name);
    let (old, new) = (format!("old-{number}"), format!("new-{number}"));
    let seen: &[(&str, &str)] = match number % 6 {
        0 => {
            std::fs::write(at(&new), "content")?;
            &[("create", &new)]
        }
        1 => {
            append(&at(&old))?;
            &[("modify", &old)]
        }
        2 => {
            std::fs::write(at(&new), "saved")?;
            std::fs::rename(at(&new), at(&old))?;
            &[("create", &new), ("from", &new), ("to", &old)]
        }
        3 => {
            std::fs::rename(at(&old), at(&new))?;
            &[("from", &old), ("to", &new)]
        }
        4 => {
            std::fs::remove_file(at(&old))?;
            &[("delete", &old)]
        }
        _ => {
            // Gone before anybody can have looked.
            std::fs::create_dir(at(&new))?;
            std::fs::remove_dir(at(&new))?;
            std::fs::write(at(&old), "")?;
            std::fs::remove_file(at(&old))?;
            &[("create", &new), ("delete", &new), ("create", &old), ("delete", &old)]
        }
    };
    Ok(seen.iter().map(|(word, name)| format!("{word} {name}")).collect())
}

/// Whether it tells of a write to a file right after it was made.
fn may_be_seen_too(line: &str) -> bool {
    let came_and_went = |name: &str| name.parse().is_ok_and(|number: usize| number % 6 == 5);
    line.starts_with("modify new-") || line.strip_prefix("modify old-").is_some_and(came_and_went)
}

#[test]
fn ten_thousand_changes_here_are_seen_in_a_container_once_each_and_in_order() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start("uml")? else { return Ok(()) };
    sees_changes_once_each_and_in_order(&machine)
}

#[test]
fn they_are_too_where_the_shares_server_is_anothers() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start_layered("uml")? else { return Ok(()) };
    sees_changes_once_each_and_in_order(&machine)
}

fn sees_changes_once_each_and_in_order(machine: &Machine) -> Result<()> {
    let folder = machine.shared().join("watched");
    std::fs::create_dir(&folder)?;
    for number in (0..DEEDS).filter(|number| matches!(number % 6, 1..=4)) {
        std::fs::write(folder.join(format!("old-{number}")), "as before")?;
    }
    let watcher = Watcher::start(machine, &folder)?;
    // The guest may still be hearing of what was there before.
    watcher.until("the-beginning")?;
    let mut expected = Vec::new();
    let began = Instant::now();
    for number in 0..DEEDS {
        expected.extend(deed(&folder, number)?);
    }
    let done = began.elapsed();
    // What was written to a file right after it was made may have been seen by itself.
    let mut seen = watcher.until("the-end")?;
    seen.retain(|line| !may_be_seen_too(line));
    support::tell(&format!(
        "{} events, made within {} ms, seen within {} ms",
        expected.len(),
        done.as_millis(),
        began.elapsed().as_millis()
    ));
    ensure!(expected.len() >= 10_000);
    compare(&seen, &expected)
}

#[test]
fn a_change_here_is_seen_in_a_container_within_milliseconds() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start("uml")? else { return Ok(()) };
    let folder = machine.shared().join("watched");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("file"), "")?;
    let watcher = Watcher::start(&machine, &folder)?;
    let mut medians = Vec::new();
    // Others may have the processors meanwhile.
    for _ in 0..5 {
        let mut took = Vec::new();
        for _ in 0..100 {
            let began = Instant::now();
            append(&folder.join("file"))?;
            ensure!(watcher.next()? == "modify file");
            // From the deed here over the event there to its word here.
            took.push(began.elapsed());
        }
        took.sort_unstable();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        support::tell(&format!("an event takes {median:?} at the median, {worst:?} at most"));
        if median <= Duration::from_millis(20) {
            return Ok(());
        }
        medians.push(median);
    }
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: f64 = load.split_whitespace().next().context("a load")?.parse()?;
    let processors = u32::try_from(std::thread::available_parallelism()?.get())?;
    // With so many programs for each processor every hop waits for its turn.
    let is_busy = load > 2.0 * f64::from(processors);
    ensure!(is_busy, "events take {medians:?} at the median, with a load of {load}");
    support::absent(&format!("the processors are busy (a load of {load}): events within 20 ms"));
    ensure!(
        medians.iter().min() <= Some(&Duration::from_millis(100)),
        "events take {medians:?} at the median"
    );
    Ok(())
}

#[test]
fn what_a_container_does_itself_is_seen_by_another_once_each() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start("uml")? else { return Ok(()) };
    sees_what_another_container_does(&machine)
}

#[test]
fn it_is_too_where_the_host_tells_of_it_as_of_its_own() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start_layered("uml")? else { return Ok(()) };
    sees_what_another_container_does(&machine)
}

fn sees_what_another_container_does(machine: &Machine) -> Result<()> {
    let folder = machine.shared().join("watched");
    std::fs::create_dir(&folder)?;
    let watcher = Watcher::start(machine, &folder)?;
    watcher.until("the-beginning")?;
    let script = format!(
        "cd {}; for n in $(seq 100); do : > a-$n; echo more >> a-$n; mv a-$n b-$n; mkdir d-$n; rmdir d-$n; \
         echo x > s; mv s b-$n; rm b-$n; done",
        folder.display()
    );
    let mut expected = Vec::new();
    for n in 1..=100 {
        let (a, b, d) = (format!("a-{n}"), format!("b-{n}"), format!("d-{n}"));
        let seen = [
            ("create", &a),
            ("modify", &a),
            ("from", &a),
            ("to", &b),
            ("create", &d),
            ("delete", &d),
            ("create", &"s".to_owned()),
            ("modify", &"s".to_owned()),
            ("from", &"s".to_owned()),
            ("to", &b),
            ("delete", &b),
        ];
        expected.extend(seen.map(|(word, name)| format!("{word} {name}")));
    }
    let said = machine.run_in_share(&["sh", "-c", &script])?;
    ensure!(said.code == 0, "{}", said.err);
    let seen = watcher.until("the-end")?;
    compare(&seen, &expected)
}

#[test]
fn changes_are_seen_where_a_container_may_change_nothing() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::init("uml")? else { return Ok(()) };
    let folder = tempfile::tempdir()?;
    let (shared, path) = (machine.shared().display().to_string(), folder.path().display().to_string());
    let share = ["--share", &shared, "--share", &format!("{path}:ro")];
    machine.cove_ok(&[&["machine", "set", "test"], &share[..]].concat())?;
    machine.bring_up()?;
    machine.load_busybox()?;
    let numbers: Vec<usize> = (0..60).collect();
    for number in numbers.iter().filter(|number| matches!(*number % 6, 1..=4)) {
        std::fs::write(folder.path().join(format!("old-{number}")), "as before")?;
    }
    let watcher = Watcher::start(&machine, folder.path())?;
    watcher.until("the-beginning")?;
    let mut expected = Vec::new();
    for number in numbers {
        expected.extend(deed(folder.path(), number)?);
    }
    let mut seen = watcher.until("the-end")?;
    seen.retain(|line| !may_be_seen_too(line));
    compare(&seen, &expected)?;
    let before = std::fs::read_dir(folder.path())?.count();
    // As root of the guest, by any of its mounts; and of a container that was given it to write to.
    for script in [
        format!("echo x > {path}/file"),
        format!("rm {path}/the-end"),
        format!("mount -o remount,rw,bind {path} && mkdir {path}/folder"),
    ] {
        let said = machine.cove(&["machine", "shell", "test", "--", "sh", "-c", &script])?;
        ensure!(said.code != 0 && said.err.contains("Read-only file system"), "{script}: {said:?}");
    }
    let mount = format!("{path}:/written:rw");
    let write = ["run", "--rm", "--network", "none", "-v", &mount, "busybox", "touch", "/written/file"];
    let said = machine.cove(&write)?;
    ensure!(said.code != 0 && said.err.contains("Read-only file system"), "{said:?}");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), before);
    Ok(())
}

#[test]
fn permissions_that_change_here_are_seen_once_each() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start("uml")? else { return Ok(()) };
    sees_permissions(&machine)
}

#[test]
fn they_are_seen_too_where_the_shares_server_is_anothers() -> Result<()> {
    let _alone = alone();
    let Some(machine) = Machine::start_layered("uml")? else { return Ok(()) };
    sees_permissions(&machine)
}

fn sees_permissions(machine: &Machine) -> Result<()> {
    let folder = machine.shared().join("watched");
    std::fs::create_dir(&folder)?;
    let names: Vec<String> = (0..60).map(|number| format!("file-{number}")).collect();
    let allow = |name: &String, mode| {
        std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(mode))
    };
    for name in &names {
        std::fs::write(folder.join(name), "content")?;
        allow(name, 0o600)?;
    }
    let watcher = Watcher::start_with(machine, &folder, &["permissions"])?;
    watcher.until("the-beginning")?;
    for mode in [0o640, 0o755] {
        names.iter().try_for_each(|name| allow(name, mode))?;
        let mut seen = watcher.until(&format!("the-end-{mode}"))?;
        // Files that tell of the end are closed after they were made, which changes their times.
        seen.retain(|line| !line.contains("the-"));
        let expected: Vec<String> = names.iter().map(|name| format!("attrib {name}")).collect();
        compare(&seen, &expected)?;
        let list = format!("stat -c %a {}/file-*", folder.display());
        let said = machine.run_in_share(&["sh", "-c", &list])?.out;
        ensure!(said.lines().all(|line| line == format!("{mode:o}")), "{said}");
    }
    Ok(())
}

fn compare(seen: &[String], expected: &[String]) -> Result<()> {
    let Some(at) = (0..expected.len().max(seen.len())).find(|at| expected.get(*at) != seen.get(*at)) else {
        return Ok(());
    };
    let around =
        |lines: &[String]| lines.iter().skip(at.saturating_sub(3)).take(8).cloned().collect::<Vec<_>>();
    anyhow::bail!(
        "{} events instead of {}; around the {at}th: {:?} instead of {:?}",
        seen.len(),
        expected.len(),
        around(seen),
        around(expected)
    )
}
