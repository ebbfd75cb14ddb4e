//! Connections over published ports: two sockets each, and a pipe while there is something on its way.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags, splice};

use super::{Open, Token, Watch};
use crate::sys;

/// How many bytes of one connection are carried before others have their turn.
const TURN: usize = 1 << 20;
/// How much is on its way in one direction.
const PIPE: usize = 256 << 10;
/// How many connections are let in before others have their turn.
const AT_ONCE: usize = 64;
/// How many empty pipes are kept.
const SPARES: usize = 16;

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty pipes: a connection has one only while something is on its way.
#[derive(Debug, Default)]
struct Pipes(Vec<Pipe>);

impl Pipes {
    fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // The smaller one will do, too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE);
        Ok(Pipe { read, write })
    }

    fn give_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARES {
            self.0.push(pipe);
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Way {
    pipe: Option<Pipe>,
    /// How much is in the pipe.
    held: usize,
    /// No more will come.
    has_ended: bool,
}

impl Way {
    /// Carries what there is. Whether there is more.
    fn carry(&mut self, from: &OwnedFd, to: &OwnedFd, pipes: &mut Pipes) -> io::Result<bool> {
        if self.has_ended && self.held == 0 {
            return Ok(false);
        }
        let mut carried = 0;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            let pipe = match &self.pipe {
                Some(pipe) => pipe,
                None => self.pipe.insert(pipes.take()?),
            };
            let mut has_moved = false;
            if !self.has_ended {
                match splice(from, None, &pipe.write, None, PIPE, flags) {
                    Ok(0) => {
                        self.has_ended = true;
                        has_moved = true;
                    }
                    Ok(length) => {
                        self.held += length;
                        has_moved = true;
                    }
                    Err(Errno::AGAIN) => {}
                    Err(Errno::INTR) => has_moved = true,
                    Err(error) => return Err(error.into()),
                }
            }
            if self.held > 0 {
                match splice(&pipe.read, None, to, None, self.held, flags) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(length) => {
                        self.held = self.held.saturating_sub(length);
                        carried += length;
                        has_moved = true;
                    }
                    Err(Errno::AGAIN) => {}
                    Err(Errno::INTR) => has_moved = true,
                    Err(error) => return Err(error.into()),
                }
            }
            if self.held == 0 && (self.has_ended || !has_moved) {
                if let Some(pipe) = self.pipe.take() {
                    pipes.give_back(pipe);
                }
                if self.has_ended {
                    // The other direction goes on.
                    rustix::net::shutdown(to, Shutdown::Write)?;
                }
                return Ok(false);
            }
            if !has_moved {
                return Ok(false);
            }
            if carried >= TURN {
                return Ok(true);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.has_ended && self.held == 0
    }
}

#[derive(Debug)]
struct Connection {
    port: u64,
    client: OwnedFd,
    server: OwnedFd,
    is_connected: bool,
    inward: Way,
    outward: Way,
}

impl Connection {
    /// Whether there is more to carry at once.
    fn pump(&mut self, pipes: &mut Pipes) -> io::Result<bool> {
        if !self.is_connected {
            sockopt::socket_error(&self.server)??;
            if rustix::net::getpeername(&self.server).is_err() {
                // On its way.
                return Ok(false);
            }
            self.is_connected = true;
        }
        let inward = self.inward.carry(&self.client, &self.server, pipes)?;
        let outward = self.outward.carry(&self.server, &self.client, pipes)?;
        Ok(inward || outward)
    }

    fn is_over(&self) -> bool {
        self.inward.is_over() && self.outward.is_over()
    }

    /// Ends it as a failure, which both sides see.
    fn reset(self) {
        for socket in [&self.client, &self.server] {
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }
}

/// All connections over published ports.
#[derive(Debug, Default)]
pub(super) struct Streams {
    connections: HashMap<u64, Connection>,
    /// Those that had their turn, but have more.
    more: VecDeque<u64>,
    pipes: Pipes,
}

impl Streams {
    /// Lets in who waits at a port.
    pub(super) fn accept(&mut self, id: u64, open: &Open, watch: &mut Watch) {
        for _ in 0..AT_ONCE {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let client = match rustix::net::acceptfrom_with(&open.socket, flags) {
                Ok((client, from)) => (client, from.and_then(|from| SocketAddr::try_from(from).ok())),
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    // Others that end give something back: until then who waits goes on waiting.
                    std::thread::sleep(Duration::from_millis(5));
                    return;
                }
                // Nobody, or one that has gone.
                Err(_) => return,
            };
            let (client, from) = client;
            let _ = sockopt::set_tcp_nodelay(&client, true);
            let _ = sockopt::set_socket_keepalive(&client, true);
            let name = from.filter(|_| open.shows_clients);
            match connect(open.target, name) {
                Ok(server) => self.begin(id, client, server, watch),
                Err(_) => drop(sockopt::set_socket_linger(&client, Some(Duration::ZERO))),
            }
        }
    }

    fn begin(&mut self, port: u64, client: OwnedFd, server: OwnedFd, watch: &mut Watch) {
        let number = watch.next();
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let token = Token::Connection(number);
        let watched =
            watch.add(client.as_fd(), token, flags).and_then(|()| watch.add(server.as_fd(), token, flags));
        let connection = Connection {
            port,
            client,
            server,
            is_connected: false,
            inward: Way::default(),
            outward: Way::default(),
        };
        match watched {
            Ok(()) => drop(self.connections.insert(number, connection)),
            Err(_) => connection.reset(),
        }
    }

    /// Carries what a connection has.
    pub(super) fn pump(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.pump(&mut self.pipes) {
            Ok(has_more) => {
                if connection.is_over() {
                    self.connections.remove(&id);
                } else if has_more && !self.more.contains(&id) {
                    self.more.push_back(id);
                }
            }
            Err(_) => {
                if let Some(connection) = self.connections.remove(&id) {
                    connection.reset();
                }
            }
        }
    }

    /// Whether a connection has more than its turn let it carry.
    pub(super) fn has_more(&self) -> bool {
        !self.more.is_empty()
    }

    /// Gives those their next turn.
    pub(super) fn go_on(&mut self) {
        for id in std::mem::take(&mut self.more) {
            self.pump(id);
        }
    }

    /// Ends all connections over a port.
    pub(super) fn close(&mut self, port: u64) {
        for (_, connection) in self.connections.extract_if(|_, connection| connection.port == port) {
            connection.reset();
        }
    }
}

/// A socket on its way to a container, in the name of a client if one is given.
fn connect(target: SocketAddr, client: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let named = client.filter(|client| can_be_shown(*client, target));
    let socket = socket(target, SocketType::STREAM)?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let _ = sockopt::set_socket_keepalive(&socket, true);
    if let Some(client) = named
        && show(socket.as_fd(), client).is_err()
    {
        return connect(target, None);
    }
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn socket(target: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

/// Whether a client's address means the same in the container. This computer's loopback and links are its own.
pub(super) fn can_be_shown(client: SocketAddr, target: SocketAddr) -> bool {
    match (client.ip(), target.is_ipv4()) {
        (std::net::IpAddr::V4(address), true) => !address.is_loopback() && !address.is_link_local(),
        (std::net::IpAddr::V6(address), false) => !address.is_loopback() && !address.is_unicast_link_local(),
        _ => false,
    }
}

/// Lets a socket speak in the name of a client elsewhere (ip(7), `IP_TRANSPARENT`). The mark tells its packets
/// from others, so that the engine's rules lead the answers back to it.
pub(super) fn show(socket: BorrowedFd<'_>, client: SocketAddr) -> io::Result<()> {
    let mark = libc::c_int::try_from(model::holder::CLIENT_MARK).unwrap_or_default();
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, mark)?;
    if client.is_ipv4() {
        sys::set_option(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
        // The port is the kernel's choice, made when it knows where this leads.
        sys::set_option(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    } else {
        sys::set_option(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
        sys::set_option(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    }
    Ok(rustix::net::bind(socket, &SocketAddr::new(client.ip(), 0))?)
}
