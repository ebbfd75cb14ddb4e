//! The parent of one container: keeps its stdio, writes its log, starts further processes in it,
//! and records how it ended. It outlives the daemon that started it.
//!
//! ```text
//!   coved ──(control: packets, descriptors)──┐
//!   coved ──(attach: a stream per client)────┤ monitor ── stdin, stdout, stderr or terminal ── container
//!   log file <───────────────────────────────┘    └─ exit.json, when it has ended
//! ```
//!
//! The working directory is the container's state directory: the sockets there are bound by name,
//! so that the path's length does not matter. One thread, one `poll` loop, no buffers while idle.

mod io;
mod log;
pub mod protocol;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use stdx::fs::Durability;
use stdx::socket::{receive_with_fds, send_with_fds};

use crate::cgroup::{Cgroups, Layout, Missing};
use crate::container;
use crate::error::{Doing, Error, Result};
use crate::launch::{Exec, Launch, exec, launch};
use crate::seccomp;
use crate::spec::State;
use crate::sys;
use io::{Attacher, Stdio};
use log::Log;
use protocol::{EXIT_FILE, Event, ExecRequest, Exit, Failure, Request, SOCKET, StartRequest};

/// Serves one container, requested over the socket that is this process's stdin.
///
/// # Errors
/// Where the request can't be read or nobody is left to hear of a failure.
pub fn main() -> Result<i32> {
    // Ctrl-C in the daemon's terminal is not for the containers.
    let _ = rustix::process::setsid();
    let control = sys::inherit_fd(0).doing(|| "take the control socket from stdin")?;
    let signals = sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .doing(|| "catch signals")?;
    let mut bytes = vec![0; protocol::MAX_PACKET];
    let (length, mut fds) = receive_with_fds(control.as_fd(), &mut bytes).doing(|| "read the request")?;
    if length == 0 {
        // A spare monitor that was not needed.
        return Ok(0);
    }
    let request: Request = parse(bytes.get(..length).unwrap_or_default())?;
    drop(bytes);
    let Request::Start = request else { return Err(Error::invalid("the first request is not a start")) };
    if fds.len() < 2 {
        return Err(Error::invalid("the start came without its body or its lock"));
    }
    let body = protocol::read_body(fds.remove(0)).doing(|| "read the request's body")?;
    // Held until this process ends: whoever can lock `LOCK` knows that nobody serves the directory.
    let _lock = fds.remove(0);
    let mut start: StartRequest = parse(&body)?;
    drop(body);
    let network = join_network(&mut start, &mut fds)?;
    let started = Monitor::start(start, control, signals, fds);
    // Held until the first process was in it.
    drop(network);
    match started {
        Ok(mut monitor) => {
            sys::trim_heap();
            monitor.serve()
        }
        Err((error, control)) => {
            send(control.as_fd(), &Event::Failed(Failure::of(&error)), &[])?;
            Ok(1)
        }
    }
}

/// Makes the bundle name the network namespace that came with it.
fn join_network(start: &mut StartRequest, fds: &mut Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    if !start.has_network {
        return Ok(None);
    }
    if fds.is_empty() {
        return Err(Error::invalid("the start came without its network"));
    }
    let network = fds.remove(0);
    let path = PathBuf::from(format!("/proc/self/fd/{}", network.as_raw_fd()));
    let namespaces = start.spec.linux.iter_mut().flat_map(|linux| linux.namespaces.iter_mut());
    for namespace in namespaces.filter(|namespace| namespace.r#type == "network") {
        namespace.path = Some(path.clone());
    }
    Ok(Some(network))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::invalid(format!("the request is malformed: {error}")))
}

fn send(socket: BorrowedFd<'_>, event: &Event, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(event).unwrap_or_default();
    send_with_fds(socket, &bytes, fds).doing(|| "tell the daemon")
}

/// A process started later.
struct Child {
    id: String,
    pid: i32,
}

struct Monitor {
    container: Running,
    signals: OwnedFd,
    controls: Vec<OwnedFd>,
    children: Vec<Child>,
    /// Exits of processes that ended before their start was announced.
    exit: Option<Exit>,
}

/// A container that was started, and what its monitor serves it with.
struct Running {
    id: String,
    pid: i32,
    cgroups: Cgroups,
    /// For processes started later.
    filter: Option<seccomp::Program>,
    stdio: Stdio,
    log: Log,
    listener: OwnedFd,
    attachers: Vec<Attacher>,
    /// Keeps the root mounted until the end has been told: taking it down waits for the disk.
    _root: Option<OwnedFd>,
}

impl Monitor {
    fn start(
        request: StartRequest,
        control: OwnedFd,
        signals: OwnedFd,
        fds: Vec<OwnedFd>,
    ) -> std::result::Result<Self, (Error, OwnedFd)> {
        match Self::try_start(request, &control, fds) {
            Ok(container) => {
                Ok(Self { container, signals, controls: vec![control], children: Vec::new(), exit: None })
            }
            Err(error) => Err((error, control)),
        }
    }

    fn try_start(request: StartRequest, control: &OwnedFd, fds: Vec<OwnedFd>) -> Result<Running> {
        std::env::set_current_dir(&request.state_dir).doing(|| format!("enter {:?}", request.state_dir))?;
        // An exit of an earlier run must not be taken for one of this run.
        let _ = std::fs::remove_file(EXIT_FILE);
        let listener = listen()?;
        let log = Log::open(&request.log)?;
        let filter = request.filter.map(seccomp::Program::from);
        let attachers = fds
            .into_iter()
            .zip(request.attach)
            .map(|(fd, streams)| Attacher::new(fd, streams))
            .collect::<Result<Vec<_>>>()?;
        let resources = request.spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let mut layout = Layout::detect()?;
        if let Some(root) = &request.cgroup_root {
            layout = layout.below(root);
        }
        let missing = if request.tolerates_missing_cgroups { Missing::Tolerate } else { Missing::Refuse };
        let mut cgroups = Cgroups::begin(&layout, &request.cgroup_path, resources, missing)?;
        let state = State {
            oci_version: container::OCI_VERSION.into(),
            id: request.id.clone(),
            bundle: request.state_dir.clone(),
            annotations: request.spec.annotations.clone(),
            ..State::default()
        };
        let has_terminal = request.spec.process.as_ref().is_some_and(|process| process.terminal);
        let made = Stdio::new(has_terminal, request.opens_stdin, request.closes_stdin_once).and_then(
            |(mut stdio, theirs)| {
                let wanted = Launch {
                    spec: &request.spec,
                    state,
                    rootfs: &request.rootfs,
                    overlay: request.overlay.as_ref(),
                    missing_cgroups: missing,
                    filter: filter.as_ref(),
                    stdio: theirs.as_fds(),
                    gate: None,
                    preserved_fds: 0,
                    has_init: request.has_init,
                };
                let launched = launch(&wanted, &mut cgroups)?;
                stdio.set_terminal(launched.terminal)?;
                Ok((stdio, launched.pid, launched.root))
            },
        );
        match made {
            Ok((stdio, pid, root)) => {
                let start_time = container::process_stat(pid).map_or(0, |(_, started)| started);
                // A daemon that died meanwhile is told when it is back.
                let _ = send(control.as_fd(), &Event::Started { pid, start_time }, &[]);
                Ok(Running {
                    id: request.id,
                    pid,
                    cgroups,
                    filter,
                    stdio,
                    log,
                    listener,
                    attachers,
                    _root: root,
                })
            }
            Err(error) => {
                let _ = cgroups.kill();
                let _ = cgroups.delete();
                let _ = std::fs::remove_file(SOCKET);
                Err(error)
            }
        }
    }

    fn serve(&mut self) -> Result<i32> {
        while self.exit.is_none() {
            self.turn()?;
        }
        self.finish()
    }

    /// Waits for something to happen and handles all of it.
    fn turn(&mut self) -> Result<()> {
        let is_blocked = self.container.attachers.iter().any(Attacher::is_behind);
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.container.listener, PollFlags::IN),
        ];
        fds.extend(self.controls.iter().map(|control| PollFd::new(control, PollFlags::IN)));
        let attachers_at = fds.len();
        let takes_input = self.container.stdio.takes_input();
        fds.extend(self.container.attachers.iter().map(|attacher| attacher.poll_fd(takes_input)));
        let stdio_at = fds.len();
        fds.extend(self.container.stdio.poll_fds(is_blocked, &self.container.listener));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).doing(|| "wait for the container"),
        }
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        let ready = |at: usize| events.get(at).copied().unwrap_or(PollFlags::empty());

        for at in (attachers_at..stdio_at).rev() {
            if !ready(at).is_empty() && !self.serve_attacher(at - attachers_at, ready(at)) {
                self.container.attachers.remove(at - attachers_at);
            }
        }
        self.container.stdio.flush_input(ready(stdio_at + 2))?;
        if !is_blocked {
            for which in 0..2 {
                if !ready(stdio_at + which).is_empty() {
                    self.carry_output(which);
                }
            }
        }
        for at in (2..attachers_at).rev() {
            if !ready(at).is_empty() && !self.serve_control(at - 2) {
                self.controls.remove(at - 2);
            }
        }
        if !ready(1).is_empty() {
            self.accept();
        }
        if !ready(0).is_empty() {
            self.reap()?;
        }
        Ok(())
    }

    /// Output of the container: to the log and to every client.
    fn carry_output(&mut self, which: usize) {
        let Some((stream, bytes)) = self.container.stdio.read_output(which) else { return };
        self.container.log.write(stream, &bytes);
        let is_raw = self.container.stdio.is_terminal();
        self.container.attachers.retain_mut(|attacher| attacher.send(stream, &bytes, is_raw));
    }

    /// `false` when the client is gone.
    fn serve_attacher(&mut self, at: usize, events: PollFlags) -> bool {
        let Some(attacher) = self.container.attachers.get_mut(at) else { return true };
        if events.contains(PollFlags::OUT) && !attacher.flush() {
            return false;
        }
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let has_hung_up = events.intersects(PollFlags::HUP | PollFlags::ERR);
            return attacher.take_input(&mut self.container.stdio, has_hung_up);
        }
        true
    }

    fn accept(&mut self) {
        // A client that gave up between poll and accept is no failure.
        if let Ok(fd) = rustix::net::accept_with(&self.container.listener, SocketFlags::CLOEXEC) {
            let hello = Event::Started {
                pid: self.container.pid,
                start_time: container::process_stat(self.container.pid).map_or(0, |(_, started)| started),
            };
            if send(fd.as_fd(), &hello, &[]).is_ok() {
                self.controls.push(fd);
            }
        }
    }

    /// `false` when the daemon's end is gone.
    fn serve_control(&mut self, at: usize) -> bool {
        let Some(control) = self.controls.get(at) else { return true };
        let mut bytes = vec![0; protocol::MAX_PACKET];
        let Ok((length, fds)) = receive_with_fds(control.as_fd(), &mut bytes) else { return false };
        if length == 0 {
            return false;
        }
        let Ok(request) = serde_json::from_slice::<Request>(bytes.get(..length).unwrap_or_default()) else {
            // A newer daemon's word that this monitor does not know: it hears nothing back and gives up.
            return true;
        };
        self.handle(request, fds, at)
    }

    fn handle(&mut self, request: Request, mut fds: Vec<OwnedFd>, at: usize) -> bool {
        match request {
            // One container, one start.
            Request::Start => {}
            Request::Attach(streams) => {
                if let Some(fd) = fds.pop()
                    && let Ok(attacher) = Attacher::new(fd, streams)
                {
                    self.container.attachers.push(attacher);
                }
            }
            Request::Resize { rows, columns } => self.container.stdio.resize(rows, columns),
            Request::Signal { signal } => {
                // Not reaped yet, so the id is still the container's; a zombie takes any signal.
                let _ = sys::kill(self.container.pid, signal);
            }
            Request::Rotate => self.container.log.reopen(),
            Request::Exec { id } => {
                let outcome = self.exec(&id, fds);
                let (event, terminal) = match outcome {
                    Ok((pid, terminal)) => (Event::ExecStarted { id, pid }, terminal),
                    Err(error) => (Event::ExecFailed { id, failure: Failure::of(&error) }, None),
                };
                let passed = terminal.as_ref().map(AsFd::as_fd);
                let Some(control) = self.controls.get(at) else { return true };
                return send(control.as_fd(), &event, passed.as_slice()).is_ok();
            }
        }
        true
    }

    fn exec(&mut self, id: &str, mut fds: Vec<OwnedFd>) -> Result<(i32, Option<OwnedFd>)> {
        if fds.is_empty() {
            return Err(Error::invalid("the exec came without its body"));
        }
        let body = protocol::read_body(fds.remove(0)).doing(|| "read the request's body")?;
        let request: ExecRequest = parse(&body)?;
        drop(body);
        let null = open_null()?;
        let stream = |at: usize| fds.get(at).map_or(null.as_fd(), AsFd::as_fd);
        let launched = exec(&Exec {
            pid: self.container.pid,
            process: &request.process,
            cgroups: &self.container.cgroups,
            filter: if request.is_unconfined { None } else { self.container.filter.as_ref() },
            state: State { id: self.container.id.clone(), ..State::default() },
            stdio: [stream(0), stream(1), stream(2)],
            preserved_fds: 0,
        })?;
        self.children.push(Child { id: id.to_owned(), pid: launched.pid });
        Ok((launched.pid, launched.terminal))
    }

    fn reap(&mut self) -> Result<()> {
        let mut info = [0; 128];
        while rustix::io::read(&self.signals, &mut info).is_ok() {}
        loop {
            let reaped = match sys::wait(-1, false) {
                Ok(Some(reaped)) => reaped,
                Ok(None) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
                Err(error) => return Err(error).doing(|| "wait for the container"),
            };
            if reaped.pid == self.container.pid {
                let is_oom = self.container.cgroups.oom_kills() > 0;
                self.exit = Some(Exit { code: reaped.code, is_oom, at: nanos() });
            } else if let Some(at) = self.children.iter().position(|child| child.pid == reaped.pid) {
                let child = self.children.swap_remove(at);
                self.announce(&Event::ExecExited { id: child.id, code: reaped.code });
            }
        }
    }

    /// Records the end, hands out what is left of the output, and cleans up.
    fn finish(&mut self) -> Result<i32> {
        // With the host's pid namespace, others may live on and hold the pipes open.
        let killed = self.container.cgroups.kill();
        while let Some((stream, bytes)) = self.container.stdio.drain() {
            self.container.log.write(stream, &bytes);
            let is_raw = self.container.stdio.is_terminal();
            self.container.attachers.retain_mut(|attacher| attacher.send(stream, &bytes, is_raw));
        }
        self.container.log.close();
        let Some(exit) = self.exit.take() else { return Ok(0) };
        let record = serde_json::to_vec(&exit).unwrap_or_default();
        let written = stdx::fs::write_atomic(&PathBuf::from(EXIT_FILE), &record, Durability::Process)
            .doing(|| format!("write {EXIT_FILE}"));
        for child in std::mem::take(&mut self.children) {
            self.announce(&Event::ExecExited { id: child.id, code: 137 });
        }
        let deleted = self.container.cgroups.delete();
        self.announce(&Event::Exited(exit));
        // From here on a daemon that connects must read the file.
        let _ = std::fs::remove_file(SOCKET);
        for attacher in &mut self.container.attachers {
            attacher.finish();
        }
        killed.and(written).and(deleted).map(|()| 0)
    }

    fn announce(&mut self, event: &Event) {
        self.controls.retain(|control| send(control.as_fd(), event, &[]).is_ok());
    }
}

/// Since the epoch.
fn nanos() -> u64 {
    u64::try_from(crate::clock::now().as_nanos()).unwrap_or(u64::MAX)
}

fn listen() -> Result<OwnedFd> {
    let step = || "listen for the daemon";
    let _ = std::fs::remove_file(SOCKET);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(step)?;
    let address = SocketAddrUnix::new(SOCKET).doing(step)?;
    rustix::net::bind(&socket, &address).doing(step)?;
    rustix::net::listen(&socket, 16).doing(step)?;
    Ok(socket)
}

fn open_null() -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(|| "open /dev/null")
}
