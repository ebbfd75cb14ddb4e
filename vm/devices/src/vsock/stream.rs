//! A unix socket as the local end of a connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::epoll;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};

use super::connection::Stream;

#[derive(Debug)]
pub(crate) struct LocalStream {
    stream: UnixStream,
    /// Tells of readiness once for each change, so that a connection that can do nothing with it costs nothing.
    epoll: Arc<OwnedFd>,
    counted: Option<Arc<AtomicUsize>>,
}

impl LocalStream {
    pub(crate) fn new(stream: UnixStream, epoll: &Arc<OwnedFd>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(LocalStream { stream, epoll: Arc::clone(epoll), counted: None })
    }

    /// Counts it among others for as long as it is there.
    pub(crate) fn counted(mut self, among: Arc<AtomicUsize>) -> Self {
        among.fetch_add(1, Ordering::Relaxed);
        self.counted = Some(among);
        self
    }
}

impl Stream for LocalStream {
    fn watch(&mut self, token: u64) -> io::Result<()> {
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, &self.stream, epoll::EventData::new_u64(token), flags)?)
    }

    fn read(&mut self, into: &mut VolatileSlice<'_>) -> io::Result<usize> {
        self.stream.read_volatile(into).map_err(into_io)
    }

    fn write(&mut self, from: &VolatileSlice<'_>) -> io::Result<usize> {
        self.stream.write_volatile(from).map_err(into_io)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn shutdown(&mut self, how: Shutdown) {
        // The other side may have closed before.
        let _ = self.stream.shutdown(how);
    }
}

impl Drop for LocalStream {
    fn drop(&mut self) {
        // The caller may hold the same socket by another descriptor, which would keep it in the set.
        let _ = epoll::delete(&self.epoll, &self.stream);
        // A unix socket closed with unread bytes turns its peer's end of file into ECONNRESET. Nothing can follow
        // those that are there now.
        let _ = self.stream.shutdown(Shutdown::Both);
        let mut unread = [0; 16 * 1024];
        while matches!(self.stream.read(&mut unread), Ok(1..)) {}
        if let Some(among) = &self.counted {
            among.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn into_io(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        other => io::Error::other(other),
    }
}
