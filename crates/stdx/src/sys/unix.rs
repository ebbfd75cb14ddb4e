//! Modes of files, and folders on disk, on Linux and macOS.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Environment variables a child needs to find programs, files and the user's locale.
pub(crate) const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TERM",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
];

/// The variable that names the user's folder.
pub(crate) const HOME: &str = "HOME";

pub(crate) fn root_dir() -> PathBuf {
    "/".into()
}

pub(crate) fn only_owners_file(options: &mut OpenOptions) {
    options.mode(0o600);
}

pub(crate) fn only_owners_dir(builder: &mut DirBuilder) {
    builder.mode(0o700);
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
