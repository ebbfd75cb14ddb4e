//! The guest's console: kept in a file of bounded length, its end at hand for errors.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A log beyond this is set aside, and the one set aside before is dropped.
const LIMIT: u64 = 4 << 20;
/// How much of its end is kept for errors.
const TAIL: u64 = 8 << 10;

/// The last `lines` of a console, without what would move a terminal's cursor; empty if there is none.
pub(crate) fn last_of(path: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Reads a console to its end, on the calling thread.
pub(crate) fn keep(mut from: impl Read, path: &Path) {
    let mut log = Log::open(path);
    let mut bytes = [0; 8 << 10];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                let bytes = bytes.get(..length).unwrap_or_default();
                log.write(bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A file that is set aside when it has grown.
struct Log {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl Log {
    fn open(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path).ok();
        let length = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        Self { path: path.to_owned(), file, length }
    }

    /// A console that can't be kept, on a full disk, is still read: the guest waits for nobody.
    fn write(&mut self, bytes: &[u8]) {
        if self.length > LIMIT {
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.old"));
            *self = Self::open(&self.path);
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.length += bytes.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_never_stops_takes_bounded_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let line = b"\x1b[2Jsomething happened\r\n";
        keep(std::io::repeat(b'x').take(3 * LIMIT).chain(line.as_slice()), &path);
        let all: u64 = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(all < 3 * LIMIT, "{all}");
        let last = last_of(&path, 1);
        assert!(last.ends_with("[2Jsomething happened") && !last.contains('\x1b'), "{last}");
    }
}
