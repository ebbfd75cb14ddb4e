//! `cargo xtask bench`: Cove against crun, runc, podman and docker, in one run, in ratios.

mod clients;
mod machine;
mod memory;
mod networks;
mod probe;
mod runtimes;
mod shares;
mod startup;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use support::daemon::Daemon;

use crate::shell::{command, has, root};
use clients::Client;
pub(crate) use probe::probe;
pub(crate) use startup::measure as measure_startup;

/// How often each short command is measured; the median counts.
const RUNS: usize = 25;
/// How often that is done where two are compared closely, in turns, so that what else goes on meets both.
const TURNS: usize = 5;
/// How often what takes seconds is measured.
const LONG_RUNS: usize = 3;

/// What docs/benchmarks.md begins with.
const HEAD: &str = "# Benchmarks

The last `cargo xtask bench`, on the machine it was run on. Short commands are medians of 25, each after
three that do not count; what takes seconds is the median of three. The ratio is Cove's figure by the
peer's: of times, below 1 means that Cove is quicker; of what is done in a second, above 1. The bar is for
the ratio unless it has a unit. Peers that are not installed (or not named by
`PEERS=DIR`, whose `DIR/bin` is searched first) are left out.

crun and runc run in a mount namespace that shows version 1 of the cgroups only, because they refuse a
hybrid; all runtimes keep their state on a tmpfs. podman is called as its wrapper, if there is one.

";

/// What docs/benchmarks-machine.md begins with.
const MACHINE_HEAD: &str = "# Benchmarks of machines

The last `cargo xtask bench machine`. QEMU emulates (TCG): its figures are for ratios. The bare kernel is the same one on the
same QEMU until it ends for want of a first process. Machines have 512 MiB and two processors. Emulated, one
boots when it is started for the first time, and begins from there afterwards; a cold start is one that boots.

";

/// What can be measured alone.
const PARTS: [&str; 5] = ["runtimes", "commands", "networks", "machine", "shares"];

/// One line of the table.
struct Row {
    what: String,
    cove: Figure,
    peer: String,
    other: Option<Figure>,
    bar: &'static str,
}

/// What was measured.
#[derive(Clone, Copy)]
enum Figure {
    Time(Duration),
    /// Bytes of memory.
    Bytes(u64),
    /// Bytes a second.
    Bandwidth(f64),
    /// What is done in a second.
    Rate(f64),
    /// Hundredths of a whole.
    Percent(u64),
}

impl From<Duration> for Figure {
    fn from(time: Duration) -> Self {
        Self::Time(time)
    }
}

impl Figure {
    fn ratio(self, other: Self) -> Option<f64> {
        match (self, other) {
            (Self::Time(a), Self::Time(b)) => Some(a.as_secs_f64() / b.as_secs_f64()),
            (Self::Bandwidth(a), Self::Bandwidth(b)) | (Self::Rate(a), Self::Rate(b)) => Some(a / b),
            _ => None,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::Time(time) if time < Duration::from_millis(1) => {
                format!("{:.1} µs", time.as_secs_f64() * 1e6)
            }
            Self::Time(time) => format!("{:.2} ms", time.as_secs_f64() * 1000.0),
            Self::Bandwidth(bytes) => format!("{:.2} GB/s", bytes / 1e9),
            Self::Rate(rate) => format!("{rate:.0}/s"),
            Self::Percent(hundredths) => format!("{hundredths} %"),
            Self::Bytes(bytes) => format!("{} KiB", bytes >> 10),
        }
    }
}

/// The lines so far.
#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    /// A line of times against one peer.
    fn compare(
        &mut self,
        what: &str,
        cove: Duration,
        peer: &str,
        other: Option<Duration>,
        bar: &'static str,
    ) {
        self.push(Row {
            what: what.into(),
            cove: cove.into(),
            peer: peer.into(),
            other: other.map(Figure::Time),
            bar,
        });
    }

    /// A line of figures of any kind.
    fn figures(&mut self, what: &str, cove: Figure, peer: &str, other: Figure, bar: &'static str) {
        self.push(Row { what: what.into(), cove, peer: peer.into(), other: Some(other), bar });
    }

    /// A line without a peer.
    fn alone(&mut self, what: &str, cove: Figure, bar: &'static str) {
        self.push(Row { what: what.into(), cove, peer: String::new(), other: None, bar });
    }

    fn push(&mut self, row: Row) {
        println!("{}", Self::line(&row));
        self.0.push(row);
    }

    fn line(row: &Row) -> String {
        let peer = match row.other {
            Some(other) => format!("{} {}", row.peer, other.shown()),
            None if row.peer.is_empty() => "–".into(),
            None => format!("{} is not there", row.peer),
        };
        let ratio = row.other.and_then(|other| row.cove.ratio(other));
        let ratio = ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"));
        format!("| {} | {} | {peer} | {ratio} | {} |", row.what, row.cove.shown(), row.bar)
    }

    fn text(&self) -> String {
        let mut text = String::from("| what | Cove | peer | ratio | bar |\n|---|---|---|---|---|\n");
        for row in &self.0 {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{}", Self::line(row));
        }
        text
    }
}

/// Measures and prints the table; all of it is kept in `docs/benchmarks.md`, one part is only shown.
pub(crate) fn bench(part: Option<&str>) -> Result<()> {
    let is_wanted = |name: &str| part.is_none_or(|part| part == name);
    if let Some(part) = part.filter(|part| !PARTS.contains(part)) {
        bail!("{part:?} is no part of the benchmark; they are {}", PARTS.join(", "));
    }
    if let Some(part @ ("machine" | "shares")) = part {
        return bench_machine(part);
    }
    let programs = crate::musl::release_programs()?;
    let mut table = Table::default();
    let daemon = Daemon::start_from(&programs)?;
    let ours = Client::cove(&daemon);
    let others: Vec<Client> = [Client::docker(), Client::podman()].into_iter().flatten().collect();
    clients::load(&others)?;
    // What crun takes is a bar of the commands too.
    if is_wanted("runtimes") || is_wanted("commands") {
        let crun = runtimes::bench(&mut table)?;
        if is_wanted("runtimes") {
            startup::bench(&mut table)?;
        }
        if is_wanted("commands") {
            clients::bench(&mut table, &daemon, &ours, &others, &crun)?;
        }
    }
    if is_wanted("networks") {
        networks::bench(&mut table, &daemon, &ours, &others)?;
    }
    if part.is_some() {
        return Ok(());
    }
    let path = root().join("docs/benchmarks.md");
    std::fs::write(&path, format!("{HEAD}{}", table.text()))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// Machines have a table of their own, in `docs/benchmarks-machine.md`.
fn bench_machine(part: &str) -> Result<()> {
    crate::guest_image::guest_image(&[])?;
    crate::shell::run("cargo", &["build", "--release", "-p", "cli", "-p", "vm-supervisor"])?;
    let programs = root().join("target/release");
    let mut table = Table::default();
    if part == "shares" {
        return shares::bench(&mut table, &programs);
    }
    machine::bench(&mut table, &programs)?;
    let path = root().join("docs/benchmarks-machine.md");
    std::fs::write(&path, format!("{MACHINE_HEAD}{}", table.text()))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// A peer's program: of `PEERS`, else of the system.
fn peer(name: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("PEERS") {
        let path = Path::new(&dir).join("bin").join(name);
        if path.exists() {
            return Some(path);
        }
    }
    has(name).then(|| PathBuf::from(name))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The median of three.
fn thrice(measure: impl Fn() -> Result<Duration>) -> Result<Duration> {
    (0..LONG_RUNS).map(|_| measure()).collect::<Result<Vec<_>>>().map(median)
}

/// One run of a command line, which must succeed; its output goes nowhere.
fn once(program: &str, args: &[&str]) -> Result<Duration> {
    let mut command = command(program, args);
    let null = std::process::Stdio::null;
    command.stdin(null()).stdout(null()).stderr(null());
    let began = Instant::now();
    let status = command.status().with_context(|| format!("failed to run {program}"))?;
    ensure!(status.success(), "{program} {} failed ({status})", args.join(" "));
    Ok(began.elapsed())
}

/// The median time of a command line.
fn time(program: &str, args: &[&str]) -> Result<Duration> {
    let mut times = Vec::with_capacity(RUNS);
    for at in 0..RUNS + 3 {
        let took = once(program, args)?;
        if at >= 3 {
            times.push(took);
        }
    }
    Ok(median(times))
}

/// The medians of two, measured in turns.
fn in_turns(
    ours: impl Fn() -> Result<Duration>,
    other: impl Fn() -> Option<Duration>,
) -> Result<(Duration, Option<Duration>)> {
    let mut times = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        times.0.push(ours()?);
        times.1.extend(other());
    }
    let (ours, other) = (median(times.0), Some(times.1).filter(|times| !times.is_empty()));
    Ok((ours, other.map(median)))
}

/// `xtask measure PROGRAM ARGS…`: prints the median in nanoseconds. It is how this program measures in
/// another mount namespace.
pub(crate) fn measure(args: &[String]) -> Result<()> {
    let [program, rest @ ..] = args else { bail!("measure needs a program") };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    println!("{}", time(program, &rest)?.as_nanos());
    Ok(())
}
