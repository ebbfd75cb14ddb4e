//! The bridge: addresses, names, published ports, and what stays of them after a crash.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::daemon::{Daemon, Said, of_each_kind};

const WAIT: Duration = Duration::from_secs(2);

/// A server that says its name to whoever connects.
fn server(daemon: &Daemon, name: &str, flags: &[&str]) -> Result<Said> {
    let script = format!("exec busybox nc -ll -p 80 -e busybox echo {name}");
    daemon.docker(&[&["run", "-d", "--name", name], flags, &["busybox", "sh", "-c", &script]].concat())
}

/// What a server at an address says.
fn hear(address: (Ipv4Addr, u16)) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.trim().to_owned())
}

/// An address of this computer that is not loopback.
fn own_address() -> Result<Ipv4Addr> {
    // Nothing is sent: connecting a datagram socket asks for a route.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("198.51.100.1:9")?;
    match socket.local_addr()?.ip() {
        std::net::IpAddr::V4(address) => Ok(address),
        std::net::IpAddr::V6(address) => anyhow::bail!("{address} is no IPv4 address"),
    }
}

/// Interfaces of this computer.
fn interfaces() -> Result<Vec<String>> {
    let entries = std::fs::read_dir("/sys/class/net")?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn tables() -> Result<String> {
    let mut command = stdx::process::command("nft");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin").args(["list", "tables"]);
    Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
}

#[test]
fn containers_reach_each_other_and_are_reached_at_their_ports() -> Result<()> {
    of_each_kind(|daemon| {
        let ok = |args: &[&str]| daemon.docker_ok(args);
        ensure!(server(&daemon, "web", &["-p", "80", "-p", "127.0.0.1::80", "--expose", "9000"])?.code == 0);
        let address: Ipv4Addr = ok(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web"])?.parse()?;
        let port = |nth: &str| -> Result<u16> {
            Ok(ok(&[
                "inspect",
                "-f",
                &format!("{{{{(index (index .NetworkSettings.Ports \"80/tcp\") {nth}).HostPort}}}}"),
                "web",
            ])?
            .parse()?)
        };
        let (any, local) = (port("0")?, port("1")?);
        daemon.wait_for("the server", || hear((Ipv4Addr::LOCALHOST, any)).is_ok())?;
        let own = own_address()?;
        let mut reached = vec![(Ipv4Addr::LOCALHOST, any), (own, any), (Ipv4Addr::LOCALHOST, local)];
        // A user's containers are on networks that this computer is not on.
        reached.extend((!daemon.is_rootless()).then_some((address, 80)));
        for to in reached {
            ensure!(hear(to).with_context(|| format!("{to:?}"))? == "web", "{to:?}");
        }
        ensure!(hear((own, local)).is_err(), "a port of the loopback is open to the network");
        let shown = ok(&["ps", "--format", "{{.Ports}}"])?;
        ensure!(shown.contains(&format!("0.0.0.0:{any}->80/tcp")) && shown.contains("9000/tcp"), "{shown}");
        ensure!(ok(&["port", "web", "80/tcp"])?.contains(&format!("127.0.0.1:{local}")));

        // From another container: directly, and by the published port at both of the host's sides.
        let gateway = ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"])?;
        // Input stays open: passt of 2023 loses the end of a connection whose other direction has ended.
        let script = format!(
            "for to in '{address} 80' '{own} {any}' '{gateway} {any}'; do busybox sleep 1 | busybox nc -w 2 $to; done; hostname -i; \
         grep -c nameserver /etc/resolv.conf; grep $(hostname) /etc/hosts | cut -f1"
        );
        let said = ok(&["run", "--rm", "busybox", "sh", "-c", &script])?;
        let lines: Vec<&str> = said.lines().collect();
        ensure!(lines.get(..3) == Some(&["web", "web", "web"]), "{said}");
        ensure!(lines.get(3) == lines.get(5), "the name inside leads elsewhere: {said}");

        // What is on the host's loopback is the host's alone, whatever route a container makes.
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let secret = listener.local_addr()?.port();
        let script = format!(
            "busybox ip route add 127.9.9.9 via {gateway} dev eth0; busybox nc -w 1 127.9.9.9 {secret} </dev/null"
        );
        let said =
            daemon.docker(&["run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", &script])?;
        ensure!(said.code != 0, "{said:?}");
        listener.set_nonblocking(true)?;
        ensure!(listener.accept().is_err(), "a container reached the host's loopback");

        // The second of two containers does not get the first's port, and is told whose it is.
        let said = daemon.docker(&["run", "--rm", "-p", &format!("{any}:80"), "busybox", "true"])?;
        ensure!(said.code == 125 && said.err.contains("port is already allocated"), "{said:?}");
        let other = TcpListener::bind("0.0.0.0:0")?;
        let taken = other.local_addr()?.port();
        let said = daemon.cove(&["run", "--rm", "-p", &format!("{taken}:80"), "busybox", "true"])?;
        // A user sees only their own processes' sockets.
        let owner =
            if daemon.is_rootless() { String::new() } else { format!(" (process {})", std::process::id()) };
        let is_told = said.err.contains("port is already allocated") && said.err.contains(&owner);
        ensure!(said.code == 125 && is_told, "{said:?}");
        Ok(())
    })
}

#[test]
fn a_server_sees_who_comes() -> Result<()> {
    of_each_kind(|daemon| {
        // The host's perl, because busybox has no server of datagrams.
        let script = "use IO::Socket::INET; if (fork) { \
                      $s = IO::Socket::INET->new(LocalPort => 81, Proto => 'udp'); \
                      while (defined $s->recv($m, 64)) { $s->send($s->peerhost) } } else { \
                      $s = IO::Socket::INET->new(LocalPort => 80, Listen => 9); \
                      while ($c = $s->accept) { print $c $c->peerhost; close $c } }";
        let host = ["/usr", "/lib", "/lib64"].map(|dir| format!("{dir}:{dir}:ro"));
        let run = ["run", "-d", "--name", "who", "-p", "80", "-p", "81/udp"];
        let volumes = ["-v", &host[0], "-v", &host[1], "-v", &host[2]];
        daemon.docker_ok(&[&run[..], &volumes, &["busybox", "/usr/bin/perl", "-e", script]].concat())?;
        let port = |inner: &str| -> Result<u16> {
            let said = daemon.docker_ok(&["port", "who", inner])?;
            Ok(said.lines().next().and_then(|line| line.rsplit(':').next()).context("no port")?.parse()?)
        };
        let (streams, datagrams) = (port("80/tcp")?, port("81/udp")?);
        let own = own_address()?;
        daemon.wait_for("the server", || hear((Ipv4Addr::LOCALHOST, streams)).is_ok())?;
        // The computer's own loopback means nothing in a container: its gateway speaks for it.
        let gateway = daemon.docker_ok(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            "bridge",
        ])?;
        for (to, expected) in [(own, own.to_string()), (Ipv4Addr::LOCALHOST, gateway)] {
            let said = hear((to, streams))?;
            ensure!(said == expected, "{said} came, not {expected}");
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(WAIT))?;
            socket.connect((to, datagrams))?;
            socket.send(b"?")?;
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer)?;
            let said = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
            ensure!(said == expected, "{said} came, not {expected}");
        }
        Ok(())
    })
}

#[test]
fn datagrams_ranges_and_all_exposed_ports_are_published() -> Result<()> {
    of_each_kind(|daemon| {
        let ok = |args: &[&str]| daemon.docker_ok(args);
        // The host's perl, because busybox has no server of datagrams.
        let echo = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 53, Proto => 'udp'); \
                while (defined $s->recv($m, 64)) { $s->send($m) }";
        let host = ["/usr", "/lib", "/lib64"].map(|dir| format!("{dir}:{dir}:ro"));
        let run =
            ["run", "-d", "--name", "udp", "-p", "53/udp", "-v", &host[0], "-v", &host[1], "-v", &host[2]];
        ok(&[run.as_slice(), &["busybox", "/usr/bin/perl", "-e", echo]].concat())?;
        let port: u16 = ok(&[
            "inspect",
            "-f",
            "{{(index (index .NetworkSettings.Ports \"53/udp\") 0).HostPort}}",
            "udp",
        ])?
        .parse()?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let is_echoed = || {
            let mut answer = [0; 16];
            daemon.wait_for("an echo", || {
                // The first may come before the server listens.
                let _ = socket.send(b"ping");
                socket.recv(&mut answer).is_ok_and(|heard| answer.get(..heard) == Some(b"ping"))
            })
        };
        is_echoed()?;
        // Who goes on sending reaches the container that has the port now, at another address.
        ok(&["rm", "-f", "udp"])?;
        let _ = socket.send(b"lost");
        ok(&["run", "-d", "busybox", "sleep", "60"])?;
        let again = format!("{port}:53/udp");
        let run =
            ["run", "-d", "--name", "again", "-p", &again, "-v", &host[0], "-v", &host[1], "-v", &host[2]];
        ok(&[run.as_slice(), &["busybox", "/usr/bin/perl", "-e", echo]].concat())?;
        is_echoed()?;

        ok(&[
            "run", "-d", "--name", "all", "-P", "--expose", "80", "--expose", "81/udp", "busybox", "sleep",
            "60",
        ])?;
        let ports = ok(&["port", "all"])?;
        ensure!(ports.contains("80/tcp -> 0.0.0.0:") && ports.contains("81/udp -> 0.0.0.0:"), "{ports}");
        // A range: the first that is free.
        let holder = TcpListener::bind("0.0.0.0:0")?;
        let first = holder.local_addr()?.port().min(60_000);
        let range = format!("{first}-{}:80", first + 50);
        ensure!(server(&daemon, "ranged", &["-p", &range])?.code == 0);
        let got = ok(&["port", "ranged", "80/tcp"])?;
        let got: u16 = got.rsplit(':').next().context("no port")?.parse()?;
        ensure!((first..=first + 50).contains(&got), "{got}");
        for wrong in ["70000:80", "1.2.3.4.5:80:80", "203.0.113.9:8080:80"] {
            let said = daemon.docker(&["run", "--rm", "-p", wrong, "busybox", "true"])?;
            ensure!(said.code == 125, "{wrong}: {said:?}");
        }
        Ok(())
    })
}

#[test]
fn a_connection_and_a_port_outlive_the_daemon_and_nothing_outlives_the_container() -> Result<()> {
    let before = (interfaces()?, tables()?);
    of_each_kind(|mut daemon| {
        daemon.docker(&[
            "run",
            "-d",
            "--name",
            "echo",
            "-p",
            "127.0.0.1::80",
            "busybox",
            "sh",
            "-c",
            "exec busybox nc -ll -p 80 -e busybox cat",
        ])?;
        let port: u16 = daemon
            .docker(&[
                "inspect",
                "-f",
                "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
                "echo",
            ])?
            .out
            .parse()?;
        let echo = |stream: &mut TcpStream| -> Result<()> {
            stream.set_read_timeout(Some(WAIT))?;
            stream.write_all(b"ping")?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer)?;
            ensure!(&answer == b"ping");
            Ok(())
        };
        let connect = || TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), WAIT);
        daemon.wait_for("the server", || connect().is_ok_and(|mut stream| echo(&mut stream).is_ok()))?;
        let mut old = connect()?;
        echo(&mut old)?;
        daemon.crash()?;
        echo(&mut old).context("while no daemon runs")?;
        echo(&mut connect()?).context("a new one while no daemon runs")?;
        daemon.launch()?;
        echo(&mut old).context("after the next start")?;
        echo(&mut connect()?).context("a new one after the next start")?;
        // Its address and its port are known to be taken.
        let said =
            daemon.docker(&["run", "--rm", "-p", &format!("127.0.0.1:{port}:80"), "busybox", "true"])?;
        ensure!(said.code == 125, "{said:?}");
        let addresses = daemon.docker(&["run", "--rm", "busybox", "hostname", "-i"])?.out;
        ensure!(
            addresses != daemon.docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "echo"])?.out
        );
        daemon.docker(&["rm", "-f", "echo"])?;
        ensure!(connect().is_err(), "the port is open still");
        // Many, and back to nothing.
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let address = daemon.address();
                std::thread::spawn(move || {
                    (0..6).all(|n| {
                        let name = format!("many-{worker}-{n}");
                        let mut command = stdx::process::command("docker");
                        command.env("DOCKER_HOST", &address);
                        command.args(["run", "--rm", "--name", &name, "-p", "80", "busybox", "true"]);
                        command.output().is_ok_and(|output| output.status.success())
                    })
                })
            })
            .collect();
        ensure!(workers.into_iter().all(|worker| worker.join().unwrap_or(false)), "one of many failed");
        drop(daemon);
        let after = (interfaces()?, tables()?);
        // Other tests have bridges of their own meanwhile: what is new must be theirs, not veths of ours.
        let new: Vec<&String> = after.0.iter().filter(|name| !before.0.contains(name)).collect();
        ensure!(new.iter().all(|name| name.starts_with("cv") || name.starts_with("veth")), "{new:?}");
        Ok(())
    })
}
