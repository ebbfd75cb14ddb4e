//! The program that the agent is reached by: started, waited for, ended.

use std::fs::File;
use std::io;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ipc::mux::{self, Side};
use tokio::net::windows::named_pipe::{NamedPipeServer, ServerOptions};
use tokio::runtime::Handle;

use super::distribution::Distribution;
use crate::carried::Channel;

/// How often it is looked whether it has ended, or is to be.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running one.
#[derive(Debug)]
pub(crate) struct Vmm {
    pid: u32,
    orders: mpsc::Sender<()>,
}

/// A pipe whose end here the event loop waits for, which it can't for what a program's input and output usually are; the
/// other end is the program's. Nobody else gets in: its name is told to nobody, and there is one connection, which is ours.
fn pipe(is_from_program: bool) -> Result<(NamedPipeServer, File)> {
    let mut chance = [0; 16];
    getrandom::fill(&mut chance).map_err(io::Error::other)?;
    let name = format!(r"\\.\pipe\cove-{:032x}", u128::from_le_bytes(chance));
    let mut options = ServerOptions::new();
    options.first_pipe_instance(true).max_instances(1).reject_remote_clients(true);
    let ours = options.access_inbound(is_from_program).access_outbound(!is_from_program).create(&name)?;
    let theirs = File::options().read(!is_from_program).write(is_from_program).open(&name)?;
    // It is connected already, which the system is told here.
    Handle::current().block_on(ours.connect())?;
    Ok((ours, theirs))
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
        let (to, input) = pipe(false).context("failed to make the program's input")?;
        let (from, output) = pipe(true).context("failed to make the program's output")?;
        let mut child =
            command.stdin(input).stdout(output).spawn().context("failed to start WSL's program")?;
        // Its ends are its own from here on.
        drop(command);
        let pid = child.id();
        let (opener, incoming, carrier) = mux::over(tokio::io::join(from, to), Side::Caller);
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
}
