//! Sending a machine to sleep, and changing its sizes: what Hyper-V does about it. WSL2's can do neither. When, `machine`
//! decides.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use vm_hyperv::connection::Connection;
use vm_hyperv::hcs::document::Share;
use vm_hyperv::request::Request;
use vm_manager::places::Places;
use vm_manager::saved::{self, Moment, Record};

use super::Channel;

/// What it takes to save a machine of Hyper-V's that runs, and to change its sizes.
#[derive(Debug, Clone)]
pub(crate) struct Saving {
    pub(super) connection: Arc<Connection>,
    /// Nothing of it is saved.
    pub(super) vsock: Arc<Channel>,
    /// Nor of these.
    pub(super) folders: Vec<Share>,
    pub(super) places: Places,
    /// What has to be the same when it wakes up.
    pub(super) record: Record,
    /// Bytes of memory that it has now.
    pub(super) memory: Arc<AtomicU64>,
}

/// What it takes to have one that was saved go on.
#[derive(Debug)]
pub(crate) struct Waking {
    pub(super) connection: Arc<Connection>,
    pub(super) folders: Vec<Share>,
    pub(super) places: Places,
    pub(super) moment: Moment,
}

/// Whether what was saved can be gone on from: Windows knows better than we.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is something to compare")]
pub(crate) fn check(_: &Record, _: &Record) -> Result<()> {
    Ok(())
}

/// Has a machine that runs have folders. One that can't be had keeps nothing else from working: the agent says which.
pub(super) fn add_folders(connection: &Connection, folders: Vec<Share>) {
    for folder in folders {
        let path = folder.path.display().to_string();
        if let Err(error) = connection.ask(Request::AddShare(folder)) {
            tracing::warn!(%error, path, "a folder is not shared");
        }
    }
}

impl Waking {
    /// Has it go on. That what was saved is out of use, on disk too, was seen to when the machine was made of it. Blocks.
    pub(crate) fn wake(self) -> Result<()> {
        let Self { connection, folders, places, moment } = self;
        connection.ask(Request::Start).context("Windows does not have it go on")?;
        add_folders(&connection, folders);
        if let Err(error) = saved::forget(&places, moment) {
            // Windows may have the file open for a while. It is out of use already.
            tracing::warn!(%error, "what was saved is left, out of use");
        }
        Ok(())
    }
}

impl Saving {
    /// Writes the state of a guest that is ready for it, which stands still then. After a failure the guest goes on, and
    /// says hello again.
    pub(crate) async fn save(&self) -> Result<()> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.save_now()).await?
    }

    fn save_now(&self) -> Result<()> {
        let Channel::Sockets(channel) = &*self.vsock else { bail!("the channel is of another kind") };
        channel.hang_up();
        for folder in &self.folders {
            // One that was not added can't be taken away.
            let _ = self.connection.ask(Request::RemoveShare { tag: folder.tag.clone() });
        }
        let outcome = self.write();
        if outcome.is_err() {
            // Half of it would take room that may be what is missing.
            if let Err(error) = saved::forget(&self.places, Moment::Sleep) {
                tracing::warn!(%error, "what was saved in part is left");
            }
            add_folders(&self.connection, self.folders.clone());
            channel.hear_again();
        }
        outcome
    }

    fn write(&self) -> Result<()> {
        let draft = Record::begin(&self.places, Moment::Sleep)?;
        // Memory is in the same file.
        File::create(draft.memory())?;
        self.connection.ask(Request::Save { file: draft.devices() }).context("Windows does not save it")?;
        let mut record = self.record.clone();
        record.config.memory = self.memory.load(Ordering::Relaxed);
        draft.keep(&record).map_err(|error| {
            // Before it takes another step.
            let forgotten = saved::forget(&self.places, Moment::Sleep);
            if let Err(error) = forgotten
                .map_err(anyhow::Error::from)
                .and_then(|()| self.connection.ask(Request::Resume).map(drop).map_err(anyhow::Error::from))
            {
                tracing::warn!("failed to have the guest go on: {error:#}");
            }
            error.into()
        })
    }

    /// What a guest is right after its boot is kept only where a boot takes longer than that: here nobody asks for it.
    #[expect(clippy::unused_async, reason = "elsewhere it takes time")]
    pub(crate) async fn keep_template(&self) -> Result<()> {
        bail!("Windows keeps no state of a guest that has just booted")
    }

    /// Has it have so much memory.
    pub(crate) async fn limit_memory(&self, bytes: u64) -> Result<()> {
        let connection = Arc::clone(&self.connection);
        let set = move || connection.ask(Request::SetMemory { bytes });
        tokio::task::spawn_blocking(set).await??;
        self.memory.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A disk's file is the machine's for as long as it runs.
    #[expect(clippy::unused_async, reason = "elsewhere it can grow")]
    pub(crate) async fn grow_disk(&self, bytes: u64) -> Result<()> {
        bail!("Windows lets a disk grow to {bytes} bytes only while the machine does not run")
    }
}
