//! Streams between the host and a guest: a virtio vsock device whose other side are unix sockets.

mod connection;
mod device;
mod muxer;
mod packet;
mod stream;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::session::Session;
use device::{Attach, Switchboard, VsockDevice};

/// A machine's vsock device. Cheap calls, from any thread.
///
/// Dropping it takes the socket away; a monitor that is connected keeps its device until it goes.
#[derive(Debug)]
pub struct Vsock {
    switchboard: Arc<Switchboard>,
    _session: Session,
}

impl Vsock {
    /// Serves monitors that connect to `socket`, one after another. The guest's address is `cid`, from 3 on.
    ///
    /// # Errors
    ///
    /// If the socket can't be made; one that is left over from before is in the way.
    pub fn serve(socket: &Path, cid: u64) -> Result<Vsock> {
        let switchboard = Arc::new(Switchboard::default());
        let made = Arc::clone(&switchboard);
        let session = Session::serve("vsock", socket, move || VsockDevice::new(cid, &made).map(Arc::new))?;
        Ok(Vsock { switchboard, _session: session })
    }

    /// Whether a monitor is connected now. Its guest may still be booting.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.switchboard.is_connected()
    }

    /// Connects to a port that something in the guest listens on.
    ///
    /// A guest that is still booting is waited for until the deadline.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if nobody listens there, `NotConnected` without a monitor (or when it goes meanwhile),
    /// `TimedOut` after the deadline, `QuotaExceeded` beyond 8192 connections.
    pub fn connect(&self, port: u32, deadline: Duration) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let (sender, receiver) = mpsc::sync_channel(1);
        self.attach(port, ours, deadline, move |answer| {
            let _ = sender.send(answer);
        });
        // The device answers by the deadline itself; this one is for a thread that is held up.
        let slack = deadline.saturating_add(Duration::from_secs(1));
        receiver.recv_timeout(slack).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(theirs)
    }

    /// Connects a stream that is there already, such as an accepted client's, to a port of the guest: its bytes then go
    /// between it and the guest's memory without a detour.
    ///
    /// Returns at once. `done` is called once, usually on the device's thread, and must not block; its errors are those
    /// of [`Vsock::connect`], and then the stream is closed. The stream is made non-blocking.
    pub fn attach(
        &self,
        port: u32,
        stream: UnixStream,
        deadline: Duration,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let now = Instant::now();
        // A deadline beyond what a clock can hold is none; a day is as good.
        let deadline = now.checked_add(deadline).unwrap_or(now + Duration::from_secs(24 * 60 * 60));
        self.switchboard.attach(Attach { port, stream, deadline, done: Box::new(done) });
    }

    /// How many connections to a port of the guest there are, those that it has not answered yet among them.
    #[must_use]
    pub fn connections(&self, port: u32) -> usize {
        self.switchboard.count(port).load(Ordering::Relaxed)
    }

    /// Takes the guest's connections to the host's `port`; a second call for a port replaces the first. Connections to
    /// other ports are refused.
    ///
    /// `accept` is called on the device's thread and must not block. Connections outlive neither the monitor nor,
    /// where the guest restarts, its kernel.
    pub fn listen(&self, port: u32, accept: impl Fn(UnixStream) + Send + Sync + 'static) {
        self.switchboard.listen(port, Some(Arc::new(accept)));
    }

    /// Refuses connections to a port again. Those that are there stay.
    pub fn stop_listening(&self, port: u32) {
        self.switchboard.listen(port, None);
    }
}
