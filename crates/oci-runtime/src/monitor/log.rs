//! Writes the container's output to its log file, and rotates it.
//!
//! `json-file` is Docker's: `{"log":"…\n","stream":"stdout","time":"…"}` a line; a `log` without a
//! newline at its end is part of a longer line. `local` records are binary: length of the rest
//! (u32, little-endian), nanoseconds since the epoch (u64), stream (u8), flags (u8, bit 0: the line
//! goes on in the next record), bytes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::io::Stream;
use super::protocol::{LogFormat, LogTarget};
use crate::clock;
use crate::error::{Doing, Result};

/// Lines longer than this are written in parts, as Docker does.
const MAX_LINE: usize = 16 * 1024;

pub(super) struct Log {
    target: LogTarget,
    file: Option<File>,
    size: u64,
    /// Lines not ended yet, per stream.
    partial: [Vec<u8>; 2],
    /// The time's part down to the second, and which second.
    second: (u64, String),
}

impl Log {
    pub(super) fn open(target: &LogTarget) -> Result<Self> {
        let mut log = Self {
            target: target.clone(),
            file: None,
            size: 0,
            partial: [Vec::new(), Vec::new()],
            second: (u64::MAX, String::new()),
        };
        if target.format != LogFormat::None {
            let (file, size) = open_file(&target.path).doing(|| format!("open the log {:?}", target.path))?;
            log.file = Some(file);
            log.size = size;
        }
        Ok(log)
    }

    /// Adds output, cut into lines.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let time = clock::now();
        let mut entries = Vec::with_capacity(bytes.len() + bytes.len() / 2 + 128);
        let slot = usize::from(stream == Stream::Stderr);
        let mut rest = bytes;
        while let Some(end) = find_newline(rest) {
            let (line, after) = rest.split_at(end + 1);
            rest = after;
            if self.partial[slot].is_empty() {
                self.push(stream, line, time, &mut entries);
            } else {
                let mut whole = std::mem::take(&mut self.partial[slot]);
                whole.extend_from_slice(line);
                self.push(stream, &whole, time, &mut entries);
            }
        }
        if !rest.is_empty() {
            self.partial[slot].extend_from_slice(rest);
            if self.partial[slot].len() >= MAX_LINE {
                let part = std::mem::take(&mut self.partial[slot]);
                self.push(stream, &part, time, &mut entries);
            }
        }
        self.append(&entries);
    }

    /// Writes what has no newline yet.
    pub(super) fn close(&mut self) {
        for (slot, stream) in [(0, Stream::Stdout), (1, Stream::Stderr)] {
            let part = std::mem::take(&mut self.partial[slot]);
            if !part.is_empty() && self.file.is_some() {
                let mut entries = Vec::new();
                self.push(stream, &part, clock::now(), &mut entries);
                self.append(&entries);
            }
        }
        self.file = None;
    }

    /// Opens the file anew.
    pub(super) fn reopen(&mut self) {
        if self.file.is_some()
            && let Ok((file, size)) = open_file(&self.target.path)
        {
            self.file = Some(file);
            self.size = size;
        }
    }

    fn push(&mut self, stream: Stream, line: &[u8], time: std::time::Duration, entries: &mut Vec<u8>) {
        for part in line.chunks(MAX_LINE) {
            match self.target.format {
                LogFormat::JsonFile => self.push_json(stream, part, time, entries),
                LogFormat::Local => push_local(stream, part, time, entries),
                LogFormat::None => {}
            }
        }
    }

    fn push_json(&mut self, stream: Stream, line: &[u8], time: std::time::Duration, entries: &mut Vec<u8>) {
        if self.second.0 != time.as_secs() {
            self.second.0 = time.as_secs();
            self.second.1.clear();
            clock::push_seconds(time.as_secs(), &mut self.second.1);
        }
        entries.extend_from_slice(b"{\"log\":\"");
        escape(line, entries);
        let name: &[u8] = if stream == Stream::Stdout { b"stdout" } else { b"stderr" };
        entries.extend_from_slice(b"\",\"stream\":\"");
        entries.extend_from_slice(name);
        entries.extend_from_slice(b"\",\"time\":\"");
        entries.extend_from_slice(self.second.1.as_bytes());
        entries.push(b'.');
        let mut nanos = time.subsec_nanos();
        let mut digits = [b'0'; 9];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(nanos % 10).unwrap_or(0);
            nanos /= 10;
        }
        entries.extend_from_slice(&digits);
        entries.extend_from_slice(b"Z\"}\n");
    }

    fn append(&mut self, entries: &[u8]) {
        if entries.is_empty() {
            return;
        }
        let length = entries.len() as u64;
        if self.target.max_size > 0 && self.size > 0 && self.size + length > self.target.max_size {
            self.rotate();
        }
        if let Some(file) = &mut self.file {
            // A full disk must not stop the container: the output still goes to its clients.
            if file.write_all(entries).is_ok() {
                self.size += length;
            }
        }
    }

    fn rotate(&mut self) {
        let numbered = |n: u32| {
            let mut name = self.target.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let kept = self.target.max_files.max(1);
        for n in (1..kept.saturating_sub(1)).rev() {
            // Those that do not exist yet can't be moved.
            let _ = std::fs::rename(numbered(n), numbered(n + 1));
        }
        if kept > 1 {
            let _ = std::fs::rename(&self.target.path, numbered(1));
        } else {
            let _ = std::fs::remove_file(&self.target.path);
        }
        self.reopen();
    }
}

fn open_file(path: &Path) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn push_local(stream: Stream, line: &[u8], time: std::time::Duration, entries: &mut Vec<u8>) {
    let length = u32::try_from(line.len() + 10).unwrap_or(u32::MAX);
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    entries.extend_from_slice(&length.to_le_bytes());
    entries.extend_from_slice(&nanos.to_le_bytes());
    entries.push(stream as u8);
    entries.push(u8::from(line.last() != Some(&b'\n')));
    entries.extend_from_slice(line);
}

fn find_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

/// Appends `bytes` as the inside of a JSON string; what is no UTF-8 becomes U+FFFD, as Docker has it.
fn escape(bytes: &[u8], into: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut plain = 0;
        for (at, byte) in text.iter().enumerate() {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0..0x20 => b"",
                _ => continue,
            };
            into.extend_from_slice(text.get(plain..at).unwrap_or_default());
            plain = at + 1;
            if escaped.is_empty() {
                into.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
            } else {
                into.extend_from_slice(escaped);
            }
        }
        into.extend_from_slice(text.get(plain..).unwrap_or_default());
        if !chunk.invalid().is_empty() {
            into.extend_from_slice("\\ufffd".as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &[u8], expected: &str) {
        let mut out = Vec::new();
        escape(line, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_strings_hold_any_bytes() {
        check(b"plain\n", "plain\\n");
        check(b"a\"b\\c\td\x1b[0m\r", "a\\\"b\\\\c\\td\\u001b[0m\\r");
        check("gr\u{fc}n".as_bytes(), "gr\u{fc}n");
        check(b"bad \xff byte", "bad \\ufffd byte");
    }

    #[test]
    fn long_lines_come_in_parts_and_rotation_keeps_the_newest_files() {
        let dir = std::env::temp_dir().join(format!("monitor-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let target = LogTarget {
            format: LogFormat::JsonFile,
            path: dir.join("c.log"),
            max_size: 40_000,
            max_files: 3,
        };
        let mut log = Log::open(&target).unwrap();
        log.write(Stream::Stdout, &[b'x'; MAX_LINE + 5]);
        log.write(Stream::Stdout, b"end\n");
        for _ in 0..20 {
            log.write(Stream::Stderr, &[[b'y'; 9_999].as_slice(), b"\n"].concat());
        }
        log.close();
        let mut names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["c.log", "c.log.1", "c.log.2"]);
        for name in names {
            let text = std::fs::read_to_string(dir.join(name)).unwrap();
            assert!(text.len() <= 40_000);
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
