//! The bridge that containers are on, and what each is given there.
//!
//! ```text
//!  host ── cove0 (172.17.0.1) ──┬── veth… ═══ eth0 (172.17.0.2) container
//!    │                          └── veth… ═══ eth0 (172.17.0.3) container
//!    └─ nftables: masquerade on the way out, published ports on the way in
//! ```
//!
//! It is made with the first container and taken away when the engine ends without any. What the kernel holds is made
//! again from what is wanted whenever something changes; what is wanted is kept by the caller.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::firewall::Rules;
use crate::ipam::{Pool, Subnet, candidates};
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::ports::{Hold, Port, Published};

/// How long the kernel may take to clear up a namespace by itself.
const LINGERS: Duration = Duration::from_secs(1);
/// How many interfaces may wait for that.
const QUEUE: usize = 4096;

/// What a bridge is called.
#[derive(Debug, Clone)]
pub struct Config {
    /// The interface: up to fifteen bytes.
    pub interface: String,
    /// The table of the firewall.
    pub table: String,
}

/// What a container has on the bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// What that is one of.
    pub subnet: Subnet,
    /// Where everything else is.
    pub gateway: Ipv4Addr,
    /// The hardware address.
    pub mac: [u8; 6],
    /// Ports that are reached from outside.
    pub ports: Vec<Published>,
    /// The bridge's end of its pair.
    pub interface: String,
}

/// An endpoint, and the namespace it is in.
#[derive(Debug)]
pub struct Attachment {
    /// What it has.
    pub endpoint: Endpoint,
    /// The network namespace, with `lo` and `eth0` up. It lives as long as this or a process in it.
    pub namespace: OwnedFd,
}

/// One bridge of this machine.
#[derive(Debug)]
pub struct Bridge {
    config: Config,
    state: Mutex<State>,
    reaper: Reaper,
}

#[derive(Debug, Default)]
struct State {
    /// Made with the first endpoint.
    up: Option<Up>,
    endpoints: BTreeMap<String, Held>,
}

/// A bridge that is there.
#[derive(Debug)]
struct Up {
    netlink: Netlink,
    index: u32,
    pool: Pool,
    subnet: Subnet,
}

/// An endpoint and the ports kept for it.
#[derive(Debug)]
struct Held {
    endpoint: Endpoint,
    _ports: Vec<Hold>,
}

impl Bridge {
    /// Of that name; nothing is made yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, state: Mutex::default(), reaper: Reaper::default() }
    }

    /// Its name.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.config.interface
    }

    /// What it spans, once it is there.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        self.state().up.as_ref().map(|up| up.subnet)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `key` (a container's id) an endpoint in a new namespace. Blocking, about a millisecond.
    ///
    /// # Errors
    /// A port that is taken, a pool that is empty, or what the kernel or nft refuses; nothing is left
    /// of it then.
    pub fn attach(&self, key: &str, ports: &[Port]) -> Result<Attachment> {
        // Outside the lock: it is the slowest part.
        let namespace = Namespace::new()?;
        let mut state = self.state();
        if state.up.is_none() {
            state.up = Some(self.make(None)?);
        }
        let attached = self.attach_to(&mut state, &namespace, key, ports);
        if attached.is_err() {
            self.forget(&mut state, key);
        }
        attached.map(|endpoint| Attachment { endpoint, namespace: namespace.fd })
    }

    fn attach_to(
        &self,
        state: &mut State,
        namespace: &Namespace,
        key: &str,
        ports: &[Port],
    ) -> Result<Endpoint> {
        let holds = ports.iter().map(Hold::take).collect::<Result<Vec<_>>>()?;
        let Some(up) = &mut state.up else {
            return Err(Error::Invalid { what: "there is no bridge".into() });
        };
        let address = up.pool.take()?;
        let [a, b, c, d] = address.octets();
        let endpoint = Endpoint {
            address,
            subnet: up.subnet,
            gateway: up.subnet.gateway(),
            // Docker's form: the address behind its prefix, so that no two are the same.
            mac: [0x02, 0x42, a, b, c, d],
            ports: holds.iter().map(|hold| hold.published.clone()).collect(),
            interface: interface_of(key),
        };
        let (index, subnet) = (up.index, up.subnet);
        state.endpoints.insert(key.to_owned(), Held { endpoint: endpoint.clone(), _ports: holds });
        let up = state.up.as_ref().ok_or_else(|| Error::Invalid { what: "there is no bridge".into() })?;
        let name = &endpoint.interface;
        let pair = || up.netlink.add_pair(name, index, "eth0", namespace.fd.as_fd(), endpoint.mac);
        match pair() {
            // Of a container that was killed with its daemon a moment ago.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                up.netlink.remove(name).and_then(|()| pair())
            }
            other => other,
        }
        .doing(|| format!("put {name} on {}", self.config.interface))?;
        let inner = &namespace.netlink;
        let step = || "set up the container's interface";
        let (lo, eth0) = (inner.index("lo").doing(step)?, inner.index("eth0").doing(step)?);
        inner.up(lo).doing(step)?;
        inner.add_address(eth0, address, subnet.prefix, subnet.broadcast()).doing(step)?;
        inner.up(eth0).doing(step)?;
        inner.add_default_route(endpoint.gateway, eth0).doing(step)?;
        if !endpoint.ports.is_empty() {
            self.rules(state, subnet).apply_ports()?;
        }
        Ok(endpoint)
    }

    /// Takes note of an endpoint made by a daemon before this one.
    ///
    /// # Errors
    /// What the kernel or nft refuses, or a port that somebody took meanwhile.
    pub fn adopt(&self, key: &str, endpoint: &Endpoint) -> Result<()> {
        let mut state = self.state();
        if state.up.is_none() {
            state.up = Some(self.make(Some(endpoint.subnet))?);
        }
        let up = state.up.as_mut().ok_or_else(|| Error::Invalid { what: "there is no bridge".into() })?;
        let subnet = up.subnet;
        if !up.pool.claim(endpoint.address) {
            return Err(Error::Invalid { what: format!("{} is somebody else's address", endpoint.address) });
        }
        let ports = endpoint.ports.iter().map(Hold::again).collect::<Result<Vec<_>>>()?;
        state.endpoints.insert(key.to_owned(), Held { endpoint: endpoint.clone(), _ports: ports });
        if endpoint.ports.is_empty() { Ok(()) } else { self.rules(&state, subnet).apply_ports() }
    }

    /// Takes an endpoint away; the bridge stays for the next. Blocking.
    pub fn detach(&self, key: &str) {
        let mut state = self.state();
        self.forget(&mut state, key);
    }

    fn forget(&self, state: &mut State, key: &str) {
        let held = state.endpoints.remove(key);
        let Some(up) = &mut state.up else { return };
        if let Some(held) = &held {
            up.pool.give_back(held.endpoint.address);
            self.reaper.remove_later(held.endpoint.interface.clone());
        }
        let subnet = up.subnet;
        if held.is_some_and(|held| !held.endpoint.ports.is_empty())
            && let Err(error) = self.rules(state, subnet).apply_ports()
        {
            tracing::warn!(%error, "failed to take a published port back");
        }
    }

    /// Takes the bridge away, this daemon's or one's before it, if nothing is on it. Blocking.
    pub fn sweep(&self) {
        let mut state = self.state();
        if state.endpoints.is_empty() {
            self.unmake(&mut state);
        }
    }

    fn unmake(&self, state: &mut State) {
        state.up = None;
        let removed = Netlink::open().and_then(|netlink| netlink.remove(&self.config.interface));
        if let Err(error) = removed {
            tracing::warn!(%error, "failed to remove the bridge");
        }
        if let Err(error) = Rules::remove(&self.config.table) {
            // Without nft there never was a table.
            tracing::debug!(%error, "failed to remove the firewall's table");
        }
    }

    /// Makes the bridge and its rules, or finds them.
    fn make(&self, wanted: Option<Subnet>) -> Result<Up> {
        let name = &self.config.interface;
        let step = || format!("make the bridge {name}");
        let netlink = Netlink::open().doing(step)?;
        let subnet = match wanted {
            Some(subnet) => subnet,
            None => {
                // One that was left has an address of before; a new one gets a subnet that is free now.
                netlink.remove(name).doing(step)?;
                free_subnet(&routes())?
            }
        };
        match netlink.add_bridge(name) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.doing(step)?,
        }
        let index = netlink.index(name).doing(step)?;
        netlink.add_address(index, subnet.gateway(), subnet.prefix, subnet.broadcast()).doing(step)?;
        netlink.up(index).doing(step)?;
        let set = |file: &str| std::fs::write(format!("/proc/sys/net/ipv4/{file}"), "1");
        set("ip_forward").doing(|| "let this computer pass packets on (net.ipv4.ip_forward)")?;
        set(&format!("conf/{name}/route_localnet")).doing(step)?;
        let up = Up { netlink, index, pool: Pool::new(subnet), subnet };
        let Config { interface, table } = self.config.clone();
        let ruled = Rules { table, bridge: interface, subnet, ports: Vec::new() }.apply();
        if ruled.is_err() {
            // Without its rules it would be open to the network.
            let _ = up.netlink.remove(name);
        }
        ruled.map(|()| up)
    }

    fn rules(&self, state: &State, subnet: Subnet) -> Rules {
        let Config { interface, table } = self.config.clone();
        let ports = state
            .endpoints
            .values()
            .flat_map(|held| held.endpoint.ports.iter().map(|port| (port.clone(), held.endpoint.address)))
            .collect();
        Rules { table, bridge: interface, subnet, ports }
    }
}

/// The bridge's end of a container's pair, within the fifteen bytes of a name: the beginning of the
/// container's id, and the number of the attachment, because the end of the one before may linger.
fn interface_of(key: &str) -> String {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("veth{}{count:04x}", key.chars().take(7).collect::<String>())
}

/// Removes interfaces that their namespaces have most likely taken along by then: asking for it at once
/// would wait tens of milliseconds for the kernel's grace periods, with the lock that every start needs.
#[derive(Debug, Default)]
struct Reaper(OnceLock<SyncSender<(Instant, String)>>);

impl Reaper {
    fn remove_later(&self, name: String) {
        let sender = self.0.get_or_init(|| {
            let (sender, inbox) = sync_channel(QUEUE);
            let spawned = std::thread::Builder::new().name("veth".into()).spawn(move || reap(&inbox));
            if let Err(error) = spawned {
                tracing::warn!(%error, "failed to start the thread that removes interfaces");
            }
            sender
        });
        // With a full queue, or without the thread, it is left to its namespace.
        let _ = sender.try_send((Instant::now(), name));
    }
}

/// Ends when the bridge is dropped.
fn reap(inbox: &Receiver<(Instant, String)>) {
    for (at, name) in inbox {
        std::thread::sleep(LINGERS.saturating_sub(at.elapsed()));
        if let Err(error) = Netlink::open().and_then(|netlink| netlink.remove(&name)) {
            tracing::warn!(interface = name, %error, "failed to remove a container's interface");
        }
    }
}

/// What this computer routes already, the default route left out.
fn routes() -> Vec<Subnet> {
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    table.lines().skip(1).filter_map(route).collect()
}

/// A line of `/proc/net/route` (proc_net(5)): addresses are hexadecimal in the machine's order.
fn route(line: &str) -> Option<Subnet> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| Some(u32::from_be(u32::from_str_radix(fields.get(at)?, 16).ok()?));
    let (base, mask) = (address(1)?, address(7)?);
    let prefix = u8::try_from(mask.leading_ones()).ok()?;
    (prefix > 0).then(|| Subnet { base: base.into(), prefix })
}

/// The first of Docker's pools that nothing here uses.
fn free_subnet(used: &[Subnet]) -> Result<Subnet> {
    candidates().find(|subnet| !used.iter().any(|other| other.overlaps(*subnet))).ok_or_else(|| Error::Invalid {
        what: "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
            .into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_found_that_nobody_uses() {
        let line = "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0";
        let docker = route(line).unwrap();
        assert_eq!(docker.to_string(), "172.17.0.0/16");
        assert!(route("eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0").is_none());
        let free = free_subnet(&[docker]).unwrap();
        assert_eq!(free.to_string(), "172.18.0.0/16");
        let all = Subnet { base: Ipv4Addr::new(172, 16, 0, 0), prefix: 12 };
        assert_eq!(free_subnet(&[all]).unwrap().to_string(), "192.168.0.0/20");
    }

    #[test]
    fn names_of_interfaces_fit() {
        assert_eq!(interface_of(&"a".repeat(64)).len(), 15);
    }
}
