//! One network: what it is asked to be, its interface in the kernel, and who is on it.
//!
//! ```text
//!  host ── cove0 (172.17.0.1) ──┬── veth… ═══ eth0 (172.17.0.2) container
//!    │                          └── veth… ═══ eth0 (172.17.0.3) container
//!    └─ nftables: masquerade on the way out, published ports on the way in
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::firewall::BridgeRules;
use crate::ipam::{Pool, Range, Subnet, candidates};
use crate::namespace::Namespace;
use crate::netlink::{Netlink, Peer, Stacked};
use crate::place::Place;

/// What a network is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its id, by which it is known here.
    pub id: String,
    /// How its members are connected.
    pub kind: Kind,
    /// Where addresses come from, one for each version of IP it speaks. None at all: a range of IPv4 that is
    /// free when the first member comes.
    pub ranges: Vec<Range>,
    /// Whether there is no way out of it.
    pub is_internal: bool,
    /// The largest packet of its interfaces, in bytes; none is that of the way out of this computer, if that
    /// has less than 1500, when the first member comes.
    pub mtu: Option<u32>,
}

/// How the members of a network are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// By a bridge of this computer.
    Bridge {
        /// Its name: up to fifteen bytes.
        interface: String,
        /// Whether what leaves the network has this computer's address.
        masquerades: bool,
        /// Whether its members may not speak to each other.
        isolates: bool,
    },
    /// By an interface of this computer, beside which each has a hardware address of its own.
    Macvlan {
        /// The interface; a made one that leads nowhere where none is named.
        parent: Option<String>,
        /// How members reach each other.
        mode: MacvlanMode,
    },
    /// By an interface of this computer, whose hardware address all share.
    Ipvlan {
        /// The interface; a made one that leads nowhere where none is named.
        parent: Option<String>,
        /// At which layer packets are sorted.
        mode: IpvlanMode,
    },
}

/// Docker's `macvlan_mode`, with the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Members don't reach each other.
    Private = 1,
    /// By way of the switch outside.
    Vepa = 2,
    /// Directly.
    Bridge = 4,
    /// One member, which has the interface.
    Passthru = 8,
}

/// Docker's `ipvlan_mode`, with the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpvlanMode {
    /// As a switch does.
    L2 = 0,
    /// As a router does.
    L3 = 1,
    /// As a router does, seen by the firewall.
    L3s = 2,
}

/// What a container asks of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// What the interface is to be called in the container.
    pub inner: String,
    /// The addresses it wants.
    pub addresses: Vec<IpAddr>,
    /// Further addresses, of the link alone.
    pub link_local: Vec<IpAddr>,
    /// The hardware address it wants.
    pub mac: Option<[u8; 6]>,
    /// Kernel parameters of the interface: paths below `/proc/sys` and values.
    pub sysctls: Vec<(String, String)>,
}

/// What a container has on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's id.
    pub network: String,
    /// Its addresses, one for each version of IP.
    pub addresses: Vec<Address>,
    /// The hardware address.
    pub mac: [u8; 6],
    /// The bridge's end of its pair; empty where there is none.
    pub interface: String,
    /// What the interface is called in the container.
    pub inner: String,
}

/// An address of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// What that is one of.
    pub subnet: Subnet,
    /// Where everything else is; nowhere on an internal network.
    pub gateway: Option<IpAddr>,
}

impl Endpoint {
    /// Its address of IPv4.
    #[must_use]
    pub fn v4(&self) -> Option<&Address> {
        self.addresses.iter().find(|address| address.address.is_ipv4())
    }

    /// Its address of IPv6.
    #[must_use]
    pub fn v6(&self) -> Option<&Address> {
        self.addresses.iter().find(|address| address.address.is_ipv6())
    }
}

/// A network and its members.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) config: Config,
    /// Made with the first member.
    up: Option<Up>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
}

/// A network that is there.
#[derive(Debug)]
struct Up {
    /// The bridge, or what members stand on.
    index: u32,
    /// The largest packet of its interfaces; none is the kernel's 1500 bytes.
    mtu: Option<u32>,
    pools: Vec<(Range, Pool)>,
}

impl Network {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, up: None, endpoints: BTreeMap::new() }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// What it spans: known from the beginning, or since the first member came.
    pub(crate) fn ranges(&self) -> Vec<Range> {
        match &self.up {
            Some(up) => up.pools.iter().map(|(range, _)| range.clone()).collect(),
            None => self.config.ranges.clone(),
        }
    }

    /// The interface it has on this computer, if it is one of ours.
    pub(crate) fn own_interface(&self) -> Option<String> {
        match &self.config.kind {
            Kind::Bridge { interface, .. } => Some(interface.clone()),
            Kind::Macvlan { parent: None, .. } | Kind::Ipvlan { parent: None, .. } => {
                Some(format!("dm-{}", self.config.id.get(..12).unwrap_or(&self.config.id)))
            }
            Kind::Macvlan { .. } | Kind::Ipvlan { .. } => None,
        }
    }

    /// What the firewall is to do for it while it is there.
    pub(crate) fn rules(&self) -> Option<BridgeRules> {
        let Kind::Bridge { interface, masquerades, isolates } = &self.config.kind else { return None };
        self.up.as_ref().map(|up| BridgeRules {
            interface: interface.clone(),
            subnets: up.pools.iter().map(|(range, _)| range.subnet).collect(),
            is_internal: self.config.is_internal,
            masquerades: *masquerades,
            isolates: *isolates,
        })
    }

    /// Makes its interface, or finds it. `owner` is noted on it.
    pub(crate) fn make(
        &mut self,
        place: &Place,
        netlink: &Netlink,
        owner: &str,
        fallback: Vec<Range>,
    ) -> Result<()> {
        if self.up.is_some() {
            return Ok(());
        }
        let ranges = if self.config.ranges.is_empty() { fallback } else { self.config.ranges.clone() };
        let step = || format!("make the network {}", self.config.id.get(..12).unwrap_or(&self.config.id));
        // What goes out and is larger would be cut up, or lost where a VPN's messages about it are.
        let goes_out = matches!(self.config.kind, Kind::Bridge { .. }) && !self.config.is_internal;
        let uplink = || (goes_out && place.holder().is_none()).then(uplink_mtu).flatten();
        let mtu = self.config.mtu.or_else(uplink);
        // One that is there must be ours: by its note, or, where a crash came before that, by its name.
        let bridge = |name: &str| -> Result<()> {
            match netlink.add_bridge(name, owner, mtu) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let has_own_name = ["cove0", "cv", "dm-"].iter().any(|own| name.starts_with(own));
                    let is_ours = netlink.owned_by(owner).doing(step)?.iter().any(|own| own == name);
                    if !is_ours && !has_own_name {
                        return Err(Error::Conflict {
                            what: format!(
                                "an interface {name} is there already, and is not Cove's: choose another name"
                            ),
                        });
                    }
                    netlink.own(name, owner).doing(step)
                }
                other => other.doing(step),
            }
        };
        let index = match (&self.config.kind, self.own_interface()) {
            (Kind::Bridge { .. }, Some(name)) => {
                bridge(&name)?;
                let index = netlink.index(&name).doing(step)?;
                place.run(|| forward(&name, &ranges)).doing(step)??;
                for range in &ranges {
                    netlink.add_address(index, range.gateway, range.subnet).doing(step)?;
                }
                netlink.up(index).doing(step)?;
                index
            }
            (_, Some(name)) => {
                // A bridge without ports leads nowhere, and is there where dummy interfaces are not.
                bridge(&name)?;
                netlink.index(&name).doing(step)?
            }
            (Kind::Macvlan { parent, .. } | Kind::Ipvlan { parent, .. }, None) => {
                let parent = parent.as_deref().unwrap_or_default();
                let why = match place.holder() {
                    None => "this computer has no such interface",
                    Some(_) => "an engine without root has none of the computer's interfaces",
                };
                netlink.index(parent).map_err(|_| Error::Invalid {
                    what: format!("invalid subinterface parent {parent:?}: {why}"),
                })?
            }
            (Kind::Bridge { .. }, None) => {
                return Err(Error::Invalid { what: "a bridge without a name".into() });
            }
        };
        let pools = ranges.into_iter().map(|range| (range.clone(), Pool::new(&range))).collect();
        self.up = Some(Up { index, mtu, pools });
        Ok(())
    }

    /// Takes its interface away.
    pub(crate) fn unmake(&mut self, netlink: &Netlink) {
        self.up = None;
        if let Some(name) = self.own_interface()
            && let Err(error) = netlink.remove(&name)
        {
            tracing::warn!(interface = name, %error, "failed to remove a network's interface");
        }
    }

    /// Gives `key` (a container's id) a place on it. It must be there.
    pub(crate) fn attach(
        &mut self,
        netlink: &Netlink,
        key: &str,
        namespace: &Namespace,
        request: &Request,
    ) -> Result<Endpoint> {
        let addresses = self.assign(&request.addresses)?;
        let attached = self.connect(netlink, key, namespace, request, &addresses);
        match &attached {
            Ok(endpoint) => drop(self.endpoints.insert(key.to_owned(), endpoint.clone())),
            Err(_) => self.give_back(&addresses),
        }
        attached
    }

    /// Addresses of every version it speaks: those that are wanted, else free ones. All or none.
    fn assign(&mut self, wanted: &[IpAddr]) -> Result<Vec<Address>> {
        let is_internal = self.config.is_internal;
        let Some(up) = &mut self.up else {
            return Err(Error::Invalid { what: "the network is not up".into() });
        };
        let has = |wanted: &IpAddr| {
            up.pools.iter().any(|(range, _)| range.subnet.base().is_ipv4() == wanted.is_ipv4())
        };
        if let Some(stray) = wanted.iter().find(|address| !has(address)) {
            return Err(Error::Invalid {
                what: format!("no configured subnet or ip-range contain the IP address {stray}"),
            });
        }
        let mut assigned: Vec<Address> = Vec::new();
        let mut failure = None;
        for (range, pool) in &mut up.pools {
            let wanted = wanted.iter().find(|address| address.is_ipv4() == range.subnet.base().is_ipv4());
            let address = match wanted {
                Some(address) => pool.claim(*address).map(|()| *address),
                None => pool.take(),
            };
            match address {
                Ok(address) => {
                    let gateway = (!is_internal).then_some(range.gateway);
                    assigned.push(Address { address, subnet: range.subnet, gateway });
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        match failure {
            None => Ok(assigned),
            Some(error) => {
                self.give_back(&assigned);
                Err(error)
            }
        }
    }

    fn give_back(&mut self, addresses: &[Address]) {
        let Some(up) = &mut self.up else { return };
        for address in addresses {
            for (_, pool) in up.pools.iter_mut().filter(|(range, _)| range.subnet.contains(address.address)) {
                pool.give_back(address.address);
            }
        }
    }

    fn connect(
        &self,
        netlink: &Netlink,
        key: &str,
        namespace: &Namespace,
        request: &Request,
        addresses: &[Address],
    ) -> Result<Endpoint> {
        let (index, mtu) = self.up.as_ref().map_or((0, None), |up| (up.index, up.mtu));
        let mac = request.mac.unwrap_or_else(|| mac_of(addresses, key));
        let mut peer = Peer { name: &request.inner, namespace: namespace.as_fd(), mac: Some(mac), mtu };
        let step = || {
            format!("connect a container to network {}", self.config.id.get(..12).unwrap_or(&self.config.id))
        };
        let mut interface = String::new();
        match &self.config.kind {
            Kind::Bridge { isolates, .. } => {
                interface = interface_of(key);
                let made = match netlink.add_pair(&interface, index, &peer) {
                    // Its number is that of one made by a daemon before this one.
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                        interface = interface_of(key);
                        netlink.add_pair(&interface, index, &peer)
                    }
                    other => other,
                };
                made.doing(step)?;
                if *isolates {
                    netlink.index(&interface).and_then(|port| netlink.isolate(port)).doing(step)?;
                }
            }
            Kind::Macvlan { mode, .. } => {
                stack(netlink, index, Stacked::Macvlan(*mode as u32), namespace, peer, key).doing(step)?;
            }
            Kind::Ipvlan { mode, .. } => {
                peer.mac = None;
                stack(netlink, index, Stacked::Ipvlan(*mode as u16), namespace, peer, key).doing(step)?;
            }
        }
        if let Err(error) = set_up(namespace, request, addresses) {
            // The container may go on: without a half made interface.
            let _ = if interface.is_empty() {
                namespace.netlink.remove(&request.inner)
            } else {
                netlink.remove(&interface)
            };
            return Err(error);
        }
        Ok(Endpoint {
            network: self.config.id.clone(),
            addresses: addresses.to_vec(),
            mac,
            interface,
            inner: request.inner.clone(),
        })
    }

    /// Takes note of a member that a daemon before this one let in. It must be there.
    pub(crate) fn adopt(&mut self, key: &str, endpoint: &Endpoint) -> Result<()> {
        let Some(up) = &mut self.up else {
            return Err(Error::Invalid { what: "the network is not up".into() });
        };
        for address in &endpoint.addresses {
            for (_, pool) in up.pools.iter_mut().filter(|(range, _)| range.subnet.contains(address.address)) {
                pool.claim(address.address)?;
            }
        }
        self.endpoints.insert(key.to_owned(), endpoint.clone());
        Ok(())
    }

    /// Forgets a member; its interface is the caller's to remove.
    pub(crate) fn detach(&mut self, key: &str) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(key)?;
        self.give_back(&endpoint.addresses);
        Some(endpoint)
    }
}

/// Makes an interface on top of the host's. The kernel looks its name up where the request comes from, and the host may
/// have an `eth0` of its own, so it gets its name once it is in the container.
fn stack(
    netlink: &Netlink,
    parent: u32,
    stacked: Stacked,
    namespace: &Namespace,
    peer: Peer<'_>,
    key: &str,
) -> std::io::Result<()> {
    let passing = interface_of(key);
    netlink.add_stacked(parent, stacked, &Peer { name: &passing, ..peer })?;
    let named = namespace.netlink.rename(&passing, peer.name);
    if named.is_err() {
        // Half made, it is nobody's.
        let _ = namespace.netlink.remove(&passing);
    }
    named
}

/// Gives a container's new interface what it is to have, and brings it up.
fn set_up(namespace: &Namespace, request: &Request, addresses: &[Address]) -> Result<()> {
    let step = || "set up the container's interface";
    let is_v6 = |address: &IpAddr| address.is_ipv6();
    if addresses.iter().any(|one| is_v6(&one.address)) || request.link_local.iter().any(is_v6) {
        let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", request.inner);
        namespace.enter(|| std::fs::write(path, "0")).doing(step)?;
    }
    let inner = namespace.netlink.index(&request.inner).doing(step)?;
    for address in addresses {
        namespace.netlink.add_address(inner, address.address, address.subnet).doing(step)?;
    }
    for address in &request.link_local {
        // Docker gives such an address to the interface as it is, without a subnet around it.
        let alone = Subnet::around(*address, if address.is_ipv4() { 32 } else { 128 });
        namespace.netlink.add_address(inner, *address, alone).doing(step)?;
    }
    if !request.sysctls.is_empty() {
        namespace
            .enter(|| request.sysctls.iter().try_for_each(|(path, value)| std::fs::write(path, value)))
            .doing(|| "set the kernel parameters of the container's interface")?;
    }
    namespace.netlink.up(inner).doing(step)?;
    Ok(())
}

/// Docker's form: the address behind its prefix, so that no two are the same; without one, from the key.
fn mac_of(addresses: &[Address], key: &str) -> [u8; 6] {
    let octets = addresses.iter().find_map(|address| match address.address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    });
    let [a, b, c, d] = octets.unwrap_or_else(|| {
        u32::from_str_radix(key.get(..8).unwrap_or_default(), 16).unwrap_or_default().to_be_bytes()
    });
    [0x02, 0x42, a, b, c, d]
}

/// The bridge's end of a container's pair, within the fifteen bytes of a name: the beginning of the
/// container's id, and the number of the attachment, because the end of the one before may linger.
fn interface_of(key: &str) -> String {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("veth{}{count:04x}", key.chars().take(7).collect::<String>())
}

/// Lets this computer pass packets on between a bridge and the rest.
fn forward(bridge: &str, ranges: &[Range]) -> Result<()> {
    let set = |path: String, value: &str| {
        if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
            return Ok(());
        }
        std::fs::write(&path, value).doing(|| format!("let this computer pass packets on ({path})"))
    };
    if ranges.iter().any(|range| range.gateway.is_ipv4()) {
        set("/proc/sys/net/ipv4/ip_forward".into(), "1")?;
        set(format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    }
    if ranges.iter().any(|range| range.gateway.is_ipv6()) {
        if std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding")
            .is_ok_and(|now| now.trim() == "0")
        {
            keep_accepting_routes();
        }
        set("/proc/sys/net/ipv6/conf/all/forwarding".into(), "1")?;
        // An engine's bridges speak IPv6 even where new interfaces don't.
        set(format!("/proc/sys/net/ipv6/conf/{bridge}/disable_ipv6"), "0")?;
        set(format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra"), "0")?;
    }
    Ok(())
}

/// A computer that forwards no longer hears routers, by which many have their own address (Linux's
/// ip-sysctl.rst, `accept_ra`): those interfaces that did go on.
fn keep_accepting_routes() {
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == "1")
            && let Err(error) = std::fs::write(&path, "2")
        {
            tracing::warn!(%error, ?path, "failed to let an interface go on hearing routers");
        }
    }
}

/// What this computer routes already, the default route left out.
pub(crate) fn routes() -> Vec<Subnet> {
    let four = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let six = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    four.lines().skip(1).filter_map(route).chain(six.lines().filter_map(route6)).collect()
}

/// The largest packet of the interface that the default route goes by, where it is less than usual: a VPN's.
fn uplink_mtu() -> Option<u32> {
    const USUAL: u32 = 1500;
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let interface = default_interface(&routes)?;
    let mtu = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?;
    mtu.trim().parse().ok().filter(|mtu| *mtu < USUAL)
}

/// The interface of the default route with the lowest metric.
fn default_interface(routes: &str) -> Option<&str> {
    let default = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, "00000000", _, _, _, _, metric, "00000000", ..] = fields.as_slice() else {
            return None;
        };
        Some((metric.parse::<u32>().ok()?, *interface))
    });
    default.min().map(|(_, interface)| interface)
}

/// A line of `/proc/net/route` (proc_net(5)): addresses are hexadecimal in the machine's order.
fn route(line: &str) -> Option<Subnet> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| Some(u32::from_be(u32::from_str_radix(fields.get(at)?, 16).ok()?));
    let (base, mask) = (address(1)?, address(7)?);
    let prefix = u8::try_from(mask.leading_ones()).ok()?;
    (prefix > 0).then(|| Subnet::around(std::net::Ipv4Addr::from(base).into(), prefix))
}

/// A line of `/proc/net/ipv6_route`: the destination and its prefix, in hexadecimal.
fn route6(line: &str) -> Option<Subnet> {
    let mut fields = line.split_whitespace();
    let base = std::net::Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
    let prefix = u8::from_str_radix(fields.next()?, 16).ok()?;
    // Link-local and multicast are everywhere, and no network's.
    let is_a_place =
        prefix > 0 && base.segments()[0] & 0xff00 != 0xff00 && base.segments()[0] & 0xffc0 != 0xfe80;
    is_a_place.then(|| Subnet::around(base.into(), prefix))
}

/// The first of Docker's pools that nothing here uses.
pub(crate) fn free_subnet(used: &[Subnet]) -> Result<Subnet> {
    candidates().find(|subnet| !used.iter().any(|other| other.overlaps(*subnet))).ok_or_else(|| Error::Invalid {
        what: "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
            .into(),
    })
}

/// A /64 of the range for private use (RFC 4193) of this engine, that nothing here uses.
pub(crate) fn free_subnet6(owner: &str, used: &[Subnet]) -> Result<Subnet> {
    // FNV-1a: the range is to be the same for this engine and another for others.
    let hash = owner.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let global = u128::from(hash & 0xff_ffff_ffff) << 80;
    let of = |number: u128| {
        Subnet::around(std::net::Ipv6Addr::from((0xfd << 120) | global | (number << 64)).into(), 64)
    };
    (0..=0xffff).map(of).find(|subnet| !used.iter().any(|other| other.overlaps(*subnet))).ok_or_else(|| {
        Error::Invalid { what: "could not find an available, non-overlapping IPv6 address pool".into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_the_default_route_with_the_lowest_metric() {
        let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                      wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                      tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n\
                      eth1\t0000600A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(default_interface(routes), Some("tun0"));
        assert_eq!(default_interface("Iface\n"), None);
    }

    #[test]
    fn a_subnet_is_found_that_nobody_uses() {
        let line = "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0";
        let docker = route(line).unwrap();
        assert_eq!(docker.to_string(), "172.17.0.0/16");
        assert!(route("eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0").is_none());
        let free = free_subnet(&[docker]).unwrap();
        assert_eq!(free.to_string(), "172.18.0.0/16");
        let all = Subnet::around("172.16.0.0".parse().unwrap(), 12);
        assert_eq!(free_subnet(&[all]).unwrap().to_string(), "192.168.0.0/20");
        let six = free_subnet6("cove", &[]).unwrap();
        let next = free_subnet6("cove", &[six]).unwrap();
        assert!(
            six.prefix() == 64 && !six.overlaps(next) && six.to_string().starts_with("fd"),
            "{six} {next}"
        );
        let line = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 0 0 0 0 0 eth0";
        assert_eq!(route6(line).unwrap().to_string(), "fd00::/64");
    }

    #[test]
    fn names_of_interfaces_fit() {
        assert_eq!(interface_of(&"a".repeat(64)).len(), 15);
    }
}
