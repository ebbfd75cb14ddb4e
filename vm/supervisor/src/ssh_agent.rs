//! The user's SSH agent, for a machine that may have it: what connects in the guest speaks to it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::sync::{Semaphore, mpsc};
use vm_proto::port;

use crate::platform::{self, Accepted, Channel};

/// Where the agent is (ssh-agent(1)).
const VARIABLE: &str = "SSH_AUTH_SOCK";
/// How many programs of the guest may speak to it at once.
const AT_ONCE: usize = 16;

/// Serves it for as long as it is polled.
pub(crate) fn serve(vsock: &Channel) -> Result<impl Future<Output = ()> + Send + 'static> {
    let socket = std::env::var_os(VARIABLE).map(PathBuf::from);
    let socket =
        socket.with_context(|| format!("{VARIABLE} is not set here: start one, and the machine anew"))?;
    ensure!(socket.exists(), "{} is not there", socket.display());
    let (sender, mut called) = mpsc::channel(AT_ONCE);
    vsock.listen(port::SSH_AGENT, move |stream| {
        // Beyond what waits already, the guest is hung up on.
        let _ = sender.try_send(stream);
    });
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let tasks = tokio_util::task::TaskTracker::new();
    Ok(async move {
        while let (Some(stream), Ok(place)) = (called.recv().await, Arc::clone(&places).acquire_owned().await)
        {
            let socket = socket.clone();
            tasks.spawn(async move {
                if let Err(error) = carry(stream, &socket).await {
                    tracing::debug!(%error, "a program of the guest did not reach the SSH agent");
                }
                drop(place);
            });
        }
    })
}

async fn carry(stream: Accepted, socket: &std::path::Path) -> std::io::Result<()> {
    let mut guest = platform::accepted(stream)?;
    let mut agent = ipc::connect(socket).await?;
    ipc::relay(&mut guest, &mut agent).await;
    Ok(())
}
