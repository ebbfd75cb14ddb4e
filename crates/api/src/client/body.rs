//! Bodies of answers: raw chunks, and JSON values line by line.

use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::body::{Body as _, Incoming};
use serde::de::DeserializeOwned;

use super::connect::Socket;
use super::error::Error;
use super::request::Connection;

/// The longest line of a JSON stream.
const LINE_LIMIT: usize = 16 << 20;

/// A connection that moves only while somebody polls it.
pub(crate) struct Link {
    connection: Pin<Box<Connection>>,
    finished: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("finished", &self.finished).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection: Box::pin(connection), finished: false }
    }

    /// Moves bytes until the socket has no more. What the connection's own end means, the answer or
    /// its body tells, so that a result here would only tell it twice.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.connection.poll_without_shutdown(cx));
        self.finished = true;
        Poll::Ready(result)
    }

    pub(crate) async fn drive<T>(
        &mut self,
        answer: impl Future<Output = Result<T, hyper::Error>>,
    ) -> Result<T, hyper::Error> {
        let mut answer = std::pin::pin!(answer);
        poll_fn(|cx| {
            let turned = self.turn(cx);
            match (answer.as_mut().poll(cx), turned) {
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
                (polled, _) => polled,
            }
        })
        .await
    }
}

/// The body of an answer, chunk by chunk. Dropping it closes the connection.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    link: Link,
    what: String,
}

impl Body {
    pub(crate) fn new(incoming: Incoming, link: Link, what: String) -> Self {
        Self { incoming, link, what }
    }

    pub(crate) async fn collect_all(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next().await {
            all.extend_from_slice(&chunk?);
            if all.len() > limit {
                return Err(Error::TooLarge { what: self.what, limit });
            }
        }
        Ok(all)
    }

    /// The bare socket after an upgrade, and what was already read from it.
    pub(crate) async fn into_socket(mut self) -> Result<(Socket, Bytes), Error> {
        let what = self.what;
        poll_fn(|cx| self.link.turn(cx)).await.map_err(|source| Error::Transport { what, source })?;
        let parts = Pin::into_inner(self.link.connection).into_parts();
        Ok((parts.io.into_inner(), parts.read_buf))
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            // What has arrived first: turning the connection costs a system call.
            let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
            if frame.is_pending() {
                let turned = this.link.turn(cx);
                frame = Pin::new(&mut this.incoming).poll_frame(cx);
                if frame.is_pending() {
                    return match turned {
                        Poll::Ready(Err(source)) => {
                            Poll::Ready(Some(Err(Error::Transport { what: this.what.clone(), source })))
                        }
                        Poll::Ready(Ok(())) => Poll::Ready(None),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
            match ready!(frame) {
                None => return Poll::Ready(None),
                Some(Err(source)) => {
                    return Poll::Ready(Some(Err(Error::Transport { what: this.what.clone(), source })));
                }
                Some(Ok(frame)) => {
                    // Anything but data is a trailer, which Docker never sends.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

/// Values of a JSON stream such as events or the progress of a pull.
#[derive(Debug)]
pub struct JsonLines<T> {
    body: Body,
    buffer: BytesMut,
    what: String,
    ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(crate) fn new(body: Body, what: String) -> Self {
        Self { body, buffer: BytesMut::new(), what, ended: false, value: PhantomData }
    }

    /// The next value that lies complete in the buffer; values may follow each other without a line
    /// break between them.
    fn take(&mut self) -> Option<Result<T, Error>> {
        let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.buffer.advance(blank);
        if self.buffer.is_empty() {
            return None;
        }
        let mut values = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<T>();
        match values.next()? {
            Ok(value) => {
                let used = values.byte_offset();
                self.buffer.advance(used);
                Some(Ok(value))
            }
            Err(error) if error.is_eof() && !self.ended && self.buffer.len() < LINE_LIMIT => None,
            Err(source) => {
                self.buffer.clear();
                self.ended = true;
                Some(Err(Error::Decode { what: self.what.clone(), source }))
            }
        }
    }
}

impl<T: DeserializeOwned> Stream for JsonLines<T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(value) = this.take() {
                return Poll::Ready(Some(value));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.body.poll_next_unpin(cx)) {
                Some(Ok(chunk)) => this.buffer.extend_from_slice(&chunk),
                Some(Err(error)) => {
                    this.ended = true;
                    this.buffer.clear();
                    return Poll::Ready(Some(Err(error)));
                }
                None => this.ended = true,
            }
        }
    }
}
