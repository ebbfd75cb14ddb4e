//! The data disk promises no more than the host's disk has: what is too much is taken by a file that holds nothing.
//!
//! Without it a write would be taken, and lost when the kernel brings it to a disk of the host that is full. So it is refused
//! when it is made, with `ENOSPC`, which every program understands.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::disk;

fn ballast() -> PathBuf {
    Path::new(disk::DATA).join(".no-room-on-the-host")
}

/// Bytes that are taken so.
pub(crate) fn taken() -> u64 {
    fs::metadata(ballast()).map_or(0, |file| file.blocks() * 512)
}

/// Lets files grow by so much and no more. It takes none of the host's disk: blocks that were never written are nowhere.
pub(crate) fn limit(bytes: u64) -> Result<()> {
    let disk = statvfs(disk::DATA).context("failed to measure the data disk")?;
    let free = disk.f_bavail * disk.f_frsize + taken();
    let surplus = free.saturating_sub(bytes);
    if surplus == 0 {
        return match fs::remove_file(ballast()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("failed to give room back")
            }
            _ => Ok(()),
        };
    }
    let file = File::options().create(true).truncate(false).write(true).open(ballast());
    let file = file.context("failed to hold room back")?;
    if surplus < taken() {
        return file.set_len(surplus).context("failed to give room back");
    }
    match fallocate(&file, FallocateFlags::empty(), 0, surplus) {
        Ok(()) => Ok(()),
        // Somebody wrote after the look: all that there was is held now, and with it what may be taken.
        Err(rustix::io::Errno::NOSPC) => {
            file.set_len(taken().saturating_sub(bytes)).context("failed to give room back")
        }
        Err(error) => Err(error).context("failed to hold room back"),
    }
}
