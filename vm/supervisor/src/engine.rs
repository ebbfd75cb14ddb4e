//! The engine's API on a socket of the host: each connection is handed to the channel's device as it is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::Mutex;

use crate::platform::{self, Channel};

/// How long the guest may take to accept.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where clients connect; one task at a time accepts.
pub(crate) type Listener = Mutex<ipc::Listener>;

/// Listens; whoever connects speaks to the engine in the guest. Nothing of the API is known here.
pub(crate) fn listen(socket: &Path) -> Result<ipc::Listener> {
    ipc::clear(socket).context("failed to remove an old socket")?;
    // Only the user has the folder, or may open the pipe.
    ipc::bind(socket).with_context(|| format!("failed to listen on {}", socket.display()))
}

/// Has a client speak to the engine.
pub(crate) fn connect(vsock: &Channel, client: ipc::Stream, port: u32) {
    platform::attach(vsock, port, client, DEADLINE, |outcome| {
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection did not reach the engine");
        }
    });
}

/// Accepts for as long as it is polled, while there is no engine; whoever calls is told, and waits.
pub(crate) async fn await_calls(listener: Arc<Listener>, called: impl AsyncFn(ipc::Stream)) {
    let mut listener = listener.lock().await;
    loop {
        match ipc::accept(&mut listener).await {
            Ok(stream) if ipc::has_hung_up(&stream) => {}
            Ok(stream) => called(stream).await,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Accepts for as long as it is polled; `port` is one of those in the guest where the engine is.
pub(crate) async fn serve(listener: Arc<Listener>, vsock: Arc<Channel>, port: u32) {
    let mut listener = listener.lock().await;
    loop {
        match ipc::accept(&mut listener).await {
            Ok(stream) => connect(&vsock, stream, port),
            Err(error) => {
                // Too many open files, perhaps: others may close theirs meanwhile.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
