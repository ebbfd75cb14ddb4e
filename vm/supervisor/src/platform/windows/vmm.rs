//! The program that the agent is reached by: started, waited for, ended.

use std::io;
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ipc::mux::{self, Side};
use tokio::runtime::Handle;
use tokio_util::io::SyncIoBridge;

use super::distribution::Distribution;
use crate::carried::Channel;

/// How often it is looked whether it has ended, or is to be.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How much of each direction is under way at most.
const UNDER_WAY: usize = 256 << 10;

/// A running one.
#[derive(Debug)]
pub(crate) struct Vmm {
    pid: u32,
    orders: mpsc::Sender<()>,
}

/// Anonymous pipes can't be waited for by the event loop: a thread reads, another writes, and both end with the program.
fn carry_by_threads(
    stream: tokio::io::DuplexStream,
    mut input: ChildStdin,
    mut output: ChildStdout,
    runtime: &Handle,
) -> Result<()> {
    let (from, to) = tokio::io::split(stream);
    let mut from = SyncIoBridge::new_with_handle(from, runtime.clone());
    let mut to = SyncIoBridge::new_with_handle(to, runtime.clone());
    let write = move || drop(io::copy(&mut from, &mut input));
    let read = move || {
        let _ = io::copy(&mut output, &mut to);
        let _ = to.shutdown();
    };
    thread::Builder::new().name("to-agent".to_owned()).spawn(write).context("failed to start a thread")?;
    thread::Builder::new().name("from-agent".to_owned()).spawn(read).context("failed to start a thread")?;
    Ok(())
}

impl Vmm {
    /// Starts it, has the channel reach who is behind it, and tells `ended` how it ended.
    pub(super) fn start(
        mut command: Command,
        distribution: Distribution,
        channel: &Channel,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let runtime = Handle::current();
        let mut child = command.spawn().context("failed to start WSL's program")?;
        let pid = child.id();
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("WSL's program has no input and output");
        };
        let (ours, theirs) = tokio::io::duplex(UNDER_WAY);
        carry_by_threads(theirs, input, output, &runtime)?;
        let (opener, incoming, carrier) = mux::over(ours, Side::Caller);
        runtime.spawn(async move {
            if let Err(error) = carrier.carry().await {
                tracing::debug!(%error, "the way to the agent broke");
            }
        });
        channel.reach(opener, incoming);
        let (orders, ordered) = mpsc::channel();
        let wait = move || {
            let how = loop {
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => break "it was switched off".to_owned(),
                    Ok(Some(status)) => break format!("WSL's program ended with {status}"),
                    Ok(None) => {}
                    Err(error) => break format!("WSL's program can't be waited for: {error}"),
                }
                if let Ok(()) = ordered.recv_timeout(LOOK_EVERY) {
                    // What runs there goes on without the program until WSL ends it too.
                    if let Err(error) = distribution.terminate() {
                        tracing::warn!("WSL did not end the machine: {error:#}");
                    }
                    let _ = child.kill();
                }
            };
            ended(how);
        };
        thread::Builder::new().name("vmm".to_owned()).spawn(wait).context("failed to start a thread")?;
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
