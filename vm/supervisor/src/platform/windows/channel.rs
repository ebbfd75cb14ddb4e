//! The channel to the guest, of either kind of machine.

use std::io;
use std::time::Duration;

use tokio_util::either::Either;

use crate::{carried, sockets};

/// A machine's.
#[derive(Debug)]
pub(crate) enum Channel {
    /// All in one stream.
    Carried(carried::Channel),
    /// Each a socket.
    Sockets(sockets::Channel),
}

/// A stream to or from the guest: one of many in another, or a socket.
pub(crate) type Stream = Either<carried::Stream, sockets::Stream>;

impl Channel {
    /// Takes the guest's connections to the host's `port`. `accept` must not block.
    pub(crate) fn listen(&self, port: u32, accept: impl Fn(Stream) + Send + Sync + 'static) {
        match self {
            Self::Carried(channel) => channel.listen(port, move |stream| accept(Either::Left(stream))),
            Self::Sockets(channel) => channel.listen(port, move |stream| accept(Either::Right(stream))),
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
            Self::Carried(channel) => channel.open(port, deadline).await.map(Either::Left),
            Self::Sockets(channel) => channel.open(port, deadline).await.map(Either::Right),
        }
    }
}
