//! Unpacks one layer's archive into a tree that overlay can stack.
//!
//! The kernel resolves every path with the tree as its root. The directory of the entry before is
//! kept open: archives list directories together, so a file costs little more than its own calls.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::tar_stream::{TarEntry, TarStream};

use crate::error::{Doing, Error, Result};

/// Deleted names are marked by this prefix (OCI image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// A directory whose lower content is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// An unpacking under way.
pub(crate) struct Unpacker {
    root: OwnedFd,
    opaque_name: &'static str,
    /// The directory used last.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories whose times are set at the end, when nothing is made in them any more.
    times: Vec<(PathBuf, Timespec)>,
    /// Directories that were made for what is in them, and have had no entry of their own yet.
    implied: BTreeSet<PathBuf>,
    umask: u32,
    size: u64,
    buffer: Vec<u8>,
}

impl Unpacker {
    /// Unpacks into the existing directory `dir`.
    pub(crate) fn new(dir: &Path, is_userxattr: bool) -> Result<Self> {
        let root = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open {dir:?}"))?;
        // The mask is the process's; asking for it means setting it, so /proc is asked.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        let umask = mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777);
        let opaque_name = if is_userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
        Ok(Self {
            root,
            opaque_name,
            parent: None,
            times: Vec::new(),
            implied: BTreeSet::from([PathBuf::new()]),
            umask,
            size: 0,
            buffer: vec![0; 128 * 1024],
        })
    }

    /// Bytes of file content unpacked.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The directories the archive has something in, but no entry of; the root is the empty path.
    pub(crate) fn into_implied(self) -> impl Iterator<Item = PathBuf> {
        self.implied.into_iter()
    }

    /// Unpacks the whole archive.
    pub(crate) fn unpack(&mut self, from: &mut impl Read) -> Result<()> {
        let mut stream = TarStream::new(from);
        let malformed = |error: io::Error| match error.kind() {
            io::ErrorKind::Other
            | io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidInput => {
                Error::corrupt(format!("the layer's archive is malformed: {error}"))
            }
            _ => Error::Os { doing: "read the layer's archive".into(), source: error },
        };
        while let Some(entry) = stream.next_entry().map_err(malformed)? {
            let name = PathBuf::from(OsStr::from_bytes(&entry.path));
            self.entry(&clean(&name), &entry, &mut stream)
                .map_err(|source| Error::Unpack { path: name, source })?;
        }
        for (path, time) in std::mem::take(&mut self.times) {
            // One that a later entry took away needs none.
            if let Ok(fd) = self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                let _ = rustix::fs::futimens(&fd, &stamps(time));
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, entry: &TarEntry, data: &mut impl Read) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return self.root_entry(entry);
        };
        let name = name.to_owned();
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&name);
        }
        if entry.kind == EntryType::Directory {
            self.make_dir(&name, entry)?;
            self.implied.remove(path);
        } else {
            self.make(&name, entry, data)?;
            if entry.kind == EntryType::Link {
                return Ok(());
            }
        }
        self.finish(path, &name, entry)
    }

    /// The entry of the root itself: it says how the container's `/` looks.
    fn root_entry(&mut self, entry: &TarEntry) -> io::Result<()> {
        if entry.kind != EntryType::Directory {
            return Ok(());
        }
        let root = rustix::fs::openat(&self.root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fchown(&root, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(entry.mode))?;
        self.times.push((PathBuf::new(), timespec(entry)));
        self.implied.remove(Path::new(""));
        Ok(())
    }

    /// Makes `dir` the current directory, making what is missing of it.
    fn enter(&mut self, dir: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == dir) {
            return Ok(());
        }
        let fd = match self.open(dir, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.make_missing(dir)?,
            other => other?,
        };
        self.parent = Some((dir.to_owned(), fd));
        Ok(())
    }

    fn make_missing(&mut self, dir: &Path) -> io::Result<OwnedFd> {
        let above = match dir.parent() {
            Some(parent) if parent != Path::new("") => {
                match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
                    Err(Errno::NOENT) => self.make_missing(parent)?,
                    other => other?,
                }
            }
            _ => self.open(Path::new(""), OFlags::PATH | OFlags::DIRECTORY)?,
        };
        let name = dir.file_name().ok_or(io::ErrorKind::InvalidData)?;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => drop(self.implied.insert(dir.to_owned())),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.open(dir, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    /// Resolves a path with the tree as `/`.
    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    fn at(&self) -> io::Result<&OwnedFd> {
        self.parent.as_ref().map(|(_, fd)| fd).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn whiteout(&mut self, name: &OsStr) -> io::Result<()> {
        if name.as_bytes() == OPAQUE {
            let dir = rustix::fs::openat(self.at()?, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            return Ok(rustix::fs::fsetxattr(&dir, self.opaque_name, b"y", XattrFlags::empty())?);
        }
        let hidden = name.as_bytes().strip_prefix(WHITEOUT).unwrap_or_default();
        // AUFS's own book-keeping (`.wh..wh.plnk`) hides nothing.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a whiteout without a name"));
        }
        let hidden = OsStr::from_bytes(hidden);
        self.clear(hidden)?;
        Ok(rustix::fs::mknodat(self.at()?, hidden, FileType::CharacterDevice, Mode::empty(), 0)?)
    }

    /// Removes what an earlier entry of the same archive made under this name.
    fn clear(&mut self, name: &OsStr) -> io::Result<()> {
        let at = self.at()?;
        match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => remove_tree(at, name),
            Err(error) => Err(error.into()),
        }
    }

    fn make_dir(&mut self, name: &OsStr, entry: &TarEntry) -> io::Result<()> {
        let mode = Mode::from_raw_mode(entry.mode);
        match rustix::fs::mkdirat(self.at()?, name, mode) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let stat = rustix::fs::statat(self.at()?, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        self.clear(name)?;
        Ok(rustix::fs::mkdirat(self.at()?, name, mode)?)
    }

    fn make(&mut self, name: &OsStr, entry: &TarEntry, data: &mut impl Read) -> io::Result<()> {
        let mode = Mode::from_raw_mode(entry.mode);
        match entry.kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_file(name, entry, data)
            }
            EntryType::Symlink => {
                self.replace(name, |at| rustix::fs::symlinkat(entry.link.as_slice(), at, name))
            }
            EntryType::Link => {
                let target = clean(Path::new(OsStr::from_bytes(&entry.link)));
                let from =
                    self.open(target.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)?;
                let target = target.file_name().ok_or(io::ErrorKind::InvalidData)?.to_owned();
                self.replace(name, |at| rustix::fs::linkat(&from, &target, at, name, AtFlags::empty()))
            }
            EntryType::Fifo => {
                self.replace(name, |at| rustix::fs::mknodat(at, name, FileType::Fifo, mode, 0))
            }
            EntryType::Char | EntryType::Block => {
                let is_char = entry.kind == EntryType::Char;
                let kind = if is_char { FileType::CharacterDevice } else { FileType::BlockDevice };
                let (major, minor) =
                    (entry.header.device_major()?.unwrap_or(0), entry.header.device_minor()?.unwrap_or(0));
                let number = rustix::fs::makedev(major, minor);
                match self.replace(name, |at| rustix::fs::mknodat(at, name, kind, mode, number)) {
                    // Without root no device can be made, nor could one be opened: an empty file stands in.
                    Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                        self.create(name, mode).map(drop)
                    }
                    other => other,
                }
            }
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entries of kind {other:?} are not supported"),
            )),
        }
    }

    /// Makes something under a name that may be taken by an earlier entry.
    fn replace(&mut self, name: &OsStr, make: impl Fn(&OwnedFd) -> rustix::io::Result<()>) -> io::Result<()> {
        match make(self.at()?) {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                Ok(make(self.at()?)?)
            }
            other => Ok(other?),
        }
    }

    fn create(&mut self, name: &OsStr, mode: Mode) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.at()?, name, flags, mode) {
            Err(Errno::EXIST) => {
                self.clear(name)?;
                Ok(File::from(rustix::fs::openat(self.at()?, name, flags, mode)?))
            }
            other => Ok(File::from(other?)),
        }
    }

    fn make_file(&mut self, name: &OsStr, entry: &TarEntry, data: &mut impl Read) -> io::Result<()> {
        let mut file = self.create(name, Mode::from_raw_mode(entry.mode))?;
        match &entry.parts {
            Some(parts) => write_sparse(data, &mut file, parts, entry.size)?,
            None => self.copy(data, &mut file)?,
        }
        self.size += entry.size;
        Ok(())
    }

    /// One buffer for all files: most are smaller than it, and take one read and one write.
    fn copy(&mut self, from: &mut impl Read, into: &mut File) -> io::Result<()> {
        loop {
            let mut filled = 0;
            while filled < self.buffer.len() {
                match from.read(self.buffer.get_mut(filled..).unwrap_or_default())? {
                    0 => break,
                    length => filled += length,
                }
            }
            if filled == 0 {
                return Ok(());
            }
            into.write_all(self.buffer.get(..filled).unwrap_or_default())?;
            if filled < self.buffer.len() {
                return Ok(());
            }
        }
    }

    /// Owner, mode, attributes and time of what was just made. It lies in the tree's own directory,
    /// which nobody else can reach yet, so its name is what it was.
    fn finish(&mut self, path: &Path, name: &OsStr, entry: &TarEntry) -> io::Result<()> {
        let is_symlink = entry.kind == EntryType::Symlink;
        if entry.uid != 0 || entry.gid != 0 {
            let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            rustix::fs::chownat(self.at()?, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // mkdir and open take away what the mask says, chown the set-id bits, and mkdir knows no such bits.
        let needs_mode =
            entry.mode & self.umask != 0 || entry.mode & 0o7000 != 0 || entry.kind == EntryType::Directory;
        if !is_symlink && needs_mode {
            rustix::fs::chmodat(self.at()?, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        for (key, value) in &entry.attributes {
            // Overlay's own names would let a layer reach into others.
            if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
                continue;
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(self.at()?, name, flags, Mode::empty())?;
            set_attribute(&fd, OsStr::from_bytes(key), value)?;
        }
        let time = timespec(entry);
        if entry.kind == EntryType::Directory {
            self.times.push((path.to_owned(), time));
            return Ok(());
        }
        rustix::fs::utimensat(self.at()?, name, &stamps(time), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

/// A path without `.`, `..` and a leading `/`: `..` at a root is the root, as the kernel has it.
fn clean(path: &Path) -> PathBuf {
    let mut parts: Vec<&OsStr> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.into_iter().collect()
}

fn set_attribute(fd: &OwnedFd, key: &OsStr, value: &[u8]) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    match rustix::fs::setxattr(path.as_str(), key, value, XattrFlags::empty()) {
        // A file system or a user namespace that can't hold this kind: Docker goes on without, too.
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

/// Writes the parts of a sparse file; what lies between stays a hole.
fn write_sparse(from: &mut impl Read, file: &mut File, parts: &[(u64, u64)], size: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    for (offset, length) in parts {
        if offset.checked_add(*length).is_none_or(|end| end > size) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a sparse file's part lies behind its end",
            ));
        }
        file.seek(SeekFrom::Start(*offset))?;
        io::copy(&mut from.by_ref().take(*length), file)?;
    }
    file.set_len(size)
}

fn remove_tree(at: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(at, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let child = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if child == "." || child == ".." {
            continue;
        }
        match rustix::fs::unlinkat(&inner, &child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(&inner, &child)?,
            other => other?,
        }
    }
    Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

fn timespec(entry: &TarEntry) -> Timespec {
    Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() }
}

fn stamps(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}
