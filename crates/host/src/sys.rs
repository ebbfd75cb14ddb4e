//! What is another on each system: starting a process that outlives us, who we are, where things are, and what happens in
//! folders. This file picks.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(unix)]
mod unix;
pub(crate) mod watch;
#[cfg(windows)]
mod windows;

use std::io;
use std::path::{Path, PathBuf};

use crate::service::Owner;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// Whose services are ours to install.
pub(crate) fn owner() -> Owner {
    let home = stdx::process::home().unwrap_or_default();
    if is_root() { Owner::System } else { Owner::User { home, id: user_id() } }
}

/// Whoever else listens where `program` should is nobody to be ended.
fn refuse_others(found: &Path, program: &str) -> io::Result<()> {
    if found.file_name().is_some_and(|name| name.to_string_lossy().starts_with(program)) {
        return Ok(());
    }
    Err(io::Error::other(format!("{} answers there", found.display())))
}

/// A variable that says where something is.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
