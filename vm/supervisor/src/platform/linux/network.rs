//! The way out: `passt`, a process without privileges that speaks for the guest on the host's own sockets.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_manager::places::Places;
use vm_proto::message::{Ipv6Network, Network, Resolver};

/// The guest's network: every machine's is the same, for each is alone in its own.
const ADDRESS: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const RESOLVER: [u8; 4] = [10, 0, 2, 3];
const PREFIX: u8 = 24;
/// The same of IPv6, where this computer has a way out by it: unique local addresses (RFC 4193), so that programs prefer
/// IPv4 where a name has both (RFC 6724).
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f76, 0x6500, 0, 0, 0, 0, 0x15);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f76, 0x6500, 0, 0, 0, 0, 0x2);
const RESOLVER6: Ipv6Addr = Ipv6Addr::new(0xfd63, 0x6f76, 0x6500, 0, 0, 0, 0, 0x3);
const PREFIX6: u8 = 64;
/// The kernel's routes of IPv6 (net/ipv6/route.c).
const ROUTES6: &str = "/proc/net/ipv6_route";
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

/// Starts it; where it listens, and what the guest is told, but for whom to ask for names.
pub(crate) fn start(places: &Places) -> Result<(Passt, PathBuf, Network)> {
    let program = find().context("the program passt is missing: install the package passt")?;
    let socket = places.device("passt");
    // Without one passt does version 4 alone, but says so each time.
    let has_version6 = has_way_out6(&std::fs::read_to_string(ROUTES6).unwrap_or_default());
    // As root it becomes nobody, who can't make its socket here in versions that make it afterwards; newer ones
    // can't stay root.
    let started = start_as(&program, &socket, has_version6, None);
    let passt = match started {
        Err(_) if rustix::process::geteuid().is_root() => {
            start_as(&program, &socket, has_version6, Some("0:0"))?
        }
        started => started?,
    };
    let network = Network {
        address: ADDRESS.into(),
        prefix: PREFIX,
        gateway: GATEWAY.into(),
        address6: has_version6.then_some(Ipv6Network {
            address: ADDRESS6,
            prefix: PREFIX6,
            gateway: GATEWAY6,
        }),
        resolver: Resolver::default(),
    };
    Ok((passt, socket, network))
}

fn start_as(program: &Path, socket: &Path, has_version6: bool, user: Option<&str>) -> Result<Passt> {
    let mut command = stdx::process::command(program);
    let dotted = |[a, b, c, d]: [u8; 4]| format!("{a}.{b}.{c}.{d}");
    command.args(["--foreground", "--quiet", "--one-off", "--socket"]).arg(socket);
    command.args(["--address", &dotted(ADDRESS), "--netmask", &PREFIX.to_string()]);
    command.args(["--gateway", &dotted(GATEWAY), "--dns-forward", &dotted(RESOLVER)]);
    if has_version6 {
        command.args(["--address", &ADDRESS6.to_string(), "--gateway", &GATEWAY6.to_string()]);
        // The guest is told its addresses by us; the computer's own are none of its business.
        command.args(["--dns-forward", &RESOLVER6.to_string(), "--no-ra", "--no-dhcpv6"]);
    } else {
        command.arg("--ipv4-only");
    }
    // Ports of the guest are carried by us, which knows what is published.
    command.args(["--tcp-ports", "none", "--udp-ports", "none"]);
    command.args(user.iter().flat_map(|user| ["--runas", user]));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().context("failed to start passt")?;
    let mut passt = Passt(child);
    wait_for(&mut passt, socket)?;
    Ok(passt)
}

/// What the guest asks as long as the host's resolver is the one that passt knows: by version 6 where the host asks by that.
pub(crate) fn resolver(by_version6: bool) -> Resolver {
    let server = if by_version6 { RESOLVER6.into() } else { Ipv4Addr::from(RESOLVER).into() };
    Resolver { servers: vec![server], search: vec![] }
}

/// Whether the kernel's table has a default route of IPv6 that leads anywhere.
fn has_way_out6(table: &str) -> bool {
    /// linux/route.h, linux/ipv6_route.h.
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [to, prefix, .., flags, device] = fields[..] else { return false };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(REJECT);
        prefix == "00"
            && to.bytes().all(|digit| digit == b'0')
            && flags & UP != 0
            && flags & REJECT == 0
            && device != "lo"
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_out_by_version_6_is_a_default_route_that_leads_somewhere() {
        let none = "00000000000000000000000000000000";
        let line = |to: &str, prefix: &str, flags: &str, device: &str| {
            format!("{to} {prefix} {none} 00 {none} 00000400 00000001 00000000 {flags} {device:>8}\n")
        };
        let net = "fd000000000000000000000000000000";
        assert!(has_way_out6(&(line(net, "40", "00000001", "eth0") + &line(none, "00", "00000003", "eth0"))));
        assert!(!has_way_out6(&line(net, "00", "00000001", "eth0")));
        // What every kernel has.
        assert!(!has_way_out6(&line(none, "00", "00200200", "lo")));
        assert!(!has_way_out6(""));
    }
}
