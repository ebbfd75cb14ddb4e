//! Ports of machines at this computer's addresses: who answers, and whom it sees.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::machine::Machine;
use support::neighbour::Neighbour;

const WAIT: Duration = Duration::from_secs(20);
/// What a large transfer is: more than what all sockets on the way hold.
const LARGE: usize = 8 << 20;

/// A machine, the mount of a program that tells who speaks to it (`peer.c`), and another computer.
struct Beside {
    machine: Machine,
    /// Debian's kernel of User Mode Linux has neither networks nor rules.
    has_networks: bool,
    peer: String,
    neighbour: Neighbour,
}

fn on_each(test: impl Fn(&Beside) -> Result<()>) -> Result<()> {
    for backend in ["uml", "qemu"] {
        let Some(neighbour) = Neighbour::make()? else { return Ok(()) };
        let Some(machine) = Machine::start(backend)? else { continue };
        let program = machine.compile(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer.c")))?;
        let peer = format!("{}:/peer:ro", program.display());
        let beside = Beside { has_networks: machine.has_networks()?, machine, peer, neighbour };
        test(&beside).with_context(|| format!("on {backend}"))?;
    }
    Ok(())
}

/// A port that nobody has, of either protocol.
fn free_port() -> Result<u16> {
    loop {
        let port = TcpListener::bind("0.0.0.0:0")?.local_addr()?.port();
        if UdpSocket::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
}

impl Beside {
    /// Starts the program in a container.
    fn serve(&self, name: &str, options: &[&str], port: &str) -> Result<()> {
        let of = ["run", "-d", "--name", name, "-v", &self.peer];
        self.machine.docker_ok(&[&of[..], options, &["busybox", "/peer", port]].concat()).map(drop)
    }

    fn as_neighbour<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.neighbour.run(what)?
    }

    fn wait_for_port(&self, at: SocketAddr) -> Result<()> {
        self.machine.wait_for(&format!("an answer at {at}"), || who_by_tcp(at).is_ok()).with_context(|| {
            let status = self.machine.status().unwrap_or_default();
            format!("open are {}; {}; {:?}", status["ports"], status["warnings"], who_by_tcp(at))
        })
    }
}

/// A connection, and how the other side calls this one.
fn connect(to: SocketAddr) -> Result<(BufReader<TcpStream>, String)> {
    let stream = TcpStream::connect_timeout(&to, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "nobody said anything: {line:?}");
    Ok((reader, line.trim().to_owned()))
}

/// What this side is called, by what it knows itself.
fn named(at: SocketAddr) -> String {
    format!("{} {}", at.ip(), at.port())
}

fn who_by_tcp(to: SocketAddr) -> Result<String> {
    connect(to).map(|(_, said)| said)
}

/// A packet there and back, sent again until something comes: it may be lost.
fn who_by_udp(socket: &UdpSocket, to: SocketAddr) -> Result<String> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let begin = Instant::now();
    let mut answer = [0; 256];
    loop {
        socket.send_to(b"?", to)?;
        match socket.recv_from(&mut answer) {
            Ok((length, from)) => {
                ensure!(from == to, "{from} answers in the place of {to}");
                let text = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
                let (said, rest) = text.split_once('\n').context("a line")?;
                ensure!(rest == "?", "{text:?}");
                return Ok(said.to_owned());
            }
            Err(error) if begin.elapsed() > WAIT => return Err(error.into()),
            Err(_) => {}
        }
    }
}

/// A large transfer both ways, and then the end of one side alone.
fn send_much(to: SocketAddr) -> Result<()> {
    let (mut reader, _) = connect(to)?;
    let bytes: Vec<u8> = (0..LARGE).map(|at| u8::try_from(at * 7 % 251).unwrap_or(0)).collect();
    let mut writer = reader.get_ref().try_clone()?;
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || -> std::io::Result<()> {
        writer.write_all(&sent)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back)?;
    ensure!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("writing")
}

#[test]
fn what_containers_publish_sees_its_clients_addresses() -> Result<()> {
    on_each(|beside| {
        if !beside.has_networks {
            support::absent("this machine's kernel has no networks: published ports");
            return Ok(());
        }
        let (port, other) = (free_port()?, free_port()?);
        let publish = |port: u16| [format!("0.0.0.0:{port}:80"), format!("0.0.0.0:{port}:80/udp")];
        for (name, port) in [("server", port), ("other", other)] {
            let [tcp, udp] = publish(port);
            beside.serve(name, &["-p", &tcp, "-p", &udp], "80")?;
        }
        let [(_, ours), _] = beside.neighbour.addresses;
        let (at, at_other) = (SocketAddr::new(ours, port), SocketAddr::new(ours, other));
        beside.wait_for_port(at)?;
        beside.wait_for_port(at_other)?;
        beside.as_neighbour(|| {
            let (stream, said) = connect(at)?;
            assert_eq!(said, named(stream.get_ref().local_addr()?));
            // One socket for packets to two ports.
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let own = SocketAddr::new(stream.get_ref().local_addr()?.ip(), socket.local_addr()?.port());
            for to in [at, at_other, at] {
                assert_eq!(who_by_udp(&socket, to)?, named(own), "{to}");
            }
            send_much(at)
        })?;
        // This computer itself, by another address than that of its loopback.
        let own = who_by_tcp(at)?;
        ensure!(own.starts_with(&format!("{ours} ")), "{own}");
        // Loopback can't be shown: what answered would not leave the container.
        let gateway =
            beside.machine.docker_ok(&["inspect", "-f", "{{.NetworkSettings.Gateway}}", "server"])?;
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let said = who_by_tcp(local)?;
        ensure!(said.starts_with(&format!("{gateway} ")), "{said}");
        let said = who_by_udp(&UdpSocket::bind("127.0.0.1:0")?, local)?;
        ensure!(said.starts_with(&format!("{gateway} ")), "{said}");
        send_much(local)?;
        a_closed_port_is_closed(beside)?;
        a_client_without_a_way_back_is_served(beside, at)?;
        rules_that_are_gone_are_made_again(beside, at)
    })
}

/// A port that is published, at which nobody listens inside.
fn a_closed_port_is_closed(beside: &Beside) -> Result<()> {
    let port = free_port()?;
    beside.machine.docker_ok(&[
        "run",
        "-d",
        "-p",
        &format!("0.0.0.0:{port}:80"),
        "--name",
        "closed",
        "busybox",
        "sleep",
        "600",
    ])?;
    let [(_, ours), _] = beside.neighbour.addresses;
    let at = SocketAddr::new(ours, port);
    beside.machine.wait_for("the closed port", || TcpStream::connect_timeout(&at, WAIT).is_ok())?;
    let begin = Instant::now();
    beside.as_neighbour(|| {
        let mut stream = TcpStream::connect_timeout(&at, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        // Reset or ended: nobody is there.
        ensure!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)), "somebody said something");
        Ok(())
    })?;
    // It is refused at once, and not only after an attempt that came to nothing.
    ensure!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    beside.machine.docker_ok(&["rm", "-f", "closed"]).map(drop)
}

/// Clients whose addresses a container would look for in its own network, or not find at all.
fn a_client_without_a_way_back_is_served(beside: &Beside, at: SocketAddr) -> Result<()> {
    let machine = &beside.machine;
    let IpAddr::V4(theirs) = beside.neighbour.addresses[0].0 else { anyhow::bail!("an address of IPv4") };
    let [a, b, c, _] = theirs.octets();
    let subnet = format!("{a}.{b}.{c}.0/24");
    let gateway = format!("{a}.{b}.{c}.254");
    machine.docker_ok(&["network", "create", "--subnet", &subnet, "--gateway", &gateway, "same"])?;
    let port = free_port()?;
    beside.serve("same", &["--network", "same", "-p", &format!("0.0.0.0:{port}:80")], "80")?;
    let at_same = SocketAddr::new(at.ip(), port);
    beside.wait_for_port(at_same)?;
    let said = beside.as_neighbour(|| who_by_tcp(at_same))?;
    ensure!(said.starts_with(&format!("{gateway} ")), "{said}");
    machine.docker_ok(&["rm", "-f", "same"])?;
    machine.docker_ok(&["network", "rm", "same"])?;
    // A container that has lost its way out answers its own network alone.
    let port = free_port()?;
    let publish = format!("0.0.0.0:{port}:80");
    beside.serve("lost", &["--cap-add", "NET_ADMIN", "-p", &publish], "80")?;
    machine.docker_ok(&["exec", "lost", "ip", "route", "del", "default"])?;
    let at_lost = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    beside.wait_for_port(at_lost)?;
    let said = beside.as_neighbour(|| who_by_tcp(SocketAddr::new(at.ip(), port)))?;
    ensure!(!said.starts_with(&theirs.to_string()), "{said}");
    machine.docker_ok(&["rm", "-f", "lost"]).map(drop)
}

/// As by somebody who flushes all of the guest's tables; the engine's come back by themselves.
fn rules_that_are_gone_are_made_again(beside: &Beside, at: SocketAddr) -> Result<()> {
    let machine = &beside.machine;
    let delete = ["machine", "shell", "test", "--", "nft", "delete", "table", "inet", "cove-clients"];
    machine.cove_ok(&delete)?;
    let theirs = beside.neighbour.addresses[0].0.to_string();
    machine.wait_for("the client's address again", || {
        // Meanwhile it is answered all the same.
        beside.as_neighbour(|| who_by_tcp(at)).is_ok_and(|said| said.starts_with(&theirs))
    })
}

#[test]
fn clients_of_version_6_are_seen_too() -> Result<()> {
    on_each(|beside| {
        let machine = &beside.machine;
        if !beside.has_networks {
            support::absent("this machine's kernel has no networks: published ports");
            return Ok(());
        }
        let ways = machine.cove_ok(&["machine", "shell", "test", "--", "cat", "/proc/net/ipv6_route"])?;
        let is_way_out = |line: &str| line.starts_with(&format!("{:032} 00 ", 0)) && !line.ends_with("lo");
        if !ways.lines().any(is_way_out) {
            support::absent("this computer has no way out by IPv6, so its machines have none");
            return Ok(());
        }
        machine.docker_ok(&["network", "create", "--ipv6", "six"])?;
        let port = free_port()?;
        let (tcp, udp) = (format!("[::]:{port}:80"), format!("[::]:{port}:80/udp"));
        beside.serve("server", &["--network", "six", "-p", &tcp, "-p", &udp], "80")?;
        let [_, (_, ours)] = beside.neighbour.addresses;
        let at = SocketAddr::new(ours, port);
        beside.wait_for_port(at)?;
        beside.as_neighbour(|| {
            let (stream, said) = connect(at)?;
            assert_eq!(said, named(stream.get_ref().local_addr()?));
            let socket = UdpSocket::bind("[::]:0")?;
            let own = SocketAddr::new(stream.get_ref().local_addr()?.ip(), socket.local_addr()?.port());
            assert_eq!(who_by_udp(&socket, at)?, named(own));
            send_much(at)
        })?;
        send_much(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))
    })
}

#[test]
fn what_has_the_machines_own_network_sees_its_clients_addresses() -> Result<()> {
    on_each(|beside| {
        let port = free_port()?;
        beside.serve("server", &["--network", "host"], &port.to_string())?;
        let [(_, ours), _] = beside.neighbour.addresses;
        let at = SocketAddr::new(ours, port);
        beside.wait_for_port(at)?;
        beside.as_neighbour(|| {
            let (stream, said) = connect(at)?;
            if beside.has_networks {
                assert_eq!(said, named(stream.get_ref().local_addr()?));
            } else {
                ensure!(said.starts_with("127.0.0.1 "), "{said}");
            }
            send_much(at)
        })?;
        // What a kernel can't is told, and nothing else is.
        let warnings = beside.machine.status()?["warnings"].to_string();
        ensure!(warnings.contains("the machine's own address") != beside.has_networks, "{warnings}");
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let said = who_by_tcp(local)?;
        ensure!(said.starts_with("127.0.0.1 "), "{said}");
        send_much(local)
    })
}

#[test]
fn ports_of_a_machine_that_sleeps_answer_and_wake_it() -> Result<()> {
    let Some(neighbour) = Neighbour::make()? else { return Ok(()) };
    let Some(machine) = Machine::start("qemu")? else { return Ok(()) };
    let program = machine.compile(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peer.c")))?;
    let (port, gone) = (free_port()?, free_port()?);
    for (name, port) in [("server", port), ("gone", gone)] {
        let (tcp, udp) = (format!("0.0.0.0:{port}:80"), format!("0.0.0.0:{port}:80/udp"));
        machine.docker_ok(&["create", "--name", name, "-p", &tcp, "-p", &udp, "busybox", "/peer", "80"])?;
        // A machine sleeps only while no container uses a shared folder.
        machine.docker_ok(&["cp", &program.display().to_string(), &format!("{name}:/peer")])?;
        machine.docker_ok(&["start", name])?;
    }
    let [(theirs, ours), _] = neighbour.addresses;
    let (local, at) = (SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), SocketAddr::new(ours, port));
    for port in [port, gone] {
        let at = SocketAddr::new(ours, port);
        machine.wait_for("a port", || who_by_tcp(at).is_ok())?;
    }
    let begun = || machine.cove_ok(&["inspect", "-f", "{{.State.StartedAt}}", "server"]);
    let before = begun()?;
    let phase = || machine.status().map(|status| status["phase"].as_str().unwrap_or_default().to_owned());
    let send_to_sleep = || -> Result<()> {
        machine.cove_ok(&["machine", "sleep", "test"])?;
        ensure!(TcpListener::bind(("0.0.0.0", port)).is_err(), "the port was let go");
        let status = machine.status()?;
        ensure!(status["ports"].to_string().contains(&format!("0.0.0.0:{port}/tcp")), "{status}");
        std::thread::sleep(Duration::from_secs(1));
        ensure!(phase()? == "asleep", "nobody called");
        Ok(())
    };
    let is_awake = || machine.wait_for("the end of its sleep", || phase().is_ok_and(|now| now == "running"));
    // A connection of before ends on both sides.
    let (mut before_sleep, _) = connect(local)?;
    send_to_sleep()?;
    ensure!(matches!(before_sleep.read(&mut [0; 1]), Ok(0) | Err(_)), "somebody said something");
    let begin = Instant::now();
    neighbour.run(|| -> Result<()> {
        let (stream, said) = connect(at)?;
        assert_eq!(said, named(stream.get_ref().local_addr()?));
        Ok(())
    })??;
    support::tell(&format!("a connection was answered {:?} after it woke the machine", begin.elapsed()));
    is_awake()?;
    ensure!(begun()? == before, "it goes on");
    send_much(local).context("after it was woken")?;
    machine.wait_for("the end of connections in the container", || {
        let established = machine.docker_ok(&["exec", "server", "cat", "/proc/net/tcp"]);
        established.is_ok_and(|table| table.lines().all(|line| line.split_whitespace().nth(3) != Some("01")))
    })?;
    // One packet is enough, and it is not lost.
    send_to_sleep()?;
    neighbour.run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.send_to(b"?", at)?;
        let mut answer = [0; 256];
        let (length, from) = socket.recv_from(&mut answer).context("nothing comes back")?;
        let said = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
        assert_eq!((from, said), (at, format!("{theirs} {}\n?", socket.local_addr()?.port())));
        Ok(())
    })??;
    is_awake()?;
    // Many at once.
    send_to_sleep()?;
    let clients: Vec<_> = (0..40).map(|_| std::thread::spawn(move || send_little(local))).collect();
    for client in clients {
        client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?.context("one of many")?;
    }
    is_awake()?;
    // What is published no longer goes once it is known, and all of it when the machine stops.
    send_to_sleep()?;
    machine.docker_ok(&["rm", "-f", "gone"])?;
    machine.wait_for("the port's end", || TcpListener::bind(("0.0.0.0", gone)).is_ok())?;
    who_by_tcp(local).context("after another port was closed")?;
    send_to_sleep()?;
    machine.cove_ok(&["machine", "stop", "test"])?;
    machine.wait_for("the ports' end", || TcpListener::bind(("0.0.0.0", port)).is_ok())
}

/// A connection with a few bytes both ways.
fn send_little(to: SocketAddr) -> Result<()> {
    let (mut reader, _) = connect(to)?;
    reader.get_ref().write_all(b"few")?;
    let mut back = [0; 3];
    reader.read_exact(&mut back)?;
    ensure!(&back == b"few");
    Ok(())
}
