//! The same commands by each engine's own command line.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use support::daemon::Daemon;

use super::runtimes::Crun;
use super::{Table, memory, once, peer, thrice, time};
use crate::shell::{command, root};

/// How many containers are started at once.
const AT_ONCE: usize = 8;

/// An engine by its command line.
pub(super) struct Client {
    pub(super) name: &'static str,
    program: String,
    /// What tells it which engine to talk to.
    host: Vec<String>,
}

impl Client {
    pub(super) fn cove(daemon: &Daemon) -> Self {
        let program = crate::musl::folder().join("cove").display().to_string();
        Self { name: "cove", program, host: vec!["--host".into(), daemon.address()] }
    }

    /// The engine at `BENCH_DOCKER_HOST`.
    pub(super) fn docker() -> Option<Self> {
        let host = std::env::var("BENCH_DOCKER_HOST").ok()?;
        let program = peer("docker")?.display().to_string();
        Some(Self { name: "docker", program, host: vec!["--host".into(), host] })
    }

    /// podman, where it can list its images.
    pub(super) fn podman() -> Option<Self> {
        let program = peer("podman-peer").or_else(|| peer("podman"))?.display().to_string();
        let podman = Self { name: "podman", program, host: Vec::new() };
        podman.once(&["images"]).is_ok().then_some(podman)
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        self.host.iter().map(String::as_str).chain(args.iter().copied()).collect()
    }

    /// The same command line, talking to another's engine.
    pub(super) fn pointed_at(&self, other: &Self) -> Self {
        Self { name: other.name, program: self.program.clone(), host: other.host.clone() }
    }

    /// Where its engine listens.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        Some(self.host.last()?.strip_prefix("unix://")?.into())
    }

    /// What it prints.
    pub(super) fn output(&self, args: &[&str]) -> Result<String> {
        let output = command(&self.program, &self.args(args)).output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Ends and removes containers.
    pub(super) fn remove(&self, names: &[&str]) -> Result<()> {
        // podman waits ten seconds for each unless told not to; docker's rm has no such flag.
        let quick: &[&str] = if self.name == "podman" { &["-t", "0"] } else { &[] };
        self.once(&[&["rm", "-f"], quick, names].concat()).map(drop)
    }

    pub(super) fn once(&self, args: &[&str]) -> Result<Duration> {
        once(&self.program, &self.args(args))
    }

    fn time(&self, args: &[&str]) -> Result<Duration> {
        time(&self.program, &self.args(args))
    }

    /// Starts so many on a network, eight at once. The time of one.
    pub(super) fn run_many(&self, count: usize, network: &str) -> Result<Duration> {
        let names = many(count);
        let next = AtomicUsize::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| -> Result<()> {
            let worker = || -> Result<()> {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.once(&[
                        "run",
                        "-d",
                        "--name",
                        name,
                        "--network",
                        network,
                        "busybox",
                        "sleep",
                        "900",
                    ])?;
                }
                Ok(())
            };
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?)
        })?;
        Ok(began.elapsed() / u32::try_from(count)?)
    }

    pub(super) fn remove_many(&self, count: usize) -> Result<()> {
        let names = many(count);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.remove(&names)
    }
}

/// Names of the containers that [`Client::run_many`] leaves running.
fn many(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("bench-many-{at}")).collect()
}

const SLEEPER: &[&str] = &["--network", "none", "busybox", "sleep", "900"];

/// Gives the peers the image that all of this runs.
pub(super) fn load(others: &[Client]) -> Result<()> {
    let image = root().join("target/bench/busybox.tar");
    if let Some(folder) = image.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    support::image::write_busybox(&image)?;
    for other in others {
        other.once(&["load", "-i", &image.display().to_string()])?;
    }
    Ok(())
}

pub(super) fn bench(
    table: &mut Table,
    daemon: &Daemon,
    ours: &Client,
    others: &[Client],
    crun: &Crun,
) -> Result<()> {
    for client in others.iter().chain([ours]) {
        client.once(&[&["run", "-d", "--name", "bench-exec"], SLEEPER].concat())?;
    }
    let run: &[&str] = &["run", "--rm", "--network", "none", "busybox", "true"];
    let exec: &[&str] = &["exec", "bench-exec", "true"];
    let alone: [&dyn Fn() -> Option<Duration>; 2] = [&|| crun.run(), &|| crun.exec()];
    for (what, args, crun, crun_bar, bar) in [
        ("run --rm of true", run, alone[0], "≤ 1", "≤ 1/15 of docker"),
        ("exec of true", exec, alone[1], "≤ 1.2", "≤ 1/12 of docker"),
    ] {
        let (took, theirs) = super::in_turns(|| ours.time(args), crun)?;
        table.compare(what, took, "crun alone", theirs, crun_bar);
        for other in others {
            table.compare(what, took, other.name, other.time(args).ok(), bar);
        }
    }
    bridged(table, ours, others, crun)?;
    memory::bench(table, daemon, ours)?;
    for client in others.iter().chain([ours]) {
        client.remove(&["bench-exec"])?;
    }
    let both =
        |table: &mut Table, what: &str, bar, measure: &dyn Fn(&Client) -> Result<Duration>| -> Result<()> {
            let took = thrice(|| measure(ours))?;
            for other in others {
                table.compare(what, took, other.name, thrice(|| measure(other)).ok(), bar);
            }
            if others.is_empty() {
                table.compare(what, took, "docker", None, bar);
            }
            Ok(())
        };
    for count in [50, 200] {
        both(table, &format!("{count} starts, 8 at once, each"), "≤ 1/8", &|client| {
            let took = client.run_many(count, "none")?;
            client.remove_many(count)?;
            Ok(took)
        })?;
    }
    let script = format!("yes {} | head -n 1000000", "x".repeat(99));
    let body = ["--network", "none", "busybox", "sh", "-c", &script];
    both(table, "a million lines, written", "≤ 1 of podman", &|client| {
        let began = Instant::now();
        client.once(&[&["run", "-d", "--name", "bench-logs"], body.as_slice()].concat())?;
        client.once(&["wait", "bench-logs"])?;
        let took = began.elapsed();
        client.once(&["rm", "bench-logs"])?;
        Ok(took)
    })?;
    for client in others.iter().chain([ours]) {
        client.once(&[&["run", "--name", "bench-logs"], body.as_slice()].concat())?;
    }
    both(table, "a million lines, read back", "≤ 1/12 of docker", &|client| {
        client.once(&["logs", "bench-logs"])
    })?;
    for client in others.iter().chain([ours]) {
        client.once(&["rm", "bench-logs"])?;
    }
    both(table, "a million lines, attached", "≤ 1/3 of docker", &|client| {
        client.once(&[&["run", "--rm"], body.as_slice()].concat())
    })?;
    // An image that a loopback registry has.
    let Ok(image) = std::env::var("BENCH_IMAGE") else { return Ok(()) };
    both(table, &format!("pull of {image}"), "≤ 1/4", &|client| {
        let took = client.once(&["pull", &image])?;
        client.once(&["rmi", &image])?;
        Ok(took)
    })
}

/// The same with a network: on the bridge, and reached at a port.
fn bridged(table: &mut Table, ours: &Client, others: &[Client], crun: &Crun) -> Result<()> {
    let plain: &[&str] = &["run", "--rm", "busybox", "true"];
    let port: &[&str] = &["run", "--rm", "-p", "127.0.0.1:18999:80", "busybox", "true"];
    let (took, theirs) = super::in_turns(|| ours.time(plain), || crun.run())?;
    table.compare("run --rm of true on a bridge", took, "crun alone, without a network", theirs, "≤ 1.5");
    for (what, args) in [("run --rm of true on a bridge", plain), ("run --rm of true with a port", port)] {
        let took = if args == plain { took } else { ours.time(args)? };
        for other in others {
            table.compare(what, took, other.name, other.time(args).ok(), "≤ 1/20 of docker");
        }
    }
    Ok(())
}
