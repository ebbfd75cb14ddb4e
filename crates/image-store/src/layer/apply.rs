//! Unpacks one layer's archive into a tree that overlay can stack.
//!
//! The kernel resolves every path with the tree as its root. The directory of the entry before is
//! kept open: archives list directories together, so a file costs little more than its own calls.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType, Header};

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
    umask: u32,
    size: u64,
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
        Ok(Self { root, opaque_name, parent: None, times: Vec::new(), umask, size: 0 })
    }

    /// Bytes of file content unpacked.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Unpacks the whole archive.
    pub(crate) fn unpack(&mut self, from: &mut impl Read) -> Result<()> {
        let mut archive = Archive::new(from);
        let malformed = |error: io::Error| match error.kind() {
            io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::corrupt(format!("the layer's archive is malformed: {error}"))
            }
            _ => Error::Os { doing: "read the layer's archive".into(), source: error },
        };
        for entry in archive.entries().map_err(malformed)? {
            let mut entry = entry.map_err(malformed)?;
            let name = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
            let path = clean(&name);
            self.entry(&path, &mut entry).map_err(|source| Error::Unpack { path: name, source })?;
        }
        for (path, time) in std::mem::take(&mut self.times) {
            // One that a later entry took away needs none.
            if let Ok(fd) = self.open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                let _ = rustix::fs::futimens(&fd, &stamps(time));
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return self.root_entry(entry.header());
        };
        let dir = path.parent().unwrap_or(Path::new(""));
        let name = name.to_owned();
        self.enter(dir)?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&name);
        }
        let attributes = attributes(entry)?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        if kind == EntryType::Directory {
            self.make_dir(&name, &header)?;
        } else {
            self.make(&name, entry, &header)?;
            if kind == EntryType::Link {
                return Ok(());
            }
        }
        self.finish(path, &name, &header, &attributes)
    }

    /// The entry of the root itself: it says how the container's `/` looks.
    fn root_entry(&mut self, header: &Header) -> io::Result<()> {
        if header.entry_type() != EntryType::Directory {
            return Ok(());
        }
        let root = rustix::fs::openat(&self.root, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fchown(&root, Some(uid(header)?), Some(gid(header)?))?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(header.mode()? & 0o7777))?;
        self.times.push((PathBuf::new(), mtime(header)));
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

    fn make_missing(&self, dir: &Path) -> io::Result<OwnedFd> {
        let above = match dir.parent() {
            Some(parent) if parent != Path::new("") => match self.open(parent, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => self.make_missing(parent)?,
                other => other?,
            },
            _ => self.open(Path::new(""), OFlags::PATH | OFlags::DIRECTORY)?,
        };
        let name = dir.file_name().ok_or(io::ErrorKind::InvalidData)?;
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
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

    fn make_dir(&mut self, name: &OsStr, header: &Header) -> io::Result<()> {
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
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

    fn make(&mut self, name: &OsStr, entry: &mut Entry<'_, impl Read>, header: &Header) -> io::Result<()> {
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.make_file(name, entry, header),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?.into_owned();
                self.replace(name, |at| rustix::fs::symlinkat(target.as_slice(), at, name))
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
                let target = clean(Path::new(OsStr::from_bytes(&target)));
                let from = self.open(target.parent().unwrap_or(Path::new("")), OFlags::PATH | OFlags::DIRECTORY)?;
                let target = target.file_name().ok_or(io::ErrorKind::InvalidData)?.to_owned();
                self.replace(name, |at| rustix::fs::linkat(&from, &target, at, name, AtFlags::empty()))
            }
            EntryType::Fifo => {
                self.replace(name, |at| rustix::fs::mknodat(at, name, FileType::Fifo, mode, 0))
            }
            EntryType::Char | EntryType::Block => {
                let is_char = header.entry_type() == EntryType::Char;
                let kind = if is_char { FileType::CharacterDevice } else { FileType::BlockDevice };
                let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
                let number = rustix::fs::makedev(major, minor);
                match self.replace(name, |at| rustix::fs::mknodat(at, name, kind, mode, number)) {
                    // Without root no device can be made, nor could one be opened: an empty file stands in.
                    Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                        self.create(name, mode).map(drop)
                    }
                    other => other,
                }
            }
            // Metadata of later entries, and kinds this format never had.
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("entries of kind {other:?} are not supported"))),
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

    fn make_file(&mut self, name: &OsStr, entry: &mut Entry<'_, impl Read>, header: &Header) -> io::Result<()> {
        let raw_mode = header.mode()? & 0o7777;
        let mut file = self.create(name, Mode::from_raw_mode(raw_mode))?;
        if header.entry_type() == EntryType::GNUSparse {
            write_sparse(entry, &mut file)?;
        } else {
            io::copy(entry, &mut file)?;
        }
        self.size += entry.size();
        Ok(())
    }

    /// Owner, mode, attributes and time of what was just made. It lies in the tree's own directory,
    /// which nobody else can reach yet, so its name is what it was.
    fn finish(&mut self, path: &Path, name: &OsStr, header: &Header, attributes: &[(OsString, Vec<u8>)]) -> io::Result<()> {
        let kind = header.entry_type();
        let (owner, group) = (uid(header)?, gid(header)?);
        let raw_mode = header.mode()? & 0o7777;
        let is_owned_by_root = owner.is_root() && group.is_root();
        if !is_owned_by_root {
            rustix::fs::chownat(self.at()?, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // mkdir and open take away what the mask says, chown the set-id bits, and mkdir knows no such bits.
        let needs_mode = raw_mode & self.umask != 0 || raw_mode & 0o7000 != 0 || kind == EntryType::Directory;
        if kind != EntryType::Symlink && needs_mode {
            rustix::fs::chmodat(self.at()?, name, Mode::from_raw_mode(raw_mode), AtFlags::empty())?;
        }
        for (key, value) in attributes {
            let fd = rustix::fs::openat(
                self.at()?,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            set_attribute(&fd, key, value)?;
        }
        let time = mtime(header);
        if kind == EntryType::Directory {
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

/// Extended attributes of the entry's PAX header.
fn attributes(entry: &mut Entry<'_, impl Read>) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    const PREFIX: &[u8] = b"SCHILY.xattr.";
    let mut found = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(key) = extension.key_bytes().strip_prefix(PREFIX) {
            // Overlay's own names would let a layer reach into others.
            if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
                continue;
            }
            found.push((OsString::from_vec(key.to_vec()), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

fn set_attribute(fd: &OwnedFd, key: &OsStr, value: &[u8]) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    match rustix::fs::setxattr(path.as_str(), key, value, XattrFlags::empty()) {
        // A file system or a user namespace that can't hold this kind: Docker goes on without, too.
        Err(Errno::NOTSUP | Errno::PERM) => Ok(()),
        other => Ok(other?),
    }
}

/// Copies a sparse file, its holes as holes.
fn write_sparse(from: &mut impl Read, file: &mut File) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return file.set_len(size);
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Current(i64::try_from(length).unwrap_or(0)))?;
        } else {
            file.write_all(bytes)?;
        }
        size += length as u64;
    }
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

fn uid(header: &Header) -> io::Result<Uid> {
    number(&header.as_old().uid, header.uid()).map(Uid::from_raw)
}

fn gid(header: &Header) -> io::Result<Gid> {
    number(&header.as_old().gid, header.gid()).map(Gid::from_raw)
}

/// An id; a field left blank, as some archives have it, is 0.
fn number(field: &[u8], value: io::Result<u64>) -> io::Result<u32> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(0);
    }
    let id = u32::try_from(value?).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if id == u32::MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok(id) }
}

fn mtime(header: &Header) -> Timespec {
    Timespec { tv_sec: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0), tv_nsec: 0 }
}

fn stamps(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}
