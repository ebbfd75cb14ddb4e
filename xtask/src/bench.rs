//! `cargo xtask bench`: Cove against crun, runc and docker, in one run, in ratios.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;

use crate::shell::{command, has, root, run};

/// How often each is measured; the median counts.
const RUNS: usize = 25;

/// A container to execute something in.
const SLEEPER: &[&str] =
    &["run", "-d", "--name", "cove-bench", "--network", "none", "busybox", "sleep", "600"];

/// One line of the table.
struct Row {
    what: String,
    cove: Figure,
    peer: &'static str,
    other: Option<Figure>,
    bar: &'static str,
}

/// What was measured.
#[derive(Clone, Copy)]
enum Figure {
    Time(Duration),
    /// Bytes of memory.
    Bytes(u64),
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
            _ => None,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::Time(time) => format!("{:.2} ms", time.as_secs_f64() * 1000.0),
            Self::Bytes(bytes) => format!("{} KiB", bytes >> 10),
        }
    }
}

/// Measures, prints the table, and keeps it in `docs/benchmarks.md`.
pub(crate) fn bench() -> Result<()> {
    run("cargo", &["build", "--release"])?;
    let mut rows = Vec::new();
    bench_runtime(&mut rows)?;
    bench_daemon(&mut rows)?;
    let table = table(&rows);
    println!("\n{table}");
    let path = root().join("docs/benchmarks.md");
    let head = "# Benchmarks\n\nThe last `cargo xtask bench`, on the machine it was run on: medians of 25 for a bundle, `run` and `exec`, \
                single runs for the rest. A ratio below 1 means that Cove is quicker. Peers that are not installed (or not named by `PEERS=DIR`, whose `DIR/bin` is searched first) are \
                left out.\n\n";
    std::fs::write(&path, format!("{head}{table}"))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| what | Cove | peer | ratio | bar |\n|---|---|---|---|---|\n");
    for row in rows {
        let peer = match row.other {
            Some(other) => format!("{} {}", row.peer, other.shown()),
            None if row.peer.is_empty() => "–".into(),
            None => format!("{} is not there", row.peer),
        };
        let ratio = row.other.and_then(|other| row.cove.ratio(other));
        let ratio = ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"));
        // Writing to a string can't fail.
        let _ = writeln!(text, "| {} | {} | {peer} | {ratio} | {} |", row.what, row.cove.shown(), row.bar);
    }
    text
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

/// The median time of a command line, which must succeed.
fn time(program: &str, args: impl Fn(usize) -> Vec<String>) -> Result<Duration> {
    let mut times = Vec::new();
    for at in 0..RUNS + 3 {
        let args = args(at);
        let mut command = command(program, &args.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let began = Instant::now();
        let status = command.status().with_context(|| format!("failed to run {program}"))?;
        let took = began.elapsed();
        ensure!(status.success(), "{program} {} failed ({status})", args.join(" "));
        if at >= 3 {
            times.push(took);
        }
    }
    Ok(median(times))
}

/// The same bundle by each runtime. Those that refuse a hybrid of cgroup versions get a mount
/// namespace without the second.
fn bench_runtime(rows: &mut Vec<Row>) -> Result<()> {
    let dir = root().join("target/bench/bundle");
    let rootfs = dir.join("rootfs");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&rootfs)?;
    let layer = dir.join("layer.tar");
    std::fs::write(&layer, support::image::busybox_layer()?)?;
    run("tar", &["-xf", &layer.display().to_string(), "-C", &rootfs.display().to_string()])?;
    let cove = root().join("target/release/cove-runtime").display().to_string();
    let bundle = dir.display().to_string();
    run(&cove, &["spec", "--bundle", &bundle])?;
    let config = dir.join("config.json");
    let text = std::fs::read_to_string(&config)?
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"true\"");
    std::fs::write(&config, text)?;
    let args = |at: usize| ["run", "--bundle", &bundle, &format!("bench{at}")].map(str::to_owned).to_vec();
    let ours = time(&cove, args)?;
    for (name, bar) in [("crun", "≤ 0.6"), ("runc", "")] {
        let other = peer(name).and_then(|program| {
            let script = format!(
                "umount /sys/fs/cgroup/unified 2>/dev/null; exec {} run --bundle {bundle} \"$0\"",
                program.display()
            );
            // The shell's own start is measured alone and taken off.
            let wrapped = |script: String| {
                move |at: usize| ["-m", "sh", "-c", &script, &format!("peer{at}")].map(str::to_owned).to_vec()
            };
            let whole = time("unshare", wrapped(script)).ok()?;
            let shell =
                time("unshare", wrapped("umount /sys/fs/cgroup/unified 2>/dev/null; exec true".into()))
                    .ok()?;
            whole.checked_sub(shell)
        });
        rows.push(Row {
            what: format!("run of a bundle ({name})"),
            cove: ours.into(),
            peer: name,
            other: other.map(Figure::Time),
            bar,
        });
    }
    Ok(())
}

/// The daemon's own commands against Docker's.
fn bench_daemon(rows: &mut Vec<Row>) -> Result<()> {
    let release = root().join("target/release");
    let daemon = Daemon::start_from(&release)?;
    let cove = release.join("cove").display().to_string();
    let address = daemon.address();
    let docker_host = std::env::var("BENCH_DOCKER_HOST").ok();
    let image = root().join("target/bench/busybox.tar").display().to_string();
    support::image::write_busybox(Path::new(&image))?;
    let docker = |args: &[&str]| -> Option<Duration> {
        let host = docker_host.clone()?;
        let owned: Vec<String> = ["-H", &host].iter().chain(args).map(ToString::to_string).collect();
        time("docker", |_| owned.clone()).ok()
    };
    if let Some(host) = &docker_host {
        run("docker", &["-H", host, "load", "-qi", &image])?;
        run("docker", &[&["-H", host], SLEEPER].concat())?;
    }
    let ours = |args: &[&str]| -> Result<Duration> {
        let owned: Vec<String> = ["--host", &address].iter().chain(args).map(ToString::to_string).collect();
        time(&cove, |_| owned.clone())
    };
    let run_args = ["run", "--rm", "--network", "none", "busybox", "true"];
    rows.push(Row {
        what: "run --rm of true".into(),
        cove: ours(&run_args)?.into(),
        peer: "docker",
        other: docker(&run_args).map(Figure::Time),
        bar: "≤ 1/15",
    });
    let said = daemon.docker(SLEEPER)?;
    ensure!(said.code == 0, "{said:?}");
    let exec_args = ["exec", "cove-bench", "true"];
    rows.push(Row {
        what: "exec of true".into(),
        cove: ours(&exec_args)?.into(),
        peer: "docker",
        other: docker(&exec_args).map(Figure::Time),
        bar: "≤ 1/12",
    });
    if let Some(host) = &docker_host {
        run("docker", &["-H", host, "rm", "-f", "cove-bench"])?;
    }
    let clients: Vec<(&str, &str)> = [(cove.as_str(), address.as_str())]
        .into_iter()
        .chain(docker_host.as_deref().map(|h| ("docker", h)))
        .collect();
    let both = |measure: &dyn Fn(&str, &str) -> Result<Duration>| -> Result<(Figure, Option<Figure>)> {
        let ours = clients.first().context("no client")?;
        let other = clients.get(1).and_then(|(program, host)| measure(program, host).ok());
        Ok((measure(ours.0, ours.1)?.into(), other.map(Figure::Time)))
    };
    // First, because a heap that many starts have grown hides what the next take.
    bench_memory(&daemon, &clients, rows)?;
    let (cove, other) = both(&|program, host| start_many(program, host, 50))?;
    rows.push(Row { what: "50 starts, 8 at once, each".into(), cove, peer: "docker", other, bar: "≤ 1/8" });
    bench_logs(&both, rows)?;
    bench_pull(&both, rows)
}

/// One command that must succeed; its output goes nowhere.
fn once(program: &str, host: &str, args: &[&str]) -> Result<Duration> {
    let mut command = command(program, &[&["--host", host], args].concat());
    let null = std::process::Stdio::null;
    command.stdin(null()).stdout(null()).stderr(null());
    let began = Instant::now();
    let status = command.status().with_context(|| format!("failed to run {program}"))?;
    ensure!(status.success(), "{program} {} failed ({status})", args.join(" "));
    Ok(began.elapsed())
}

/// Names of the containers that [`start_many`] leaves running.
fn many(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("bench-many-{at}")).collect()
}

/// Starts so many, eight at once; removes them again. The time of one.
fn start_many(program: &str, host: &str, count: usize) -> Result<Duration> {
    let took = run_many(program, host, count)?;
    remove_many(program, host, count)?;
    Ok(took)
}

fn run_many(program: &str, host: &str, count: usize) -> Result<Duration> {
    let names = many(count);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(name) = names.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        once(
                            program,
                            host,
                            &["run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "900"],
                        )?;
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    Ok(began.elapsed() / u32::try_from(count)?)
}

fn remove_many(program: &str, host: &str, count: usize) -> Result<()> {
    let names = many(count);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    once(program, host, &[&["rm", "-f"], names.as_slice()].concat()).map(drop)
}

/// What the daemon and a monitor take, alone and with many containers.
fn bench_memory(daemon: &Daemon, clients: &[(&str, &str)], rows: &mut Vec<Row>) -> Result<()> {
    let (program, host) = clients.first().context("no client")?;
    let socket = daemon.socket().display().to_string();
    let pss = || memory(&["coved", &socket], "Pss:").context("coved is not to be found");
    let count = 200;
    let before = pss()?;
    run_many(program, host, count)?;
    let after = pss()?;
    let monitor = memory(&["cove-runtime", "monitor"], "Private_").context("no monitor is to be found")?;
    remove_many(program, host, count)?;
    let mut add = |what: &str, bytes, bar| {
        rows.push(Row { what: what.into(), cove: Figure::Bytes(bytes), peer: "", other: None, bar });
    };
    add("daemon with one container, PSS", before, "≤ 20480 KiB");
    add("daemon for each of 200 more, PSS", after.saturating_sub(before) / 200, "≤ 60 KiB");
    add("monitor, private", monitor, "≤ 512 KiB");
    Ok(())
}

/// The sum of the fields of `smaps_rollup` that begin so, of a process whose command line has all
/// these words.
fn memory(words: &[&str], field: &str) -> Option<u64> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("xtask") || !words.iter().all(|word| line.contains(word)) {
            return None;
        }
        let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).ok()?;
        let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        let fields: Vec<u64> =
            rollup.lines().filter(|line| line.starts_with(field)).filter_map(kib).collect();
        (!fields.is_empty()).then(|| fields.iter().sum::<u64>() << 10)
    })
}

type Both<'a> = dyn Fn(&dyn Fn(&str, &str) -> Result<Duration>) -> Result<(Figure, Option<Figure>)> + 'a;

/// A million lines of a hundred bytes: written, read back, and attached to.
fn bench_logs(both: &Both<'_>, rows: &mut Vec<Row>) -> Result<()> {
    let script = format!("yes {} | head -n 1000000", "x".repeat(99));
    let body = ["--network", "none", "busybox", "sh", "-c", &script];
    let (cove, other) = both(&|program, host| {
        let began = Instant::now();
        once(program, host, &[&["run", "-d", "--name", "bench-logs"], body.as_slice()].concat())?;
        once(program, host, &["wait", "bench-logs"])?;
        Ok(began.elapsed())
    })?;
    rows.push(Row {
        what: "a million lines, written".into(),
        cove,
        peer: "docker",
        other,
        bar: "≤ podman's (0.7 s)",
    });
    let (cove, other) = both(&|program, host| once(program, host, &["logs", "bench-logs"]))?;
    rows.push(Row {
        what: "a million lines, read back".into(), cove, peer: "docker", other, bar: "≤ 1/12"
    });
    both(&|program, host| once(program, host, &["rm", "bench-logs"]))?;
    let (cove, other) =
        both(&|program, host| once(program, host, &[&["run", "--rm"], body.as_slice()].concat()))?;
    rows.push(Row { what: "a million lines, attached".into(), cove, peer: "docker", other, bar: "≤ 1/3" });
    Ok(())
}

/// An image of `BENCH_IMAGE`, which a loopback registry has.
fn bench_pull(both: &Both<'_>, rows: &mut Vec<Row>) -> Result<()> {
    let Ok(image) = std::env::var("BENCH_IMAGE") else { return Ok(()) };
    let (cove, other) = both(&|program, host| {
        let took = once(program, host, &["pull", &image])?;
        once(program, host, &["rmi", &image])?;
        Ok(took)
    })?;
    rows.push(Row { what: format!("pull of {image}"), cove, peer: "docker", other, bar: "≤ 1/4" });
    Ok(())
}
