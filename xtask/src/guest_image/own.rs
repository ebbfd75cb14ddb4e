//! Our own kernel: Debian's source with the configuration of `vm/image`, without modules.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::recipe::Machine;

pub(super) fn is_cached(_machine: Machine, _cache: &Path) -> Result<bool> {
    Ok(false)
}

pub(super) fn prepare(_machine: Machine, _cache: &Path) -> Result<PathBuf> {
    anyhow::bail!("there is no own kernel yet")
}
