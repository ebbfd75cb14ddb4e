//! Child processes of the first process, which every orphan becomes: one place waits for all of them.
//!
//! `std::process::Child::wait` is never called: whoever waits for any child would take its status away. A child is
//! told apart from an orphan under one lock, before anybody can wait for it.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// The children that somebody waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Children(Arc<Mutex<HashMap<u32, oneshot::Sender<ExitStatus>>>>);

/// A child that was started, and its end.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its pipes, if it has any. Not to be waited for.
    pub(crate) child: Child,
    end: oneshot::Receiver<ExitStatus>,
    status: Option<ExitStatus>,
}

impl Started {
    /// Waits for its end; may be asked again afterwards.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let status = (&mut self.end).await.context("nobody waits for children any more")?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Children {
    /// Starts a program.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Started> {
        let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {}", command.get_program().display()))?;
        let (sender, end) = oneshot::channel();
        waiters.insert(child.id(), sender);
        Ok(Started { child, end, status: None })
    }

    /// Runs a program to its end.
    pub(crate) async fn run(&self, command: &mut Command) -> Result<ExitStatus> {
        self.spawn(command)?.wait().await
    }

    /// Waits for whatever ends, for as long as the guest runs.
    pub(crate) async fn reap(self) -> Result<()> {
        let mut ended = signal(SignalKind::child()).context("failed to hear of children")?;
        loop {
            self.reap_now();
            ended.recv().await;
        }
    }

    fn reap_now(&self) {
        loop {
            let mut waiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // No child at all is no error.
            let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) else { return };
            let waiter = u32::try_from(pid.as_raw_nonzero().get()).ok().and_then(|pid| waiters.remove(&pid));
            if let Some(waiter) = waiter {
                // Whoever waited may be gone.
                let _ = waiter.send(ExitStatus::from_raw(status.as_raw()));
            }
        }
    }
}
