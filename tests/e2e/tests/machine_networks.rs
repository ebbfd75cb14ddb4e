//! What containers of a machine reach: the computer around it, by its names; volumes on other computers; and SCTP, which
//! kernels of computers seldom have.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::machine::Machine;

/// The computer, as a guest sees it.
const COMPUTER: &str = "10.0.2.2";

/// A machine whose kernel has what this needs: Debian's for User Mode Linux has no networks.
fn machine() -> Result<Option<Machine>> {
    let Some(machine) = Machine::start("qemu")? else { return Ok(None) };
    ensure!(machine.has_networks()?, "a kernel for QEMU has networks");
    Ok(Some(machine))
}

#[test]
fn containers_of_a_machine_reach_the_computer_by_its_names() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            // One that breaks off is told by its own test.
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"hello from outside\n");
        }
    });
    machine.cove_ok(&["network", "create", "own"])?;
    let ask = |options: &[&str], name: &str| {
        // passt of 2023 hangs where a client has no more to say before the server has.
        let words = ["busybox", "sh", "-c", "(echo; sleep 2) | busybox nc $0 $1", name, &port.to_string()];
        machine.cove_ok(&[&["run", "--rm"], options, &words[..]].concat())
    };
    for (options, name) in [
        (&[][..], "host.docker.internal"),
        (&["--network", "own"], "host.docker.internal"),
        (&["--network", "host"], "host.docker.internal"),
        (&["--add-host", "outside:host-gateway"], "outside"),
        (&[], "gateway.docker.internal"),
    ] {
        assert_eq!(ask(options, name)?, "hello from outside", "{options:?} {name}");
    }
    reach_by_version_6(&machine)?;
    // What a user says of a name goes before.
    let hosts =
        ["run", "--rm", "--add-host", "host.docker.internal:192.0.2.9", "busybox", "cat", "/etc/hosts"];
    let hosts = machine.docker_ok(&hosts)?;
    let first = hosts.lines().find(|line| line.contains("host.docker.internal"));
    assert_eq!(first, Some("192.0.2.9\thost.docker.internal"), "{hosts}");
    Ok(())
}

/// The same by IPv6: in a network that has it, by the computer's loopback of that version.
fn reach_by_version_6(machine: &Machine) -> Result<()> {
    let hosts = |options: &[&str]| {
        machine.cove_ok(&[&["run", "--rm"], options, &["busybox", "cat", "/etc/hosts"]].concat())
    };
    let named = |hosts: &str| {
        let lines = hosts.lines().filter(|line| line.contains("host.docker.internal"));
        lines.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        named(&hosts(&[])?),
        [COMPUTER],
        "a container without IPv6 has the address that leads somewhere"
    );
    let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let is_way_out = |line: &&str| line.starts_with(&format!("{:032} 00 ", 0)) && !line.ends_with("lo");
    if routes.lines().filter(is_way_out).count() == 0 {
        support::absent("this computer has no way out by IPv6, so its machines have none");
        return Ok(());
    }
    let listener = TcpListener::bind("[::1]:0")?;
    let port = listener.local_addr()?.port().to_string();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"hello by version 6\n");
        }
    });
    machine.cove_ok(&["network", "create", "--ipv6", "six"])?;
    let address = named(&hosts(&["--network", "six"])?).pop().context("an address")?;
    ensure!(address.contains(':'), "{address} is none of IPv6");
    for network in ["six", "host"] {
        let ask = ["run", "--rm", "--network", network, "busybox", "sh", "-c"];
        let words = ["(echo; sleep 2) | busybox nc $0 $1", &address, &port];
        assert_eq!(machine.cove_ok(&[&ask[..], &words].concat())?, "hello by version 6", "{network}");
    }
    Ok(())
}

#[test]
fn a_port_is_published_at_one_address_of_the_computer() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    // The address that this computer has towards others; nothing is sent.
    let asked = UdpSocket::bind("0.0.0.0:0")?;
    let Some(address) = asked.connect("192.0.2.1:9").ok().and_then(|()| asked.local_addr().ok()) else {
        support::absent("this computer has no address but that of its loopback");
        return Ok(());
    };
    let address = address.ip();
    let port = TcpListener::bind((address, 0))?.local_addr()?.port();
    let publish = |at: &str| format!("{at}:{port}:80");
    let serve = |name: &str, at: &str| {
        let script = "echo $0 > /index.html; httpd -f -h / -p 80";
        let words = ["-p", &publish(at), "--name", name, "busybox", "sh", "-c", script, name];
        machine.docker_ok(&[&["run", "-d"], &words[..]].concat())
    };
    let ask = |at: IpAddr| -> Result<String> {
        let mut stream = TcpStream::connect((at, port))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    serve("outer", &address.to_string())?;
    machine.wait_for("the port", || ask(address).is_ok_and(|answer| answer.contains("outer")))?;
    ensure!(ask(Ipv4Addr::LOCALHOST.into()).is_err(), "it answers where it is not published");
    // The same number at another address is another port.
    serve("inner", "127.0.0.1")?;
    machine.wait_for("the other port", || {
        ask(Ipv4Addr::LOCALHOST.into()).is_ok_and(|answer| answer.contains("inner"))
    })?;
    ensure!(ask(address)?.contains("outer"));
    let published = machine.docker_ok(&["port", "outer"])?;
    assert_eq!(published, format!("80/tcp -> {address}:{port}"));
    let taken = machine.docker(&["run", "--rm", "-p", &publish(&address.to_string()), "busybox", "true"])?;
    ensure!(taken.code != 0 && taken.err.contains("port is already allocated"), "{}", taken.err);
    Ok(())
}

#[test]
fn sctp_is_published_as_tcp_is() -> Result<()> {
    let Some(machine) = machine()? else { return Ok(()) };
    if machine.cove(&["machine", "shell", "test", "--", "modprobe", "sctp"])?.code != 0 {
        support::absent("this machine's kernel has no SCTP");
        return Ok(());
    }
    let program = machine.compile(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sctp.c")))?;
    let mount = format!("{}:/sctp:ro", program.display());
    let run = |words: &[&str]| machine.docker_ok(&[&["run", "-v", &mount], words].concat());
    run(&["-d", "--name", "server", "-p", "7001:7000/sctp", "busybox", "/sctp", "serve", "7000"])?;
    assert_eq!(machine.docker_ok(&["port", "server"])?, "7000/sctp -> 0.0.0.0:7001");
    let address = |name: &str| {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        machine.docker_ok(&["inspect", "-f", format, name])
    };
    let server = address("server")?;
    run(&["-d", "--name", "client", "busybox", "sleep", "600"])?;
    let client = address("client")?;
    let asked = |address: &str, port| machine.docker_ok(&["exec", "client", "/sctp", "ask", address, port]);
    assert_eq!(asked(&server, "7000")?, client);
    // By the port: from a container, and from the guest itself, its loopback included.
    let gateway = "172.17.0.1";
    asked(gateway, "7001")?;
    let guest = |address| run(&["--rm", "--network", "host", "busybox", "/sctp", "ask", address, "7001"]);
    assert_eq!(guest("10.0.2.15")?, "10.0.2.15");
    guest("127.0.0.1")?;
    machine.docker_ok(&["rm", "-f", "server"])?;
    ensure!(run(&["--rm", "--network", "host", "busybox", "/sctp", "ask", "10.0.2.15", "7001"]).is_err());
    Ok(())
}

/// An NFS server of others' making, on this computer's loopback; gone when dropped.
struct Nfs {
    server: Child,
    port: u16,
    exported: PathBuf,
    _dir: tempfile::TempDir,
}

impl Nfs {
    /// `None`, with the reason told, where there is none.
    fn start() -> Result<Option<Self>> {
        if !support::is_root()? || !Path::new("/usr/bin/ganesha.nfsd").exists() {
            support::skip(
                "nfs-ganesha is not there (packages nfs-ganesha and nfs-ganesha-vfs), or this is not root",
            );
            return Ok(None);
        }
        let dir = tempfile::Builder::new().prefix("cove-nfs").tempdir()?;
        let (exported, port) =
            (dir.path().join("exported"), TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        std::fs::create_dir_all(&exported)?;
        std::fs::create_dir_all(dir.path().join("recovery"))?;
        let config = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; Enable_NLM = false; \
             Enable_RQUOTA = false; Enable_UDP = false; }}\n\
             NFSv4 {{ Graceless = true; Minor_Versions = 1,2; Only_Numeric_Owners = true; RecoveryBackend = fs; \
             RecoveryRoot = \"{recovery}\"; }}\n\
             EXPORT {{ Export_Id = 1; Path = \"{exported}\"; Pseudo = \"/exported\"; Access_Type = RW; \
             Squash = No_Root_Squash; SecType = sys; Protocols = 4; FSAL {{ Name = VFS; }} }}\n",
            recovery = dir.path().join("recovery").display(),
            exported = exported.display(),
        );
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("config"), config)?;
        let mut command = stdx::process::command("/usr/bin/ganesha.nfsd");
        command.arg("-F").arg("-f").arg(path("config")).arg("-L").arg(path("log")).arg("-p").arg(path("pid"));
        let server = command.spawn().context("failed to start ganesha.nfsd")?;
        let nfs = Self { server, port, exported, _dir: dir };
        let begin = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(nfs._dir.path().join("log")).unwrap_or_default();
            ensure!(begin.elapsed() < Duration::from_secs(30), "the NFS server does not come up: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Some(nfs))
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn a_volume_is_on_an_nfs_server() -> Result<()> {
    let Some(nfs) = Nfs::start()? else { return Ok(()) };
    let Some(machine) = machine()? else { return Ok(()) };
    std::fs::write(nfs.exported.join("file"), "from the server\n")?;
    let create = |name: &str, port: u16, device: &str| {
        let options = format!("o=addr={COMPUTER},vers=4.1,proto=tcp,soft,timeo=50,retrans=1,port={port}");
        let device = format!("device={device}");
        let of = ["volume", "create", "--driver", "local", "--opt", "type=nfs", "--opt", &options, "--opt"];
        machine.docker_ok(&[&of[..], &[&device, name]].concat())
    };
    create("remote", nfs.port, ":/exported")?;
    let run = |words: &[&str]| machine.docker_ok(&[&["run", "--rm", "-v", "remote:/data"], words].concat());
    let said =
        run(&["-u", "1000:1000", "busybox", "sh", "-c", "cat /data/file; grep ' /data ' /proc/mounts"])?;
    ensure!(said.starts_with("from the server\n") && said.contains(" nfs4 "), "{said}");
    run(&[
        "busybox",
        "sh",
        "-c",
        "mkdir /data/dir && echo written > /data/dir/new && chown 1000 /data/dir/new",
    ])?;
    assert_eq!(std::fs::read_to_string(nfs.exported.join("dir/new"))?, "written\n");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(nfs.exported.join("dir/new"))?), 1000);
    // Two at once, and it is gone from nobody who still has it.
    machine.docker_ok(&["run", "-d", "--name", "stays", "-v", "remote:/data", "busybox", "sleep", "600"])?;
    assert_eq!(run(&["busybox", "cat", "/data/dir/new"])?, "written");
    assert_eq!(machine.docker_ok(&["exec", "stays", "cat", "/data/dir/new"])?, "written");
    machine.docker_ok(&["rm", "-f", "stays"])?;
    machine.docker_ok(&["volume", "rm", "remote"])?;
    ensure!(nfs.exported.join("dir/new").exists(), "what is on the server is the server's");
    // What can't be had is said, and nothing is left of it.
    create("absent", nfs.port, ":/no/such/folder")?;
    let said = machine.docker(&["run", "--rm", "-v", "absent:/data", "busybox", "true"])?;
    ensure!(said.code != 0 && said.err.contains("nfs") && said.err.contains(":/no/such/folder"), "{said:?}");
    assert_eq!(machine.docker_ok(&["ps", "-aq"])?, "");
    Ok(())
}
