//! `cargo xtask bench`: Cove against crun, runc, podman and docker, in one run, in ratios.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;

use crate::shell::{command, has, root, run};

/// How often each is measured; the median counts.
const RUNS: usize = 25;

/// One line of the table.
struct Row {
    what: String,
    cove: Duration,
    peer: &'static str,
    other: Option<Duration>,
    bar: &'static str,
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
    let head = "# Benchmarks\n\nMedians of the last `cargo xtask bench`, on the machine it was run on. A ratio below 1 means that Cove is \
                quicker. Peers that are not installed (or not named by `PEERS=DIR`, whose `DIR/bin` is searched first) are \
                left out.\n\n";
    std::fs::write(&path, format!("{head}{table}"))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| what | Cove | peer | ratio | bar |\n|---|---|---|---|---|\n");
    let shown = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    for row in rows {
        let (peer, ratio) = match row.other {
            Some(other) => (
                format!("{} {}", row.peer, shown(other)),
                format!("{:.2}", row.cove.as_secs_f64() / other.as_secs_f64()),
            ),
            None => (format!("{} is not there", row.peer), "–".into()),
        };
        // Writing to a string can't fail.
        let _ = writeln!(text, "| {} | {} | {peer} | {ratio} | {} |", row.what, shown(row.cove), row.bar);
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
        rows.push(Row { what: format!("run of a bundle ({name})"), cove: ours, peer: name, other, bar });
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
        run(
            "docker",
            &[
                "-H",
                host,
                "run",
                "-d",
                "--name",
                "cove-bench",
                "--network",
                "none",
                "busybox",
                "sleep",
                "600",
            ],
        )?;
    }
    let ours = |args: &[&str]| -> Result<Duration> {
        let owned: Vec<String> = ["--host", &address].iter().chain(args).map(ToString::to_string).collect();
        time(&cove, |_| owned.clone())
    };
    let run_args = ["run", "--rm", "--network", "none", "busybox", "true"];
    rows.push(Row {
        what: "run --rm of true".into(),
        cove: ours(&run_args)?,
        peer: "docker",
        other: docker(&run_args),
        bar: "≤ 1/15",
    });
    let said = daemon.docker(&[
        "run",
        "-d",
        "--name",
        "cove-bench",
        "--network",
        "none",
        "busybox",
        "sleep",
        "600",
    ])?;
    ensure!(said.code == 0, "{said:?}");
    let exec_args = ["exec", "cove-bench", "true"];
    rows.push(Row {
        what: "exec of true".into(),
        cove: ours(&exec_args)?,
        peer: "docker",
        other: docker(&exec_args),
        bar: "≤ 1/12",
    });
    if let Some(host) = &docker_host {
        run("docker", &["-H", host, "rm", "-f", "cove-bench"])?;
    }
    Ok(())
}
