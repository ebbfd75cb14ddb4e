//! Unpacks a tar archive below a directory that it can't leave.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::error::{Doing, Error, Result};

/// How an archive is unpacked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unpacking {
    /// A directory is never replaced by a file, nor a file by a directory.
    pub keeps_kind: bool,
    /// Everything becomes that of the container's user, whomever the archive names.
    pub gives_to_user: bool,
}

/// Unpacks; `owner`: whose everything becomes, instead of what the archive says.
pub(super) fn extract(
    dir: BorrowedFd<'_>,
    keeps_kind: bool,
    owner: Option<(u32, u32)>,
    from: impl Read,
) -> Result<()> {
    let mut archive = Archive::new(from);
    // What can't be read came so from the client, whole or cut short.
    let malformed = |error: io::Error| Error::invalid(format!("failed to read the archive: {error}"));
    let entries = archive.entries().map_err(malformed)?;
    let mut times = Vec::new();
    for entry in entries {
        let mut entry = entry.map_err(malformed)?;
        let path = entry.path().map_err(malformed)?.into_owned();
        let path = normal(&path)?;
        if path.as_os_str().is_empty() {
            continue;
        }
        one(dir, &path, &mut entry, keeps_kind, owner).doing(|| format!("unpack {path:?}"))?;
        // Writing into a directory changes its time, so those come last.
        if entry.header().entry_type() == EntryType::Directory {
            times.push((path, entry.header().mtime().unwrap_or(0)));
        }
    }
    for (path, mtime) in times {
        if let Ok(fd) = below(dir, &path, OFlags::RDONLY | OFlags::DIRECTORY) {
            // Only the time would be wrong.
            let _ = rustix::fs::futimens(&fd, &stamps(mtime));
        }
    }
    Ok(())
}

/// The path without `.` and a leading `/`; `..` is refused.
fn normal(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::invalid(format!(
                    "the archive's entry {path:?} climbs out of its directory"
                )));
            }
        }
    }
    Ok(clean)
}

/// Opens a path below the directory; a symlink in it may lead anywhere but out.
fn below(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The directory an entry goes to, made where it is missing.
fn parent(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match below(dir, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let above = parent(dir, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(below(dir, path, OFlags::PATH | OFlags::DIRECTORY)?)
}

fn one(
    dir: BorrowedFd<'_>,
    path: &Path,
    entry: &mut Entry<'_, impl Read>,
    keeps_kind: bool,
    owner: Option<(u32, u32)>,
) -> io::Result<()> {
    let at = parent(dir, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut header = entry.header().clone();
    fill_blanks(&mut header);
    if let Some((uid, gid)) = owner {
        header.set_uid(uid.into());
        header.set_gid(gid.into());
    }
    let kind = header.entry_type();
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    if clear(&at, name, kind == EntryType::Directory, keeps_kind)? {
        apply_owner(&at, name, &header, mode, false)?;
        return Ok(());
    }
    match kind {
        EntryType::Directory => rustix::fs::mkdirat(&at, name, mode)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&at, name, flags, mode)?);
            io::copy(entry, &mut file)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
            rustix::fs::symlinkat(target.as_ref(), &at, name)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
            let target = normal(&target).map_err(io::Error::other)?;
            let from = parent(dir, target.parent().unwrap_or(Path::new("")))?;
            let target = target.file_name().ok_or(io::ErrorKind::InvalidData)?;
            return Ok(rustix::fs::linkat(&from, target, &at, name, AtFlags::empty())?);
        }
        EntryType::Fifo => rustix::fs::mknodat(&at, name, FileType::Fifo, mode, 0)?,
        EntryType::Char | EntryType::Block => {
            let kind =
                if kind == EntryType::Char { FileType::CharacterDevice } else { FileType::BlockDevice };
            let number =
                rustix::fs::makedev(header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
            rustix::fs::mknodat(&at, name, kind, mode, number)?;
        }
        // Kinds that hold no file.
        _ => return Ok(()),
    }
    apply_owner(&at, name, &header, mode, kind == EntryType::Symlink)
}

/// Makes room for an entry. `true`: a directory is there and stays.
fn clear(at: &OwnedFd, name: &OsStr, is_dir: bool, keeps_kind: bool) -> io::Result<bool> {
    let stat = match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        other => other?,
    };
    let there = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    match (there, is_dir) {
        (true, true) => Ok(true),
        (false, true) if keeps_kind => {
            Err(io::Error::other("cannot overwrite a non-directory with a directory"))
        }
        (true, false) if keeps_kind => {
            Err(io::Error::other("cannot overwrite a directory with a non-directory"))
        }
        (true, false) => {
            remove_tree(at.as_fd(), name)?;
            Ok(false)
        }
        (false, _) => {
            rustix::fs::unlinkat(at, name, AtFlags::empty())?;
            Ok(false)
        }
    }
}

fn remove_tree(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(at, name, flags, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&inner)? {
        let entry = entry?;
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        match rustix::fs::unlinkat(&inner, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => {
                remove_tree(inner.as_fd(), std::os::unix::ffi::OsStrExt::from_bytes(child.to_bytes()))?;
            }
            other => other?,
        }
    }
    Ok(rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)?)
}

/// Some writers leave fields blank that they have nothing for; that is 0, as other readers take it.
fn fill_blanks(header: &mut tar::Header) {
    let is_blank = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
    let old = header.as_old();
    let (uid, gid, mtime) = (is_blank(&old.uid), is_blank(&old.gid), is_blank(&old.mtime));
    if uid {
        header.set_uid(0);
    }
    if gid {
        header.set_gid(0);
    }
    if mtime {
        header.set_mtime(0);
    }
}

fn apply_owner(
    at: &OwnedFd,
    name: &OsStr,
    header: &tar::Header,
    mode: Mode,
    is_link: bool,
) -> io::Result<()> {
    let id = |n: u64| u32::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let (uid, gid) = (Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?));
    rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_link {
        // After the owner, whose change takes the set-id bits away. By a descriptor of the file
        // itself: a name may have become a symlink of the container's meanwhile.
        let fd =
            rustix::fs::openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Symlink {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
            rustix::fs::chmodat(rustix::fs::CWD, path, mode, AtFlags::empty())?;
        }
    }
    rustix::fs::utimensat(at, name, &stamps(header.mtime()?), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn stamps(mtime: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(mtime).unwrap_or(i64::MAX), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
