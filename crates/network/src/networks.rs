//! The networks of one engine, and what its containers have on them.
//!
//! A network's interface is made with its first member and taken away when the engine ends without any. What
//! the kernel holds is made again from what is wanted; what is wanted is kept by the caller.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use model::holder::Carried;

use crate::error::{Doing, Error, Result};
use crate::firewall::{ANSWER_MARK, Firewall, Rules};
use crate::ipam::{Range, Subnet, candidates};
use crate::namespace::{Namespace, Spares};
use crate::netlink::Netlink;
use crate::network::{Config, Endpoint, Network, Request, free_subnet, free_subnet6, routes};
use crate::nfnetlink::Nftables;
use crate::outside::{Outside, own_address};
use crate::place::Place;
use crate::ports::{Arrivals, Hold, Port, Protocol, Published};

/// How long the kernel may take to clear up a namespace by itself.
const LINGERS: Duration = Duration::from_secs(1);
/// How long another engine may take to choose a subnet.
const CHOOSING: Duration = Duration::from_millis(500);
/// How many interfaces may wait for that.
const QUEUE: usize = 4096;
/// How long changes of the firewall are gathered before they are looked at.
const GATHERS: Duration = Duration::from_millis(100);

/// The networks of one engine.
#[derive(Debug)]
pub struct Networks {
    /// The firewall's table, and the note on interfaces that says whose they are.
    table: String,
    place: Arc<Place>,
    state: Mutex<State>,
    spares: Spares,
    reaper: Reaper,
    outside: Outside,
    shows_clients: OnceLock<bool>,
    is_in_machine: bool,
    is_watched: AtomicBool,
    /// Whether the rules of a daemon before this one are still in force, and better than a part of ours.
    is_adopting: AtomicBool,
}

#[derive(Debug)]
struct State {
    netlink: Option<Netlink>,
    firewall: Firewall,
    networks: BTreeMap<String, Network>,
    /// Ports by container, each with the address it leads to.
    ports: BTreeMap<String, Vec<(Hold, IpAddr)>>,
}

impl Networks {
    /// Of an engine whose table has that name, in their place; nothing is made yet. `is_in_machine`: ports may be published
    /// at addresses of the computer around this one, which carries here what arrives there.
    #[must_use]
    pub fn new(table: String, place: Place, is_in_machine: bool) -> Arc<Self> {
        let place = Arc::new(place);
        let state = State {
            netlink: None,
            firewall: Firewall::new(Arc::clone(&place)),
            networks: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        Arc::new(Self {
            table,
            reaper: Reaper::new(Arc::clone(&place)),
            place,
            state: Mutex::new(state),
            spares: Spares::default(),
            outside: Outside::default(),
            shows_clients: OnceLock::new(),
            is_in_machine,
            is_watched: AtomicBool::new(false),
            is_adopting: AtomicBool::new(true),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a network in; nothing is made until the first member comes.
    ///
    /// # Errors
    /// It spans what another network spans, or names what is not there.
    pub fn add(&self, config: Config) -> Result<()> {
        let mut state = self.state();
        for range in &config.ranges {
            range.check()?;
            let taken = state.networks.values().flat_map(Network::ranges);
            if let Some(other) = taken.map(|range| range.subnet).find(|other| other.overlaps(range.subnet)) {
                return Err(Error::Conflict {
                    what: format!(
                        "invalid pool request: Pool overlaps with other one on this address space: {} and {other}",
                        range.subnet
                    ),
                });
            }
        }
        let network = Network::new(config);
        if let Some(name) = network.own_interface()
            && state.networks.values().any(|other| other.own_interface().as_ref() == Some(&name))
        {
            return Err(Error::Conflict { what: format!("another network has the interface {name}") });
        }
        state.networks.insert(network.config.id.clone(), network);
        Ok(())
    }

    /// Whether a subnet is one that this computer reaches already by other ways; the route in the way. Its
    /// own networks' are told of by [`Self::add`].
    #[must_use]
    pub fn routed(&self, subnet: Subnet) -> Option<Subnet> {
        let own: Vec<Subnet> =
            self.state().networks.values().flat_map(Network::ranges).map(|range| range.subnet).collect();
        routes().into_iter().find(|route| route.overlaps(subnet) && !own.iter().any(|own| own.spans(*route)))
    }

    /// A range that nothing here uses, of the version of IP that is asked for.
    ///
    /// # Errors
    /// All are used.
    pub fn free_range(&self, is_v6: bool) -> Result<Range> {
        let mut used = used(&self.state());
        // For the network that decides later.
        used.extend(candidates().next());
        if is_v6 { free_subnet6(&self.table, &used) } else { free_subnet(&used) }.map(Range::of)
    }

    /// What a network spans; nothing where that is decided when its first member comes.
    #[must_use]
    pub fn ranges(&self, id: &str) -> Vec<Range> {
        self.state().networks.get(id).map(Network::ranges).unwrap_or_default()
    }

    /// Takes a network away. Blocking.
    ///
    /// # Errors
    /// It has members.
    pub fn remove(&self, id: &str) -> Result<()> {
        let mut state = self.state();
        let Some(network) = state.networks.get_mut(id) else { return Ok(()) };
        if !network.endpoints.is_empty() {
            return Err(Error::Conflict { what: format!("network {id} has active endpoints") });
        }
        if network.is_up() {
            let netlink = self.place.netlink().doing(|| "remove a network")?;
            network.unmake(&netlink);
        }
        state.networks.remove(id);
        self.enforce(&mut state)
    }

    /// A network namespace for a container, with its loopback up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn namespace(&self) -> Result<Namespace> {
        self.spares.take()
    }

    /// The same, if one is ready.
    #[must_use]
    pub fn spare(&self) -> Option<Namespace> {
        self.spares.ready()
    }

    /// Gives `key` (a container's id) a place on a network. Blocking, about a millisecond.
    ///
    /// # Errors
    /// An address that is taken or not the network's, a pool that is empty, or what the kernel or nft
    /// refuses; nothing is left of it then.
    pub fn attach(
        self: &Arc<Self>,
        id: &str,
        key: &str,
        namespace: &Namespace,
        request: &Request,
    ) -> Result<Endpoint> {
        let mut state = self.state();
        self.make(&mut state, id, None)?;
        let State { netlink, networks, .. } = &mut *state;
        let (Some(netlink), Some(network)) = (netlink, networks.get_mut(id)) else { return Err(missing(id)) };
        network.attach(netlink, key, namespace, request)
    }

    /// Makes a network, with the rules that keep it closed.
    fn make(self: &Arc<Self>, state: &mut State, id: &str, wanted: Option<Vec<Range>>) -> Result<()> {
        let network = state.networks.get(id).ok_or_else(|| missing(id))?;
        if network.is_up() {
            return Ok(());
        }
        if state.netlink.is_none() {
            state.netlink = Some(self.place.netlink().doing(|| "speak to the network")?);
        }
        let has_ranges = !network.config.ranges.is_empty();
        // Until the address is there for another engine to see.
        let _turn = (wanted.is_none() && !has_ranges).then(turn_to_choose);
        let State { netlink: Some(netlink), networks, .. } = state else { return Err(missing(id)) };
        let fallback = match wanted {
            Some(ranges) => ranges,
            None if has_ranges => Vec::new(),
            None => {
                // One that was left has an address of before; a new one gets a subnet that is free now.
                if let Some(name) = networks.get(id).and_then(Network::own_interface) {
                    netlink.remove(&name).doing(|| format!("remove the interface {name}"))?;
                }
                let mut taken = routes();
                taken.extend(networks.values().flat_map(Network::ranges).map(|range| range.subnet));
                vec![Range::of(free_subnet(&taken)?)]
            }
        };
        let network = networks.get_mut(id).ok_or_else(|| missing(id))?;
        let made = network.make(&self.place, netlink, &self.table, fallback);
        let ruled = made.and_then(|()| self.enforce(state));
        if ruled.is_err()
            && let State { netlink: Some(netlink), networks, .. } = state
            && let Some(network) = networks.get_mut(id).filter(|network| network.is_up())
        {
            // Without its rules it would be open to everybody.
            network.unmake(netlink);
        }
        ruled?;
        self.watch();
        if state.networks.get(id).is_some_and(|network| !network.config.is_internal) {
            self.outside.keep(&self.place);
        }
        Ok(())
    }

    /// Brings the firewall to what is wanted.
    fn enforce(&self, state: &mut State) -> Result<()> {
        if self.is_adopting.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bridges: Vec<_> = state.networks.values().filter_map(Network::rules).collect();
        let ports: Vec<_> =
            state.ports.values().flatten().map(|(hold, target)| (hold.published.clone(), *target)).collect();
        if bridges.is_empty() && ports.is_empty() {
            return state.firewall.remove(&self.table);
        }
        let has_clients = self.place.holder().is_some();
        state.firewall.apply(&Rules { table: self.table.clone(), bridges, ports, has_clients })
    }

    /// Sends what a container has no other way for to the gateway of one of its networks, or nowhere.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_gateway(&self, namespace: &Namespace, endpoint: Option<&Endpoint>) -> Result<()> {
        let step = || "set the container's default route";
        let netlink = &namespace.netlink;
        for version in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let way = endpoint.and_then(|endpoint| {
                let address = endpoint.addresses.iter().find(|a| a.address.is_ipv4() == version.is_ipv4())?;
                Some((address.gateway?, endpoint.inner.as_str()))
            });
            match way {
                Some((gateway, inner)) => {
                    let index = netlink.index(inner).doing(step)?;
                    netlink.set_default_route(gateway, index).doing(step)?;
                }
                None => netlink.remove_default_route(version).doing(step)?,
            }
        }
        Ok(())
    }

    /// Takes note of a member let in by a daemon before this one.
    ///
    /// # Errors
    /// What the kernel or nft refuses, or an address that is somebody else's.
    pub fn adopt(self: &Arc<Self>, key: &str, endpoint: &Endpoint) -> Result<()> {
        let mut state = self.state();
        let ranges = endpoint.addresses.iter().map(|address| Range {
            gateway: address.gateway.unwrap_or_else(|| address.subnet.first_host()),
            ..Range::of(address.subnet)
        });
        self.make(&mut state, &endpoint.network, Some(ranges.collect()))?;
        let network = state.networks.get_mut(&endpoint.network).ok_or_else(|| missing(&endpoint.network))?;
        network.adopt(key, endpoint)
    }

    /// Takes a member off a network whose container ends, or has ended: the namespace takes the interface
    /// along.
    pub fn detach(&self, id: &str, key: &str) {
        let detached = self.state().networks.get_mut(id).and_then(|network| network.detach(key));
        if let Some(endpoint) = detached.filter(|endpoint| !endpoint.interface.is_empty()) {
            self.reaper.remove_later(endpoint.interface);
        }
    }

    /// Takes a member off a network whose container goes on. Blocking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn disconnect(&self, id: &str, key: &str, namespace: &Namespace) -> Result<()> {
        let detached = self.state().networks.get_mut(id).and_then(|network| network.detach(key));
        match detached {
            Some(endpoint) => {
                // By this end where there is one: the container may have given its own another name.
                let removed = if endpoint.interface.is_empty() {
                    namespace.netlink.remove(&endpoint.inner)
                } else {
                    self.place.netlink().and_then(|netlink| netlink.remove(&endpoint.interface))
                };
                removed.doing(|| format!("remove the container's interface {}", endpoint.inner))
            }
            None => Ok(()),
        }
    }

    /// Publishes ports of a container, all or none, that lead to its place on one network.
    ///
    /// # Errors
    /// A port that is taken, or what the kernel refuses.
    pub fn publish(&self, key: &str, ports: &[Port], endpoint: &Endpoint) -> Result<Vec<Published>> {
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let (has_v4, has_v6) = (endpoint.v4().is_some(), endpoint.v6().is_some());
        let is_led = self.place.holder().is_none();
        let mut holds = Vec::new();
        for port in ports {
            let arrivals = |at: IpAddr| match self.place.carrier(at, port.protocol) {
                Some(_) => Arrivals::Read,
                None => self.led_on(),
            };
            holds.extend(Hold::take(port, has_v4, has_v6, is_led, &arrivals)?);
        }
        let published = holds.iter().map(|hold| hold.published.clone()).collect();
        self.lead(key, holds, endpoint)?;
        Ok(published)
    }

    fn led_on(&self) -> Arrivals {
        if self.is_in_machine { Arrivals::CarriedHere } else { Arrivals::LedOn }
    }

    /// Takes note of ports published by a daemon before this one.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn adopt_ports(&self, key: &str, ports: &[Published], endpoint: &Endpoint) -> Result<()> {
        let again = |port: &Published| match self.place.carrier(port.address, port.protocol) {
            Some(_) => Hold::elsewhere(port),
            None => Hold::again(port, self.led_on()),
        };
        self.lead(key, ports.iter().map(again).collect(), endpoint)
    }

    /// Lets the ports of a container lead to its place on another network.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn move_ports(&self, key: &str, endpoint: &Endpoint) -> Result<()> {
        let Some(had) = self.state().ports.remove(key) else { return Ok(()) };
        self.lead(key, had.into_iter().map(|(hold, _)| hold).collect(), endpoint)
    }

    fn lead(&self, key: &str, holds: Vec<Hold>, endpoint: &Endpoint) -> Result<()> {
        let target = |hold: &Hold| {
            let address = if hold.published.address.is_ipv4() { endpoint.v4() } else { endpoint.v6() };
            address.map(|address| address.address)
        };
        let mut held = Vec::new();
        for hold in holds {
            match target(&hold) {
                Some(target) => held.push((hold, target)),
                // Its network does not speak that version of IP.
                None => self.close_port(&hold.published),
            }
        }
        let mut state = self.state();
        state.ports.insert(key.to_owned(), held);
        let led = self
            .enforce(&mut state)
            .and_then(|()| self.carry(state.ports.entry(key.to_owned()).or_default()));
        if led.is_err()
            && let Some(held) = state.ports.remove(key)
        {
            held.iter().for_each(|(hold, _)| self.close_port(&hold.published));
            // What is left of the rules leads nowhere.
            let _ = self.enforce(&mut state);
        }
        led
    }

    /// Lets what rules don't lead on be carried.
    fn carry(&self, held: &mut [(Hold, IpAddr)]) -> Result<()> {
        for (hold, target) in held {
            let Published { address, protocol, .. } = hold.published;
            let Some(holder) = self.place.carrier(address, protocol) else { continue };
            let Some(port) = carried(&hold.published) else { continue };
            let target = SocketAddr::new(*target, hold.published.inner);
            // What comes from this computer by `::1` has no address that could be shown.
            let shows_clients = self.place.holder().is_some() && self.shows_clients();
            let carried = match hold.socket.take() {
                Some(socket) => holder.listen(port, target, &socket, shows_clients),
                None => holder.lead(port, target, shows_clients),
            };
            carried.doing(|| format!("publish {}/{}", port.outer, hold.published.protocol))?;
        }
        Ok(())
    }

    /// Whether containers see the addresses of those who come to a port that is carried to them.
    fn shows_clients(&self) -> bool {
        *self.shows_clients.get_or_init(|| {
            let led = self.place.netlink().and_then(|netlink| {
                // Where there is no IPv6, nobody comes by it.
                let _ = netlink.take_in_marked(ANSWER_MARK, IpAddr::from([0; 16]));
                netlink.take_in_marked(ANSWER_MARK, IpAddr::from([0; 4]))
            });
            if let Err(error) = &led {
                tracing::warn!(%error, "containers see their gateway's address in place of their clients'");
            }
            led.is_ok()
        })
    }

    /// Closes a port that is carried.
    fn close_port(&self, published: &Published) {
        if let Some(holder) = self.place.carrier(published.address, published.protocol)
            && let Some(port) = carried(published)
            && let Err(error) = holder.close(port)
        {
            tracing::warn!(%error, port = %port.outer, "failed to close a published port");
        }
    }

    /// Takes the ports of a container back.
    pub fn unpublish(&self, key: &str) {
        let mut state = self.state();
        let Some(ports) = state.ports.remove(key).filter(|ports| !ports.is_empty()) else { return };
        ports.iter().for_each(|(hold, _)| self.close_port(&hold.published));
        if let Err(error) = self.enforce(&mut state) {
            tracing::warn!(%error, "failed to take a published port back");
        }
    }

    /// Takes away the interfaces of networks without members, and those that a daemon before this one left.
    /// Blocking.
    pub fn sweep(&self) {
        let mut state = self.state();
        // Whoever is still there has been taken note of by now.
        self.is_adopting.store(false, Ordering::Relaxed);
        if !self.place.is_there() {
            return;
        }
        let swept = self.place.netlink().and_then(|netlink| {
            let State { networks, .. } = &mut *state;
            for network in
                networks.values_mut().filter(|network| network.endpoints.is_empty() && network.is_up())
            {
                network.unmake(&netlink);
            }
            let kept: Vec<String> = networks
                .values()
                .filter(|network| network.is_up())
                .filter_map(Network::own_interface)
                .collect();
            for name in netlink.owned_by(&self.table)?.into_iter().filter(|name| !kept.contains(name)) {
                netlink.remove(&name)?;
            }
            Ok(kept.is_empty())
        });
        let outcome = match swept {
            Ok(true) => state.firewall.remove(&self.table),
            Ok(false) => self.enforce(&mut state),
            Err(error) => Err(error).doing(|| "remove the interfaces of networks"),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "failed to clear up networks");
        }
        if let Err(error) = self.place.any_carrier().close_others() {
            tracing::warn!(%error, "failed to close the published ports of containers that are gone");
        }
    }

    /// Tells whoever holds the networks' namespace that the engine ends. Blocking.
    pub fn leave(&self) {
        self.outside.end();
        self.place.any_carrier().leave();
    }

    /// Where a container finds this computer: at its gateway, or, where that is not this computer, at an address
    /// that this computer has towards others.
    #[must_use]
    pub fn host_address(&self, gateway: IpAddr) -> Option<IpAddr> {
        if self.place.holder().is_some() { own_address() } else { Some(gateway) }
    }

    /// Puts the firewall's rules back when somebody flushes them, from now on.
    fn watch(self: &Arc<Self>) {
        if self.is_watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let networks = Arc::downgrade(self);
        let followed = self.place.nftables().and_then(|nftables| nftables.follow().map(|()| nftables));
        let spawned = followed.and_then(|nftables| {
            std::thread::Builder::new().name("firewall".into()).spawn(move || watch(&networks, &nftables))
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "failed to watch the firewall");
        }
    }
}

/// Ends when the networks are dropped.
fn watch(networks: &Weak<Networks>, nftables: &Nftables) {
    while nftables.changed().is_ok() {
        std::thread::sleep(GATHERS);
        nftables.forget();
        let Some(networks) = networks.upgrade() else { return };
        match networks.state().firewall.repair() {
            Ok(true) => tracing::warn!("the firewall's rules were changed by somebody else; they are back"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "failed to put the firewall's rules back"),
        }
    }
}

/// A published port as its holder knows it.
fn carried(published: &Published) -> Option<model::holder::Port> {
    let carried = match published.protocol {
        Protocol::Tcp => Carried::Tcp,
        Protocol::Udp => Carried::Udp,
        Protocol::Sctp => return None,
    };
    Some(model::holder::Port { carried, outer: SocketAddr::new(published.address, published.outer) })
}

fn missing(id: &str) -> Error {
    Error::Invalid { what: format!("there is no network {id}") }
}

/// What this computer and its networks span.
fn used(state: &State) -> Vec<Subnet> {
    let mut used = routes();
    used.extend(state.networks.values().flat_map(Network::ranges).map(|range| range.subnet));
    used
}

/// Keeps other engines of this network namespace from choosing a subnet in the same moment, by a lock on the
/// namespace itself. One that takes too long is not waited for.
fn turn_to_choose() -> Option<OwnedFd> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let namespace =
        rustix::fs::open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let namespace = namespace.ok()?;
    let began = Instant::now();
    while rustix::fs::flock(&namespace, FlockOperation::NonBlockingLockExclusive).is_err() {
        if began.elapsed() > CHOOSING {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Some(namespace)
}

/// Removes interfaces that their namespaces have most likely taken along by then: asking for it at once
/// would wait tens of milliseconds for the kernel's grace periods, with the lock that every start needs.
#[derive(Debug)]
struct Reaper {
    place: Arc<Place>,
    inbox: OnceLock<SyncSender<(Instant, String)>>,
}

impl Reaper {
    fn new(place: Arc<Place>) -> Self {
        Self { place, inbox: OnceLock::new() }
    }

    fn remove_later(&self, name: String) {
        let sender = self.inbox.get_or_init(|| {
            let (sender, inbox) = sync_channel(QUEUE);
            let place = Arc::clone(&self.place);
            let spawned = std::thread::Builder::new().name("veth".into()).spawn(move || reap(&place, &inbox));
            if let Err(error) = spawned {
                tracing::warn!(%error, "failed to start the thread that removes interfaces");
            }
            sender
        });
        // With a full queue, or without the thread, it is left to its namespace.
        let _ = sender.try_send((Instant::now(), name));
    }
}

/// Ends when the networks are dropped.
fn reap(place: &Place, inbox: &Receiver<(Instant, String)>) {
    for (at, name) in inbox {
        std::thread::sleep(LINGERS.saturating_sub(at.elapsed()));
        if let Err(error) = place.netlink().and_then(|netlink| netlink.remove(&name)) {
            tracing::warn!(interface = name, %error, "failed to remove a container's interface");
        }
    }
}
