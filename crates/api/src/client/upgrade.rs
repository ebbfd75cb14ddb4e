//! A hijacked connection: two independent directions of raw bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::{ReadHalf, Socket, WriteHalf};

/// What attach and exec hand over. Drop both halves to close it.
#[derive(Debug)]
pub struct Upgraded {
    /// From the process to us.
    pub reader: Reader,
    /// From us to the process. Shutting it down is the process's end of input and leaves
    /// [`Self::reader`] open.
    pub writer: Writer,
    /// Whether the bytes are frames for a [`super::FrameDecoder`], which the engine tells from API
    /// 1.42 on; without a terminal they are, with one they aren't.
    pub multiplexed: bool,
}

impl Upgraded {
    pub(crate) fn new(socket: Socket, rest: Bytes, multiplexed: bool) -> Self {
        let (half, writer) = socket.split();
        Self { reader: Reader { rest, half }, writer: Writer(writer), multiplexed }
    }
}

/// The reading half.
pub struct Reader {
    /// What came with the answer's head.
    rest: Bytes,
    half: ReadHalf,
}

/// The writing half. Dropping it ends the process's input.
pub struct Writer(WriteHalf);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Pin::new(&mut self.half).poll_read(cx, buf);
        }
        let take = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..take]);
        self.rest.advance(take);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
