//! Hyper-V's machines under Wine: Cove's service as Windows starts it, and then a machine by `cove.exe` and `cove-machine.exe` as
//! they are. Libraries stand in for Windows'; behind them is a real guest, emulated by QEMU.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::wine::{self, Wine};
use crate::files;
use crate::shell::{command, root, run_command};
use crate::sysroot::Target;

const SERVICE: &str = "CoveService";
/// How long the service may take to start, or to stop.
const DEADLINE: Duration = Duration::from_secs(30);
/// The test that asks the service.
const TEST: &str = "a_service_that_was_started_makes_machines_of_its_callers_files_alone";
/// Windows' libraries that are stood in for: what they are made of, and what that is linked with.
pub(super) const LIBRARIES: [(&str, &[&str], &[&str]); 3] = [
    ("computecore", &["computecore.c", "guests.c"], &["-lws2_32"]),
    ("computenetwork", &["computenetwork.c"], &["-lole32"]),
    ("virtdisk", &["virtdisk.c"], &[]),
];

/// Has the service and a machine run.
pub(super) fn run(wine: &Wine, target: &Target, programs: &Path) -> Result<()> {
    let system = wine.drive().join("windows/system32");
    let stand_ins = StandIns::put(&system)?;
    service(wine, target, programs)?;
    let images = root().join("target/guest");
    if !images.join("qemu-own/image.json").is_file() {
        println!(
            "cross: a machine of Hyper-V's is skipped, because its kernel takes a quarter of an hour to make: \
             cargo xtask guest-image --machine qemu --kernel own"
        );
        return Ok(());
    }
    machine(wine, &stand_ins, programs, &images)
}

/// Compiles a library that stands in for one of Windows'.
pub(super) fn compile(name: &str, into: &Path) -> Result<()> {
    let found = LIBRARIES.iter().find(|(library, _, _)| *library == name);
    let (_, sources, libraries) = found.context("it is a library that is stood in for")?;
    let folder = root().join("vm/hyperv/tests/stand_in");
    let (first, others) = sources.split_first().context("it is made of something")?;
    let others: Vec<String> = others.iter().map(|source| folder.join(source).display().to_string()).collect();
    let flags: Vec<&str> = ["-shared"]
        .into_iter()
        .chain(others.iter().map(String::as_str))
        .chain(libraries.iter().copied())
        .collect();
    wine::compile(&folder.join(first), into, &flags)
}

/// Libraries where Windows' own would be, for as long as this is kept.
struct StandIns {
    system: PathBuf,
}

impl StandIns {
    fn put(system: &Path) -> Result<Self> {
        let stand_ins = Self { system: system.to_owned() };
        for (name, _, _) in LIBRARIES {
            let (library, kept) = stand_ins.places(name);
            if library.exists() && !kept.exists() {
                std::fs::rename(&library, &kept).context("failed to set Wine's own library aside")?;
            }
            compile(name, &library)?;
        }
        Ok(stand_ins)
    }

    /// Where a library is, and where Wine's own is meanwhile.
    fn places(&self, name: &str) -> (PathBuf, PathBuf) {
        let library = self.system.join(name).with_extension("dll");
        let kept = library.with_extension("dll.wine");
        (library, kept)
    }

    /// Where the file is that says who has guests.
    fn says_where(&self) -> PathBuf {
        self.system.join("hyperv.port")
    }
}

impl Drop for StandIns {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.says_where());
        for (name, _, _) in LIBRARIES {
            let (library, kept) = self.places(name);
            let _ = std::fs::remove_file(&library);
            let _ = std::fs::rename(kept, library);
        }
    }
}

/// Has Wine's keeper of services start it, asks it, and has it stopped.
fn service(wine: &Wine, target: &Target, programs: &Path) -> Result<()> {
    let mut build = command("cargo", &["build", "-p", "vm-hyperv", "--bins"]);
    target.apply(&mut build, &[]);
    run_command(build).context("the service can't be linked for Windows")?;
    let ask = |more: &[&str]| {
        let mut ask = command("cargo", &["test", "-p", "vm-hyperv", "--test", "stand_in"]);
        target.apply(&mut ask, &[]);
        wine.run_by(&mut ask);
        ask.args(more);
        ask
    };
    // Before it is started: Wine ends services a few seconds after the last program.
    run_command(ask(&["--no-run"])).context("what asks the service can't be built")?;
    let program = Wine::path(&programs.join("cove-service.exe"));
    let control = |words: &[&str]| wine.output(Path::new("sc"), words);
    // One that was left.
    let _ = control(&["delete", SERVICE]);
    control(&["create", SERVICE, "binPath=", &program])?;
    control(&["start", SERVICE])?;
    let asked = wait_until("RUNNING", || control(&["query", SERVICE]))
        .and_then(|()| run_command(ask(&["--", "--ignored", TEST])).context("what the service is asked"));
    // Wine's fails where the service is faster than its answer: what counts is that it stops.
    let _ = control(&["stop", SERVICE]);
    let stopped = wait_until("STOPPED", || control(&["query", SERVICE]));
    // Its end may not have come to Wine's keeper yet. One that is left is deleted before the next is made.
    let _ = control(&["delete", SERVICE]);
    asked?;
    stopped?;
    println!("cross: Cove's service is started, asked and stopped under Wine");
    Ok(())
}

fn wait_until(state: &str, query: impl Fn() -> Result<String>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let said = query()?;
        if said.contains(state) {
            return Ok(());
        }
        ensure!(begin.elapsed() < DEADLINE, "the service does not become {state}: {said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whoever has the guests.
struct Guests(Child);

impl Guests {
    fn serve(folder: &Path, drive: &Path) -> Result<(Self, u16)> {
        run_command(command("cargo", &["build", "-p", "vm-supervisor", "--example", "hyperv-guests"]))?;
        let program = root().join("target/debug/examples/hyperv-guests");
        let mut serve = command(&program.display().to_string(), &[]);
        serve.arg(folder).arg(drive).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = serve.spawn().context("failed to start who has guests")?;
        let said = child.stdout.take().context("it says at which port")?;
        let guests = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).context("it says at which port")?;
        Ok((guests, line.trim().parse().context("it says at which port")?))
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        // With its input it ends, and its guest.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn machine(wine: &Wine, stand_ins: &StandIns, programs: &Path, images: &Path) -> Result<()> {
    let scratch = files::Scratch::new(&root().join("target/wine"))?;
    let image = scratch.path().join("busybox.tar");
    support::image::write_busybox(&image).context("failed to make the tests' image")?;
    let guests = scratch.path().join("guests");
    files::make_dir(&guests)?;
    let (_guests, port) = Guests::serve(&guests, &wine.drive())?;
    files::write(&stand_ins.says_where(), port.to_string().as_bytes())?;
    let machines = scratch.path().join("machines");
    let user = User { wine, cove: programs.join("cove.exe"), images, machines: &machines };
    let tried = user.try_machine(&guests, &image);
    if tried.is_err() {
        for log in [machines.join("default/machine.log"), guests.join("console.log")] {
            println!("{}:\n{}", log.display(), std::fs::read_to_string(&log).unwrap_or_default());
        }
        // It would go on.
        let _ = user.cove(&["machine", "stop", "--force", "default"]);
    }
    tried
}

/// Somebody at Windows' command line.
struct User<'a> {
    wine: &'a Wine,
    cove: PathBuf,
    images: &'a Path,
    machines: &'a Path,
}

impl User<'_> {
    fn cove(&self, args: &[&str]) -> Result<String> {
        let (images, machines) = (Wine::path(self.images), Wine::path(self.machines));
        let variables = [("COVE_GUEST_IMAGES", images.as_str()), ("COVE_MACHINES", &machines)];
        self.wine.output_with(&self.cove, args, &variables)
    }

    /// The same with the engine of the machine.
    fn engine(&self, args: &[&str]) -> Result<String> {
        self.cove(&[&["--host", "machine://default"], args].concat())
    }

    /// Has a container see who speaks to its port.
    fn see_clients(&self) -> Result<()> {
        // The address of this computer's by which it reaches others; nothing is sent.
        let outward = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let Ok(here) = outward.connect("192.0.2.1:9").and_then(|()| outward.local_addr()) else {
            println!("cross: clients' addresses are not tried, because this computer has no network");
            return Ok(());
        };
        let port = TcpListener::bind((here.ip(), 0))?.local_addr()?.port();
        let serve = ["run", "-d", "--name", "sees", "-p", &format!("{port}:80"), "busybox"];
        self.engine(&[&serve[..], &["busybox", "httpd", "-f", "-vv", "-p", "80"]].concat())?;
        super::wsl::ask((here.ip(), port).into())?;
        let said = self.engine(&["logs", "sees"])?;
        ensure!(said.contains(&here.ip().to_string()), "a container sees its client's address: {said}");
        self.engine(&["rm", "--force", "sees"])?;
        Ok(())
    }

    fn try_machine(&self, guests: &Path, image: &Path) -> Result<()> {
        // With several processors an emulated kernel now and then trips over code that it patches as it boots.
        let said =
            self.cove(&["machine", "init", "--no-share", "--cpus", "1", "--memory", "1G", "--disk", "2G"])?;
        ensure!(said.contains("Its kind is hyperv: a machine of its own"), "{said}");
        self.cove(&["machine", "start"])?;
        let status = self.cove(&["machine", "status"])?;
        ensure!(status.contains("hyperv (Hyper-V)") && status.contains("because"), "{status}");
        let document = files::read_text(&guests.join("document.json"))?;
        for part in ["cove.system=/dev/sda cove.data=/dev/sdb", "data.vhdx", r#""MacAddress""#] {
            ensure!(document.contains(part), "{part}: {document}");
        }
        self.engine(&["load", "--input", &Wine::path(image)])?;
        let said = self.engine(&["run", "--rm", "busybox", "echo", "from a container"])?;
        ensure!(said.contains("from a container"), "{said:?}");
        self.see_clients()?;
        self.engine(&["volume", "create", "kept"])?;
        self.engine(&["run", "--detach", "--name", "stays", "busybox", "sleep", "3600"])?;
        let boot = || self.engine(&["exec", "stays", "cat", "/proc/sys/kernel/random/boot_id"]);
        let before = boot()?;
        self.cove(&["machine", "sleep"])?;
        let status = self.cove(&["machine", "status"])?;
        ensure!(status.contains("asleep"), "{status}");
        // The call wakes it.
        let after = boot()?;
        ensure!(before == after, "it went on, and did not boot: {before:?}, {after:?}");
        let document = files::read_text(&guests.join("document.json"))?;
        ensure!(document.contains("SaveStateFilePath"), "{document}");
        self.engine(&["rm", "--force", "stays"])?;
        let disk = self.machines.join("default/data.vhdx");
        let length = || std::fs::metadata(&disk).map(|metadata| metadata.len());
        let before = length().context("there is no disk")?;
        // As blocks that were deleted.
        std::fs::File::options().append(true).open(&disk)?.write_all(b"deleted")?;
        self.cove(&["machine", "stop"])?;
        ensure!(length()? == before, "what was deleted is given back at a stop");
        self.cove(&["machine", "start"])?;
        let volumes = self.engine(&["volume", "ls"])?;
        ensure!(volumes.contains("kept"), "what was there is there after a stop: {volumes}");
        self.cove(&["machine", "stop", "--force"])?;
        self.cove(&["machine", "rm", "--force", "default"])?;
        println!(
            "cross: a machine of Hyper-V's starts, runs a container, sleeps, wakes and stops under Wine"
        );
        Ok(())
    }
}
