//! Sending a machine to sleep, and what its sizes are: what the framework does about it. When, `machine` decides.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use vm_manager::places::Places;
use vm_manager::saved::{self, Moment, Record};
use vm_vz::Machine;

use crate::channel::Channel;

/// What it takes to save a machine that runs.
#[derive(Debug, Clone)]
pub(crate) struct Saving {
    pub(super) machine: Arc<Machine>,
    /// Nothing of it is saved.
    pub(super) vsock: Arc<Channel>,
    pub(super) places: Places,
    /// What has to be the same when it wakes up.
    pub(super) record: Record,
}

impl Saving {
    /// Writes the state of a guest that is ready for it, which stands still then. After a failure the guest goes on, and
    /// says hello again.
    pub(crate) async fn save(&self) -> Result<()> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.save_now()).await?
    }

    fn save_now(&self) -> Result<()> {
        self.vsock.hang_up();
        let outcome =
            self.machine.pause().context("failed to have its processors stand still").and_then(|()| {
                self.write().inspect_err(|_| {
                    // Half of it would take room that may be what is missing.
                    if let Err(error) = saved::forget(&self.places, Moment::Sleep) {
                        tracing::warn!(%error, "what was saved in part is left");
                    }
                    if let Err(error) = self.machine.resume() {
                        tracing::warn!(%error, "failed to have the guest go on");
                    }
                })
            });
        if outcome.is_err() {
            self.vsock.hear_again();
        }
        outcome
    }

    fn write(&self) -> Result<()> {
        let draft = Record::begin(&self.places, Moment::Sleep)?;
        // Memory is in the same file.
        File::create(draft.memory())?;
        self.machine.save(&draft.devices())?;
        // The guest takes for written what macOS has only in memory yet.
        File::open(self.places.disk())?.sync_all().context("failed to write its disk")?;
        Ok(draft.keep(&self.record)?)
    }

    /// What a guest is right after its boot is kept only where a boot takes longer than that: here nobody asks for it.
    #[expect(clippy::unused_async, reason = "elsewhere it takes time")]
    pub(crate) async fn keep_template(&self) -> Result<()> {
        bail!("macOS keeps no state of a guest that has just booted")
    }

    /// Has the guest keep to so much memory.
    pub(crate) async fn limit_memory(&self, bytes: u64) -> Result<()> {
        ensure!(bytes <= self.record.config.memory, "it was started with less");
        let machine = Arc::clone(&self.machine);
        Ok(tokio::task::spawn_blocking(move || machine.set_memory(bytes)).await??)
    }

    /// The framework looks at a disk's size when the machine is made.
    #[expect(clippy::unused_async, reason = "elsewhere it can grow")]
    pub(crate) async fn grow_disk(&self, bytes: u64) -> Result<()> {
        bail!("macOS lets a disk grow to {bytes} bytes only while the machine does not run")
    }
}
