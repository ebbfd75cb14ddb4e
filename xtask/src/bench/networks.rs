//! What containers reach each other by, and what reaches them.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;

use super::clients::Client;
use super::{Figure, Table, memory, probe};
use crate::shell::{command, root};

/// Where the servers listen in their container: this port, and the next.
const INNER: u16 = 7000;
/// Where they are published.
const OUTER: u16 = 18996;
/// How many containers there are where many count.
const COUNT: usize = 200;
/// The namespace that stands for another machine, and the addresses of both ends of its cable.
const ELSEWHERE: &str = "cove-bench";
const HERE_ADDRESS: &str = "10.213.77.1";
const THERE_ADDRESS: &str = "10.213.77.2";

/// What engines reached, one after the other as they are; a rate is in units a second, a time in seconds.
struct Reached {
    throughput: Vec<f64>,
    round_trip: Vec<f64>,
    port_round_trip: Vec<f64>,
    port_connections: Vec<f64>,
    remote_throughput: Vec<f64>,
    remote_round_trip: Vec<f64>,
    /// Rate and slowest time; none where names are not answered.
    names: Vec<Option<(f64, f64)>>,
    /// Connections on this computer's loopback, to no container.
    plain_connections: f64,
}

/// Ends a process with the measurement.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn bench(table: &mut Table, daemon: &Daemon, ours: &Client, others: &[Client]) -> Result<()> {
    let _elsewhere = Elsewhere::make()?;
    let clients: Vec<&Client> = [ours].into_iter().chain(others).collect();
    let reached = measure(&clients)?;
    for (at, other) in others.iter().enumerate() {
        let mut row = |what: &str, of: &[f64], figure: fn(f64) -> Figure, bar| {
            if let (Some(cove), Some(theirs)) = (of.first(), of.get(at + 1)) {
                table.figures(what, figure(*cove), other.name, figure(*theirs), bar);
            }
        };
        let of = &reached;
        row("container to container, throughput", &of.throughput, Figure::Bandwidth, "≥ 1 of the best");
        row("container to container, round trip", &of.round_trip, seconds, "≤ 1 of the best");
        let bar = "≤ 1 of podman, ≤ 0.4 of docker";
        row("published port on loopback, round trip", &of.port_round_trip, seconds, bar);
        let bar = "≥ 1.5 of the best";
        row("published port on loopback, connections", &of.port_connections, Figure::Rate, bar);
        let what = "published port from another namespace, throughput";
        row(what, &of.remote_throughput, Figure::Bandwidth, "≥ 1 of the best");
        let what = "published port from another namespace, round trip";
        row(what, &of.remote_round_trip, seconds, "≤ 1 of the best");
        let names = (reached.names.first(), reached.names.get(at + 1));
        if let (Some(&Some((rate, slowest))), Some(&Some((other_rate, other_slowest)))) = names {
            let what = "names looked up in a container";
            table.figures(what, Figure::Rate(rate), other.name, Figure::Rate(other_rate), "≥ 3 of docker");
            let what = "the slowest name in a hundred";
            table.figures(what, seconds(slowest), other.name, seconds(other_slowest), "≤ 1/3 of docker");
        }
    }
    let what = "connections on loopback to no container at all";
    table.alone(what, Figure::Rate(reached.plain_connections), "");
    compose(table, ours, others)?;
    many(table, daemon, ours, others)
}

fn seconds(time: f64) -> Figure {
    Figure::Time(Duration::from_secs_f64(time))
}

/// How often each thing is measured of each engine, in turns, so that what else goes on meets all of them. The median
/// counts.
const ROUNDS: usize = 5;

/// One engine's two containers.
struct Pair<'a> {
    client: &'a Client,
    /// Words that bring a program to the one that asks.
    asking: Vec<String>,
    /// The other's address, and where its ports are published: this one, and the next for what stays on one processor.
    address: String,
    port: u16,
    resolver: String,
    _servers: [Ended; 2],
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        let removed = self.client.remove(&["bench-a", "bench-b"]);
        let gone = removed.and_then(|()| self.client.once(&["network", "rm", "bench-net"]));
        if let Err(error) = gone {
            eprintln!("something of {} is left: {error:#}", self.client.name);
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// For round trips both ends are on one processor: what waking another one up costs is not the network's.
fn pinned(prefix: &[String]) -> Vec<String> {
    [words("taskset -c 0").as_slice(), prefix].concat()
}

impl<'a> Pair<'a> {
    fn start(client: &'a Client, port: u16) -> Result<Self> {
        let ports = format!("{port}-{}:{INNER}-{}", port + 1, INNER + 1);
        client.once(&["network", "create", "bench-net"])?;
        let sleeper: &[&str] = &["--network", "bench-net", "busybox", "sleep", "900"];
        client.once(&[&["run", "-d", "--name", "bench-b", "-p", &ports], sleeper].concat())?;
        client.once(&[&["run", "-d", "--name", "bench-a"], sleeper].concat())?;
        let pid = |name: &str| client.output(&["inspect", "--format", "{{.State.Pid}}", name]);
        let (a, b) = (pid("bench-a")?, pid("bench-b")?);
        let serving = words(&format!("nsenter -t {b} -n"));
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        Ok(Self {
            client,
            asking: words(&format!("nsenter -t {a} -n")),
            address: client.output(&["inspect", "--format", format, "bench-b"])?,
            port,
            resolver: resolver_of(&a)?,
            _servers: [
                Ended(spawn(&serving, &["serve", &INNER.to_string()])?),
                Ended(spawn(&pinned(&serving), &["serve", &(INNER + 1).to_string()])?),
            ],
        })
    }
}

fn measure(clients: &[&Client]) -> Result<Reached> {
    let mut pairs = Vec::new();
    for (at, client) in clients.iter().enumerate() {
        pairs.push(Pair::start(client, OUTER + 2 * u16::try_from(at)?)?);
    }
    let plain = OUTER - 1;
    let _plain = Ended(spawn(&[], &["serve", &plain.to_string()])?);
    std::thread::sleep(Duration::from_millis(300));
    let elsewhere = words(&format!("ip netns exec {ELSEWHERE}"));
    let one = |prefix: &[String], what: &str, host: &str, port: u16| -> Result<f64> {
        figures(prefix, &[what, &format!("{host}:{port}")])?.first().copied().context("no figure")
    };
    let each = |measure: &dyn Fn(&Pair<'_>) -> Result<f64>| -> Result<Vec<f64>> {
        let mut all = vec![Vec::new(); pairs.len()];
        for _ in 0..ROUNDS {
            for (figures, pair) in all.iter_mut().zip(&pairs) {
                figures.push(measure(pair)?);
            }
        }
        Ok(all.into_iter().map(middle).collect())
    };
    let plain_connections = || one(&[], "connections", "127.0.0.1", plain);
    let plain_before = plain_connections()?;
    Ok(Reached {
        throughput: each(&|pair| one(&pair.asking, "throughput", &pair.address, INNER))?,
        round_trip: each(&|pair| one(&pinned(&pair.asking), "rtt", &pair.address, INNER + 1))?,
        port_round_trip: each(&|pair| one(&pinned(&[]), "rtt", "127.0.0.1", pair.port + 1))?,
        port_connections: each(&|pair| one(&[], "connections", "127.0.0.1", pair.port))?,
        plain_connections: middle(vec![plain_before, plain_connections()?, plain_connections()?]),
        remote_throughput: each(&|pair| one(&elsewhere, "throughput", HERE_ADDRESS, pair.port))?,
        remote_round_trip: each(&|pair| one(&pinned(&elsewhere), "rtt", HERE_ADDRESS, pair.port + 1))?,
        names: pairs.iter().map(names).collect(),
    })
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn names(pair: &Pair<'_>) -> Option<(f64, f64)> {
    let found = figures(&pair.asking, &["names", &format!("bench-b@{}:53", pair.resolver)]).ok()?;
    Some((*found.first()?, *found.get(1)?))
}

/// The first name server of a container.
fn resolver_of(pid: &str) -> Result<String> {
    let path = format!("/proc/{pid}/root/etc/resolv.conf");
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let first = text.lines().find_map(|line| line.strip_prefix("nameserver "));
    Ok(first.with_context(|| format!("{path} names no server"))?.trim().to_owned())
}

/// This program's [`probe`], behind the words that bring it to a namespace.
fn probing(prefix: &[String], args: &[&str]) -> Result<Command> {
    let exe = std::env::current_exe()?.display().to_string();
    let before = prefix.iter().map(String::as_str);
    let words: Vec<&str> = before.chain([exe.as_str(), "probe"]).chain(args.iter().copied()).collect();
    let (program, rest) = words.split_first().context("no words")?;
    Ok(command(program, rest))
}

fn spawn(prefix: &[String], args: &[&str]) -> Result<Child> {
    probing(prefix, args)?.stdout(Stdio::null()).spawn().context("failed to run the probe's server")
}

fn figures(prefix: &[String], args: &[&str]) -> Result<Vec<f64>> {
    let output = probing(prefix, args)?.output()?;
    ensure!(output.status.success(), "probe {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(line.parse()?)).collect()
}

/// A network namespace with a cable to this one; gone when dropped.
struct Elsewhere;

impl Elsewhere {
    fn make() -> Result<Self> {
        let ip = |line: &str| -> Result<()> {
            let words: Vec<&str> = line.split(' ').collect();
            let status = command("ip", &words).status().context("failed to run ip")?;
            ensure!(status.success(), "ip {line} failed");
            Ok(())
        };
        ip(&format!("netns add {ELSEWHERE}"))?;
        let made = Self;
        ip(&format!("link add cove-bench0 type veth peer name eth0 netns {ELSEWHERE}"))?;
        ip(&format!("addr add {HERE_ADDRESS}/30 dev cove-bench0"))?;
        ip("link set cove-bench0 up")?;
        ip(&format!("-n {ELSEWHERE} addr add {THERE_ADDRESS}/30 dev eth0"))?;
        ip(&format!("-n {ELSEWHERE} link set eth0 up"))?;
        Ok(made)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = command("ip", &["netns", "del", ELSEWHERE]).status();
    }
}

/// Eight services by Compose, where Docker's command line has it.
fn compose(table: &mut Table, ours: &Client, others: &[Client]) -> Result<()> {
    let Some(docker) = others.iter().find(|other| other.name == "docker") else { return Ok(()) };
    if docker.once(&["compose", "version"]).is_err() {
        return Ok(());
    }
    let mut text = String::from("name: bench-eight\nservices:\n");
    for at in 0..8 {
        let service = format!(
            "  s{at}:\n    image: busybox\n    command: sh -c \"trap exit TERM; sleep 900 & wait\"\n    networks: [n]\n"
        );
        text.push_str(&service);
    }
    text.push_str("networks: {n: {}}\n");
    let file = root().join("target/bench/compose.yaml");
    std::fs::write(&file, text)?;
    let file = file.display().to_string();
    let up_and_down = |client: &Client| -> Result<Duration> {
        let up = client.once(&["compose", "-f", &file, "up", "-d"])?;
        Ok(up + client.once(&["compose", "-f", &file, "down"])?)
    };
    let through_cove = docker.pointed_at(ours);
    let took = super::thrice(|| up_and_down(&through_cove))?;
    table.compare(
        "compose up -d and down, eight services",
        took,
        "docker",
        super::thrice(|| up_and_down(docker)).ok(),
        "≤ 1/4",
    );
    Ok(())
}

/// With many containers on a network: what a list costs, and what the daemon takes.
fn many(table: &mut Table, daemon: &Daemon, ours: &Client, others: &[Client]) -> Result<()> {
    let list = "/containers/json";
    let listed = |client: &Client| -> Result<f64> {
        let socket = client.socket().context("it has no socket")?;
        client.run_many(COUNT, "bridge")?;
        let rate = probe::requests(&socket, list);
        if client.name == ours.name {
            let taken = memory::of_daemon(daemon).context("coved is not to be found");
            table.alone("daemon with 200 containers on a network, PSS", Figure::Bytes(taken?), "≤ 40960 KiB");
        }
        client.remove_many(COUNT)?;
        rate
    };
    let mut listed = listed;
    let cove = listed(ours)?;
    let docker = others.iter().find(|other| other.name == "docker").map(&mut listed).transpose()?;
    if let Some(docker) = docker {
        table.figures(
            "list of 200 containers, answers",
            Figure::Rate(cove),
            "docker",
            Figure::Rate(docker),
            "≥ 10",
        );
    }
    Ok(())
}
