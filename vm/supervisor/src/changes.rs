//! Changes of shared folders on the host, told to the guest, where watchers of files then hear of them.

use std::io::Write;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use vm_devices::{Share, Vsock};
use vm_proto::stream::Open;

use crate::execute;

/// How long a guest may take to act out what is told, before it is no longer told: its caches expire by themselves.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// Where a share's changes go, once the guest listens.
#[derive(Debug, Default)]
pub(crate) struct Sink(Mutex<Option<StdStream>>);

/// Watches a share. Its changes are dropped until [`connect`] has been called.
pub(crate) fn watch(share: &Share) -> Result<Arc<Sink>> {
    let sink = Arc::new(Sink::default());
    let told = Arc::clone(&sink);
    let tell = move |event: vm_devices::Event| {
        let mut stream = told.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = stream.as_mut().map(|stream| stream.write_all(&event.encode()));
        if let Some(Err(error)) = written {
            tracing::warn!(%error, "the guest no longer hears of changes in a share");
            *stream = None;
        }
    };
    share.watch(tell).context("failed to watch a share")?;
    Ok(sink)
}

/// Tells the guest of the changes of the share that it has at `path`.
pub(crate) async fn connect(sink: Arc<Sink>, vsock: Arc<Vsock>, path: String, trigger: String) {
    let connected = async {
        let stream = execute::open(&vsock, &Open::Changes { path, trigger }).await?.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_DEADLINE))?;
        anyhow::Ok(stream)
    };
    match connected.await {
        Ok(stream) => *sink.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream),
        Err(error) => tracing::warn!("the guest does not hear of changes in a share: {error:#}"),
    }
}
