//! The daemon as an ordinary user, with a user namespace and subordinate ids of its own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;

const WAIT: Duration = Duration::from_secs(2);

fn start() -> Result<Option<Daemon>> {
    if !support::is_root()? {
        support::skip("it starts the daemon as another user, which only root can");
        return Ok(None);
    }
    Daemon::start_as_user()
}

#[test]
fn a_user_runs_containers_with_ids_of_their_own() -> Result<()> {
    let Some(daemon) = start()? else { return Ok(()) };
    let docker = |args: &[&str]| -> Result<(i32, String)> {
        let said = daemon.docker(args)?;
        Ok((said.code, [said.out, said.err].concat()))
    };
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(daemon.dir())?);
    let run = |words: &[&str]| docker(&[&["run", "--rm", "--network", "none", "busybox"], words].concat());
    assert_eq!(run(&["id", "-u"])?, (0, "0".into()));
    // Root inside is the user outside; the others are subordinate ids.
    let (_, map) = run(&["cat", "/proc/self/uid_map"])?;
    let rows: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let first = rows.first().context("no map")?;
    assert_eq!((first[0], first[1]), ("0", uid.to_string().as_str()), "{map}");
    assert!(rows.len() > 1, "no subordinate ids: {map}");
    let (code, said) = run(&["sh", "-c", "echo x > /f && chown 1000:1000 /f && stat -c %u:%g /f"])?;
    assert_eq!((code, said.as_str()), (0, "1000:1000"));
    // A volume is filled with owners as they are inside.
    let volume = |script: &str| {
        let args = ["run", "--rm", "--network", "none", "-v", "kept:/etc", "busybox", "sh", "-c", script];
        docker(&args)
    };
    assert_eq!(volume("chown 1000:1000 /etc/passwd && echo x > /etc/new")?, (0, String::new()));
    assert_eq!(
        volume("cat /etc/new; stat -c %u:%g /etc/passwd /etc/group")?,
        (0, "x\n1000:1000\n0:0".into())
    );
    assert_eq!(docker(&["volume", "rm", "kept"])?, (0, "kept".into()));
    // What it may not do, it is told.
    let (code, _) = run(&["sh", "-c", "mknod /dev/sda b 8 0"])?;
    assert_ne!(code, 0, "a user's container made a device");

    docker(&["run", "-d", "--name", "long", "--network", "none", "busybox", "sleep", "1000"])?;
    assert_eq!(docker(&["exec", "long", "echo", "inside"])?, (0, "inside".into()));
    assert_eq!(docker(&["rm", "-f", "long"])?, (0, "long".into()));
    assert_eq!(docker(&["ps", "-aq"])?, (0, String::new()));
    Ok(())
}

/// Serves one word to everybody, and tells who came.
fn greet(listener: TcpListener) -> std::sync::mpsc::Receiver<IpAddr> {
    let (sender, inbox) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.peer_addr().map(|from| sender.send(from.ip()));
            let _ = (&stream).write_all(b"hello\n");
        }
    });
    inbox
}

#[test]
fn a_users_containers_reach_the_outside_and_not_the_hosts_loopback() -> Result<()> {
    let Some(daemon) = start()? else { return Ok(()) };
    // Nothing is sent: connecting a datagram socket asks for a route.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("198.51.100.1:9")?;
    let own = socket.local_addr()?.ip();
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let guests = greet(listener);
    let secret = TcpListener::bind("127.0.0.1:0")?;
    let hidden = secret.local_addr()?.port();
    secret.set_nonblocking(true)?;
    let call = |to: &str| {
        let script = format!("busybox sleep 1 | busybox nc -w 2 {to}");
        daemon.docker(&["run", "--rm", "--add-host", "host:host-gateway", "busybox", "sh", "-c", &script])
    };
    for to in [format!("{own} {port}"), format!("host {port}")] {
        let said = call(&to)?;
        ensure!(said.out == "hello", "{to}: {said:?}; {}", daemon.log());
        ensure!(guests.recv_timeout(WAIT)? == own, "somebody else came");
    }
    // Another network, made when the way out is open already, has it too; an internal one has none.
    daemon.docker_ok(&["network", "create", "open"])?;
    daemon.docker_ok(&["network", "create", "--internal", "closed"])?;
    for (network, expected) in [("open", "hello"), ("closed", "")] {
        let script = format!("busybox sleep 1 | busybox nc -w 2 {own} {port}");
        let said = daemon.docker(&["run", "--rm", "--network", network, "busybox", "sh", "-c", &script])?;
        ensure!(said.out == expected, "{network}: {said:?}");
    }
    for to in ["169.254.1.1", "169.254.1.2", "host", "127.0.0.1"] {
        ensure!(call(&format!("{to} {hidden}"))?.code != 0, "{to}");
    }
    ensure!(secret.accept().is_err(), "a container reached the host's loopback");

    // Its program is started again when it ends.
    let pasta =
        || daemon.processes().into_iter().find(|(_, line)| line.contains("pasta ")).map(|(pid, _)| pid);
    let before = pasta().context("pasta does not run")?;
    kill(before)?;
    daemon.wait_for("pasta", || pasta().is_some_and(|now| now != before))?;
    daemon.wait_for("the way out", || call(&format!("{own} {port}")).is_ok_and(|said| said.out == "hello"))
}

fn kill(pid: u32) -> Result<()> {
    ensure!(stdx::process::command("kill").args(["-KILL", &pid.to_string()]).status()?.success());
    Ok(())
}

#[test]
fn a_users_network_outlives_the_daemon_and_nothing_outlives_the_containers() -> Result<()> {
    let Some(mut daemon) = start()? else { return Ok(()) };
    let script = "exec busybox nc -ll -p 80 -e busybox cat";
    let args = ["run", "-d", "--name", "echo", "-p", "127.0.0.1::80", "busybox", "sh", "-c", script];
    daemon.docker_ok(&args)?;
    let port: u16 =
        daemon.docker_ok(&["port", "echo", "80/tcp"])?.rsplit(':').next().context("no port")?.parse()?;
    let connect = || TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), WAIT);
    let echo = |stream: &mut TcpStream, text: &[u8]| -> Result<()> {
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(text)?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        ensure!(answer == text);
        Ok(())
    };
    daemon.wait_for("the server", || connect().is_ok_and(|mut stream| echo(&mut stream, b"ping").is_ok()))?;
    // What is said last is answered, too: the end of one direction is not the end of the other.
    let mut stream = connect()?;
    let much = vec![b'x'; 3 << 20];
    let (mut writer, sent) = (stream.try_clone()?, much.clone());
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent).and_then(|()| writer.shutdown(std::net::Shutdown::Write))
    });
    stream.set_read_timeout(Some(WAIT))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer == much && sender.join().is_ok_and(|sent| sent.is_ok()), "{} bytes", answer.len());

    let mut old = connect()?;
    echo(&mut old, b"before")?;
    let holder = daemon.holder().context("there is no holder")?;
    for _ in 0..2 {
        daemon.crash()?;
        echo(&mut old, b"alone")?;
        std::thread::sleep(Duration::from_secs(3));
        daemon.launch()?;
        echo(&mut old, b"again")?;
        ensure!(daemon.holder() == Some(holder), "there is another holder");
    }
    // The next daemon has power over the network of the one before.
    daemon.docker_ok(&["network", "create", "late"])?;
    daemon.docker_ok(&["network", "connect", "late", "echo"])?;
    let args = ["run", "--rm", "--network", "late", "busybox", "sh", "-c", "busybox ping -c 1 -W 1 echo"];
    daemon.docker_ok(&args)?;
    echo(&mut old, b"still")?;
    // A holder that is killed takes its connections along, and nothing else.
    kill(holder)?;
    daemon.docker_ok(&["run", "--rm", "-p", "80", "busybox", "true"])?;
    daemon.wait_for("the port", || connect().is_ok_and(|mut stream| echo(&mut stream, b"anew").is_ok()))?;
    daemon.docker_ok(&args)?;
    // A container that ends while no daemon runs takes its port along when the next one comes.
    let pid: u32 = daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", "echo"])?.parse()?;
    daemon.docker_ok(&["run", "-d", "--name", "other", "busybox", "sleep", "600"])?;
    daemon.crash()?;
    kill(pid)?;
    std::thread::sleep(Duration::from_millis(200));
    daemon.launch()?;
    daemon.wait_for("the port's end", || connect().is_err())?;
    daemon.docker_ok(&["rm", "-f", "echo", "other"])?;
    let own = daemon.dir().to_owned();
    daemon.crash()?;
    daemon.wait_for("everybody's end", || daemon.processes().is_empty()).context("after a crash")?;
    ensure!(!own.join("run/holder.sock").exists());
    daemon.launch()?;
    daemon.docker_ok(&["run", "--rm", "busybox", "true"])?;
    ensure!(daemon.holder().is_some());
    daemon.stop()?;
    daemon.wait_for("everybody's end", || daemon.processes().is_empty()).context("after an end in good order")
}

#[test]
fn a_user_is_told_what_they_cannot_have() -> Result<()> {
    let Some(daemon) = start()? else { return Ok(()) };
    let refused = |args: &[&str], expected: &str| -> Result<()> {
        let said = daemon.docker(&[&["run", "--rm"], args, &["busybox", "true"]].concat())?;
        ensure!(said.code == 125 && said.err.contains(expected), "{args:?}: {said:?}");
        Ok(())
    };
    refused(&["-p", "1:80"], "net.ipv4.ip_unprivileged_port_start")?;
    refused(&["-p", "9999:80/sctp"], "needs root")?;
    daemon.docker_ok(&["network", "create", "-d", "macvlan", "-o", "parent=eth0", "lan"])?;
    refused(&["--network", "lan"], "an engine without root has none of the computer's interfaces")
}
