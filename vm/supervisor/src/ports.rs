//! Ports of the guest on the host: what containers publish, and what listens in the guest's own network.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::client::containers::ListContainers;
use api::client::{Client, Filters};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
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

/// Carries ports until it is cancelled. `listening` is what the guest tells of its own sockets.
pub(crate) async fn carry(
    engine: PathBuf,
    vsock: Arc<Channel>,
    listening: watch::Receiver<Vec<Listener>>,
    standing: watch::Sender<Standing>,
    cancelled: CancellationToken,
) {
    let (sender, published) = watch::channel(BTreeSet::new());
    let carriers =
        Carriers { vsock, tasks: TaskTracker::new(), cancelled: cancelled.clone(), open: BTreeMap::new() };
    tokio::select! {
        () = follow(engine, sender) => {}
        () = keep(carriers, published, listening, standing) => {}
        () = cancelled.cancelled() => {}
    }
}

/// Tells which ports containers publish, whenever that changes.
async fn follow(engine: PathBuf, published: watch::Sender<BTreeSet<Port>>) {
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
                        let is_new = *known != ports;
                        *known = ports;
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

/// Opens what is wanted and closes what is not any more.
async fn keep(
    mut carriers: Carriers,
    mut published: watch::Receiver<BTreeSet<Port>>,
    mut listening: watch::Receiver<Vec<Listener>>,
    standing: watch::Sender<Standing>,
) {
    loop {
        let mut wanted = published.borrow_and_update().clone();
        for socket in listening.borrow_and_update().iter() {
            wanted.insert(Port { address: socket.address, port: socket.port, protocol: Protocol::Tcp });
        }
        let failures = carriers.become_what(&wanted).await;
        let has_failed = !failures.is_empty();
        let now = Standing {
            open: carriers.open.keys().map(ToString::to_string).collect(),
            warnings: failures.iter().map(|(port, error)| said(*port, error)).collect(),
        };
        standing.send_if_modified(|known| {
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

struct Carriers {
    vsock: Arc<Channel>,
    tasks: TaskTracker,
    cancelled: CancellationToken,
    open: BTreeMap<Port, CancellationToken>,
}

impl Carriers {
    /// What could not be opened.
    async fn become_what(&mut self, wanted: &BTreeSet<Port>) -> Vec<(Port, io::Error)> {
        self.open.retain(|port, token| {
            let is_wanted = wanted.contains(port);
            if !is_wanted {
                token.cancel();
            }
            is_wanted
        });
        let mut failures = Vec::new();
        for port in wanted {
            if self.open.contains_key(port) {
                continue;
            }
            match self.open_port(*port).await {
                Ok(token) => drop(self.open.insert(*port, token)),
                // `::` and `0.0.0.0` of one port share what the first of them has where version 6 takes both.
                Err(error) => failures.push((*port, error)),
            }
        }
        failures
    }

    async fn open_port(&self, port: Port) -> io::Result<CancellationToken> {
        let token = self.cancelled.child_token();
        let (vsock, until) = (Arc::clone(&self.vsock), token.clone());
        let address = SocketAddr::new(port.address, port.port);
        match port.protocol {
            Protocol::Tcp => {
                let listener = listen(address)?;
                let tasks = self.tasks.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = accept(listener, port, vsock, tasks) => {}
                        () = until.cancelled() => {}
                    }
                });
            }
            Protocol::Udp => {
                let socket = Arc::new(UdpSocket::bind(address).await?);
                let tasks = self.tasks.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = carry_packets(socket, port, vsock, tasks) => {}
                        () = until.cancelled() => {}
                    }
                });
            }
        }
        Ok(token)
    }
}

/// Listens.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    platform::prepare_listener(&socket, address.is_ipv6())?;
    socket.bind(address)?;
    socket.listen(1024)
}

async fn accept(listener: TcpListener, port: Port, vsock: Arc<Channel>, tasks: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                tasks.spawn(carry_connection(stream, client, port, Arc::clone(&vsock)));
            }
            Err(error) => {
                tracing::warn!(%error, %port, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn carry_connection(mut stream: TcpStream, client: SocketAddr, port: Port, vsock: Arc<Channel>) {
    // Inside, what is bound to one address of the guest's is reached by it.
    let open = Open::Tcp { address: port.address, port: port.port, client };
    let Ok(mut inner) = execute::open(&vsock, &open).await else { return };
    let _ = stream.set_nodelay(true);
    ipc::relay(&mut stream, &mut inner).await;
}

async fn carry_packets(socket: Arc<UdpSocket>, port: Port, vsock: Arc<Channel>, tasks: TaskTracker) {
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
            let (flows, socket, vsock) = (Arc::clone(&flows), Arc::clone(&socket), Arc::clone(&vsock));
            tasks.spawn(async move {
                let open = Open::Udp { address: port.address, port: port.port, client };
                if let Ok(inner) = execute::open(&vsock, &open).await {
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
}
