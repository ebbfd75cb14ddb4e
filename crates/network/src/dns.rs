//! The resolver at 127.0.0.11 in a container: names of its networks, and the host's resolvers for the rest.
//!
//! Its sockets are made inside the container's network namespace, at a port nobody asked for, so that the
//! container may have a server of its own at port 53. Two rules there change the port on the way out and
//! back; they keep no state of connections, which would cost every packet of the container.

mod forward;
mod names;
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::error::{Doing, Result};
use crate::namespace::Namespace;
use crate::nfnetlink::{Batch, Expression, Nftables};
use forward::HostServers;
pub use names::Names;
use wire::{Code, Found, Kind, Query, Refusal};

/// Docker's address of it.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// How many questions of one container may wait for others' answers; what comes on top fails at once.
const PENDING: usize = 256;
/// How many connections over TCP one container may have.
const CONNECTIONS: usize = 32;
/// How long such a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Where the sockets of one container's resolver are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// For datagrams.
    pub udp: u16,
    /// For streams.
    pub tcp: u16,
}

/// The sockets of one container's resolver, before anybody listens.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    /// Where they are.
    pub ports: Ports,
}

impl Sockets {
    /// Makes them in a namespace, with the rules that lead port 53 there. Blocking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make(namespace: &Namespace) -> Result<Self> {
        let step = || "make the container's resolver";
        namespace
            .enter(|| {
                let sockets = bind(Ports { udp: 0, tcp: 0 })?;
                redirect(sockets.ports)?;
                Ok(sockets)
            })
            .doing(step)
    }

    /// Makes them where those of a daemon before this one were; its rules are still there. Blocking.
    ///
    /// # Errors
    /// The kernel's.
    pub fn again(namespace: &Namespace, ports: Ports) -> Result<Self> {
        namespace.enter(|| bind(ports)).doing(|| "make the container's resolver again")
    }
}

fn bind(ports: Ports) -> io::Result<Sockets> {
    let udp = UdpSocket::bind(SocketAddrV4::new(ADDRESS, ports.udp))?;
    let tcp = TcpListener::bind(SocketAddrV4::new(ADDRESS, ports.tcp))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let ports = Ports { udp: udp.local_addr()?.port(), tcp: tcp.local_addr()?.port() };
    Ok(Sockets { udp, tcp, ports })
}

/// Leads port 53 of the resolver's address to where it listens, and lets its answers come from there.
fn redirect(ports: Ports) -> io::Result<()> {
    const TABLE: &str = "cove_dns";
    const CHAIN: &str = "output";
    /// Before anything that follows connections.
    const RAW: i32 = -300;
    const SOURCE: u32 = 12;
    const DESTINATION: u32 = 16;
    let mut batch = Batch::new();
    batch.table(TABLE);
    batch.output_chain(TABLE, CHAIN, RAW);
    let dns = 53_u16.to_be_bytes().to_vec();
    // Of TCP and UDP: the number, where the checksum lies, and the port.
    for (protocol, checksum, port) in [(17, 6, ports.udp), (6, 16, ports.tcp)] {
        let port = port.to_be_bytes().to_vec();
        for (address, at, from, to) in [(DESTINATION, 2, &dns, &port), (SOURCE, 0, &port, &dns)] {
            batch.rule(
                TABLE,
                CHAIN,
                &[
                    Expression::NetworkHeader { offset: address, length: 4 },
                    Expression::Equals(ADDRESS.octets().to_vec()),
                    Expression::Protocol,
                    Expression::Equals(vec![protocol]),
                    Expression::TransportHeader { offset: at, length: 2 },
                    Expression::Equals(from.clone()),
                    Expression::Constant(to.clone()),
                    Expression::WriteTransport { offset: at, length: 2, checksum },
                ],
            );
        }
    }
    Nftables::open()?.commit(batch)
}

/// What one container's resolver goes by; it may change while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The networks whose names it knows, by id.
    pub networks: Vec<String>,
    /// Names that only this container knows, and the names they stand for.
    pub links: Vec<(String, String)>,
    /// Whom it asks for the rest; none: the host's resolvers, as they are then.
    pub servers: Vec<IpAddr>,
    /// Whether it asks anybody at all.
    pub forwards: bool,
}

/// What all resolvers of an engine share.
#[derive(Debug, Default)]
pub struct Resolvers {
    names: Names,
    host: HostServers,
    tasks: TaskTracker,
    event_loop: OnceLock<Option<EventLoop>>,
}

/// A thread of its own for all resolvers: beside the engine's, a question would wait for whatever runs there,
/// and each answer would wake a second thread for nothing.
#[derive(Debug)]
struct EventLoop {
    handle: tokio::runtime::Handle,
    _end: DropGuard,
}

impl EventLoop {
    fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, end) = (runtime.handle().clone(), CancellationToken::new());
        let until = end.clone();
        std::thread::Builder::new()
            .name("resolver".into())
            .stack_size(512 << 10)
            .spawn(move || runtime.block_on(until.cancelled()))?;
        Ok(Self { handle, _end: end.drop_guard() })
    }
}

/// A resolver that runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Resolver {
    view: Arc<RwLock<View>>,
    /// Where it listens.
    pub ports: Ports,
    _end: DropGuard,
}

struct Server {
    shared: Arc<Resolvers>,
    view: Arc<RwLock<View>>,
    pending: Arc<Semaphore>,
}

impl Resolvers {
    /// The names that they know.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Runs a resolver.
    ///
    /// # Errors
    /// Where its thread can't be started.
    pub fn serve(self: &Arc<Self>, sockets: Sockets, view: View) -> io::Result<Resolver> {
        let Sockets { udp, tcp, ports } = sockets;
        let event_loop = self.event_loop.get_or_init(|| EventLoop::start().ok());
        let handle =
            &event_loop.as_ref().ok_or_else(|| io::Error::other("the resolvers' thread is missing"))?.handle;
        // Sockets belong to the event loop that they are registered in.
        let entered = handle.enter();
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let tcp = tokio::net::TcpListener::from_std(tcp)?;
        drop(entered);
        let view = Arc::new(RwLock::new(view));
        let end = CancellationToken::new();
        let server = Arc::new(Server {
            shared: Arc::clone(self),
            view: Arc::clone(&view),
            pending: Arc::new(Semaphore::new(PENDING)),
        });
        let datagrams = Arc::clone(&server);
        let until = end.clone();
        self.tasks.spawn_on(async move { until.run_until_cancelled(datagrams.datagrams(udp)).await }, handle);
        let until = end.clone();
        self.tasks.spawn_on(async move { until.run_until_cancelled(server.streams(tcp)).await }, handle);
        Ok(Resolver { view, ports, _end: end.drop_guard() })
    }
}

impl Resolver {
    /// Lets it go by something else from now on.
    pub fn set(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

/// The next message, if it comes at once: who looks up one name often looks up the next, and to sleep and be
/// woken costs more than to look a few times.
fn next_soon(socket: &tokio::net::UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    const SOON: Duration = Duration::from_micros(40);
    let begun = Instant::now();
    loop {
        // Past the event loop, which would not ask the kernel a second time.
        if let Ok((length, _, Some(from))) = rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT)
        {
            return Some((length, SocketAddr::try_from(from).ok()?));
        }
        if begun.elapsed() > SOON {
            return None;
        }
        std::hint::spin_loop();
    }
}

/// What becomes of a message.
enum Verdict {
    Answer(Vec<u8>),
    Forward(Query, Vec<IpAddr>),
    Silence,
}

impl Server {
    /// What can be said on the spot.
    fn judge(&self, message: &[u8], is_udp: bool) -> Verdict {
        let query = match wire::read_query(message) {
            Ok(query) => query,
            Err(Refusal::Silence) => return Verdict::Silence,
            Err(Refusal::Answer(id, code)) => return Verdict::Answer(wire::refusal(id, code)),
        };
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = query.reverse() {
            if let Some(name) = self.shared.names.reverse(&view.networks, address) {
                return Verdict::Answer(query.answer(&Found::Name(name), is_udp));
            }
        } else {
            let link = view.links.iter().find(|(name, _)| name.eq_ignore_ascii_case(&query.name));
            let name = link.map_or_else(|| query.name.clone(), |(_, target)| target.to_ascii_lowercase());
            if let Some(mut addresses) = self.shared.names.find(&view.networks, &name) {
                if matches!(query.kind, Kind::A | Kind::AAAA) && addresses.len() > 1 {
                    // Each of several has its turn.
                    addresses.shuffle(&mut rand::rng());
                }
                return Verdict::Answer(query.answer(&Found::Addresses(addresses), is_udp));
            }
        }
        if !view.forwards {
            return Verdict::Answer(query.fail(Code::Failed));
        }
        let servers = if view.servers.is_empty() { self.shared.host.get() } else { view.servers.clone() };
        Verdict::Forward(query, servers)
    }

    async fn datagrams(&self, socket: tokio::net::UdpSocket) {
        const TURN: u32 = 32;
        let socket = Arc::new(socket);
        let mut count = 0;
        let mut buffer = vec![0; 4096];
        loop {
            count = (count + 1) % TURN;
            if count == 0 {
                // Other containers' questions have their turn.
                tokio::task::yield_now().await;
            }
            let received = match next_soon(&socket, &mut buffer) {
                Some(received) => Ok(received),
                None => socket.recv_from(&mut buffer).await,
            };
            let (length, from) = match received {
                Ok(received) => received,
                // A client that has gone before its answer came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    tracing::warn!(%error, "a container's resolver ends");
                    return;
                }
            };
            let message = buffer.get(..length).unwrap_or_default();
            match self.judge(message, true) {
                Verdict::Silence => {}
                Verdict::Answer(answer) => {
                    let _ = socket.send_to(&answer, from).await;
                }
                Verdict::Forward(query, servers) => match Arc::clone(&self.pending).try_acquire_owned() {
                    Err(_) => {
                        let _ = socket.send_to(&query.fail(Code::Failed), from).await;
                    }
                    Ok(permit) => {
                        let (socket, message) = (Arc::clone(&socket), message.to_vec());
                        self.shared.tasks.spawn(async move {
                            let answer = forward::forward(&query, &message, &servers, true).await;
                            let answer = answer.unwrap_or_else(|| query.fail(Code::Failed));
                            let _ = socket.send_to(&answer, from).await;
                            drop(permit);
                        });
                    }
                },
            }
        }
    }

    async fn streams(self: Arc<Self>, listener: tokio::net::TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely: a moment later there may be some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let server = Arc::clone(&self);
            self.shared.tasks.spawn(async move {
                // A client's end is its own business.
                let _ = server.stream(stream).await;
                drop(permit);
            });
        }
    }

    /// Answers one question after the other.
    async fn stream(&self, mut stream: tokio::net::TcpStream) -> io::Result<()> {
        loop {
            let read = async {
                let mut message = vec![0; usize::from(stream.read_u16().await?)];
                stream.read_exact(&mut message).await?;
                io::Result::Ok(message)
            };
            let message = tokio::time::timeout(IDLE, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let answer = match self.judge(&message, false) {
                Verdict::Silence => return Ok(()),
                Verdict::Answer(answer) => answer,
                Verdict::Forward(query, servers) => {
                    let answer = forward::forward(&query, &message, &servers, false).await;
                    answer.unwrap_or_else(|| query.fail(Code::Failed))
                }
            };
            let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let write = async { stream.write_all(&[&length.to_be_bytes()[..], &answer].concat()).await };
            tokio::time::timeout(IDLE, write).await.map_err(|_| io::ErrorKind::TimedOut)??;
        }
    }
}
