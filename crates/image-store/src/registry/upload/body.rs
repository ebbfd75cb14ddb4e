//! A blob's bytes as the body of a request, and how many of them have gone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use model::Digest;

use super::TellSent;

/// Bytes read at once.
const READ: u64 = 256 << 10;
/// Bytes handed on at once: a connection that takes fewer in the time of a stall is stalled.
const PART: usize = 16 << 10;

/// What is sent.
#[derive(Debug, Clone)]
pub(in crate::registry) struct Blob {
    pub(in crate::registry) digest: Digest,
    pub(in crate::registry) size: u64,
    pub(in crate::registry) content: Content,
}

/// Where its bytes are. A file that is open stays readable, whatever is removed meanwhile.
#[derive(Debug, Clone)]
pub(in crate::registry) enum Content {
    File(Arc<File>),
    Memory(Bytes),
}

/// How far a request's body has gone.
#[derive(Debug)]
pub(super) struct Gauge {
    length: u64,
    patience: Duration,
    left: Arc<AtomicU64>,
}

impl Gauge {
    /// For a body of so many bytes; `patience` is for the answer, once they have gone.
    pub(super) fn new(length: u64, patience: Duration) -> Self {
        Self { length, patience, left: Arc::new(AtomicU64::new(length)) }
    }

    pub(super) fn moved(&self) -> u64 {
        self.length - self.left.load(Ordering::Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }
}

struct State {
    content: Content,
    at: u64,
    end: u64,
    read: Bytes,
    left: Arc<AtomicU64>,
    tell: TellSent,
}

impl Blob {
    /// A part of it.
    pub(super) fn body(&self, start: u64, length: u64, gauge: &Gauge, tell: &TellSent) -> reqwest::Body {
        gauge.left.store(length, Ordering::Relaxed);
        let state = State {
            content: self.content.clone(),
            at: start,
            end: start + length,
            read: Bytes::new(),
            left: Arc::clone(&gauge.left),
            tell: Arc::clone(tell),
        };
        reqwest::Body::wrap_stream(stream::try_unfold(state, |mut state| async move {
            Ok::<_, std::io::Error>(state.next().await?.map(|part| (part, state)))
        }))
    }
}

impl State {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.at >= self.end {
            return Ok(None);
        }
        if self.read.is_empty() {
            self.read = self.content.read(self.at, (self.end - self.at).min(READ)).await?;
        }
        let part = self.read.split_to(self.read.len().min(PART));
        self.at += part.len() as u64;
        self.left.store(self.end - self.at, Ordering::Relaxed);
        (self.tell)(self.at);
        Ok(Some(part))
    }
}

impl Content {
    async fn read(&self, at: u64, length: u64) -> std::io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(at).unwrap_or(usize::MAX);
                let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
                Ok(bytes.slice(start.min(bytes.len())..end.min(bytes.len())))
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || {
                    let mut buffer = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                    file.read_exact_at(&mut buffer, at).map(|()| Bytes::from(buffer))
                });
                read.await.map_err(std::io::Error::other)?
            }
        }
    }
}
