//! Ports of the guest on the host: what containers publish, and what listens in the guest's own network. They stay while the
//! machine sleeps: whoever comes wakes it, and waits until it is awake.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::client::containers::ListContainers;
use api::client::{Client, Filters};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use vm_proto::message::Listener;
use vm_proto::stream::Open;

use crate::execute;
use crate::platform::{self, Channel, Stream};

/// A flow of packets without any for so long has ended.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// Flows of packets of one port.
const FLOWS_MAX: usize = 1024;
/// Packets of a flow on their way.
const PACKETS: usize = 64;
/// Connections and flows that may wait for a machine that is being woken, and for how long.
const WAITING_MAX: usize = 1024;
const WAIT: Duration = Duration::from_secs(120);
/// How soon a port that was taken is tried again, and an engine that is away is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// A port that is to answer on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port), self.protocol.name())
    }
}

/// What answers, and what can't.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) open: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// A machine's ports, for as long as there is somebody to supervise it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ports {
    way_in: WayIn,
    /// Each is closed when it is taken out of here.
    open: Arc<Mutex<BTreeMap<Port, DropGuard>>>,
    standing: watch::Sender<Standing>,
    tasks: TaskTracker,
}

impl Ports {
    /// Tells what answers, whenever that changes.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Lets whoever comes into the guest, and whoever waits for it.
    pub(crate) fn lead_in(&self, vsock: Arc<Channel>) {
        self.way_in.channel.send_replace(Some(vsock));
    }

    /// Has whoever comes from now on wait: the guest is away.
    pub(crate) fn hold_back(&self) {
        self.way_in.channel.send_replace(None);
    }

    /// Closes all of them.
    pub(crate) fn close(&self) {
        self.hold_back();
        self.open().clear();
        self.standing.send_replace(Standing::default());
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<Port, DropGuard>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns as soon as somebody waits.
    pub(crate) async fn called(&self) {
        // The number can't go: we have it ourselves.
        let _ = self.way_in.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }

    /// Opens and closes ports as the guest's engine says, and as `listening`, which is what the guest tells of its own
    /// sockets once it has.
    pub(crate) async fn carry(self, engine: PathBuf, listening: watch::Receiver<Option<Vec<Listener>>>) {
        let (sender, published) = watch::channel(None);
        tokio::select! {
            () = follow(engine, sender) => {}
            () = self.keep(published, listening) => {}
        }
    }
}

/// How one gets into the guest, while it is awake.
#[derive(Debug, Clone, Default)]
struct WayIn {
    channel: watch::Sender<Option<Arc<Channel>>>,
    /// How many want to.
    waiting: watch::Sender<usize>,
}

/// That of one who waits; free when dropped.
struct Place(watch::Sender<usize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting = waiting.saturating_sub(1));
    }
}

impl WayIn {
    /// Waits for a guest that is away; `None` where that takes too long, or too many wait.
    async fn channel(&self) -> Option<Arc<Channel>> {
        let mut channel = self.channel.subscribe();
        if let Some(channel) = &*channel.borrow_and_update() {
            return Some(Arc::clone(channel));
        }
        let _place = self.take_place()?;
        let is_there = timeout(WAIT, channel.wait_for(Option::is_some)).await.ok()?.ok()?;
        is_there.clone()
    }

    fn take_place(&self) -> Option<Place> {
        let has_room = self.waiting.send_if_modified(|waiting| {
            let has_room = *waiting < WAITING_MAX;
            *waiting += usize::from(has_room);
            has_room
        });
        has_room.then(|| Place(self.waiting.clone()))
    }

    /// A stream in the guest.
    async fn open(&self, what: &Open) -> Option<Stream> {
        let channel = self.channel().await?;
        let opened = execute::open(&channel, what).await;
        opened.inspect_err(|error| tracing::debug!("a client does not reach a port: {error:#}")).ok()
    }
}

/// Tells which ports containers publish, as soon as that is known and whenever it changes.
async fn follow(engine: PathBuf, published: watch::Sender<Option<BTreeSet<Port>>>) {
    let client = Client::new(platform::endpoint(engine));
    let filters = ["start", "die", "destroy", "update"].into_iter();
    let filters = filters
        .fold(Filters::default().with("type", "container"), |filters, event| filters.with("event", event));
    loop {
        // Events first: what changes between the list and them would be missed otherwise.
        if let Ok(mut events) = client.events(None, None, &filters).await {
            loop {
                if let Ok(ports) = list(&client).await {
                    published.send_if_modified(|known| {
                        let is_new = known.as_ref() != Some(&ports);
                        *known = Some(ports);
                        is_new
                    });
                }
                if !matches!(events.next().await, Some(Ok(_))) {
                    break;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn list(client: &Client) -> Result<BTreeSet<Port>, api::client::Error> {
    let containers = client.list_containers(&ListContainers::default()).await?;
    let ports = containers.iter().flat_map(|container| &container.ports);
    Ok(ports
        .filter_map(|port| {
            let protocol = match port.r#type.as_str() {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            Some(Port {
                address: port.ip.parse().ok()?,
                port: port.public_port.filter(|port| *port > 0)?,
                protocol,
            })
        })
        .collect())
}

impl Ports {
    /// Opens what is wanted and closes what is not any more.
    async fn keep(
        &self,
        mut published: watch::Receiver<Option<BTreeSet<Port>>>,
        mut listening: watch::Receiver<Option<Vec<Listener>>>,
    ) {
        loop {
            let containers = published.borrow_and_update().clone();
            let sockets = listening.borrow_and_update().clone();
            // One that was open before a sleep is wanted until it is known that it is not.
            let knows_all = containers.is_some() && sockets.is_some();
            let mut wanted = containers.unwrap_or_default();
            wanted.extend(sockets.iter().flatten().map(|socket| Port {
                address: socket.address,
                port: socket.port,
                protocol: Protocol::Tcp,
            }));
            let failures = self.become_what(&wanted, knows_all);
            let has_failed = !failures.is_empty();
            let now = Standing {
                open: self.open().keys().map(ToString::to_string).collect(),
                warnings: failures.iter().map(|(port, error)| said(*port, error)).collect(),
            };
            self.standing.send_if_modified(|known| {
                let is_new = *known != now;
                *known = now;
                is_new
            });
            tokio::select! {
                changed = published.changed() => if changed.is_err() { return },
                changed = listening.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN), if has_failed => {}
            }
        }
    }

    /// What could not be opened. Others are closed only where all that is wanted is known.
    fn become_what(&self, wanted: &BTreeSet<Port>, knows_all: bool) -> Vec<(Port, io::Error)> {
        let mut open = self.open();
        if knows_all {
            open.retain(|port, _| wanted.contains(port));
        }
        let mut failures = Vec::new();
        for port in wanted {
            if open.contains_key(port) {
                continue;
            }
            match self.open_port(*port) {
                Ok(guard) => drop(open.insert(*port, guard)),
                // `::` and `0.0.0.0` of one port share what the first of them has where version 6 takes both.
                Err(error) => failures.push((*port, error)),
            }
        }
        failures
    }

    fn open_port(&self, port: Port) -> io::Result<DropGuard> {
        let closed = CancellationToken::new();
        let until = closed.clone();
        let (way_in, tasks) = (self.way_in.clone(), self.tasks.clone());
        let address = SocketAddr::new(port.address, port.port);
        match port.protocol {
            Protocol::Tcp => {
                let accept = accept(listen(address)?, port, way_in, tasks);
                self.tasks.spawn(until.run_until_cancelled_owned(accept));
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                let socket = Arc::new(UdpSocket::from_std(socket)?);
                let carry = carry_packets(socket, port, way_in, tasks);
                self.tasks.spawn(until.run_until_cancelled_owned(carry));
            }
        }
        Ok(closed.drop_guard())
    }
}

fn said(port: Port, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = stdx::port::owner(port.protocol.name(), port.port);
            let holder = owner.map_or_else(
                || "another program".to_owned(),
                |(pid, name)| format!("{name} (process {pid})"),
            );
            format!("{port} of the machine is not reached: {holder} has that port on this computer")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{port} of the machine is not reached: ports below 1024 need root on this computer")
        }
        _ => format!("{port} of the machine is not reached: {error}"),
    }
}

/// Listens.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    platform::prepare_listener(&socket, address.is_ipv6())?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn accept(listener: TcpListener, port: Port, way_in: WayIn, tasks: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                tasks.spawn(carry_connection(stream, client, port, way_in.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, %port, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn carry_connection(mut stream: TcpStream, client: SocketAddr, port: Port, way_in: WayIn) {
    // Inside, what is bound to one address of the guest's is reached by it.
    let open = Open::Tcp { address: port.address, port: port.port, client };
    let Some(mut inner) = way_in.open(&open).await else { return };
    let _ = stream.set_nodelay(true);
    ipc::relay(&mut stream, &mut inner).await;
}

async fn carry_packets(socket: Arc<UdpSocket>, port: Port, way_in: WayIn, tasks: TaskTracker) {
    let flows: Arc<Mutex<BTreeMap<SocketAddr, mpsc::Sender<Vec<u8>>>>> = Arc::default();
    let mut packet = vec![0; usize::from(u16::MAX)];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut packet).await else { continue };
        let bytes = packet.get(..length).unwrap_or_default().to_vec();
        let mut known = flows.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(&client) {
            if known.len() >= FLOWS_MAX {
                continue;
            }
            let (sender, packets) = mpsc::channel(PACKETS);
            known.insert(client, sender);
            let (flows, socket, way_in) = (Arc::clone(&flows), Arc::clone(&socket), way_in.clone());
            tasks.spawn(async move {
                let open = Open::Udp { address: port.address, port: port.port, client };
                if let Some(inner) = way_in.open(&open).await {
                    let _ = carry_flow(inner, packets, &socket, client).await;
                }
                flows.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
            });
        }
        if let Some(flow) = known.get(&client) {
            // A packet that nobody takes is lost, as packets are.
            let _ = flow.try_send(bytes);
        }
    }
}

async fn carry_flow(
    inner: Stream,
    mut packets: mpsc::Receiver<Vec<u8>>,
    socket: &UdpSocket,
    client: SocketAddr,
) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(inner);
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        tokio::select! {
            packet = packets.recv() => {
                let Some(packet) = packet else { return Ok(()) };
                to.write_u16_le(u16::try_from(packet.len()).unwrap_or(u16::MAX)).await?;
                to.write_all(&packet).await?;
            }
            length = from.read_u16_le() => {
                let place = answer.get_mut(..usize::from(length?)).unwrap_or_default();
                from.read_exact(place).await?;
                let _ = socket.send_to(place, client).await;
            }
            () = tokio::time::sleep(FLOW_IDLE) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_as_people_write_them() {
        let port = Port { address: std::net::Ipv4Addr::LOCALHOST.into(), port: 80, protocol: Protocol::Tcp };
        assert_eq!(port.to_string(), "127.0.0.1:80/tcp");
    }

    #[tokio::test]
    async fn whoever_comes_while_the_guest_is_away_calls_it_and_is_counted_only_while_it_waits() {
        let ports = Ports::default();
        let port = Port { address: std::net::Ipv4Addr::LOCALHOST.into(), port: 0, protocol: Protocol::Tcp };
        assert!(ports.become_what(&BTreeSet::from([port]), false).is_empty());
        let way_in = ports.way_in.clone();
        let waiting = async { way_in.channel().await.is_some() };
        tokio::select! {
            biased;
            _ = waiting => panic!("there is no guest"),
            () = ports.called() => {}
        }
        // Whoever waited gave up.
        assert_eq!(*ports.way_in.waiting.borrow(), 0);
        let places: Vec<Place> = std::iter::from_fn(|| way_in.take_place()).collect();
        assert_eq!(places.len(), WAITING_MAX);
        assert!(way_in.channel().await.is_none(), "there is no room");
        drop(places);
        assert_eq!(*ports.way_in.waiting.borrow(), 0);
    }

    #[tokio::test]
    async fn ports_stay_until_it_is_known_that_nobody_wants_them() {
        let port =
            |port| Port { address: std::net::Ipv4Addr::LOCALHOST.into(), port, protocol: Protocol::Udp };
        let ports = Ports::default();
        let open = || ports.open().keys().map(|port| port.port).collect::<Vec<_>>();
        let free = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (first, second) = (free(), free());
        assert!(ports.become_what(&BTreeSet::from([port(first)]), true).is_empty());
        ports.hold_back();
        assert!(ports.become_what(&BTreeSet::new(), false).is_empty());
        assert_eq!(open(), [first]);
        assert!(ports.become_what(&BTreeSet::from([port(second)]), true).is_empty());
        assert_eq!(open(), [second]);
        ports.close();
        assert!(open().is_empty());
    }
}
