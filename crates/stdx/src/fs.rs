//! File writes that a crash can't tear: temp file, optional fsync, rename.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

/// How long a write has to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It must outlive this process, not a power cut.
    Process,
    /// It must outlive a power cut: file and directory are fsynced.
    Power,
}

/// Replaces `path` with `bytes` in one step, readable by its owner alone: a reader sees the old file or the new one.
///
/// # Errors
/// Any error of creating, writing, syncing or renaming; the temp file is removed then.
pub fn write_atomic(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".tmp-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let temp: PathBuf = dir.join(name);
    let written = write_new(&temp, bytes, durability).and_then(|()| std::fs::rename(&temp, path));
    if let Err(error) = written {
        // The write has failed already; a leftover is swept at the next start.
        let _ = std::fs::remove_file(&temp);
        return Err(error);
    }
    if durability == Durability::Power {
        sync_dir(dir)?;
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    sys::only_owners_file(&mut options);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    if durability == Durability::Power {
        file.sync_all()?;
    }
    Ok(())
}

/// Makes renames and creations inside `dir` outlive a power cut.
///
/// # Errors
/// Any error of opening or syncing the directory.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    sys::sync_dir(dir)
}

/// Makes a folder that nobody else can look into, and those above it that are missing; one that is there stays as it is.
///
/// # Errors
/// Any error of making them.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    sys::only_owners_dir(&mut builder);
    builder.create(path)
}

/// Reads a file of procfs, sysfs or cgroupfs. Their sizes are unknown, and the kernel makes the text
/// anew for each read, so it is asked for with one large buffer instead of growing ones.
///
/// # Errors
/// Any error of opening or reading, and text that is not UTF-8.
pub fn read_kernel_text(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::with_capacity(16 << 10);
    File::open(path)?.read_to_string(&mut text)?;
    text.shrink_to_fit();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_no_temp_file() {
        let dir = std::env::temp_dir().join(format!("stdx-fs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("state.json");
        write_atomic(&path, b"a much longer first version", Durability::Power).unwrap();
        write_atomic(&path, b"second", Durability::Process).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
