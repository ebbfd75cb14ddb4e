//! What Windows has in place of modes: a user's folders belong to the user alone, and what is made in them inherits that.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Environment variables a child needs to find programs, files and the user's folders. Without `SystemRoot` many of
/// the system's libraries can't be loaded.
pub(crate) const INHERITED: &[&str] = &[
    "PATH",
    "PATHEXT",
    "SystemRoot",
    "SystemDrive",
    "ComSpec",
    "ProgramData",
    "ProgramFiles",
    "USERPROFILE",
    "USERNAME",
    "APPDATA",
    "LOCALAPPDATA",
    "TEMP",
    "TMP",
];

/// The variable that names the user's folder.
pub(crate) const HOME: &str = "USERPROFILE";

pub(crate) fn root_dir() -> PathBuf {
    let drive = std::env::var("SystemDrive").unwrap_or_else(|_| "C:".to_owned());
    format!("{drive}\\").into()
}

pub(crate) fn only_owners_file(_: &mut OpenOptions) {}

pub(crate) fn only_owners_dir(_: &mut DirBuilder) {}

/// NTFS keeps names in its journal by itself; a folder can't be flushed by an ordinary user.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
pub(crate) fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}
