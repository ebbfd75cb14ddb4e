//! Many at once: what comes is all gone afterwards, and who is slow holds nobody up.
//!
//! `COVE_TEST_MANY` is how many containers (200 unless given).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;

const WORKERS: usize = 6;

fn how_many() -> usize {
    std::env::var("COVE_TEST_MANY").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// Runs `work` for each number below `count`, several at a time.
fn each(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                work(n)?;
            }
        };
        let all: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })
}

fn ask(daemon: &Daemon, method: &str, path: &str, body: &Value, expected: u16) -> Result<String> {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let (status, said) = daemon.ask(method, path, &text)?;
    ensure!(status == expected, "{method} {path}: {status} {said}");
    Ok(said)
}

/// Entries of a directory and of those below, without what programs of others keep there.
fn files(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        found.push(path.display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, found);
        }
    }
}

fn nft(args: &[&str]) -> Result<String> {
    let mut command = stdx::process::command("nft");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin").args(args);
    Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
}

/// The rules of the one table that knows a bridge.
fn rules(bridge: &str) -> Result<String> {
    for name in nft(&["list", "tables", "inet"])?.lines().filter_map(|line| line.strip_prefix("table inet "))
    {
        let text = nft(&["list", "table", "inet", name])?;
        if text.contains(bridge) {
            return Ok(text);
        }
    }
    Ok(String::new())
}

/// All that a daemon holds, by kind.
fn holdings(daemon: &Daemon, bridge: &str) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let pid = daemon.pid().context("no daemon")?;
    let own = |name: &str| std::fs::read_dir(format!("/proc/{pid}/{name}")).into_iter().flatten().flatten();
    // Sockets and the like have numbers of their own each.
    let kind = |target: String| target.split([':', '(']).next().unwrap_or_default().to_owned();
    let mut fds: Vec<String> = own("fd")
        .filter_map(|entry| Some(kind(entry.path().read_link().ok()?.display().to_string())))
        .collect();
    fds.sort();
    let threads = own("task").map(|_| "thread".to_owned()).collect();
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let dir = daemon.dir().display().to_string();
    let mounts = text.lines().filter(|line| line.contains(&dir)).map(str::to_owned).collect();
    let mut state = Vec::new();
    for part in ["root", "run"] {
        files(&daemon.dir().join(part), &mut state);
    }
    state.sort();
    // Monitors, and whatever else was started from here.
    let is_ours = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&dir)
    };
    let processes =
        std::fs::read_dir("/proc")?.flatten().filter(is_ours).map(|_| "process".to_owned()).collect();
    let ports = std::fs::read_dir(format!("/sys/class/net/{bridge}/brif")).into_iter().flatten().flatten();
    let links = ports.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let rules = rules(bridge)?.lines().map(str::to_owned).collect();
    Ok([
        ("descriptors", fds),
        ("threads", threads),
        ("mounts", mounts),
        ("files", state),
        ("processes", processes),
        ("links", links),
        ("rules", rules),
    ]
    .into())
}

/// Container `n`: on one of four networks or the default one; every tenth is published.
fn start_one(daemon: &Daemon, n: usize) -> Result<String> {
    let network = match n % 5 {
        0 => "bridge".to_owned(),
        other => format!("net{other}"),
    };
    let mut host = json!({ "NetworkMode": network });
    if n.is_multiple_of(10) || n % 10 == 1 {
        host["PortBindings"] = json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "" }] });
    }
    let body = json!({ "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host });
    let made = ask(daemon, "POST", &format!("/containers/create?name=many{n}"), &body, 201)?;
    let id = serde_json::from_str::<Value>(&made)?["Id"].as_str().context("no id")?.to_owned();
    ask(daemon, "POST", &format!("/containers/{id}/start"), &Value::Null, 204)?;
    Ok(id)
}

#[test]
fn two_hundred_containers_come_and_go_and_nothing_stays() -> Result<()> {
    if !support::is_root()? {
        support::skip("a bridge needs root");
        return Ok(());
    }
    let daemon = Daemon::start()?;
    for n in 1..5 {
        daemon.docker_ok(&["network", "create", &format!("net{n}")])?;
    }
    let bridge = format!("cv-{}", daemon.docker_ok(&["network", "ls", "-q", "--filter", "name=net1"])?);
    let remove = |n: usize| {
        ask(&daemon, "DELETE", &format!("/containers/many{n}?force=1&v=1"), &Value::Null, 204).map(drop)
    };
    // What is made once and kept: bridges, the table, threads.
    each(2 * WORKERS, |n| start_one(&daemon, n).map(drop))?;
    each(2 * WORKERS, remove)?;
    let is_quiet = || {
        holdings(&daemon, &bridge).is_ok_and(|held| held["links"].is_empty() && held["processes"].len() <= 3)
    };
    daemon.wait_for("the first ones to go", is_quiet)?;
    // What is kept ready ahead is being made anew meanwhile: it is counted when it is whole.
    let mut before = holdings(&daemon, &bridge)?;
    daemon.wait_for("nothing to change any more", || {
        std::thread::sleep(Duration::from_millis(300));
        holdings(&daemon, &bridge).is_ok_and(|now| std::mem::replace(&mut before, now) == before)
    })?;

    let count = how_many();
    let ids = std::sync::Mutex::new(Vec::new());
    let began = Instant::now();
    each(count, |n| {
        let id = start_one(&daemon, n)?;
        ids.lock().map_err(|_| anyhow::anyhow!("a worker panicked"))?.push(id);
        Ok(())
    })?;
    let up = began.elapsed();
    let ids = ids.into_inner().unwrap_or_default();
    let running = daemon.docker_ok(&["ps", "-q"])?.lines().count();
    ensure!(running == count, "{running} of {count} run");
    let held = holdings(&daemon, &bridge)?;
    ensure!(held["links"].len() == count / 5, "{} links", held["links"].len());
    // Each has an address of its own, and reaches another.
    let inspected = daemon.docker_ok(&[
        "network",
        "inspect",
        "-f",
        "{{range .Containers}}{{.IPv4Address}} {{end}}",
        "net1",
    ])?;
    let addresses: std::collections::BTreeSet<&str> = inspected.split_whitespace().collect();
    ensure!(addresses.len() == count / 5, "{inspected}");
    daemon.docker_ok(&["exec", "many1", "busybox", "ping", "-c", "1", "-W", "5", "many6"])?;
    let began = Instant::now();
    each(count, remove)?;
    let down = began.elapsed();
    support::tell(&format!("{count} containers up in {up:.1?}, down in {down:.1?}"));

    let difference = || -> Result<String> {
        let after = holdings(&daemon, &bridge)?;
        let mut said = String::new();
        for (what, before) in &before {
            let after = &after[what];
            // Fewer is nobody's harm: a pool of threads that has shrunk.
            let mut more = after.clone();
            for one in before {
                if let Some(at) = more.iter().position(|other| other == one) {
                    more.swap_remove(at);
                }
            }
            if !more.is_empty() {
                let (was, is) = (before.len(), after.len());
                said.push_str(&format!(
                    "{what}: {was} before, {is} after, {:?}; ",
                    &more[..more.len().min(5)]
                ));
            }
        }
        Ok(said)
    };
    let waited =
        daemon.wait_for("everything to be given back", || difference().is_ok_and(|said| said.is_empty()));
    waited.with_context(|| difference().unwrap_or_default())?;
    let cgroups: Vec<_> = cgroups(&ids);
    ensure!(cgroups.is_empty(), "{cgroups:?}");
    // Every address can be had again.
    let prefix =
        daemon.docker_ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "net1"])?;
    let second =
        prefix.split('/').next().and_then(|ip| ip.strip_suffix(".0")).context("no subnet")?.to_owned() + ".2";
    daemon.docker_ok(&["run", "--rm", "--network", "net1", "--ip", &second, "busybox", "true"])?;
    Ok(())
}

fn cgroups(ids: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for base in [hierarchy.path().join("cove"), "/sys/fs/cgroup/cove".into()] {
            all.extend(ids.iter().map(|id| base.join(id)).filter(|dir| dir.exists()));
        }
    }
    all.into_iter().map(|dir| dir.display().to_string()).collect()
}

/// Bytes of memory that are a daemon's alone.
fn memory(daemon: &Daemon) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().context("no daemon")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Sends a request and reads nothing.
fn begin(daemon: &Daemon, request: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(daemon.socket())?;
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    Ok(stream)
}

/// Follows to the end, or until told; what was in it.
fn follow(mut stream: UnixStream, until: &str, is_over: &AtomicBool) -> bool {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
    let (mut buffer, mut last) = (vec![0; 64 * 1024], Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => {
                last.extend_from_slice(&buffer[..length]);
                if String::from_utf8_lossy(&last).contains(until) {
                    return true;
                }
                last.drain(..last.len().saturating_sub(1024));
            }
            Err(_) => {}
        }
    }
    false
}

#[test]
fn clients_that_never_read_hold_nobody_up() -> Result<()> {
    const CHANGES: usize = 2500;
    let daemon = Daemon::start()?;
    // One that is never silent, and one that is looked at.
    let run = ["run", "-d", "--network", "none", "--name"];
    let script = "i=0; while :; do echo 0123456789012345678901234567890123456789; \
                  i=$((i+1)); [ $((i%500)) = 0 ] && sleep 0.05; done";
    for name in ["loud", "held"] {
        let command = ["--log-opt", "max-size=1m", "busybox", "sh", "-c", script];
        daemon.docker_ok(&[&run[..], &[name], &command].concat())?;
    }
    daemon.docker_ok(&[&run[..], &["still", "busybox", "sleep", "600"]].concat())?;
    let requests =
        ["GET /events", "GET /containers/loud/logs?follow=1&stdout=1", "GET /containers/still/stats"];
    let before = memory(&daemon)?;
    let silent: Vec<_> = (0..25).map(|n| begin(&daemon, requests[n % 3])).collect::<Result<_>>()?;
    let attached: Vec<_> = (0..3)
        .map(|_| begin(&daemon, "POST /containers/held/attach?stream=1&stdout=1"))
        .collect::<Result<_>>()?;
    let is_over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| -> Result<String> {
        let last = "volume-at-the-end";
        let readers: Vec<_> = (0..25)
            .map(|n| Ok((n, begin(&daemon, requests[n % 3])?)))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .map(|(n, stream)| {
                let is_over = &is_over;
                // Only events come to an end here.
                let until = if n % 3 == 0 { last } else { "\0nothing" };
                (n, scope.spawn(move || follow(stream, until, is_over)))
            })
            .collect();
        let watch = scope.spawn(|| -> Result<Vec<Duration>> {
            let mut all = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                for path in ["/_ping", "/containers/json", "/containers/still/json"] {
                    let began = Instant::now();
                    ensure!(daemon.ask("GET", path, "")?.0 == 200);
                    all.push(began.elapsed());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(all)
        });
        let began = Instant::now();
        let changes = each(CHANGES, |n| {
            // Most change nothing on the disk.
            if n % 10 > 0 {
                return ask(&daemon, "POST", "/containers/still/kill?signal=CONT", &Value::Null, 204)
                    .map(drop);
            }
            ask(&daemon, "POST", "/volumes/create", &json!({ "Name": format!("v{n}") }), 201)?;
            ask(&daemon, "DELETE", &format!("/volumes/v{n}"), &Value::Null, 204).map(drop)
        });
        let took = began.elapsed();
        let ended = changes.and_then(|()| {
            ask(&daemon, "POST", "/volumes/create", &json!({ "Name": last }), 201)?;
            // Who reads has the last of it soon.
            let events = readers.iter().filter(|(n, _)| n % 3 == 0);
            daemon.wait_for("events", || events.clone().all(|(_, reader)| reader.is_finished()))
        });
        is_over.store(true, Ordering::Relaxed);
        let mut times = watch.join().unwrap_or_else(|_| anyhow::bail!("the watch panicked"))?;
        ended?;
        for (n, reader) in readers {
            let has_seen = reader.join().is_ok_and(|has_seen| has_seen);
            ensure!(has_seen || n % 3 != 0, "reader {n} has missed the last event");
        }
        times.sort();
        let at = |part: usize| {
            times.get((times.len() * part / 100).min(times.len() - 1)).copied().unwrap_or_default()
        };
        ensure!(
            at(50) < Duration::from_millis(500) && at(100) < Duration::from_secs(5),
            "{:?}",
            (at(50), at(100))
        );
        #[expect(clippy::cast_precision_loss, reason = "it is shown to people")]
        let rate = CHANGES as f64 / took.as_secs_f64();
        Ok(format!(
            "{rate:.0} changes a second; others' calls {:.1?} median, {:.1?} at most",
            at(50),
            at(100)
        ))
    })?;
    let after = memory(&daemon)?;
    support::tell(&format!("{said}; memory {} KiB more", after.saturating_sub(before) / 1024));
    ensure!(after < before + (48 << 20), "memory grew from {before} to {after}");
    // Who attaches and does not read holds up the one container, as a pipe does, until it goes.
    let last = |name: &str| daemon.docker_ok(&["logs", "--tail", "1", "-t", name]);
    let goes_on = |name: &str, since: &str| -> bool { last(name).is_ok_and(|later| later != since) };
    let now = last("loud")?;
    daemon.wait_for("the loud one to go on", || goes_on("loud", &now))?;
    let held = last("held")?;
    drop(attached);
    daemon.wait_for("the held one to go on", || goes_on("held", &held))?;
    let open =
        || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid().unwrap_or(0))).map_or(0, Iterator::count);
    let with = open();
    drop(silent);
    daemon.docker_ok(&["rm", "-f", "loud", "held", "still"])?;
    daemon.wait_for("their descriptors", || open() + 25 <= with)?;
    Ok(())
}
