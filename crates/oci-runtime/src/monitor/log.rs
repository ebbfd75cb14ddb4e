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
    /// Room for entries, kept because the system takes long to give and to take back much at once.
    entries: Vec<u8>,
}

/// More room than this is not kept.
const ENTRIES_KEPT: usize = 192 * 1024;

impl Log {
    pub(super) fn open(target: &LogTarget) -> Result<Self> {
        let mut log = Self {
            target: target.clone(),
            file: None,
            size: 0,
            partial: [Vec::new(), Vec::new()],
            second: (u64::MAX, String::new()),
            entries: Vec::new(),
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
        let end = self.end_of_entry(stream, time);
        let mut entries = std::mem::take(&mut self.entries);
        entries.clear();
        entries.reserve(bytes.len() * 2 + 128);
        let slot = usize::from(stream == Stream::Stderr);
        let mut rest = bytes;
        while let Some(at) = find_newline(rest) {
            let (line, after) = rest.split_at(at + 1);
            rest = after;
            if self.partial[slot].is_empty() {
                self.push(stream, line, time, &end, &mut entries);
            } else {
                let mut whole = std::mem::take(&mut self.partial[slot]);
                whole.extend_from_slice(line);
                self.push(stream, &whole, time, &end, &mut entries);
            }
        }
        if !rest.is_empty() {
            self.partial[slot].extend_from_slice(rest);
            if self.partial[slot].len() >= MAX_LINE {
                let part = std::mem::take(&mut self.partial[slot]);
                self.push(stream, &part, time, &end, &mut entries);
            }
        }
        self.append(&entries);
        if entries.capacity() <= ENTRIES_KEPT {
            self.entries = entries;
        }
    }

    /// Writes what has no newline yet.
    pub(super) fn close(&mut self) {
        for (slot, stream) in [(0, Stream::Stdout), (1, Stream::Stderr)] {
            let part = std::mem::take(&mut self.partial[slot]);
            if !part.is_empty() && self.file.is_some() {
                let (mut entries, time) = (Vec::new(), clock::now());
                let end = self.end_of_entry(stream, time);
                self.push(stream, &part, time, &end, &mut entries);
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

    fn push(
        &self,
        stream: Stream,
        line: &[u8],
        time: std::time::Duration,
        end: &[u8],
        entries: &mut Vec<u8>,
    ) {
        for part in line.chunks(MAX_LINE) {
            match self.target.format {
                LogFormat::JsonFile => push_json(part, end, entries),
                LogFormat::Local => push_local(stream, part, time, entries),
                LogFormat::None => {}
            }
        }
    }

    /// What all lines that are written at once end with in `json-file`, their newline first. Put together once: of
    /// short pieces, a million lines are mostly calls of memcpy.
    fn end_of_entry(&mut self, stream: Stream, time: std::time::Duration) -> Vec<u8> {
        if self.second.0 != time.as_secs() {
            self.second.0 = time.as_secs();
            self.second.1.clear();
            clock::push_seconds(time.as_secs(), &mut self.second.1);
        }
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let (second, nanos) = (&self.second.1, time.subsec_nanos());
        format!("{NEWLINE}\",\"stream\":\"{name}\",\"time\":\"{second}.{nanos:09}Z\"}}\n").into_bytes()
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

/// A newline inside of a JSON string.
const NEWLINE: &str = "\\n";

fn push_json(line: &[u8], end: &[u8], entries: &mut Vec<u8>) {
    let (text, end) = match line.split_last() {
        Some((b'\n', text)) => (text, end),
        _ => (line, end.get(NEWLINE.len()..).unwrap_or_default()),
    };
    entries.extend_from_slice(b"{\"log\":\"");
    if is_plain(text) {
        entries.extend_from_slice(text);
    } else {
        escape(text, entries);
    }
    entries.extend_from_slice(end);
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

/// In each byte of a word, its lowest and its highest bit.
const LOWS: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// The highest bit of each byte below `limit`, which is at most 0x80. Only the first that is set counts: those above it may
/// be wrong.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(LOWS * limit as u64) & !word & HIGHS
}

const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (LOWS * byte as u64), 1)
}

/// Eight bytes at once.
fn find_newline(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let found = equal(u64::from_le_bytes(*word), b'\n');
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|byte| *byte == b'\n').map(|at| words.len() * 8 + at)
}

/// Whether text is as it is in JSON: ASCII without anything to be escaped.
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let is_odd = |word: u64| word & HIGHS | below(word, b' ') | equal(word, b'"') | equal(word, b'\\');
    words.iter().all(|word| is_odd(u64::from_le_bytes(*word)) == 0)
        && rest.iter().all(|byte| matches!(byte, b' '..0x80 if *byte != b'"' && *byte != b'\\'))
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

    proptest::proptest! {
        #[test]
        fn eight_bytes_at_once_are_eight_bytes(bytes: Vec<u8>, ascii in "[ -~\n\"]{0,40}") {
            for text in [bytes.as_slice(), ascii.as_bytes()] {
                proptest::prop_assert_eq!(find_newline(text), text.iter().position(|byte| *byte == b'\n'));
                let mut escaped = Vec::new();
                escape(text, &mut escaped);
                // What is plain in other letters than ASCII's is left to the one that knows them.
                proptest::prop_assert_eq!(is_plain(text), text.is_ascii() && escaped == text);
            }
        }

        #[test]
        fn a_line_is_one_of_json(text in "[ -~\t\\\\\"\u{e9}]{0,40}", ends: bool) {
            let line = format!("{text}{}", if ends { "\n" } else { "" });
            let mut entries = Vec::new();
            push_json(line.as_bytes(), b"\\n\",\"stream\":\"stdout\"}\n", &mut entries);
            let entry: serde_json::Value = serde_json::from_slice(&entries).unwrap();
            proptest::prop_assert_eq!(entry["log"].as_str(), Some(line.as_str()));
            proptest::prop_assert!(entries.ends_with(b"\n"));
        }
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
