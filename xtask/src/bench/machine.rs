//! Machines: how long they take to start, what a call, an edit of a file and idling cost, and what is given back.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::machine::Machine;

use super::{Figure, Table, median};
use crate::shell::{command, root};

/// How often short things are measured.
const RUNS: usize = 200;
/// How often a machine is started.
const STARTS: usize = 3;
/// How long an idle guest is watched.
const IDLE: Duration = Duration::from_secs(20);
/// By when what is freed must be back.
const GIVEN_BACK: Duration = Duration::from_secs(15);

pub(super) fn bench(table: &mut Table, programs: &Path) -> Result<()> {
    for backend in ["uml", "qemu"] {
        let Some(machine) = Machine::init_from(backend, Some(programs))? else { continue };
        let cold = start(table, &machine)?;
        machine.load_busybox()?;
        call(table, &machine)?;
        if backend == "qemu" {
            wake(table, &machine, cold)?;
        }
        edits(table, &machine)?;
        idle(table, &machine)?;
        disk(table, &machine)?;
        if backend == "qemu" {
            memory(table, &machine)?;
        }
    }
    super::shares::bench(table, programs)
}

/// How long a start takes; how long one that boots.
fn start(table: &mut Table, machine: &Machine) -> Result<Duration> {
    // What a start keeps for the next, where the processor is emulated.
    let kept = machine.files().join("template");
    let stop = || machine.cove_ok(&["machine", "stop", "test"]).map(drop);
    let timed = || -> Result<Duration> {
        let began = Instant::now();
        machine.bring_up()?;
        Ok(began.elapsed())
    };
    // The first makes the disk.
    timed()?;
    stop()?;
    let mut boots = Vec::new();
    for _ in 0..STARTS {
        if kept.exists() {
            std::fs::remove_dir_all(&kept)?;
        }
        boots.push(timed()?);
        if machine.backend() != "uml" {
            machine.wait_for("what is kept of a boot", || kept.join("saved.json").exists())?;
        }
        stop()?;
    }
    let cold = median(boots.clone());
    let what = format!("{}: start until the engine answers", machine.backend());
    if machine.backend() == "uml" {
        table.alone(&what, median(boots).into(), "≤ 500 ms");
    } else {
        let mut starts = Vec::new();
        for _ in 0..STARTS {
            starts.push(timed()?);
            stop()?;
        }
        let bare = median((0..STARTS).map(|_| bare_kernel()).collect::<Result<Vec<_>>>()?);
        table.compare(&what, median(starts), "the bare kernel", Some(bare), "≤ 1.4");
        let what = format!("{}: the first start of an image, which boots and is kept", machine.backend());
        table.compare(&what, cold, "the bare kernel", Some(bare), "");
    }
    machine.bring_up()?;
    Ok(cold)
}

/// The same kernel on the same QEMU until it looks for its first process, finds none and ends.
fn bare_kernel() -> Result<Duration> {
    let folder = ["own", "debian"].map(|origin| root().join(format!("target/guest/qemu-{origin}")));
    let folder = folder.into_iter().find(|folder| folder.is_dir()).context("a guest image")?;
    let kernel = folder.join("kernel").display().to_string();
    let append = "console=ttyS0 quiet loglevel=4 panic=-1 init_on_alloc=1";
    let machine =
        ["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max,xsave=off", "-smp", "2", "-m", "512M"];
    let rest = ["-kernel", &kernel, "-append", append, "-serial", "null", "-nodefaults", "-no-user-config"];
    let mut qemu =
        command("qemu-system-x86_64", &[&machine[..], &rest, &["-display", "none", "-no-reboot"]].concat());
    let began = Instant::now();
    let status = qemu.stdin(Stdio::null()).stdout(Stdio::null()).status().context("failed to run QEMU")?;
    ensure!(status.success(), "QEMU ended with {status}");
    Ok(began.elapsed())
}

/// From a call to its answer by a machine that sleeps, its share mounted.
fn wake(table: &mut Table, machine: &Machine, cold: Duration) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        machine.cove_ok(&["machine", "sleep", "test"])?;
        let began = Instant::now();
        machine.docker_ok(&["version"])?;
        times.push(began.elapsed());
    }
    let share = machine.shared().display().to_string();
    shell(machine, &format!("grep -q ' {share} .* virtiofs ' /proc/self/mountinfo"))?;
    table.compare(
        "qemu: wake by a call until it is answered",
        median(times),
        "a cold start",
        Some(cold),
        "≤ 0.2",
    );
    Ok(())
}

/// A request on a connection of its own, by the same program here and in the guest.
fn call(table: &mut Table, machine: &Machine) -> Result<()> {
    let ping = machine.compile(&root().join("tests/e2e/tests/ping.c"))?.display().to_string();
    let runs = RUNS.to_string();
    let socket = machine.address();
    let output = command(&ping, &[socket.trim_start_matches("unix://"), &runs]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let here = String::from_utf8_lossy(&output.stdout).trim().parse().context("a time")?;
    let inside = ["machine", "shell", "test", "--", &ping, "/run/cove/cove.sock", &runs];
    let inside = machine.cove_ok(&inside)?.trim().parse().context("a time")?;
    let what = format!("{}: a call of the engine, all of it", machine.backend());
    let (here, inside) = (Duration::from_micros(here), Duration::from_micros(inside));
    table.compare(&what, here, "in the guest", Some(inside), "≤ 2 ms more");
    Ok(())
}

/// From an edit here to a watcher in a container, and back here on its output.
fn edits(table: &mut Table, machine: &Machine) -> Result<()> {
    let watcher = machine.shared().join("watcher");
    let source = root().join("tests/e2e/tests/watcher.c").display().to_string();
    let built = command("cc", &["-static", "-O1", "-o", &watcher.display().to_string(), &source]).status()?;
    ensure!(built.success(), "failed to build the watcher");
    let folder = machine.shared().join("watched");
    std::fs::create_dir_all(&folder)?;
    let (mount, bin) = (format!("{0}:{0}", folder.display()), format!("{}:/watcher:ro", watcher.display()));
    let run = ["run", "-d", "--name", "watcher", "--network", "none", "-v", &mount, "-v", &bin, "busybox"];
    machine.cove_ok(&[&run[..], &["/watcher", &folder.display().to_string()]].concat())?;
    let mut follow = machine.command(&["logs", "-f", "watcher"])?;
    let mut follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("output")?).lines();
    ensure!(lines.next().context("a line")?? == "ready", "the watcher is not ready");
    let mut times = Vec::new();
    for at in 0..RUNS {
        let began = Instant::now();
        // Empty: what is written into a file that was just made may be seen by itself.
        std::fs::File::create(folder.join(format!("file-{at}")))?;
        let line = lines.next().context("the watcher ended")??;
        times.push(began.elapsed());
        ensure!(line == format!("create file-{at}"), "{line}");
    }
    follow.kill()?;
    follow.wait()?;
    machine.cove_ok(&["rm", "-f", "watcher"])?;
    let what = format!("{}: an edit here to its event in a container, and told here", machine.backend());
    table.alone(&what, median(times).into(), "≤ 20 ms");
    Ok(())
}

fn idle(table: &mut Table, machine: &Machine) -> Result<()> {
    std::thread::sleep(Duration::from_secs(3));
    let status = machine.status()?;
    let report = |name: &str| status["report"][name].as_u64().unwrap_or_default();
    let used = report("memory_used");
    table.alone(
        &format!("{}: used in the idle guest", machine.backend()),
        Figure::Bytes(used),
        "≤ 122880 KiB",
    );
    // How often a processor had nothing more to do, and so was woken before. Interrupts are more: a clock that ticks
    // while there is work wakes nobody, and emulated, little work takes many ticks.
    let wakes = || -> Result<u64> {
        let timers = machine.cove_ok(&["machine", "shell", "test", "--", "cat", "/proc/timer_list"])?;
        let calls =
            |line: &str| line.trim().strip_prefix(".idle_calls")?.trim_start_matches([' ', ':']).parse().ok();
        let calls: Vec<u64> = timers.lines().filter_map(calls).collect();
        ensure!(!calls.is_empty(), "the guest's kernel does not count how often it idles");
        Ok(calls.iter().sum())
    };
    let before = wakes()?;
    std::thread::sleep(IDLE);
    let count = wakes()?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
    let rate = count as f64 / IDLE.as_secs_f64();
    table.alone(
        &format!("{}: wake-ups of processors in the idle guest", machine.backend()),
        Figure::Rate(rate),
        "≤ 20 /s",
    );
    let supervisor = machine.processes("cove-machine run").into_iter().next().context("a supervisor")?;
    // The guest's memory is mapped there too, as shared memory, and is not counted.
    let text = std::fs::read_to_string(format!("/proc/{supervisor}/smaps_rollup"))?;
    let kilobytes = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    let own = (kilobytes("Pss_Anon:") + kilobytes("Pss_File:")) << 10;
    table.alone(&format!("{}: supervisor and shares", machine.backend()), Figure::Bytes(own), "≤ 30720 KiB");
    Ok(())
}

/// Waits until a figure of the status is back below what it may be; what came back, in hundredths.
fn back(machine: &Machine, figure: &str, before: u64, peak: u64) -> Result<u64> {
    let grown = peak.saturating_sub(before).max(1);
    let began = Instant::now();
    loop {
        let now = machine.status()?[figure].as_u64().unwrap_or_default();
        let returned = peak.saturating_sub(now) * 100 / grown;
        if returned >= 97 || began.elapsed() > GIVEN_BACK {
            return Ok(returned);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn shell(machine: &Machine, script: &str) -> Result<()> {
    machine.cove_ok(&["machine", "shell", "test", "--", "sh", "-c", script]).map(drop)
}

fn disk(table: &mut Table, machine: &Machine) -> Result<()> {
    let now = || -> Result<u64> { Ok(machine.status()?["disk_here"].as_u64().unwrap_or_default()) };
    let before = now()?;
    shell(
        machine,
        "dd if=/dev/zero bs=1M count=64 2>/dev/null | tr '\\0' 'x' > /tmp/x; for i in $(seq 20); do cat /tmp/x; done > /var/lib/cove/big; sync; rm /tmp/x",
    )?;
    let peak = now()?;
    shell(machine, "rm /var/lib/cove/big; sync")?;
    let returned = back(machine, "disk_here", before, peak)?;
    let what =
        format!("{}: of {} MiB written and deleted, given back", machine.backend(), (peak - before) >> 20);
    table.alone(&what, Figure::Percent(returned), "≥ 95 %");
    Ok(())
}

/// Last, because it needs a larger machine.
fn memory(table: &mut Table, machine: &Machine) -> Result<()> {
    machine.cove_ok(&["machine", "stop", "test"])?;
    machine.cove_ok(&["machine", "set", "test", "--memory", "3G"])?;
    machine.bring_up()?;
    let now = || -> Result<u64> { Ok(machine.status()?["memory_here"].as_u64().unwrap_or_default()) };
    let before = now()?;
    shell(machine, "dd if=/dev/zero of=/dev/shm/big bs=1M count=1024 2>/dev/null")?;
    let peak = now()?;
    ensure!(peak > before + (900 << 20), "the guest took no memory: {before} bytes before, {peak} after");
    shell(machine, "rm /dev/shm/big")?;
    let returned = back(machine, "memory_here", before, peak)?;
    let what = format!("qemu: of {} MiB taken and freed, given back", peak.saturating_sub(before) >> 20);
    table.alone(&what, Figure::Percent(returned), "≥ 90 % within 15 s");
    Ok(())
}
