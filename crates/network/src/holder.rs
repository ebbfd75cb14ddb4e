//! The engine's side of the process that holds a user's network: found again, or started.
//!
//! The holder (`cove-runtime netns-holder`) lives in the engine's user and network namespace and outlives the
//! daemon. It carries what comes at published ports; what it is to carry is noted here, so that another can
//! take over where one was killed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use model::holder::{MAX_PACKET, Port, Reply, Request, SOCKET};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use stdx::socket::{receive_with_fds, send_with_fds};

use crate::namespace::{Namespace, inside};
use crate::ports;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many engines may wait to be let in; there is one.
const BACKLOG: i32 = 8;

/// The user namespace that the engine of a state directory has made, if it is still held.
///
/// # Errors
/// Where the holder is there but does not answer.
pub fn user_namespace(state_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let Some(socket) = connect(state_dir)? else { return Ok(None) };
    match namespaces(&socket) {
        Ok((_, user, _)) => Ok(Some(user)),
        // It ended in between.
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A port that the holder is to carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carried {
    target: SocketAddr,
    shows_clients: bool,
}

/// The holder of one engine, once it is there.
#[derive(Debug)]
pub(crate) struct Holder {
    state_dir: PathBuf,
    runtime: PathBuf,
    namespace: OnceLock<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    carried: BTreeMap<Port, Carried>,
}

#[derive(Debug)]
struct Link {
    socket: OwnedFd,
    pid: u32,
}

impl Holder {
    pub(crate) fn new(state_dir: PathBuf, runtime: PathBuf) -> Self {
        Self { state_dir, runtime, namespace: OnceLock::new(), state: Mutex::default() }
    }

    /// The state directory of its engine.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine's network namespace; found, or made.
    pub(crate) fn namespace(&self) -> io::Result<&OwnedFd> {
        if let Some(namespace) = self.namespace.get() {
            return Ok(namespace);
        }
        let mut state = self.state();
        if state.link.is_none() && !self.join(&mut state) {
            let namespace = Namespace::make().map_err(|error| io::Error::other(error.to_string()))?;
            // What stands outside of containers speaks IPv6 as a computer does. Without IPv6 in the kernel
            // there is no such file.
            let _ = namespace.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0"));
            let namespace = namespace.into_fd();
            state.link = Some(self.start(&namespace)?);
            drop(self.namespace.set(namespace));
        }
        self.namespace.get().ok_or_else(|| io::Error::other("the engine's network namespace is missing"))
    }

    /// Whether it is there; looks for one that a daemon before this one has started.
    pub(crate) fn find(&self) -> bool {
        self.namespace.get().is_some() || self.join(&mut self.state())
    }

    /// The holder's process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.state().link.as_ref().map(|link| link.pid)
    }

    /// Connects to the one that is there.
    fn join(&self, state: &mut State) -> bool {
        let found = || -> io::Result<Option<(Link, OwnedFd)>> {
            let Some(socket) = connect(&self.state_dir)? else { return Ok(None) };
            let (pid, _, network) = namespaces(&socket)?;
            // Held by a user namespace that this process is not in: it can't be changed from here.
            inside(&network, || Ok(()))?;
            Ok(Some((Link { socket, pid }, network)))
        };
        match found() {
            Ok(Some((link, namespace))) => {
                state.link = Some(link);
                drop(self.namespace.set(namespace));
                true
            }
            Ok(None) => false,
            Err(error) => {
                if !is_gone(&error) {
                    tracing::warn!(%error, "the holder of the engine's network can't be joined; another is started");
                }
                false
            }
        }
    }

    /// Starts one in a network namespace, and connects to it.
    fn start(&self, namespace: &OwnedFd) -> io::Result<Link> {
        let during = |error: io::Error| {
            io::Error::other(format!("{} netns-holder can't be started: {error}", self.runtime.display()))
        };
        let listener = listen(&self.state_dir).map_err(during)?;
        let mut command = stdx::process::command(&self.runtime);
        command.arg("netns-holder").arg(&self.state_dir);
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = inside(namespace, || command.spawn()).map_err(during)?;
        // The last copy of the listener is to be the holder's.
        drop(command);
        let reaper = std::thread::Builder::new().name("holder".into()).stack_size(64 << 10);
        // Without the thread it is reaped when this process ends.
        let _ = reaper.spawn(move || child.wait());
        let gone = || during(io::Error::other("it ended at once"));
        let socket = connect(&self.state_dir).map_err(during)?.ok_or_else(gone)?;
        let (pid, _, _) = namespaces(&socket).map_err(during)?;
        Ok(Link { socket, pid })
    }

    /// Asks; where the holder has gone, another takes over first.
    fn ask(&self, state: &mut State, request: &Request, fd: Option<BorrowedFd<'_>>) -> io::Result<Reply> {
        if let Some(link) = &state.link {
            match exchange(&link.socket, request, fd) {
                Err(error) if is_gone(&error) => {}
                other => return other,
            }
        }
        let Some(namespace) = self.namespace.get() else { return Err(io::ErrorKind::NotConnected.into()) };
        tracing::warn!("the holder of the engine's network is gone; another takes over");
        let link = self.start(namespace)?;
        for (port, carried) in &state.carried {
            if let Err(error) = reopen(&link.socket, *port, *carried) {
                tracing::warn!(%error, port = %port.outer, "a published port was lost");
            }
        }
        let reply = exchange(&link.socket, request, fd);
        state.link = Some(link);
        reply
    }

    /// Lets what comes at a socket of the host's be carried to a container.
    pub(crate) fn listen(
        &self,
        port: Port,
        target: SocketAddr,
        socket: &OwnedFd,
        shows_clients: bool,
    ) -> io::Result<()> {
        let mut state = self.state();
        let request = Request::Listen { port, target, shows_clients };
        let reply = self.ask(&mut state, &request, Some(socket.as_fd()))?;
        state.carried.insert(port, Carried { target, shows_clients });
        done(reply)
    }

    /// Lets a port lead elsewhere; one that the holder has lost is opened again.
    pub(crate) fn lead(&self, port: Port, target: SocketAddr, shows_clients: bool) -> io::Result<()> {
        let mut state = self.state();
        let reply = self.ask(&mut state, &Request::Lead { port, target }, None)?;
        let carried = Carried { target, shows_clients };
        state.carried.insert(port, carried);
        if reply != Reply::Unknown {
            return done(reply);
        }
        match &state.link {
            Some(link) => reopen(&link.socket, port, carried),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes a port.
    pub(crate) fn close(&self, port: Port) -> io::Result<()> {
        let mut state = self.state();
        state.carried.remove(&port);
        match self.ask(&mut state, &Request::Close { port }, None)? {
            Reply::Unknown => Ok(()),
            reply => done(reply),
        }
    }

    /// Closes what is carried for nobody: ports of containers that ended while no daemon ran.
    pub(crate) fn close_others(&self) -> io::Result<()> {
        let mut state = self.state();
        let mut others = Vec::new();
        let mut reply = self.ask(&mut state, &Request::List, None)?;
        while let Reply::Port { port, .. } = reply {
            others.extend((!state.carried.contains_key(&port)).then_some(port));
            let Some(link) = &state.link else { return Ok(()) };
            reply = hear(&link.socket)?.0;
        }
        for port in others {
            self.ask(&mut state, &Request::Close { port }, None)?;
        }
        done(reply)
    }

    /// Tells it that the engine ends: without containers, it does too.
    pub(crate) fn leave(&self) {
        // It sees the end of the connection all the same.
        if let Some(link) = self.state().link.take() {
            let _ = exchange(&link.socket, &Request::Leave, None);
        }
    }
}

fn done(reply: Reply) -> io::Result<()> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Failed { what } => Err(io::Error::other(what)),
        Reply::Namespaces { .. } | Reply::Port { .. } | Reply::Unknown => {
            Err(io::Error::other("the holder of the engine's network gave an answer to another question"))
        }
    }
}

/// Takes a port again, for a holder that does not have it.
fn reopen(socket: &OwnedFd, port: Port, carried: Carried) -> io::Result<()> {
    let listening = ports::bind_for_holder(port)?;
    let Carried { target, shows_clients } = carried;
    done(exchange(socket, &Request::Listen { port, target, shows_clients }, Some(listening.as_fd()))?)
}

fn exchange(socket: &OwnedFd, request: &Request, fd: Option<BorrowedFd<'_>>) -> io::Result<Reply> {
    send_with_fds(socket.as_fd(), &serde_json::to_vec(request)?, fd.as_slice())?;
    hear(socket).map(|(reply, _)| reply)
}

fn hear(socket: &OwnedFd) -> io::Result<(Reply, Vec<OwnedFd>)> {
    let mut bytes = [0; MAX_PACKET];
    let (length, fds) = receive_with_fds(socket.as_fd(), &mut bytes)?;
    if length == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok((serde_json::from_slice(bytes.get(..length).unwrap_or_default())?, fds))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

/// The holder's process, and its user and network namespace.
fn namespaces(socket: &OwnedFd) -> io::Result<(u32, OwnedFd, OwnedFd)> {
    send_with_fds(socket.as_fd(), &serde_json::to_vec(&Request::Namespaces)?, &[])?;
    let (reply, fds) = hear(socket)?;
    let mut fds = fds.into_iter();
    match (reply, fds.next(), fds.next()) {
        (Reply::Namespaces { pid }, Some(user), Some(network)) => Ok((pid, user, network)),
        _ => Err(io::Error::other("the holder of the engine's network does not hand it out")),
    }
}

/// The socket's address by way of the directory's descriptor, so that a long path fits; and that descriptor.
fn address(state_dir: &Path) -> io::Result<(SocketAddrUnix, std::fs::File)> {
    let dir = std::fs::File::open(state_dir)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()).as_str())?;
    Ok((address, dir))
}

fn packets() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A connection to the holder; none where there is no holder.
fn connect(state_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let Ok((address, _dir)) = address(state_dir) else { return Ok(None) };
    let socket = packets()?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    Ok(rustix::net::connect(&socket, &address).is_ok().then_some(socket))
}

fn listen(state_dir: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::PermissionsExt;
    let path = state_dir.join(SOCKET);
    // One of a holder that was killed.
    let _ = std::fs::remove_file(&path);
    let (address, _dir) = address(state_dir)?;
    let socket = packets()?;
    rustix::net::bind(&socket, &address)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}
