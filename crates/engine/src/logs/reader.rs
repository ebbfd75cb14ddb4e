//! Reads log files in order, through rotations.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_runtime::monitor::protocol::{LogFormat, LogTarget};

use super::LogQuery;
use super::entry::{Entry, parse_json, parse_local};

/// How much is read at once.
const BLOCK: usize = 256 * 1024;

pub(super) struct Reader {
    query: LogQuery,
    format: LogFormat,
    path: PathBuf,
    /// Files still to be read, the next one last.
    ahead: Vec<File>,
    current: Option<File>,
    /// Bytes read and not understood yet: an entry's beginning.
    partial: Vec<u8>,
    /// Tells that the current file grew or was moved.
    watch: Option<rustix::fd::OwnedFd>,
    /// Entries already found, for `tail`.
    found: Option<Vec<Entry>>,
}

impl Reader {
    pub(super) fn open(target: &LogTarget, query: LogQuery) -> Self {
        // The oldest file has the highest number.
        let mut ahead: Vec<File> = File::open(&target.path).into_iter().collect();
        for number in 1..target.max_files {
            let mut name = target.path.clone().into_os_string();
            name.push(format!(".{number}"));
            match File::open(name) {
                Ok(file) => ahead.push(file),
                Err(_) => break,
            }
        }
        let mut reader = Self {
            format: target.format,
            path: target.path.clone(),
            current: ahead.pop(),
            ahead,
            partial: Vec::new(),
            watch: None,
            found: None,
            query,
        };
        if reader.query.follow {
            reader.watch = watch(&reader.path);
        }
        if let Some(lines) = reader.query.tail {
            reader.skip_to_tail(lines);
        }
        reader
    }

    pub(super) fn follows(&self) -> bool {
        self.query.follow
    }

    /// The next entries; empty at the present end.
    pub(super) fn next_batch(&mut self) -> io::Result<Vec<Entry>> {
        if let Some(found) = self.found.take() {
            let wanted: Vec<Entry> = found.into_iter().filter(|entry| self.wants(entry)).collect();
            if !wanted.is_empty() {
                return Ok(wanted);
            }
        }
        loop {
            let Some(file) = &mut self.current else {
                // The file may not have been there when this began.
                let Ok(file) = File::open(&self.path) else { return Ok(Vec::new()) };
                self.current = Some(file);
                continue;
            };
            let start = self.partial.len();
            self.partial.resize(start + BLOCK, 0);
            let read = file.read(self.partial.get_mut(start..).unwrap_or_default());
            let length = *read.as_ref().unwrap_or(&0);
            self.partial.truncate(start + length);
            read?;
            if length == 0 {
                if self.next_file() {
                    continue;
                }
                return Ok(Vec::new());
            }
            let batch = self.take_entries();
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// Moves on to the file after this one, if there is one.
    fn next_file(&mut self) -> bool {
        if let Some(next) = self.ahead.pop() {
            self.partial.clear();
            self.current = Some(next);
            return true;
        }
        let inode = |metadata: io::Result<std::fs::Metadata>| metadata.ok().map(|m| m.ino());
        let ours = self.current.as_ref().and_then(|file| inode(file.metadata()));
        let newest = inode(std::fs::metadata(&self.path));
        if self.query.follow && newest.is_some() && ours != newest {
            self.partial.clear();
            self.current = File::open(&self.path).ok();
            self.watch = watch(&self.path);
            return self.current.is_some();
        }
        false
    }

    fn take_entries(&mut self) -> Vec<Entry> {
        let (entries, used) = parse(self.format, &self.partial);
        self.partial.drain(..used);
        entries.into_iter().filter(|entry| self.wants(entry)).collect()
    }

    fn wants(&self, entry: &Entry) -> bool {
        let is_wanted_stream = if entry.stream == 1 { self.query.stdout } else { self.query.stderr };
        is_wanted_stream
            && self.query.since.is_none_or(|since| entry.at >= since)
            && self.query.until.is_none_or(|until| entry.at <= until)
    }

    /// Reads backwards until enough entries are known, and goes on from the end.
    fn skip_to_tail(&mut self, lines: usize) {
        let mut files: Vec<File> = std::mem::take(&mut self.ahead);
        files.extend(self.current.take());
        // The newest is first in `files` as it was last in line.
        let mut kept: Vec<Entry> = Vec::new();
        let mut newest = None;
        for (at, mut file) in files.into_iter().enumerate() {
            let (entries, end) = self.last_entries(&mut file, lines.saturating_sub(kept.len()));
            let mut entries = entries;
            entries.append(&mut kept);
            kept = entries;
            if at == 0 && file.seek(SeekFrom::Start(end)).is_ok() {
                newest = Some(file);
            }
            if kept.len() >= lines {
                break;
            }
        }
        let surplus = kept.len().saturating_sub(lines);
        kept.drain(..surplus);
        self.current = newest;
        self.found = Some(kept);
    }

    /// The last wanted entries of a file, and where what was understood of it ends.
    fn last_entries(&self, file: &mut File, lines: usize) -> (Vec<Entry>, u64) {
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let mut span = (BLOCK as u64).min(size);
        loop {
            // Records of `local` can't be found from the middle: they are read from the start.
            let from = if self.format == LogFormat::Local { 0 } else { size - span };
            let mut bytes = Vec::new();
            if file.seek(SeekFrom::Start(from)).is_err()
                || file.by_ref().take(size - from).read_to_end(&mut bytes).is_err()
            {
                return (Vec::new(), size);
            }
            // From the middle, the first line is the end of one.
            let skipped =
                if from == 0 { 0 } else { memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |at| at + 1) };
            let (entries, used) = parse(self.format, bytes.get(skipped..).unwrap_or_default());
            let wanted: Vec<Entry> = entries.into_iter().filter(|entry| self.wants(entry)).collect();
            if wanted.len() >= lines || from == 0 {
                return (wanted, from + (skipped + used) as u64);
            }
            span = (span * 4).min(size);
        }
    }

    /// Waits until the file changes, at most so long.
    pub(super) fn wait(&self, at_most: Duration) {
        let Some(watch) = &self.watch else {
            std::thread::sleep(at_most);
            return;
        };
        let mut fds = [rustix::event::PollFd::new(watch, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: at_most.subsec_nanos().into() };
        if rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0) {
            // What happened does not matter, only that it did.
            let mut events = [0_u8; 4096];
            while rustix::io::read(watch, &mut events).is_ok_and(|length| length > 0) {}
        }
    }
}

fn watch(path: &Path) -> Option<rustix::fd::OwnedFd> {
    use rustix::fs::inotify;
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    inotify::add_watch(&fd, path, inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVE_SELF).ok()?;
    Some(fd)
}

/// Whole entries from the front, and how many bytes they took.
fn parse(format: LogFormat, bytes: &[u8]) -> (Vec<Entry>, usize) {
    let mut entries = Vec::new();
    let mut used = 0;
    if format == LogFormat::Local {
        while let Some((entry, length)) = parse_local(bytes.get(used..).unwrap_or_default()) {
            entries.push(entry);
            used += length;
        }
        return (entries, used);
    }
    while let Some(end) = memchr::memchr(b'\n', bytes.get(used..).unwrap_or_default()) {
        entries.extend(parse_json(bytes.get(used..used + end).unwrap_or_default()));
        used += end + 1;
    }
    (entries, used)
}
