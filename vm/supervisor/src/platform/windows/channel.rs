//! The channel to the guest, of either kind of machine.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::{carried, sockets};

/// A machine's.
#[derive(Debug)]
pub(crate) enum Channel {
    /// All in one stream.
    Carried(carried::Channel),
    /// Each a socket.
    Sockets(sockets::Channel),
}

/// A stream to or from the guest.
#[derive(Debug)]
pub(crate) enum Stream {
    /// One of many in another.
    Carried(carried::Stream),
    /// A socket.
    Socket(TcpStream),
}

impl Channel {
    /// Takes the guest's connections to the host's `port`. `accept` must not block.
    pub(crate) fn listen(&self, port: u32, accept: impl Fn(Stream) + Send + Sync + 'static) {
        match self {
            Self::Carried(channel) => channel.listen(port, move |stream| accept(Stream::Carried(stream))),
            Self::Sockets(channel) => channel.listen(port, move |stream| accept(Stream::Socket(stream))),
        }
    }

    /// How many connections to a port of the guest there are, those that it has not answered yet among them.
    pub(crate) fn connections(&self, port: u32) -> usize {
        match self {
            Self::Carried(channel) => channel.connections(port),
            Self::Sockets(channel) => channel.connections(port),
        }
    }

    /// Has a client speak to a port of the guest. Returns at once; `done` hears how it went.
    pub(super) fn attach(
        &self,
        port: u32,
        client: ipc::Stream,
        deadline: Duration,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        match self {
            Self::Carried(channel) => channel.attach(port, client, deadline, done),
            Self::Sockets(channel) => channel.attach(port, client, deadline, done),
        }
    }

    /// Connects to a port of the guest.
    pub(super) async fn open(&self, port: u32, deadline: Duration) -> io::Result<Stream> {
        match self {
            Self::Carried(channel) => channel.open(port, deadline).await.map(Stream::Carried),
            Self::Sockets(channel) => channel.open(port, deadline).await.map(Stream::Socket),
        }
    }
}

/// Runs `$body` with `$inner` bound to the pinned stream of either kind.
macro_rules! each {
    ($self:ident, $inner:ident => $body:expr) => {
        match $self.get_mut() {
            Self::Carried(stream) => {
                let $inner = Pin::new(stream);
                $body
            }
            Self::Socket(stream) => {
                let $inner = Pin::new(stream);
                $body
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, inner => inner.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, inner => inner.poll_shutdown(cx))
    }
}
