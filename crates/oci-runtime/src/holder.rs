//! The holder of a user's engine: it keeps the engine's user and network namespace alive while the engine is
//! away, and carries what comes at published ports into that network.
//!
//! ```text
//!   host's network │ engine's network
//!   client ── socket (made by coved, handed over) ── holder ── container
//!   coved  ── holder.sock: ports in, namespaces out
//! ```
//!
//! It runs in the engine's namespaces from its first moment. It ends when no engine is connected to it and no
//! container runs: then its state directory has no lock that a monitor holds. The interface that leads out goes
//! with it, and by that the program behind the interface. One thread, one `epoll` loop.

mod datagrams;
mod streams;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::holder::{Carried, MAX_PACKET, OUTSIDE, Port, Reply, Request, SOCKET};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use stdx::socket::{receive_with_fds, send_with_fds};

use crate::error::{Doing, Error, Result};
use crate::monitor::protocol::LOCK;
use crate::sys;
use datagrams::Datagrams;
use streams::Streams;

/// How long an engine that died without a word may stay away before it matters whether a container runs.
const GRACE: Duration = Duration::from_secs(1);
/// How often that is looked at.
const PERIOD: Duration = Duration::from_secs(2);
/// How long an engine may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Holds this process's namespaces for the engine of a state directory. Its socket is this process's stdin.
///
/// # Errors
/// Where it can't begin.
pub(crate) fn main(state_dir: PathBuf) -> Result<i32> {
    // Ctrl-C in the daemon's terminal is not for the containers' network.
    let _ = rustix::process::setsid();
    let listener = sys::inherit_fd(0).doing(|| "take the holder's socket from stdin")?;
    let signals = sys::signal_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).doing(|| "catch signals")?;
    raise_limit();
    // All it needs from here on. With more, pasta, which drops what it does not need, could not look at it.
    const NET_ADMIN: u64 = 1 << 12;
    sys::capset(NET_ADMIN, NET_ADMIN, 0).doing(|| "drop capabilities")?;
    let mut holder = Holder::new(state_dir, listener)?;
    let step = || "watch the holder's sockets";
    holder.watch.add(signals.as_fd(), Token::Signals, EventFlags::IN).doing(step)?;
    holder.watch.add(holder.listener.as_fd(), Token::Listener, EventFlags::IN).doing(step)?;
    let ended = holder.run();
    holder.clear_up();
    ended.map(|()| 0)
}

/// Two descriptors a connection: as many as this user may have.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What is there already will do, too.
    let _ = setrlimit(
        Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
}

/// Whose event it is. Numbers are never used twice, so that a late event finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Signals,
    Listener,
    Engine(u64),
    Port(u64),
    Connection(u64),
    Flow(u64),
}

impl Token {
    fn number(self) -> u64 {
        let (kind, id) = match self {
            Self::Signals => (0, 0),
            Self::Listener => (1, 0),
            Self::Engine(id) => (2, id),
            Self::Port(id) => (3, id),
            Self::Connection(id) => (4, id),
            Self::Flow(id) => (5, id),
        };
        (id << 3) | kind
    }

    fn of(number: u64) -> Option<Self> {
        let id = number >> 3;
        Some(match number & 7 {
            0 => Self::Signals,
            1 => Self::Listener,
            2 => Self::Engine(id),
            3 => Self::Port(id),
            4 => Self::Connection(id),
            5 => Self::Flow(id),
            _ => return None,
        })
    }
}

/// What is watched, and the numbers given out.
#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    last: u64,
}

impl Watch {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// It ends with the descriptor.
    fn add(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.number()), flags)?)
    }
}

/// A published port.
#[derive(Debug)]
struct Open {
    port: Port,
    target: SocketAddr,
    /// Whether containers are to see the client's address.
    shows_clients: bool,
    socket: OwnedFd,
}

#[derive(Debug)]
struct Holder {
    state_dir: PathBuf,
    listener: OwnedFd,
    /// Which file the socket's name leads to.
    socket_file: Option<(u64, u64)>,
    user: OwnedFd,
    network: OwnedFd,
    watch: Watch,
    engines: HashMap<u64, OwnedFd>,
    ports: HashMap<u64, Open>,
    streams: Streams,
    datagrams: Datagrams,
    /// When to look what is no longer needed.
    next_look: Instant,
}

impl Holder {
    fn new(state_dir: PathBuf, listener: OwnedFd) -> Result<Self> {
        let namespace = |name: &str| std::fs::File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from);
        let step = || "open this process's namespaces";
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).doing(|| "make an epoll instance")?;
        let file = std::fs::metadata(state_dir.join(SOCKET)).ok();
        Ok(Self {
            socket_file: file.map(|file| (file.dev(), file.ino())),
            state_dir,
            listener,
            user: namespace("user").doing(step)?,
            network: namespace("net").doing(step)?,
            watch: Watch { epoll, last: 0 },
            engines: HashMap::new(),
            ports: HashMap::new(),
            streams: Streams::default(),
            datagrams: Datagrams::default(),
            next_look: Instant::now() + GRACE,
        })
    }

    /// Serves until nobody needs it.
    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(128);
        loop {
            events.clear();
            let timeout = if self.streams.has_more() { Duration::ZERO } else { self.pause() };
            let timeout = rustix::event::Timespec::try_from(timeout).ok();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.watch.epoll, buffer, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).doing(|| "wait for events"),
            }
            self.streams.go_on();
            for event in events.iter().copied() {
                let Some(token) = Token::of(event.data.u64()) else { continue };
                match token {
                    Token::Signals => return Ok(()),
                    Token::Listener => self.accept(),
                    Token::Engine(id) => {
                        if !self.serve(id) && self.engines.is_empty() {
                            return Ok(());
                        }
                    }
                    Token::Port(id) => self.come(id),
                    Token::Connection(id) => self.streams.pump(id),
                    Token::Flow(id) => self.datagrams.answer(id, &self.ports),
                }
            }
            if Instant::now() >= self.next_look {
                self.next_look = Instant::now() + PERIOD;
                self.datagrams.expire();
                if self.engines.is_empty() && !has_monitors(&self.state_dir) {
                    return Ok(());
                }
            }
        }
    }

    /// How long there may be nothing to look at.
    fn pause(&self) -> Duration {
        if self.engines.is_empty() || !self.datagrams.is_empty() {
            self.next_look.saturating_duration_since(Instant::now())
        } else {
            Duration::from_secs(3600)
        }
    }

    /// Something has come at a published port.
    fn come(&mut self, id: u64) {
        let Some(open) = self.ports.get(&id) else { return };
        match open.port.carried {
            Carried::Tcp => self.streams.accept(id, open, &mut self.watch),
            Carried::Udp => self.datagrams.receive(id, open, &mut self.watch),
        }
    }

    /// Lets an engine in.
    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC;
        let Ok(engine) = rustix::net::accept_with(&self.listener, flags) else { return };
        // One that doesn't read must not keep the ports from being served.
        let _ = rustix::net::sockopt::set_socket_timeout(
            &engine,
            rustix::net::sockopt::Timeout::Send,
            Some(PATIENCE),
        );
        let id = self.watch.next();
        if self.watch.add(engine.as_fd(), Token::Engine(id), EventFlags::IN).is_ok() {
            self.engines.insert(id, engine);
        }
    }

    /// Hears one request of an engine. Whether there is a reason to go on, should it have been the last one.
    fn serve(&mut self, id: u64) -> bool {
        let mut bytes = [0; MAX_PACKET];
        let Some(engine) = self.engines.get(&id) else { return true };
        let received = receive_with_fds(engine.as_fd(), &mut bytes);
        let (length, fds) = match received {
            Ok((length, fds)) if length > 0 => (length, fds),
            _ => {
                self.forget(id);
                return true;
            }
        };
        let request = serde_json::from_slice(bytes.get(..length).unwrap_or_default());
        let replies = match request {
            Ok(Request::Namespaces) => {
                let reply = encode(&Reply::Namespaces { pid: std::process::id() });
                if send_with_fds(engine.as_fd(), &reply, &[self.user.as_fd(), self.network.as_fd()]).is_err()
                {
                    self.forget(id);
                }
                return true;
            }
            Ok(Request::Leave) => {
                let _ = send_with_fds(engine.as_fd(), &encode(&Reply::Done), &[]);
                self.forget(id);
                return has_monitors(&self.state_dir);
            }
            Ok(Request::List) => {
                let ports = self.ports.values();
                let mut replies: Vec<Reply> =
                    ports.map(|open| Reply::Port { port: open.port, target: open.target }).collect();
                replies.push(Reply::Done);
                replies
            }
            Ok(Request::Listen { port, target, shows_clients }) => {
                let outcome = match fds.into_iter().next() {
                    Some(socket) => self.listen(Open { port, target, shows_clients, socket }),
                    None => Err(io::ErrorKind::InvalidInput.into()),
                };
                vec![outcome.map_or_else(|error| Reply::Failed { what: error.to_string() }, |()| Reply::Done)]
            }
            Ok(Request::Lead { port, target }) => vec![self.lead(port, target)],
            Ok(Request::Close { port }) => vec![self.close(port)],
            Err(error) => vec![Reply::Failed { what: format!("the holder does not understand: {error}") }],
        };
        if let Some(engine) = self.engines.get(&id)
            && replies.iter().any(|reply| send_with_fds(engine.as_fd(), &encode(reply), &[]).is_err())
        {
            self.forget(id);
        }
        true
    }

    fn forget(&mut self, id: u64) {
        self.engines.remove(&id);
        if self.engines.is_empty() {
            self.next_look = Instant::now() + GRACE;
        }
    }

    fn listen(&mut self, open: Open) -> io::Result<()> {
        self.close(open.port);
        rustix::io::ioctl_fionbio(&open.socket, true)?;
        if open.port.carried == Carried::Udp {
            datagrams::ask_for_destination(open.socket.as_fd(), open.port.outer)?;
        }
        let id = self.watch.next();
        self.watch.add(open.socket.as_fd(), Token::Port(id), EventFlags::IN)?;
        self.ports.insert(id, open);
        Ok(())
    }

    fn lead(&mut self, port: Port, target: SocketAddr) -> Reply {
        let Some((id, open)) = self.ports.iter_mut().find(|(_, open)| open.port == port) else {
            return Reply::Unknown;
        };
        if open.target != target {
            open.target = target;
            // Each datagram is a beginning.
            self.datagrams.close(*id);
        }
        Reply::Done
    }

    fn close(&mut self, port: Port) -> Reply {
        let Some(id) = self.ports.iter().find(|(_, open)| open.port == port).map(|(id, _)| *id) else {
            return Reply::Unknown;
        };
        self.ports.remove(&id);
        self.streams.close(id);
        self.datagrams.close(id);
        Reply::Done
    }

    /// Takes along what only it would know of.
    fn clear_up(&self) {
        if let Err(error) = remove_interface(OUTSIDE) {
            crate::cli::warn(&format!("failed to remove the interface {OUTSIDE}: {error}"));
        }
        let path = self.state_dir.join(SOCKET);
        // Another holder may have that name by now.
        let now = std::fs::metadata(&path).ok().map(|file| (file.dev(), file.ino()));
        if now.is_some() && now == self.socket_file {
            let _ = std::fs::remove_file(&path);
        }
    }
}

fn encode(reply: &Reply) -> Vec<u8> {
    serde_json::to_vec(reply).unwrap_or_default()
}

/// Whether a container of a state directory runs, or is about to: its monitor holds a lock.
fn has_monitors(state_dir: &Path) -> bool {
    let entries = std::fs::read_dir(state_dir.join("containers")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        std::fs::File::open(entry.path().join(LOCK))
            .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
    })
}

/// Removes an interface of this network namespace (rtnetlink(7)); one that is not there is no failure.
fn remove_interface(name: &str) -> io::Result<()> {
    const RTM_DELLINK: u16 = 17;
    const IFLA_IFNAME: u16 = 3;
    const REQUEST_AND_ACK: u16 = 5;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let name = [name.as_bytes(), b"\0"].concat();
    let attribute = 4 + name.len();
    let length = 32 + attribute.next_multiple_of(4);
    let mut message = Vec::with_capacity(length);
    message.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    message.extend(RTM_DELLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Its number and port, and `struct ifinfomsg`.
    message.extend([0; 8 + 16]);
    message.extend(u16::try_from(attribute).unwrap_or_default().to_ne_bytes());
    message.extend(IFLA_IFNAME.to_ne_bytes());
    message.extend(name);
    message.resize(length, 0);
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    // `struct nlmsgerr`: a negative number behind the header, 0 where all went well.
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 || code == -libc::ENODEV { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// The words of the command line: the state directory alone.
pub(crate) fn state_dir(word: Option<String>) -> Result<PathBuf> {
    word.map(PathBuf::from).ok_or_else(|| Error::invalid("netns-holder needs the engine's state directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_again() {
        for token in [
            Token::Signals,
            Token::Listener,
            Token::Engine(1),
            Token::Port(2),
            Token::Connection(u64::MAX >> 3),
            Token::Flow(4),
        ] {
            assert_eq!(Token::of(token.number()), Some(token));
        }
    }

    #[test]
    fn a_lock_tells_that_a_container_runs() {
        let dir = std::env::temp_dir().join(format!("cove-holder-{}", std::process::id()));
        let container = dir.join("containers/one");
        std::fs::create_dir_all(&container).unwrap();
        assert!(!has_monitors(&dir));
        let lock = std::fs::File::create(container.join(LOCK)).unwrap();
        assert!(!has_monitors(&dir));
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(has_monitors(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
