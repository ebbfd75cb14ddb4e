//! What the kernel asks of a file system of ours, and how it is answered: linux/fuse.h, version 7.31 and what later ones
//! added. Numbers are in this computer's order of bytes.

use std::ffi::CStr;
use std::time::Duration;

use rustix::fs::Statx;
use rustix::io::Errno;

/// The version that is spoken.
pub(super) const MAJOR: u32 = 7;
pub(super) const MINOR: u32 = 38;
/// The most that is written at once.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// `struct fuse_in_header`.
const HEAD: usize = 40;
/// Room for the longest request: what is written, and what goes before it.
pub(super) const BUFFER: usize = MAX_WRITE as usize + 4096;

/// What is asked (`enum fuse_opcode`).
pub(super) mod opcode {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const FLUSH: u32 = 25;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const READDIRPLUS: u32 = 44;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
}

/// What the kernel and we can (`FUSE_*` of `struct fuse_init_in`).
pub(super) mod feature {
    pub(in super::super) const ASYNC_READ: u64 = 1 << 0;
    pub(in super::super) const ATOMIC_O_TRUNC: u64 = 1 << 3;
    pub(in super::super) const BIG_WRITES: u64 = 1 << 5;
    pub(in super::super) const AUTO_INVAL_DATA: u64 = 1 << 12;
    pub(in super::super) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in super::super) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in super::super) const ASYNC_DIO: u64 = 1 << 15;
    pub(in super::super) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in super::super) const MAX_PAGES: u64 = 1 << 22;
    pub(in super::super) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in super::super) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
}

/// How a file is open (`FOPEN_*`).
pub(super) mod open {
    pub(in super::super) const KEEP_CACHE: u32 = 1 << 1;
    pub(in super::super) const CACHE_DIR: u32 = 1 << 3;
    pub(in super::super) const NOFLUSH: u32 = 1 << 5;
}

/// What is to be set (`FATTR_*`).
pub(super) mod set {
    pub(in super::super) const MODE: u32 = 1 << 0;
    pub(in super::super) const UID: u32 = 1 << 1;
    pub(in super::super) const GID: u32 = 1 << 2;
    pub(in super::super) const SIZE: u32 = 1 << 3;
    pub(in super::super) const ATIME: u32 = 1 << 4;
    pub(in super::super) const MTIME: u32 = 1 << 5;
    pub(in super::super) const FH: u32 = 1 << 6;
    pub(in super::super) const ATIME_NOW: u32 = 1 << 7;
    pub(in super::super) const MTIME_NOW: u32 = 1 << 8;
    pub(in super::super) const KILL_SUIDGID: u32 = 1 << 11;
}

/// `FUSE_WRITE_KILL_SUIDGID`.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_OPEN_KILL_SUIDGID`.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
/// `FUSE_FSYNC_FDATASYNC`.
pub(super) const FSYNC_FDATASYNC: u32 = 1;

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) caller: Caller,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) thread: i32,
}

/// The rest of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    /// The next text, which a zero ends.
    pub(super) fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = self.0.get(text.to_bytes_with_nul().len()..).unwrap_or_default();
        Ok(text)
    }

    /// A text that is one name in a folder.
    pub(super) fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(name),
        }
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, length: u32) -> Result<&'a [u8], Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
        self.0.get(..length).ok_or(Errno::INVAL)
    }
}

/// Takes a request apart; `None` for what is none.
pub(super) fn parse(request: &[u8]) -> Option<(Head, Body<'_>)> {
    let (head, body) = request.split_at_checked(HEAD)?;
    let mut head = Body(head);
    let _length = head.u32().ok()?;
    let opcode = head.u32().ok()?;
    let (unique, node) = (head.u64().ok()?, head.u64().ok()?);
    let (uid, gid, thread) = (head.u32().ok()?, head.u32().ok()?, head.u32().ok()?);
    let caller = Caller { uid, gid, thread: i32::from_ne_bytes(thread.to_ne_bytes()) };
    Some((Head { opcode, unique, node, caller }, Body(body)))
}

/// An answer as it is made.
#[derive(Debug, Default)]
pub(super) struct Answer(pub(super) Vec<u8>);

/// A name that was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) node: u64,
    pub(super) attr: Attr,
    /// How long the name may be believed.
    pub(super) entry_valid: Duration,
    /// How long its attributes may.
    pub(super) attr_valid: Duration,
}

/// `struct fuse_attr`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attr {
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) blocks: u64,
    pub(super) accessed: (i64, u32),
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: u32,
    pub(super) block_size: u32,
}

impl From<&Statx> for Attr {
    fn from(found: &Statx) -> Self {
        Self {
            inode: found.stx_ino,
            size: found.stx_size,
            blocks: found.stx_blocks,
            accessed: (found.stx_atime.tv_sec, found.stx_atime.tv_nsec),
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            mode: u32::from(found.stx_mode),
            links: found.stx_nlink,
            uid: found.stx_uid,
            gid: found.stx_gid,
            device: encode_device(found.stx_rdev_major, found.stx_rdev_minor),
            block_size: found.stx_blksize,
        }
    }
}

/// `new_encode_dev` of linux/kdev_t.h.
fn encode_device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

impl Answer {
    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) -> &mut Self {
        self.u64(attr.inode).u64(attr.size).u64(attr.blocks);
        for (seconds, _) in [attr.accessed, attr.modified, attr.changed] {
            self.u64(u64::from_ne_bytes(seconds.to_ne_bytes()));
        }
        for (_, nanoseconds) in [attr.accessed, attr.modified, attr.changed] {
            self.u32(nanoseconds);
        }
        self.u32(attr.mode).u32(attr.links).u32(attr.uid).u32(attr.gid);
        self.u32(attr.device).u32(attr.block_size).u32(0)
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attributes(&mut self, attr: &Attr, valid: Duration) -> &mut Self {
        self.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0).attr(attr)
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry(&mut self, entry: &Entry) -> &mut Self {
        self.u64(entry.node).u64(0).u64(entry.entry_valid.as_secs()).u64(entry.attr_valid.as_secs());
        self.u32(entry.entry_valid.subsec_nanos()).u32(entry.attr_valid.subsec_nanos()).attr(&entry.attr)
    }

    /// `struct fuse_open_out`.
    pub(super) fn opened(&mut self, handle: u64, flags: u32) -> &mut Self {
        self.u64(handle).u32(flags).u32(0)
    }

    /// `struct fuse_dirent`.
    pub(super) fn dirent(&mut self, inode: u64, next: u64, kind: u32, name: &[u8]) -> &mut Self {
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.u64(inode).u64(next).u32(length).u32(kind);
        self.0.extend(name);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }
}

/// How long a `struct fuse_dirent` of a name is; `plus` what goes before it.
pub(super) fn dirent_length(name: &[u8], plus: usize) -> usize {
    plus + (24 + name.len()).next_multiple_of(8)
}

/// `struct fuse_entry_out`'s length.
pub(super) const ENTRY: usize = 128;

/// `struct fuse_out_header`, before so many bytes of an answer.
pub(super) fn head(unique: u64, outcome: Result<usize, Errno>) -> [u8; 16] {
    let (length, error) = match outcome {
        Ok(length) => (length, 0),
        Err(error) => (0, -error.raw_os_error()),
    };
    let mut head = [0; 16];
    let (first, rest) = head.split_at_mut(4);
    let (second, third) = rest.split_at_mut(4);
    first.copy_from_slice(&u32::try_from(16 + length).unwrap_or(16).to_ne_bytes());
    second.copy_from_slice(&error.to_ne_bytes());
    third.copy_from_slice(&unique.to_ne_bytes());
    head
}

/// A word to the kernel that it did not ask for: what it knows of a file's attributes is old (`FUSE_NOTIFY_INVAL_INODE`).
pub(super) fn forget_attributes(node: u64) -> [u8; 40] {
    const INVAL_INODE: u32 = 2;
    let mut word = Answer::default();
    // An offset below zero is no content.
    word.u32(40).u32(INVAL_INODE).u64(0).u64(node).u64(u64::MAX).u64(0);
    word.0.try_into().unwrap_or([0; 40])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_kernels_lengths() {
        let attr = Attr::default();
        let entry = Entry { node: 2, attr, entry_valid: Duration::ZERO, attr_valid: Duration::ZERO };
        let length = |fill: &dyn Fn(&mut Answer) -> usize| fill(&mut Answer::default());
        assert_eq!(length(&|answer| answer.attributes(&attr, Duration::ZERO).0.len()), 104);
        assert_eq!(length(&|answer| answer.entry(&entry).0.len()), ENTRY);
        assert_eq!(length(&|answer| answer.opened(1, 0).0.len()), 16);
        assert_eq!(length(&|answer| answer.dirent(1, 2, 8, b"name").0.len()), dirent_length(b"name", 0));
        assert_ne!(forget_attributes(1), [0; 40]);
    }

    #[test]
    fn a_request_that_is_cut_off_is_none() {
        assert!(parse(&[0; HEAD - 1]).is_none());
        let mut request = vec![0; HEAD];
        request.extend(b"a/b\0");
        let (_, mut body) = parse(&request).unwrap();
        assert_eq!(body.name(), Err(Errno::INVAL));
        assert_eq!(body.u64(), Err(Errno::INVAL));
    }
}
