//! How monitors come and go: a socket that serves one after another, each with a device made anew.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vhost::vhost_user::Listener;
use vhost_user_backend::bitmap::BitmapReplace;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringEpollHandler};
use vm_memory::mmap::NewBitmap;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::error::{Error, Result};

/// What a device is told under besides its queues: something of its own happened.
const OWN_EVENT: u16 = 1000;
/// Its thread is to end.
const QUIT: u16 = 1001;

/// Why a device's thread was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Queue(u16),
    Own,
}

impl Wake {
    /// What an event's number means. An error ends the thread, which is how it is asked to end: the library's own way to
    /// end it leaks a descriptor for each monitor.
    pub(crate) fn of(event: u16) -> io::Result<Wake> {
        match event {
            QUIT => Err(io::ErrorKind::Interrupted.into()),
            OWN_EVENT => Ok(Wake::Own),
            queue => Ok(Wake::Queue(queue)),
        }
    }
}

/// A device as its session sees it.
pub(crate) trait Device: VhostUserBackend {
    /// Becomes readable when the device has something to do that no queue tells of.
    fn own_event(&self) -> Option<&OwnedFd> {
        None
    }

    /// The monitor is gone, and the device's thread has ended.
    fn disconnected(&self) {}
}

/// Serves a socket until it is dropped. A monitor that is connected then is served until it goes.
#[derive(Debug)]
pub(crate) struct Session {
    path: PathBuf,
    stop: Arc<OwnedFd>,
    is_stopping: Arc<AtomicBool>,
}

impl Session {
    /// `make` makes the device for a monitor that has connected, on the thread that serves it.
    pub(crate) fn serve<D, F>(name: &str, path: &Path, mut make: F) -> Result<Session>
    where
        D: Device + 'static,
        D::Bitmap: BitmapReplace + NewBitmap + Clone + Send + Sync,
        D::Vring: Clone + Send + Sync,
        F: FnMut() -> io::Result<Arc<D>> + Send + 'static,
    {
        // Each connection and each inode of a share that a guest knows takes a descriptor.
        let _ = stdx::process::raise_open_files();
        let listener =
            UnixListener::bind(path).map_err(|source| Error::Listen { path: path.to_owned(), source })?;
        let stop = Arc::new(new_event()?);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let session =
            Session { path: path.to_owned(), stop: Arc::clone(&stop), is_stopping: Arc::clone(&is_stopping) };
        let name = name.to_owned();
        thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                let Ok(connections) = listener.try_clone() else { return };
                let mut listener = Listener::from(listener);
                while wait(&connections, &stop) && !is_stopping.load(Ordering::Acquire) {
                    if let Err(error) = serve_one(&name, &mut listener, &mut make) {
                        tracing::warn!(device = name, %error, "a machine's device failed");
                    }
                }
            })
            .map_err(|source| Error::Resource { action: "start a thread", source })?;
        Ok(session)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        ring(&self.stop);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// An event for one of our threads, which it may read when nothing has happened.
pub(crate) fn new_event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::Resource { action: "make an event", source: error.into() })
}

/// Makes an event happen.
pub(crate) fn ring(event: &OwnedFd) {
    // It fails only when it has happened 2⁶⁴ − 2 times unread.
    let _ = rustix::io::write(event, &1u64.to_ne_bytes());
}

/// Waits for a monitor; false when the session is to end.
fn wait(listener: &UnixListener, stop: &OwnedFd) -> bool {
    loop {
        let mut ready =
            [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) if !ready[1].revents().is_empty() => return false,
            Ok(_) if !ready[0].revents().is_empty() => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn serve_one<D, F>(name: &str, listener: &mut Listener, make: &mut F) -> io::Result<()>
where
    D: Device + 'static,
    D::Bitmap: BitmapReplace + NewBitmap + Clone + Send + Sync,
    D::Vring: Clone + Send + Sync,
    F: FnMut() -> io::Result<Arc<D>>,
{
    let device = make()?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new(name.to_owned(), Arc::clone(&device), memory).map_err(failed)?;
    let quit = new_event().map_err(io::Error::other)?;
    let registered = register(&daemon.get_epoll_handlers(), &*device, &quit);
    let served = registered.and_then(|()| daemon.start(listener).map_err(failed));
    if served.is_ok() {
        tracing::debug!(device = name, "a machine connected");
        // How it goes is the monitor's business: it is killed, or it ends.
        if let Err(error) = daemon.wait() {
            tracing::debug!(device = name, %error, "a machine disconnected");
        }
    }
    ring(&quit);
    drop(daemon);
    device.disconnected();
    served
}

fn register<D: Device>(
    handlers: &[Arc<VringEpollHandler<Arc<D>>>],
    device: &D,
    quit: &OwnedFd,
) -> io::Result<()> {
    for handler in handlers {
        handler.register_listener(quit.as_raw_fd(), EventSet::IN, u64::from(QUIT))?;
        if let Some(event) = device.own_event() {
            handler.register_listener(event.as_raw_fd(), EventSet::IN, u64::from(OWN_EVENT))?;
        }
    }
    Ok(())
}

/// The library's error is not one of the standard library's.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn failed(error: vhost_user_backend::Error) -> io::Error {
    io::Error::other(error.to_string())
}
