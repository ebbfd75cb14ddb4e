//! The engine's end of a monitor: requests out, events in.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci_runtime::monitor::protocol::{self, Event, Failure, LOCK, Request, SOCKET, StartRequest, Streams};
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::error::{Doing, Error, Result};

/// How long a monitor may take to start a container.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to start a process in it.
const EXEC_DEADLINE: Duration = Duration::from_secs(60);

/// What became of an exec request: the process and its terminal.
pub(crate) type ExecOutcome = std::result::Result<(i32, Option<OwnedFd>), Failure>;

/// A connection to one monitor.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    starting: Mutex<HashMap<String, oneshot::Sender<ExecOutcome>>>,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self> {
        let socket = crate::watch::watch(socket).doing(|| "watch the monitor's socket")?;
        Ok(Self { socket, starting: Mutex::default() })
    }

    /// Connects to the monitor that serves `state_dir`; `None` where none does.
    pub(crate) async fn connect(state_dir: &Path) -> Result<Option<(Self, i32)>> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .doing(|| "make a socket")?;
        // By way of the directory's descriptor, so that a long path fits the address.
        let Ok(dir) = std::fs::File::open(state_dir) else { return Ok(None) };
        let path = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&dir));
        let address = SocketAddrUnix::new(path.as_str()).doing(|| "address the monitor")?;
        if rustix::net::connect(&socket, &address).is_err() {
            return Ok(None);
        }
        let link = Self::new(socket)?;
        match tokio::time::timeout(START_DEADLINE, link.next()).await {
            Ok(Ok(Some((Event::Started { pid, .. }, _)))) => Ok(Some((link, pid))),
            // It ended between the connection and its greeting.
            Ok(_) => Ok(None),
            Err(_) => Err(Error::state(format!("the monitor of {} does not answer", state_dir.display()))),
        }
    }

    /// As [`Self::connect`], but waits for a monitor that is about to serve: a daemon that died in the
    /// middle of a start has left one. `None` only where none will.
    pub(crate) async fn find(state_dir: &Path) -> Result<Option<(Self, i32)>> {
        let began = std::time::Instant::now();
        loop {
            // Asked first: a monitor that ends in between is found to have ended the next time.
            let is_served = is_served(state_dir);
            if let Some(found) = Self::connect(state_dir).await? {
                return Ok(Some(found));
            }
            if !is_served {
                return Ok(None);
            }
            if began.elapsed() > START_DEADLINE {
                return Err(Error::state(format!("the monitor of {} does not listen", state_dir.display())));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Asks a fresh monitor to start its container; returns the process's id.
    pub(crate) async fn start(
        &self,
        request: &StartRequest,
        network: Option<&OwnedFd>,
        attach: &[OwnedFd],
    ) -> Result<std::result::Result<i32, Failure>> {
        let body = protocol::write_body(request).doing(|| "write the start request")?;
        let lock = lock(&request.state_dir)?;
        let mut fds = vec![body.as_fd(), lock.as_fd()];
        fds.extend(network.map(AsFd::as_fd));
        fds.extend(attach.iter().map(AsFd::as_fd));
        self.send(&Request::Start, &fds).await?;
        match tokio::time::timeout(START_DEADLINE, self.next()).await {
            Ok(Ok(Some((Event::Started { pid, .. }, _)))) => Ok(Ok(pid)),
            Ok(Ok(Some((Event::Failed(failure), _)))) => Ok(Err(failure)),
            Ok(Ok(other)) => Err(Error::state(format!("the monitor ended during the start ({other:?})"))),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::state("the container did not start within 60 s")),
        }
    }

    /// The next event; `None` when the monitor is gone. Answers to execs are handed to their askers.
    pub(crate) async fn next(&self) -> Result<Option<(Event, Vec<OwnedFd>)>> {
        loop {
            let received =
                self.socket.async_io(Interest::READABLE, |socket| protocol::receive(socket.as_fd())).await;
            let (event, mut fds) = match received {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error).doing(|| "hear from the monitor"),
            };
            let (id, outcome) = match event {
                Event::ExecStarted { id, pid } => (id, Ok((pid, fds.pop()))),
                Event::ExecFailed { id, failure } => (id, Err(failure)),
                other => return Ok(Some((other, fds))),
            };
            let asker = self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(asker) = asker {
                // Whoever asked may have given up; the process's end is told all the same.
                let _ = asker.send(outcome);
            }
        }
    }

    pub(crate) async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.socket
            .async_io(Interest::WRITABLE, |socket| protocol::send(socket.as_fd(), request, fds))
            .await
            .doing(|| "tell the monitor")
    }

    /// Starts a process in the container.
    pub(crate) async fn exec(
        &self,
        id: &str,
        request: &protocol::ExecRequest,
        stdio: &[OwnedFd],
    ) -> Result<ExecOutcome> {
        let (sender, outcome) = oneshot::channel();
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        let body = protocol::write_body(request).doing(|| "write the exec request")?;
        let mut fds = vec![body.as_fd()];
        fds.extend(stdio.iter().map(AsFd::as_fd));
        self.send(&Request::Exec { id: id.to_owned() }, &fds).await?;
        match tokio::time::timeout(EXEC_DEADLINE, outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(Error::state("the container ended before the process started")),
            Err(_) => Err(Error::state("the process did not start within 60 s")),
        }
    }

    /// Forgets those who wait for processes to start: the container is gone.
    pub(crate) fn close(&self) {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A new stream to the container: Docker's frames out (raw with a terminal), input in.
    pub(crate) async fn attach(&self, streams: Streams) -> Result<UnixStream> {
        let (ours, theirs) = attach_pair()?;
        self.send(&Request::Attach(streams), &[theirs.as_fd()]).await?;
        Ok(ours)
    }
}

/// The lock that tells a monitor from none. It goes with the last copy of its description, be that
/// the monitor's, or one in a packet that nobody has read.
fn lock(state_dir: &Path) -> Result<std::fs::File> {
    let step = || format!("lock {}", state_dir.join(LOCK).display());
    // The monitor of the run before may be on its way out, and hold the lock of the old file.
    let _ = std::fs::remove_file(state_dir.join(LOCK));
    let file = std::fs::File::create(state_dir.join(LOCK)).doing(step)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).doing(step)?;
    Ok(file)
}

/// Whether a monitor has the directory, or is about to.
fn is_served(state_dir: &Path) -> bool {
    std::fs::File::open(state_dir.join(LOCK))
        .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// The two ends of an attached stream.
pub(crate) fn attach_pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().doing(|| "make a socket pair")?;
    ours.set_nonblocking(true).doing(|| "make a socket non-blocking")?;
    let ours = UnixStream::from_std(ours).doing(|| "watch a socket")?;
    Ok((ours, theirs.into()))
}

/// Monitors started ahead, each waiting for its container.
#[derive(Debug)]
pub(crate) struct Monitors {
    program: std::path::PathBuf,
    spare: Mutex<Vec<Arc<Link>>>,
    is_refilling: AtomicBool,
}

/// How many wait: enough for a few starts at once, at under half a megabyte each.
const SPARES: usize = 2;

impl Monitors {
    pub(crate) fn new(program: std::path::PathBuf) -> Self {
        Self { program, spare: Mutex::default(), is_refilling: AtomicBool::new(false) }
    }

    /// A monitor without a container.
    pub(crate) fn take(&self) -> Result<Arc<Link>> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.map_or_else(|| self.spawn(), Ok)
    }

    /// Whether [`Self::refill`] is to be called, which it is once however many ask.
    pub(crate) fn is_to_be_refilled(&self) -> bool {
        !self.is_refilling.swap(true, Ordering::Relaxed)
    }

    /// Fills up what was taken.
    pub(crate) fn refill(&self) {
        self.is_refilling.store(false, Ordering::Relaxed);
        while self.spare.lock().unwrap_or_else(PoisonError::into_inner).len() < SPARES {
            match self.spawn() {
                Ok(link) => self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(link),
                // The next start tries again, and tells.
                Err(_) => return,
            }
        }
    }

    fn spawn(&self) -> Result<Arc<Link>> {
        let step = || format!("start {}", self.program.display());
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .doing(|| "make a socket pair")?;
        let mut command = stdx::process::command(&self.program);
        command
            .arg("monitor")
            .stdin(std::process::Stdio::from(theirs))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::inherit());
        // Dropped, it is reaped by tokio when it ends.
        tokio::process::Command::from(command).spawn().doing(step)?;
        Link::new(ours).map(Arc::new)
    }
}
