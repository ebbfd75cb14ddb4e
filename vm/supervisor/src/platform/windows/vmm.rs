//! The program that the agent is reached by: started, waited for, ended.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipc::mux::{self, Side};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::distribution::Distribution;
use crate::carried::Channel;

/// A running one.
#[derive(Debug)]
pub(crate) struct Vmm {
    pid: u32,
    orders: mpsc::UnboundedSender<()>,
}

impl Vmm {
    /// Starts it, has the channel reach who is behind it, and tells `ended` how it ended.
    pub(super) fn start(
        command: Command,
        distribution: Distribution,
        channel: &Channel,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let runtime = Handle::current();
        let _entered = runtime.enter();
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .context("failed to start WSL's program")?;
        let pid = child.id().unwrap_or(0);
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("WSL's program has no input and output");
        };
        let (opener, incoming, carrier) = mux::over(tokio::io::join(output, input), Side::Caller);
        runtime.spawn(async move {
            if let Err(error) = carrier.carry().await {
                tracing::debug!(%error, "the way to the agent broke");
            }
        });
        channel.reach(opener, incoming);
        let (orders, mut ordered) = mpsc::unbounded_channel();
        runtime.spawn(async move {
            let how = loop {
                tokio::select! {
                    status = child.wait() => break match status {
                        Ok(status) if status.success() => "it was switched off".to_owned(),
                        Ok(status) => format!("WSL's program ended with {status}"),
                        Err(error) => format!("WSL's program can't be waited for: {error}"),
                    },
                    Some(()) = ordered.recv() => {
                        // What runs there goes on without the program until WSL ends it too.
                        let distribution = distribution.clone();
                        let terminated = tokio::task::spawn_blocking(move || distribution.terminate());
                        if let Ok(Err(error)) = terminated.await {
                            tracing::warn!("WSL did not end the machine: {error:#}");
                        }
                        let _ = child.start_kill();
                    }
                }
            };
            // Whoever is told may block.
            let _ = tokio::task::spawn_blocking(move || ended(how)).await;
        });
        Ok(Self { pid, orders })
    }

    /// Its process here.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        // It may have ended already.
        let _ = self.orders.send(());
    }

    /// A machine that others share can't stand still.
    #[expect(clippy::unused_self, reason = "elsewhere it can")]
    pub(crate) fn stop(&self) {
        tracing::warn!("this computer's disk is full, and a machine of WSL's can't be made to wait for room");
    }

    /// The same.
    #[expect(clippy::unused_self, reason = "elsewhere it can")]
    pub(crate) fn go_on(&self) {}

    /// It never does.
    #[expect(clippy::unused_self, reason = "elsewhere it may")]
    pub(crate) fn stands_still(&self) -> bool {
        false
    }

    /// WSL does not tell whose is which.
    #[expect(clippy::unused_self, reason = "elsewhere it is known")]
    pub(crate) fn memory(&self) -> Option<u64> {
        None
    }
}
