//! Sending a machine to sleep, which no kind can here, and changing its sizes, which Hyper-V's can in part.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Result, bail};
use vm_hyperv::connection::Connection;
use vm_hyperv::request::Request;
use vm_manager::saved::Record;

/// What it takes to change the sizes of a machine of Hyper-V's.
#[derive(Debug, Clone)]
pub(crate) struct Saving(pub(super) Arc<Connection>);

/// What it would take to have one go on.
#[derive(Debug)]
pub(crate) struct Waking(Infallible);

/// Whether what was saved can be gone on from.
pub(crate) fn check(_: &Record, _: &Record) -> Result<()> {
    bail!("machines can't be saved on Windows")
}

impl Waking {
    pub(crate) fn wake(self) -> Result<()> {
        match self.0 {}
    }
}

impl Saving {
    #[expect(clippy::unused_async, reason = "elsewhere it takes time")]
    pub(crate) async fn save(&self) -> Result<()> {
        bail!("machines can't be saved on Windows")
    }

    #[expect(clippy::unused_async, reason = "elsewhere it takes time")]
    pub(crate) async fn keep_template(&self) -> Result<()> {
        bail!("machines can't be saved on Windows")
    }

    /// Has it have so much memory.
    pub(crate) async fn limit_memory(&self, bytes: u64) -> Result<()> {
        let connection = Arc::clone(&self.0);
        let set = move || connection.ask(Request::SetMemory { bytes });
        tokio::task::spawn_blocking(set).await??;
        Ok(())
    }

    /// A disk's file is the machine's for as long as it runs.
    #[expect(clippy::unused_async, reason = "elsewhere it can grow")]
    pub(crate) async fn grow_disk(&self, bytes: u64) -> Result<()> {
        bail!("Windows lets a disk grow to {bytes} bytes only while the machine does not run")
    }
}
