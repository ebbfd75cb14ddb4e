//! The way out: `passt`, a process without privileges that speaks for the guest on the host's own sockets.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_manager::places::Places;
use vm_proto::message::{Network, Resolver};

/// The guest's network: every machine's is the same, for each is alone in its own.
const ADDRESS: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const RESOLVER: [u8; 4] = [10, 0, 2, 3];
const PREFIX: u8 = 24;
/// How long it may take until its socket is there.
const DEADLINE: Duration = Duration::from_secs(5);

/// A running one.
#[derive(Debug)]
pub(crate) struct Passt(Child);

impl Drop for Passt {
    fn drop(&mut self) {
        // It ends by itself when its connection does; this is for one that hangs.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it; where it listens, and what the guest is told.
pub(crate) fn start(places: &Places) -> Result<(Passt, PathBuf, Network)> {
    let program = find().context("the program passt is missing: install the package passt")?;
    let socket = places.device("passt");
    // As root it becomes nobody, who can't make its socket here in versions that make it afterwards; newer ones
    // can't stay root.
    let started = start_as(&program, &socket, None);
    let passt = match started {
        Err(_) if rustix::process::geteuid().is_root() => start_as(&program, &socket, Some("0:0"))?,
        started => started?,
    };
    let network = Network {
        address: ADDRESS.into(),
        prefix: PREFIX,
        gateway: GATEWAY.into(),
        address6: None,
        resolver: resolver(),
    };
    Ok((passt, socket, network))
}

fn start_as(program: &Path, socket: &Path, user: Option<&str>) -> Result<Passt> {
    let mut command = stdx::process::command(program);
    let dotted = |[a, b, c, d]: [u8; 4]| format!("{a}.{b}.{c}.{d}");
    command.args(["--foreground", "--quiet", "--one-off", "--socket"]).arg(socket);
    command.args(["--address", &dotted(ADDRESS), "--netmask", &PREFIX.to_string()]);
    command.args(["--gateway", &dotted(GATEWAY), "--dns-forward", &dotted(RESOLVER), "--ipv4-only"]);
    // Ports of the guest are carried by us, which knows what is published.
    command.args(["--tcp-ports", "none", "--udp-ports", "none"]);
    command.args(user.iter().flat_map(|user| ["--runas", user]));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().context("failed to start passt")?;
    let mut passt = Passt(child);
    wait_for(&mut passt, socket)?;
    Ok(passt)
}

/// What the guest asks as long as the host's resolver is the one that passt knows.
pub(crate) fn resolver() -> Resolver {
    Resolver { servers: vec![std::net::Ipv4Addr::from(RESOLVER).into()], search: vec![] }
}

fn find() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|dir| dir.join("passt")).find(|path| path.is_file())
}

/// It serves one connection and ends with it, so its socket is only looked at.
fn wait_for(passt: &mut Passt, socket: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        if listens(socket) {
            return Ok(());
        }
        if let Some(status) = passt.0.try_wait()? {
            let mut said = String::new();
            if let Some(mut error) = passt.0.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut error, &mut said);
            }
            bail!("passt ended ({status}): {}", said.trim());
        }
        if begin.elapsed() > DEADLINE {
            bail!("passt does not listen after {} s", DEADLINE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a socket of that path is listened on (`SO_ACCEPTCON` of proc(5)'s net/unix).
fn listens(socket: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    if !socket.exists() {
        // One that another process still listens on was taken away from here.
        return false;
    }
    let name = socket.display().to_string();
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().nth(3) == Some(ACCEPTS) && line.ends_with(&name))
}
