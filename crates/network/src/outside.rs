//! The way out of a user's network: `pasta` (package passt), which carries packets of an interface there as
//! connections of this computer's own.
//!
//! The interface lives as long as the program does: that it is there means that the program runs, and removing
//! it ends the program. So nothing of it is kept, and a daemon finds what one before it has started.

use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use model::holder::OUTSIDE;

use crate::netlink::Netlink;
use crate::place::Place;

/// What it has in the engine's network. Link-local addresses are no network's; those of this computer stay
/// its own, so that containers reach it there.
const ADDRESS: &str = "169.254.1.2";
const GATEWAY: &str = "169.254.1.1";
const PREFIX: &str = "24";
/// The same for IPv6: a /64 for private use (RFC 4193), made from random bits once and for all.
const ADDRESS6: &str = "fdb7:2c9a:51e0:1::2";
const GATEWAY6: &str = "fe80::1";
/// How long it may take to begin.
const BEGINS: Duration = Duration::from_secs(5);
/// How long a container's start waits for it.
const WAITS: Duration = Duration::from_secs(2);
/// The pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Where it says what is wrong, in the state directory.
const LOG: &str = "pasta.log";

/// Whether the program is installed.
#[must_use]
pub fn has_pasta() -> bool {
    program().is_some()
}

fn program() -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&paths).chain(usual).map(|dir| dir.join("pasta")).find(|path| path.is_file())
}

/// Keeps the way out open, from the first network that has one.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    is_kept: AtomicBool,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether the first try is over, however it went.
    is_tried: Mutex<bool>,
    tried: Condvar,
    is_ending: AtomicBool,
}

impl Outside {
    /// Opens it, waits for that a moment, and opens it again whenever it closes.
    pub(crate) fn keep(&self, place: &Arc<Place>) {
        if place.holder().is_none() {
            return;
        }
        if !self.is_kept.swap(true, Ordering::Relaxed) {
            let (place, shared) = (Arc::downgrade(place), Arc::clone(&self.shared));
            let thread = std::thread::Builder::new().name("outside".into()).stack_size(256 << 10);
            if let Err(error) = thread.spawn(move || keep(&place, &shared)) {
                tracing::warn!(%error, "failed to start the thread that keeps the way out of networks open");
                return;
            }
        }
        let is_tried = self.shared.is_tried.lock().unwrap_or_else(PoisonError::into_inner);
        // Without it containers start all the same, and reach each other.
        drop(self.shared.tried.wait_timeout_while(is_tried, WAITS, |is_tried| !*is_tried));
    }

    /// Opens it no more: the engine ends.
    pub(crate) fn end(&self) {
        self.shared.is_ending.store(true, Ordering::Relaxed);
    }
}

fn keep(place: &Weak<Place>, shared: &Shared) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(strong) = place.upgrade() else { return };
        if shared.is_ending.load(Ordering::Relaxed) {
            return;
        }
        // Listened to before it is looked for, so that no change is missed.
        let opened = strong.run(Netlink::follow_links).and_then(|links| {
            let links = links?;
            open(&strong)?;
            Ok(links)
        });
        *shared.is_tried.lock().unwrap_or_else(PoisonError::into_inner) = true;
        shared.tried.notify_all();
        match opened {
            Ok(links) => {
                pause = FIRST_PAUSE;
                drop(strong);
                until_closed(place, &links);
                if !shared.is_ending.load(Ordering::Relaxed) {
                    tracing::warn!("pasta has ended; it is started again");
                }
            }
            Err(error) => {
                if pause == FIRST_PAUSE {
                    tracing::warn!(%error, "containers have no way out of their networks");
                }
                drop(strong);
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Returns when the interface is gone, or nobody needs it any more.
fn until_closed(place: &Weak<Place>, links: &Netlink) {
    loop {
        let Some(strong) = place.upgrade() else { return };
        if !is_open(&strong) {
            return;
        }
        drop(strong);
        if links.wait().is_err() {
            // More changes than there was room for.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn is_open(place: &Place) -> bool {
    place.netlink().and_then(|netlink| netlink.index(OUTSIDE)).is_ok()
}

/// Starts the program, unless it runs.
fn open(place: &Place) -> io::Result<()> {
    if is_open(place) {
        return Ok(());
    }
    let program = program().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the program pasta is missing: install the package passt")
    })?;
    let holder = place.holder().ok_or(io::ErrorKind::Unsupported)?;
    let pid = holder.pid().ok_or(io::ErrorKind::NotConnected)?;
    let log = holder.state_dir().join(LOG);
    // It says what was wrong this time.
    let _ = std::fs::remove_file(&log);
    let mut command = stdx::process::command(program);
    command.args(arguments(pid, &log, has_route("/proc/net/route"), has_route6())?);
    // Ctrl-C in the daemon's terminal is not for the containers' network.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            return Err(io::Error::other(format!("pasta ended ({status}): {last}")));
        }
        if has_way_out(place) {
            break;
        }
        if began.elapsed() > BEGINS {
            // What is not ready by now never will be; nothing of it is to stay.
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::other(format!("pasta did not begin within 5 s; see {}", log.display())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let reaper = std::thread::Builder::new().name("pasta".into()).stack_size(64 << 10);
    // Without the thread it is reaped when this process ends.
    let _ = reaper.spawn(move || child.wait());
    Ok(())
}

/// Whether the interface is there, with the route that comes last.
fn has_way_out(place: &Place) -> bool {
    let routes = || {
        ["route", "ipv6_route"].map(|name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")))
    };
    let is_out = |text: io::Result<String>| {
        text.is_ok_and(|text| text.lines().any(|line| line.contains(OUTSIDE) && is_default(line)))
    };
    place.run(routes).is_ok_and(|texts| texts.into_iter().any(is_out))
}

/// Whether a line of `/proc/net/route` or `/proc/net/ipv6_route` (proc_net(5)) leads everywhere.
fn is_default(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    match fields.len() {
        11 => fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"),
        _ => fields.get(1) == Some(&"00") && fields.first().is_some_and(|to| to.bytes().all(|b| b == b'0')),
    }
}

fn has_route(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(is_default))
}

fn has_route6() -> bool {
    // Every computer has one that leads nowhere, on its loopback.
    std::fs::read_to_string("/proc/net/ipv6_route")
        .is_ok_and(|text| text.lines().any(|line| is_default(line) && !line.trim_end().ends_with(" lo")))
}

/// What it is started with: the addresses of its end, nothing that comes in, and nothing of this computer's
/// loopback.
fn arguments(pid: u32, log: &Path, has_v4: bool, has_v6: bool) -> io::Result<Vec<String>> {
    let mut all: Vec<String> = ["--foreground", "--quiet", "--log-file"].map(Into::into).into();
    all.push(log.display().to_string());
    all.extend(["--config-net", "--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ra"].map(Into::into));
    all.extend(["-t", "none", "-u", "none", "-T", "none", "-U", "none", "-I", OUTSIDE].map(Into::into));
    match (has_v4, has_v6) {
        (false, false) => return Err(io::Error::other("this computer has no way out itself")),
        (true, false) => all.push("-4".into()),
        (false, true) => all.push("-6".into()),
        (true, true) => {}
    }
    if has_v4 {
        all.extend(["-a", ADDRESS, "-n", PREFIX, "-g", GATEWAY].map(Into::into));
    }
    if has_v6 {
        all.extend(["-a", ADDRESS6, "-g", GATEWAY6].map(Into::into));
    }
    all.extend(["--netns".into(), format!("/proc/{pid}/ns/net")]);
    Ok(all)
}

/// Where containers find this computer: at the address that it has towards others.
pub(crate) fn own_address() -> Option<IpAddr> {
    let towards = |any: &str, others: &str| -> Option<IpAddr> {
        // Nothing is sent: connecting a datagram socket asks for a route.
        let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
        socket.connect((others, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    towards("0.0.0.0", "198.51.100.1").or_else(|| towards("::", "2001:db8::1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_told_from_others() {
        assert!(is_default("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"));
        assert!(!is_default("eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0"));
        let zero = "0".repeat(32);
        assert!(is_default(&format!("{zero} 00 {zero} 00 fe800000 400 1 0 3 eth0")));
        assert!(!is_default(&format!("{zero} 40 {zero} 00 0 100 1 0 1 eth0")));
    }

    #[test]
    fn pasta_speaks_what_this_computer_speaks() {
        let log = Path::new("/log");
        let four = arguments(7, log, true, false).unwrap();
        assert!(four.contains(&"-4".into()) && four.contains(&"/proc/7/ns/net".into()), "{four:?}");
        assert!(!four.contains(&ADDRESS6.into()), "{four:?}");
        let both = arguments(7, log, true, true).unwrap();
        assert!(both.contains(&ADDRESS.into()) && both.contains(&ADDRESS6.into()), "{both:?}");
        assert!(arguments(7, log, false, false).is_err());
    }
}
