//! The engine's API on a socket of the host: each connection is handed to the channel's device as it is.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::RecvFlags;
use tokio::net::UnixListener;

use crate::platform::Channel;

/// How long the guest may take to accept.
const DEADLINE: Duration = Duration::from_secs(10);

/// Listens; whoever connects speaks to the engine in the guest. Nothing of the API is known here.
pub(crate) fn listen(socket: &Path) -> Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("failed to remove an old socket");
        }
        _ => {}
    }
    // Only the user has the folder: mode 0700.
    UnixListener::bind(socket).with_context(|| format!("failed to listen on {}", socket.display()))
}

/// Has a client speak to the engine.
pub(crate) fn connect(vsock: &Channel, client: UnixStream, port: u32) {
    vsock.attach(port, client, DEADLINE, |outcome| {
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection did not reach the engine");
        }
    });
}

/// Accepts for as long as it is polled, while there is no engine; whoever calls is told, and waits.
pub(crate) async fn await_calls(listener: Arc<UnixListener>, called: impl AsyncFn(UnixStream)) {
    loop {
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) if has_hung_up(&stream) => {}
            Ok(stream) => called(stream).await,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whether who called is gone already.
fn has_hung_up(client: &UnixStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(client, &mut [0; 1][..], flags), Ok((0, _)))
}

/// Accepts for as long as it is polled; `port` is one of those in the guest where the engine is.
pub(crate) async fn serve(listener: Arc<UnixListener>, vsock: Arc<Channel>, port: u32) {
    loop {
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => connect(&vsock, stream, port),
            Err(error) => {
                // Too many open files, perhaps: others may close theirs meanwhile.
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
