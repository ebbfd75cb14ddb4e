//! Sending a machine to sleep: WSL's can't be, so that there is no value of these.

use std::convert::Infallible;

use anyhow::Result;
use vm_manager::saved::Record;

/// What it would take to save one.
#[derive(Debug, Clone)]
pub(crate) struct Saving(Infallible);

/// What it would take to have one go on.
#[derive(Debug)]
pub(crate) struct Waking(Infallible);

/// Whether what was saved can be gone on from.
pub(crate) fn check(_: &Record, _: &Record) -> Result<()> {
    anyhow::bail!("a machine of WSL's can't be saved")
}

impl Waking {
    pub(crate) fn wake(self) -> Result<()> {
        match self.0 {}
    }
}

impl Saving {
    pub(crate) async fn save(&self) -> Result<()> {
        match self.0 {}
    }

    pub(crate) async fn keep_template(&self) -> Result<()> {
        match self.0 {}
    }

    pub(crate) async fn limit_memory(&self, _: u64) -> Result<()> {
        match self.0 {}
    }

    pub(crate) async fn grow_disk(&self, _: u64) -> Result<()> {
        match self.0 {}
    }
}
