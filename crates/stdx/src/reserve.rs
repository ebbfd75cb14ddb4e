//! Room on a disk kept for writes that make room: a file that is given up when the disk is full.

use std::path::PathBuf;

use rustix::fs::FallocateFlags;

/// A file of [`Reserve::SIZE`] bytes, or the wish for it.
#[derive(Debug)]
pub struct Reserve(PathBuf);

impl Reserve {
    /// A megabyte.
    pub const SIZE: u64 = 1 << 20;

    /// At this path; [`Self::take`] makes it.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Takes the room, where there is some; without it only a full disk is harder to clear.
    pub fn take(&self) {
        if self.0.exists() {
            return;
        }
        let made = std::fs::File::create(&self.0)
            .and_then(|file| Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, Self::SIZE)?));
        if made.is_err() {
            self.give_up();
        }
    }

    /// Gives the room to whoever writes next.
    pub fn give_up(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_given_up_and_taken_again() {
        let path = std::env::temp_dir().join(format!("stdx-reserve-{}", std::process::id()));
        let reserve = Reserve::at(path.clone());
        for _ in 0..2 {
            reserve.take();
            reserve.take();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), Reserve::SIZE);
            reserve.give_up();
            reserve.give_up();
            assert!(!path.exists());
        }
    }
}
