//! Another computer on a link to this one, as far as addresses are concerned: a network namespace behind a pair of interfaces.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// It, with an address of each version of IP; gone when dropped.
#[derive(Debug)]
pub struct Neighbour {
    name: String,
    /// Its address and this computer's, on the link between them.
    pub addresses: [(IpAddr, IpAddr); 2],
}

impl Neighbour {
    /// Makes one. `None`, with the reason told, where this is not root.
    ///
    /// # Errors
    /// It can't be made.
    pub fn make() -> Result<Option<Self>> {
        if !crate::is_root()? {
            crate::skip("a network namespace beside this one needs root");
            return Ok(None);
        }
        // Tests run beside each other. The networks are for measurements (RFC 2544) and for oneself (RFC 4193).
        static MADE: AtomicU32 = AtomicU32::new(0);
        let nth = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("cn{}x{nth}", std::process::id());
        let [low, high, ..] = std::process::id().wrapping_mul(7).wrapping_add(nth).to_le_bytes();
        let v4 = |last| IpAddr::from(Ipv4Addr::new(198, 18 | (high & 1), low, last));
        let v6 = |last| IpAddr::from(Ipv6Addr::new(0xfd00, 0xc0e, high.into(), low.into(), 0, 0, 0, last));
        let neighbour = Self { name, addresses: [(v4(2), v4(1)), (v6(2), v6(1))] };
        neighbour.link().context("failed to make a network namespace beside this one")?;
        Ok(Some(neighbour))
    }

    fn link(&self) -> Result<()> {
        let name = &self.name;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {name} type veth peer name outside netns {name}"))?;
        for (theirs, ours) in self.addresses {
            let (prefix, flags) = if ours.is_ipv4() { (24, "") } else { (64, "nodad") };
            ip(&format!("address add {ours}/{prefix} dev {name} {flags}"))?;
            ip(&format!("-n {name} address add {theirs}/{prefix} dev outside {flags}"))?;
        }
        ip(&format!("link set {name} up"))?;
        ip(&format!("-n {name} link set outside up"))?;
        ip(&format!("-n {name} link set lo up"))
    }

    /// Runs something there, whose sockets stay there.
    ///
    /// # Errors
    /// The namespace can't be entered.
    ///
    /// # Panics
    /// With what runs.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name))?;
        // The thread ends with its place.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(what())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Half made, or taken away by somebody, it is gone all the same.
        let _ = ip(&format!("link del {}", self.name));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(words: &str) -> Result<()> {
    let mut command = stdx::process::command("ip");
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(words.split_whitespace());
    let output = command.output().context("there is no ip (package iproute2)")?;
    ensure!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
