//! Changes of shared folders on the host, told to the guest, where watchers of files then hear of them.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use vm_devices::{Events, Share, Vsock};
use vm_proto::stream::Open;

use crate::execute;

/// Where a share's changes go, once the guest listens.
#[derive(Debug)]
pub(crate) struct Sink {
    events: Events,
    stream: Mutex<Option<StdStream>>,
    /// The same connection, for whoever ends it while a write waits for the guest.
    end: Mutex<Option<StdStream>>,
}

impl Sink {
    /// Tells no more, so that the guest lets go of the share.
    pub(crate) fn close(&self) {
        if let Some(stream) = self.end.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // One that is closed already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Watches a share. Its changes wait until [`connect`] has been called.
pub(crate) fn watch(share: &Share) -> Result<Arc<Sink>> {
    let sink = Arc::new(Sink { events: share.events(), stream: Mutex::default(), end: Mutex::default() });
    let told = Arc::clone(&sink);
    let tell = move |event: vm_devices::Event| {
        let mut stream = told.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(guest) = stream.as_mut() else { return false };
        if let Err(error) = guest.write_all(&event.encode()) {
            tracing::warn!(%error, "the guest no longer hears of changes in a share");
            *stream = None;
        }
        stream.is_some()
    };
    share.watch(tell).context("failed to watch a share")?;
    Ok(sink)
}

/// Tells the guest of the changes of the share that it has at `path`.
pub(crate) async fn connect(sink: Arc<Sink>, vsock: Arc<Vsock>, path: String) {
    let connected = async {
        let (listener, trigger) = sink.events.next_trigger();
        let stream = execute::open(&vsock, &Open::Changes { path, trigger }).await?.into_std()?;
        stream.set_nonblocking(false)?;
        // A guest that is slow, or stopped for a while, is waited for: what happens meanwhile is kept by the share.
        let end = stream.try_clone()?;
        anyhow::Ok((listener, stream, end))
    };
    match connected.await {
        Ok((listener, stream, end)) => {
            // A write to who listened before ends.
            sink.close();
            *sink.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            sink.events.resume(listener, || {
                *sink.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
            });
        }
        Err(error) => tracing::warn!("the guest does not hear of changes in a share: {error:#}"),
    }
}
