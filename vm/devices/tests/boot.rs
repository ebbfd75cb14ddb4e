//! Devices with a guest behind them: skipped where `COVE_GUEST_DIR` names no folder with a `kernel` and an `initrd`.
//!
//! The initrd's first process is the example `guest-init`. A kernel that is no bzImage is taken for User Mode Linux and
//! started as a program; the other is booted by QEMU without hardware virtualisation, which any machine has.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they measured")]

use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use vm_devices::{Access, Net, Share, ShareConfig, Vsock};

const ECHO: u32 = 7;
const SINK: u32 = 9;
const SOURCE: u32 = 19;
const SHELL: u32 = 23;
const JOIN: u32 = 37;
const TRIGGER: u32 = 41;
const WATCH: u32 = 43;
const HELLO: u32 = 9000;
const BOOT: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(20);

/// A running guest. Its devices go after it.
struct Guest {
    monitor: Child,
    vsock: Arc<Vsock>,
    shares: Vec<Share>,
    _net: Option<Net>,
    dir: tempfile::TempDir,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // UML is a group of processes.
        if let Some(group) = rustix::process::Pid::from_raw(i32::try_from(self.monitor.id()).unwrap()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

fn guest_dir(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("COVE_GUEST_DIR").map(PathBuf::from);
    let dir = dir.filter(|dir| dir.join("kernel").exists() && dir.join("initrd").exists());
    if dir.is_none() {
        println!("{test}: skipped, because COVE_GUEST_DIR names no folder with a kernel and an initrd");
    }
    dir
}

fn is_uml(images: &Path) -> bool {
    std::fs::read(images.join("kernel")).unwrap().get(0x202..0x206) != Some(b"HdrS")
}

/// Boots a guest with shares (tag and configuration) and, if there is one, a network; returns when it has said hello.
fn boot(images: &Path, shares: Vec<(&str, ShareConfig)>, network: Option<UnixStream>) -> Guest {
    let dir = tempfile::tempdir().unwrap();
    let socket = |name: &str| dir.path().join(name);
    let vsock = Arc::new(Vsock::serve(&socket("vsock"), 3).unwrap());
    let (hello, arrived) = mpsc::channel();
    vsock.listen(HELLO, move |stream| drop(hello.send(stream)));
    let (mut devices, mut served) = (vec![(socket("vsock"), 19)], Vec::new());
    for (tag, config) in shares {
        served.push(Share::serve(&socket(tag), tag, config).unwrap());
        devices.push((socket(tag), 26));
    }
    let net = network.map(|stream| {
        devices.push((socket("net"), 1));
        Net::serve(&socket("net"), stream).unwrap()
    });
    let began = Instant::now();
    let monitor =
        if is_uml(images) { uml(images, dir.path(), &devices) } else { qemu(images, dir.path(), &devices) };
    let mut guest = Guest { monitor, vsock, shares: served, _net: net, dir };
    let mut stream = arrived
        .recv_timeout(BOOT)
        .unwrap_or_else(|_| panic!("no hello ({:?}): {}", guest.monitor.try_wait(), guest.console()));
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello\n");
    println!("booted in {:?}", began.elapsed());
    guest
}

fn spawn(program: &Path, arguments: &[String], dir: &Path) -> Child {
    use std::os::unix::process::CommandExt;
    let console = std::fs::File::create(dir.join("console")).unwrap();
    stdx::process::command(program)
        .args(arguments)
        .env("TMPDIR", std::env::var_os("TMPDIR").unwrap_or("/dev/shm".into()))
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .process_group(0)
        .spawn()
        .unwrap()
}

fn uml(images: &Path, dir: &Path, devices: &[(PathBuf, u32)]) -> Child {
    let mut arguments: Vec<String> =
        ["mem=512M", "con=null", "con0=null,fd:1", "panic=-1", "seccomp=auto"].map(str::to_owned).to_vec();
    arguments.push(format!("initrd={}", images.join("initrd").display()));
    arguments.push(format!("uml_dir={}", dir.display()));
    for (socket, id) in devices {
        arguments.push(format!("virtio_uml.device={}:{id}", socket.display()));
    }
    spawn(&images.join("kernel"), &arguments, dir)
}

fn qemu(images: &Path, dir: &Path, devices: &[(PathBuf, u32)]) -> Child {
    let mut line = "-nodefaults -no-user-config -display none -no-reboot -smp 2 -cpu max \
        -object memory-backend-memfd,id=mem,size=512M,share=on -M q35,memory-backend=mem -serial file:SERIAL"
        .replace("SERIAL", dir.join("serial").to_str().unwrap());
    for (index, (socket, id)) in devices.iter().enumerate() {
        let socket = socket.display();
        line += &format!(" -chardev socket,id=c{index},path={socket}");
        line += &match id {
            19 => format!(" -device vhost-user-vsock-pci,chardev=c{index}"),
            26 => format!(" -device vhost-user-fs-pci,chardev=c{index},tag=t{index}"),
            other => panic!("no device {other} for QEMU"),
        };
    }
    let mut arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    arguments.extend(["-kernel".to_owned(), images.join("kernel").display().to_string()]);
    arguments.extend(["-initrd".to_owned(), images.join("initrd").display().to_string()]);
    arguments.extend(["-append".to_owned(), "console=ttyS0 quiet panic=-1 init_on_alloc=1".to_owned()]);
    spawn(Path::new("qemu-system-x86_64"), &arguments, dir)
}

impl Guest {
    fn connect(&self, port: u32) -> UnixStream {
        let stream = self.vsock.connect(port, SOON).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// What a shell command in the guest printed.
    fn shell(&self, command: &str) -> String {
        let mut stream = self.connect(SHELL);
        stream.write_all(command.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut output = String::new();
        if let Err(error) = stream.read_to_string(&mut output) {
            panic!("{command}: {error}, after {output:?}; console: {}", self.console());
        }
        output
    }

    /// What the monitor and the guest's kernel said.
    fn console(&self) -> String {
        let read = |name| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("console") + &read("serial")
    }

    fn mount(&self, tag: &str, index: usize) {
        // QEMU before 8.0 names the tag itself.
        let output = self.shell(&format!(
            "mkdir -p /mnt/{tag}; mount -t virtiofs {tag} /mnt/{tag} 2>/dev/null || mount -t virtiofs t{index} /mnt/{tag}"
        ));
        assert_eq!(output, "", "mounting {tag}");
    }
}

fn megabytes_per_second(bytes: u64, began: Instant) -> f64 {
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}

#[test]
fn streams_pass_whole_in_both_directions() {
    let Some(images) = guest_dir("streams_pass_whole_in_both_directions") else { return };
    let guest = boot(&images, Vec::new(), None);
    half_closed_echo(&guest);
    guest_to_host_and_back(&guest);
    refused_and_timed_out(&guest);
    round_trips(&guest);
    let size = std::env::var("COVE_GUEST_BYTES").ok().and_then(|size| size.parse().ok()).unwrap_or(256 << 20);
    throughput(&guest, size);
    stalled_reader_holds_up_only_itself(&guest);
    many_at_once(&guest, 1000);
}

fn half_closed_echo(guest: &Guest) {
    let mut stream = guest.connect(ECHO);
    let sent: Vec<u8> = (0..1_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == sent, "an echo of {} bytes came back as {}", sent.len(), got.len());
    println!("echo of 4 MB with the end passed on: same bytes");
}

fn guest_to_host_and_back(guest: &Guest) {
    guest.vsock.listen(5000, |mut stream| {
        thread::spawn(move || {
            let mut all = String::new();
            stream.read_to_string(&mut all).unwrap();
            stream.write_all(all.to_uppercase().as_bytes()).unwrap();
        });
    });
    let mut stream = guest.connect(JOIN);
    stream.write_all(&5000u32.to_le_bytes()).unwrap();
    stream.write_all(b"from the guest").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "FROM THE GUEST");
    // Nobody listens on this one: the guest's connection is refused, so the joined one just ends.
    let mut stream = guest.connect(JOIN);
    stream.write_all(&5001u32.to_le_bytes()).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    println!("guest to host: connected, answered, refused");
}

fn refused_and_timed_out(guest: &Guest) {
    let refused = guest.vsock.connect(4444, SOON).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let (sender, receiver) = mpsc::channel();
    guest.vsock.attach(ECHO, ours, SOON, move |answer| sender.send(answer).unwrap());
    theirs.write_all(b"early").unwrap();
    receiver.recv_timeout(SOON).unwrap().unwrap();
    let mut got = [0; 5];
    theirs.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early");
    println!("refused connection: {refused}; attached stream: answered");
}

fn round_trips(guest: &Guest) {
    let mut stream = guest.connect(ECHO);
    let mut best = Duration::MAX;
    let began = Instant::now();
    for _ in 0..2000 {
        let began = Instant::now();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        best = best.min(began.elapsed());
    }
    println!("round trip: mean {:?}, best {best:?}", began.elapsed() / 2000);
    let began = Instant::now();
    for _ in 0..200 {
        drop(guest.connect(ECHO));
    }
    println!("connect: mean {:?}", began.elapsed() / 200);
}

fn throughput(guest: &Guest, size: u64) {
    let mut stream = guest.connect(SINK);
    let began = Instant::now();
    let block = vec![b'y'; 256 * 1024];
    for _ in 0..size / block.len() as u64 {
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut count = [0; 8];
    stream.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_le_bytes(count), size);
    println!("host to guest: {} MiB, {:.0} MB/s", size >> 20, megabytes_per_second(size, began));
    let mut stream = guest.connect(SOURCE);
    let began = Instant::now();
    stream.write_all(&size.to_le_bytes()).unwrap();
    let (mut block, mut total) = (vec![0; 256 * 1024], 0);
    loop {
        let count = stream.read(&mut block).unwrap();
        if count == 0 {
            break;
        }
        assert!(block[..count].iter().all(|byte| *byte == b'x'));
        total += count as u64;
    }
    assert_eq!(total, size);
    println!("guest to host: {} MiB, {:.0} MB/s", size >> 20, megabytes_per_second(size, began));
}

fn stalled_reader_holds_up_only_itself(guest: &Guest) {
    let mut stalled = guest.connect(SOURCE);
    stalled.write_all(&(64u64 << 20).to_le_bytes()).unwrap();
    // While that one is not read, the others go on.
    for _ in 0..50 {
        let mut stream = guest.connect(ECHO);
        stream.write_all(b"through").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        assert_eq!(got, "through");
    }
    let mut total = 0;
    let mut block = vec![0; 1 << 20];
    while let count @ 1.. = stalled.read(&mut block).unwrap() {
        total += count;
    }
    assert_eq!(total, 64 << 20);
    println!("a stalled reader held up only itself");
}

fn many_at_once(guest: &Guest, count: usize) {
    let began = Instant::now();
    let mut streams = Vec::new();
    while streams.len() < count {
        match guest.vsock.connect(ECHO, SOON) {
            Ok(stream) => streams.push(stream),
            // The guest's program accepts more slowly than its kernel, which refuses when too many wait.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("number {index}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        assert_eq!(got, format!("number {index}"));
    }
    println!("{count} connections at once, each echoed: {:?}", began.elapsed());
}

#[test]
fn shares_are_the_hosts_files() {
    let Some(images) = guest_dir("shares_are_the_hosts_files") else { return };
    let (writable, readable) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(readable.path().join("file"), "read me").unwrap();
    std::fs::write(writable.path().join("from-host"), "hello").unwrap();
    let read_only = ShareConfig { access: Access::ReadOnly, ..ShareConfig::new(readable.path()) };
    let shares = vec![("work", ShareConfig::new(writable.path())), ("look", read_only)];
    let guest = boot(&images, shares, None);
    guest.mount("work", 1);
    guest.mount("look", 2);
    let output = guest.shell(
        "cd /mnt/work; cat from-host; mkdir dir; echo made > dir/a; mv dir/a dir/b; chmod 640 dir/b; ln -s b dir/c; \
         ln dir/b dir/d; cat dir/c; stat -c '%a %h %u' dir/b; chown 12:34 dir/b; rm from-host; ls; mkfifo pipe; sync",
    );
    assert_eq!(output, "hellomade\n640 2 0\ndir\n");
    let made = std::fs::metadata(writable.path().join("dir/b")).unwrap();
    assert_eq!(made.permissions().mode() & 0o7777, 0o640);
    // Root's shares keep numbers, others' keep their owner.
    let owner = if rustix::process::geteuid().is_root() { 12 } else { rustix::process::geteuid().as_raw() };
    assert_eq!(made.uid(), owner);
    assert!(!writable.path().join("from-host").exists());
    let output = guest.shell(
        "cd /mnt/look; cat file; echo; echo x > new; echo x >> file; rm file; mv file other; chmod 777 file; mkdir d; \
         touch file; mount -o remount,rw /mnt/look; echo x > new",
    );
    assert_eq!(output.matches("Read-only file system").count(), 8, "{output}");
    assert_eq!(std::fs::read_dir(readable.path()).unwrap().count(), 1);
    let began = Instant::now();
    guest.shell("cd /mnt/work; i=0; while [ $i -lt 1000 ]; do : > f$i; i=$((i+1)); done");
    println!("1000 files made: {:?}", began.elapsed());
    let output = guest
        .shell("cd /mnt/work; time dd if=/dev/zero of=big bs=1M count=128; dd if=big of=/dev/null bs=1M");
    println!("{output}");
}

#[test]
fn changes_on_the_host_wake_watchers_in_the_guest() {
    let Some(images) = guest_dir("changes_on_the_host_wake_watchers_in_the_guest") else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("old"), "1").unwrap();
    std::fs::create_dir(at("sub")).unwrap();
    let guest = boot(&images, vec![("work", ShareConfig::new(folder.path()))], None);
    guest.mount("work", 1);
    let share = &guest.shares[0];
    let mut trigger = guest.connect(TRIGGER);
    let (listener, name) = share.events().next_trigger();
    trigger.write_all(format!("/mnt/work\n{name}\n").as_bytes()).unwrap();
    let (sender, events) = mpsc::channel();
    share
        .watch(move |event| {
            // Both end before the share does.
            let is_told = (&trigger).write_all(&event.encode()).is_ok();
            let _ = sender.send((event.kind, event.path));
            is_told
        })
        .unwrap();
    share.events().resume(listener, || ());
    guest.shell("cd /mnt/work; ls -l . sub; cat old");
    let mut watcher = guest.connect(WATCH);
    watcher.write_all(b"/mnt/work\n/mnt/work/sub\n/mnt/work/old\n\n").unwrap();
    let (seen_sender, seen_lines) = mpsc::channel();
    thread::spawn(move || {
        for line in io::BufReader::new(watcher).lines().map_while(Result::ok) {
            let _ = seen_sender.send(line.trim_end().to_owned());
        }
    });
    assert_eq!(seen_lines.recv_timeout(SOON).unwrap(), "watching");
    // What programs in the guest see of a deed, without opens and closes without writing, and what we were told to act.
    let seen = |deed: &dyn Fn()| {
        let began = Instant::now();
        deed();
        let mut seen: Vec<String> = seen_lines.recv_timeout(SOON).into_iter().collect();
        let first = began.elapsed();
        // The rest, and whatever should not come.
        while let Ok(line) = seen_lines.recv_timeout(Duration::from_millis(500)) {
            seen.push(line);
        }
        let told: Vec<_> =
            events.try_iter().map(|(kind, path)| format!("{kind:?} {}", path.display())).collect();
        println!("{told:?} -> {seen:?}, the first after {first:?}");
        (told, seen)
    };
    let host = |deed: &dyn Fn(), told: &[&str], must_see: &[&str]| {
        let (was_told, was_seen) = seen(deed);
        assert_eq!(was_told, told);
        for line in must_see {
            assert_eq!(was_seen.iter().filter(|seen| seen == line).count(), 1, "{line} in {was_seen:?}");
        }
    };
    host(&|| std::fs::write(at("new"), "x").unwrap(), &["Created new"], &["create /mnt/work new"]);
    host(
        &|| std::fs::write(at("old"), "22").unwrap(),
        &["Modified old"],
        &["modify /mnt/work old", "modify /mnt/work/old"],
    );
    assert_eq!(guest.shell("cat /mnt/work/old"), "22");
    host(
        &|| std::fs::create_dir(at("sub/dir")).unwrap(),
        &["FolderCreated sub/dir"],
        &["create /mnt/work/sub dir"],
    );
    let save = || {
        std::fs::write(at("old.tmp"), "333").unwrap();
        std::fs::rename(at("old.tmp"), at("old")).unwrap();
    };
    host(
        &save,
        &["Created old.tmp", "Renamed { to: \"old\" } old.tmp"],
        &["create /mnt/work old.tmp", "from /mnt/work old.tmp", "to /mnt/work old"],
    );
    assert_eq!(guest.shell("cat /mnt/work/old"), "333");
    host(&|| std::fs::remove_file(at("new")).unwrap(), &["Removed new"], &["delete /mnt/work new"]);
    host(
        &|| std::fs::remove_dir(at("sub/dir")).unwrap(),
        &["FolderRemoved sub/dir"],
        &["delete /mnt/work/sub dir"],
    );
    // The guest's own deeds come to it once, from its own kernel.
    let own = || {
        guest.shell(
            "cd /mnt/work; echo 1 > own; echo 2 >> own; mv own moved; chmod 600 moved; rm moved; sync",
        );
    };
    host(
        &own,
        &[],
        &["create /mnt/work own", "from /mnt/work own", "to /mnt/work moved", "delete /mnt/work moved"],
    );
    assert_eq!(guest.shell("ls -A /mnt/work"), "old\nsub\n");
}

#[test]
fn frames_reach_the_network() {
    let Some(images) = guest_dir("frames_reach_the_network") else { return };
    if !is_uml(&images) {
        println!("frames_reach_the_network: skipped, because QEMU speaks to passt itself");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("passt");
    let served = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = served.local_addr().unwrap().port();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let started = stdx::process::command("passt")
        .args(["-f", "-q", "-1", "-a", "10.0.2.15", "-n", "24", "-g", "10.0.2.2", "-s"])
        .arg(&socket)
        .stderr(Stdio::inherit())
        .spawn();
    let Ok(mut passt) = started else {
        println!("frames_reach_the_network: skipped, because passt is not installed");
        return;
    };
    let deadline = Instant::now() + SOON;
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "passt: {error}"),
        }
        thread::yield_now();
    };
    const BODY: usize = 64 << 20;
    thread::spawn(move || {
        for stream in served.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("HTTP/1.0 200 OK\r\nContent-Length: {BODY}\r\n\r\n").as_bytes());
            let _ = stream.write_all(&vec![b'z'; BODY]);
        }
    });
    let guest = boot(&images, Vec::new(), Some(stream));
    for mtu in [1500, 65520] {
        guest.shell(&format!(
            "ip link set lo up; ip link set eth0 mtu {mtu} up; ip addr replace 10.0.2.15/24 dev eth0; \
             ip route replace default via 10.0.2.2"
        ));
        let began = Instant::now();
        let output = guest.shell(&format!("wget -q -O - http://10.0.2.2:{port}/ | wc -c"));
        assert_eq!(output.trim(), BODY.to_string(), "MTU {mtu}");
        println!("64 MiB over http, MTU {mtu}: {:.0} MB/s", megabytes_per_second(BODY as u64, began));
    }
    let _ = passt.kill();
    let _ = passt.wait();
}
