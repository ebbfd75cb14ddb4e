//! The kernel's requests, taken from its device one by one by each of a few threads, and answered.

use std::ffi::CString;
use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{AtFlags, FileType, Mode, RawDir, SeekFrom, StatVfs, fdatasync, fstatvfs, fsync, seek};
use rustix::io::Errno;
use rustix::process::umask;
use rustix::thread::UnshareFlags;

use super::abi::{self, Answer, Body, Head, feature, opcode};
use super::folder::Folder;
use crate::sys;

/// The most that Linux holds in extended attributes, or reads of a folder, at once.
const MAX_XATTR: u32 = 1 << 16;
const MAX_DIRECTORY: u32 = 1 << 20;
/// Pages of what is written at once.
const MAX_PAGES: u16 = 256;
/// Requests that are not waited for, such as of reading ahead.
const BACKGROUND: u16 = 32;

/// Answers the first request, in which the kernel says what it can.
pub(super) fn greet(device: &OwnedFd) -> rustix::io::Result<()> {
    let mut request = vec![0; abi::BUFFER];
    let length = rustix::io::read(device, &mut request)?;
    let request = request.get(..length).unwrap_or_default();
    let (Head { opcode, unique, .. }, mut body) = abi::parse(request).ok_or(Errno::PROTO)?;
    if opcode != opcode::INIT || body.u32()? != abi::MAJOR {
        return Err(Errno::PROTO);
    }
    let (minor, readahead) = (body.u32()?, body.u32()?);
    let offered = u64::from(body.u32()?);
    let wanted = feature::ASYNC_READ
        | feature::ATOMIC_O_TRUNC
        | feature::BIG_WRITES
        | feature::AUTO_INVAL_DATA
        | feature::DO_READDIRPLUS
        | feature::READDIRPLUS_AUTO
        | feature::ASYNC_DIO
        | feature::PARALLEL_DIROPS
        | feature::MAX_PAGES
        | feature::CACHE_SYMLINKS
        | feature::HANDLE_KILLPRIV_V2;
    let flags = u32::try_from(offered & wanted).map_err(|_| Errno::PROTO)?;
    let mut answer = Answer::default();
    answer.u32(abi::MAJOR).u32(abi::MINOR.min(minor)).u32(readahead).u32(flags);
    answer.u16(BACKGROUND).u16(BACKGROUND / 4 * 3).u32(abi::MAX_WRITE).u32(1).u16(MAX_PAGES).u16(0);
    answer.0.resize(64, 0);
    send(device, unique, Ok(()), &answer)
}

/// Answers requests until the file system is mounted nowhere any more.
pub(super) fn serve(folder: &Folder) -> std::io::Result<()> {
    // Whatever is made has the permissions that the kernel says; a mask is a process' unless it is parted from.
    sys::unshare(UnshareFlags::FS)?;
    umask(Mode::empty());
    let (mut request, mut answer) = (vec![0; abi::BUFFER], Answer::default());
    loop {
        let length = match rustix::io::read(&folder.device, &mut request) {
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            Err(Errno::NODEV) => return Ok(()),
            other => other?,
        };
        let Some((head, body)) = abi::parse(request.get(..length).unwrap_or_default()) else { continue };
        if forgets(folder, head, body) || head.opcode == opcode::INTERRUPT {
            // Nobody waits for an answer.
            continue;
        }
        answer.0.clear();
        let outcome = outcome(folder, head, body, &mut answer);
        // Who asked may be gone.
        let _ = send(&folder.device, head.unique, outcome, &answer);
    }
}

fn send(
    device: &OwnedFd,
    unique: u64,
    outcome: Result<(), Errno>,
    answer: &Answer,
) -> rustix::io::Result<()> {
    let body = if outcome.is_ok() { answer.0.as_slice() } else { &[] };
    let head = abi::head(unique, outcome.map(|()| body.len()));
    rustix::io::writev(device, &[IoSlice::new(&head), IoSlice::new(body)]).map(drop)
}

/// Takes references back, if it is that.
fn forgets(folder: &Folder, head: Head, mut body: Body<'_>) -> bool {
    match head.opcode {
        opcode::FORGET => {
            if let Ok(count) = body.u64() {
                folder.forget(head.node, count);
            }
            true
        }
        opcode::BATCH_FORGET => {
            let count = body.u32().and_then(|count| body.u32().map(|_| count));
            for _ in 0..count.unwrap_or(0) {
                let (Ok(node), Ok(count)) = (body.u64(), body.u64()) else { break };
                folder.forget(node, count);
            }
            true
        }
        _ => false,
    }
}

fn outcome(folder: &Folder, head: Head, mut body: Body<'_>, answer: &mut Answer) -> Result<(), Errno> {
    let Head { node, caller, .. } = head;
    let mut entry = |entry: abi::Entry| {
        answer.entry(&entry);
    };
    match head.opcode {
        opcode::LOOKUP => entry(folder.look_up(caller, node, body.name()?)?),
        opcode::SYMLINK => entry(folder.make_symlink(caller, node, body)?),
        opcode::MKNOD => entry(folder.make_node(caller, node, body)?),
        opcode::MKDIR => entry(folder.make_folder(caller, node, body)?),
        opcode::LINK => entry(folder.make_link(caller, node, body)?),
        opcode::CREATE => {
            let (entry, handle, flags) = folder.create(caller, node, body)?;
            answer.entry(&entry).opened(handle, flags);
        }
        opcode::GETATTR => {
            let (attr, valid) = folder.get_attributes(node)?;
            answer.attributes(&attr, valid);
        }
        opcode::SETATTR => {
            let (attr, valid) = folder.set_attributes(caller, node, body)?;
            answer.attributes(&attr, valid);
        }
        opcode::READLINK => answer.0 = folder.read_link(node)?,
        opcode::UNLINK => folder.remove(caller, node, body.name()?, AtFlags::empty())?,
        opcode::RMDIR => folder.remove(caller, node, body.name()?, AtFlags::REMOVEDIR)?,
        opcode::RENAME | opcode::RENAME2 => {
            let to = body.u64()?;
            let is_plain = head.opcode == opcode::RENAME;
            let (flags, _) = if is_plain { (0, 0) } else { (body.u32()?, body.u32()?) };
            let (old, new) = (body.name()?, body.name()?);
            folder.rename(caller, (node, old), (to, new), flags)?;
        }
        opcode::OPEN => {
            let (handle, flags) = folder.open(caller, node, body)?;
            answer.opened(handle, flags);
        }
        opcode::OPENDIR => {
            let (handle, flags) = folder.open_folder(node)?;
            answer.opened(handle, flags);
        }
        opcode::READ => read(folder, body, answer)?,
        opcode::READDIR => list(folder, head, body, false, answer)?,
        opcode::READDIRPLUS => list(folder, head, body, true, answer)?,
        opcode::WRITE => {
            answer.u32(folder.write(node, body)?).u32(0);
        }
        opcode::STATFS => room(answer, &fstatvfs(folder.below.node(node)?)?),
        opcode::RELEASE | opcode::RELEASEDIR => folder.release(body.u64()?),
        opcode::FLUSH => folder.flush(body.u64()?)?,
        opcode::FSYNC | opcode::FSYNCDIR => {
            let handle = folder.below.handle(body.u64()?)?;
            let is_data = body.u32()? & abi::FSYNC_FDATASYNC != 0;
            if is_data { fdatasync(&handle.fd)? } else { fsync(&handle.fd)? }
        }
        opcode::SETXATTR => folder.set_xattr(node, body)?,
        opcode::REMOVEXATTR => folder.remove_xattr(node, body)?,
        opcode::GETXATTR | opcode::LISTXATTR => {
            let (size, _) = (body.u32()?, body.u32()?);
            // Who has no room asks how much it takes.
            let room = if size == 0 { MAX_XATTR } else { size.min(MAX_XATTR) };
            let mut value = vec![0; usize::try_from(room).map_err(|_| Errno::INVAL)?];
            let path = folder.below.link(node)?.path();
            let length = match head.opcode {
                opcode::GETXATTR => rustix::fs::getxattr(path.as_c_str(), body.text()?, &mut *value)?,
                _ => rustix::fs::listxattr(path.as_c_str(), &mut *value)?,
            };
            if size == 0 {
                answer.u32(u32::try_from(length).map_err(|_| Errno::RANGE)?).u32(0);
            } else {
                value.truncate(length);
                answer.0 = value;
            }
        }
        opcode::FALLOCATE => folder.allocate(node, body)?,
        opcode::COPY_FILE_RANGE => {
            answer.u32(folder.copy(body)?).u32(0);
        }
        opcode::LSEEK => {
            let (handle, offset, whence) = (folder.below.handle(body.u64()?)?, body.u64()?, body.u32()?);
            let to = match whence {
                SEEK_DATA => SeekFrom::Data(offset),
                SEEK_HOLE => SeekFrom::Hole(offset),
                _ => return Err(Errno::INVAL),
            };
            answer.u64(seek(&handle.fd, to)?);
        }
        opcode::DESTROY => {}
        // The kernel does by itself what it may not ask for.
        _ => return Err(Errno::NOSYS),
    }
    Ok(())
}

/// `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;

fn read(folder: &Folder, mut body: Body<'_>, answer: &mut Answer) -> Result<(), Errno> {
    let (handle, offset, size) = (folder.below.handle(body.u64()?)?, body.u64()?, body.u32()?);
    let size = usize::try_from(size.min(abi::MAX_WRITE)).map_err(|_| Errno::INVAL)?;
    answer.0.reserve(size);
    rustix::io::pread(&handle.fd, spare_capacity(&mut answer.0), offset)?;
    answer.0.truncate(size);
    Ok(())
}

/// What a folder has from a position on; with what looking each up says, if wanted.
fn list(
    folder: &Folder,
    head: Head,
    mut body: Body<'_>,
    is_plus: bool,
    answer: &mut Answer,
) -> Result<(), Errno> {
    let (handle, offset, size) = (folder.below.handle(body.u64()?)?, body.u64()?, body.u32()?);
    let size = usize::try_from(size.min(MAX_DIRECTORY)).map_err(|_| Errno::INVAL)?;
    let plus = if is_plus { abi::ENTRY } else { 0 };
    let mut space = Vec::with_capacity(if is_plus { size / 4 } else { size }.max(4096));
    let _held = handle.hold_position();
    seek(&handle.fd, SeekFrom::Start(offset))?;
    let mut names = RawDir::new(handle.fd.as_fd(), space.spare_capacity_mut());
    while let Some(found) = names.next() {
        let found = found?;
        let name = found.file_name();
        if answer.0.len() + abi::dirent_length(name.to_bytes(), plus) > size {
            break;
        }
        if is_plus {
            let is_dots = matches!(name.to_bytes(), b"." | b"..");
            let name = CString::from(name);
            match folder.listed(head.caller, head.node, &name).filter(|_| !is_dots) {
                Some(entry) => {
                    answer.entry(&entry);
                }
                // It is not looked up.
                None => answer.0.resize(answer.0.len() + abi::ENTRY, 0),
            }
        }
        answer.dirent(found.ino(), found.next_entry_cookie(), kind(found.file_type()), name.to_bytes());
    }
    Ok(())
}

/// `DT_*` of readdir(3).
fn kind(file: FileType) -> u32 {
    file.as_raw_mode() >> 12
}

/// `struct fuse_kstatfs`.
fn room(answer: &mut Answer, found: &StatVfs) {
    answer.u64(found.f_blocks).u64(found.f_bfree).u64(found.f_bavail).u64(found.f_files).u64(found.f_ffree);
    let short = |value| u32::try_from(value).unwrap_or(u32::MAX);
    answer.u32(short(found.f_bsize)).u32(short(found.f_namemax)).u32(short(found.f_frsize));
    answer.0.resize(80, 0);
}
