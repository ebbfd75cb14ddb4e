//! Network namespaces: new ones, some kept ready ahead, and those of running processes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::thread::LinkNameSpaceType;

use crate::error::{Doing, Error, Result};
use crate::netlink::Netlink;
use crate::sys;

/// A namespace and a socket in it. It lives as long as this or a process in it.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
    pub(crate) netlink: Netlink,
}

impl Namespace {
    /// Makes one, with `lo` up. A thread of its own enters it and ends: this one stays where it is.
    pub(crate) fn make() -> Result<Self> {
        on_a_thread(|| {
            sys::unshare_network().doing(|| "make a network namespace")?;
            let fd = open("/proc/thread-self/ns/net").doing(|| "open the new network namespace")?;
            // Interfaces speak IPv6 when they are given an address of it, as Docker's do. Without IPv6 in
            // the kernel there is no such file.
            let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            let netlink = Netlink::open().doing(|| "speak to the new network namespace")?;
            let lo = netlink.index("lo").doing(|| "find the loopback")?;
            netlink.up(lo).doing(|| "bring the loopback up")?;
            Ok(Self { fd, netlink })
        })
    }

    /// That of a running process.
    ///
    /// # Errors
    /// It has ended, or may not be looked at.
    pub fn of_process(pid: i32) -> Result<Self> {
        let step = || format!("enter the network namespace of process {pid}");
        let fd = open(&format!("/proc/{pid}/ns/net")).doing(step)?;
        let netlink = inside(&fd, Netlink::open).doing(step)?;
        Ok(Self { fd, netlink })
    }

    /// Its descriptor, for a process that is to join it.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Runs a function inside it, on a thread of its own.
    ///
    /// # Errors
    /// The function's, or that it can't be entered.
    pub(crate) fn enter<T: Send>(&self, function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        inside(&self.fd, function)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Runs a function in a namespace, on a thread of its own.
pub(crate) fn inside<T: Send>(
    fd: &OwnedFd,
    function: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let ran = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            rustix::thread::move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            function()
        })?;
        thread.join().map_err(|_| io::Error::other("the thread in a network namespace panicked"))
    });
    ran?
}

fn on_a_thread<T: Send + 'static>(function: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let made = std::thread::Builder::new().name("netns".into()).spawn(function);
    let made = made.doing(|| "start a thread for a network namespace")?;
    made.join().map_err(|_| Error::Invalid { what: "the thread for a network namespace panicked".into() })?
}

/// Namespaces kept ready: making one takes a third of a millisecond, which a start need not wait for.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    ready: Arc<Mutex<Vec<Namespace>>>,
    refill: OnceLock<SyncSender<()>>,
}

impl Spares {
    /// How many are kept: what a click or a Compose file starts at once.
    const COUNT: usize = 4;
    /// How long after a start the next is made: until then the processors are wanted for that start.
    const PAUSE: Duration = Duration::from_millis(10);

    /// One that was ready, else a new one.
    pub(crate) fn take(&self) -> Result<Namespace> {
        self.ready().map_or_else(Namespace::make, Ok)
    }

    /// One that was ready.
    pub(crate) fn ready(&self) -> Option<Namespace> {
        let spare = self.ready.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let sender = self.refill.get_or_init(|| {
            let (sender, inbox) = sync_channel(1);
            let ready = Arc::clone(&self.ready);
            let spawned =
                std::thread::Builder::new().name("spares".into()).spawn(move || refill(&ready, &inbox));
            if let Err(error) = spawned {
                tracing::warn!(%error, "failed to start the thread that makes namespaces ahead");
            }
            sender
        });
        // Full: it has been asked already.
        let _ = sender.try_send(());
        spare
    }
}

/// Ends when the spares are dropped.
fn refill(ready: &Mutex<Vec<Namespace>>, inbox: &Receiver<()>) {
    while inbox.recv().is_ok() {
        std::thread::sleep(Spares::PAUSE);
        while ready.lock().unwrap_or_else(PoisonError::into_inner).len() < Spares::COUNT {
            match Namespace::make() {
                Ok(made) => ready.lock().unwrap_or_else(PoisonError::into_inner).push(made),
                Err(error) => {
                    tracing::warn!(%error, "failed to make a network namespace ahead");
                    break;
                }
            }
        }
    }
}
