//! Writes a tree as a tar archive, without following a symlink on the way.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use tar::{Builder, EntryType, Header};

/// Archives `name` in `dir` under the name `shown`.
pub(super) fn pack(dir: BorrowedFd<'_>, name: &str, shown: &str, into: impl Write) -> io::Result<()> {
    let mut packer = Packer::new(into);
    let name = CString::new(name)?;
    packer.add(dir, &name, Path::new(shown.trim_start_matches('/')))?;
    packer.builder.into_inner()?.flush()
}

/// Archives what is in `dir`, by names relative to it.
pub(super) fn pack_content(dir: BorrowedFd<'_>, into: impl Write) -> io::Result<()> {
    let mut packer = Packer::new(into);
    packer.add_content(dir, Path::new(""))?;
    packer.builder.into_inner()?.flush()
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// The first name of each file with several, by device and inode.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn new(into: W) -> Self {
        Self { builder: Builder::new(into), seen: HashMap::new() }
    }

    fn add_content(&mut self, dir: BorrowedFd<'_>, shown: &Path) -> io::Result<()> {
        let readable = rustix::fs::openat(
            dir,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&readable)? {
            let name = entry?.file_name().to_owned();
            if name.as_bytes() != b"." && name.as_bytes() != b".." {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let path = shown.join(OsStr::from_bytes(name.as_bytes()));
            self.add(readable.as_fd(), &name, &path)?;
        }
        Ok(())
    }

    fn add(&mut self, dir: BorrowedFd<'_>, name: &CString, shown: &Path) -> io::Result<()> {
        let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed between listing and looking.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let mut header = header(&stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                let named = if shown.as_os_str().is_empty() { PathBuf::from("./") } else { shown.join("") };
                self.append(&mut header, &named, io::empty())?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(dir, name, flags, Mode::empty())?;
                self.add_content(inner.as_fd(), shown)
            }
            FileType::RegularFile => self.add_file(dir, name, shown, &stat, header),
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
                self.append_link(&mut header, shown, target.as_bytes())
            }
            FileType::CharacterDevice => self.add_node(shown, &stat, header, EntryType::Char),
            FileType::BlockDevice => self.add_node(shown, &stat, header, EntryType::Block),
            FileType::Fifo => self.add_node(shown, &stat, header, EntryType::Fifo),
            // A socket means nothing without the process behind it.
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn add_file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CString,
        shown: &Path,
        stat: &Stat,
        mut header: Header,
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.seen.get(&key) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                let first = first.as_os_str().as_bytes().to_owned();
                return self.append_link(&mut header, shown, &first);
            }
            self.seen.insert(key, shown.to_owned());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // A file that grows is cut at the size announced; one that shrinks is filled with zeros.
        let exact = io::Read::take(io::Read::chain(file, io::repeat(0)), size);
        self.append(&mut header, shown, exact)
    }

    fn add_node(&mut self, shown: &Path, stat: &Stat, mut header: Header, kind: EntryType) -> io::Result<()> {
        header.set_entry_type(kind);
        if kind != EntryType::Fifo {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        self.append(&mut header, shown, io::empty())
    }

    /// Appends an entry by its name as it stands: Docker's clients count on the `./` of names, which the
    /// builder's own functions take away.
    fn append(&mut self, header: &mut Header, shown: &Path, data: impl io::Read) -> io::Result<()> {
        let name = shown.as_os_str().as_bytes();
        self.announce(EntryType::GNULongName, name)?;
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, name);
        }
        header.set_cksum();
        self.builder.append(header, data)
    }

    fn append_link(&mut self, header: &mut Header, shown: &Path, target: &[u8]) -> io::Result<()> {
        self.announce(EntryType::GNULongLink, target)?;
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.linkname, target);
        }
        self.append(header, shown, io::empty())
    }

    /// Writes a name that is too long for its field as an entry of its own (GNU tar's form).
    fn announce(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        if name.len() <= FIELD {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        if let Some(gnu) = header.as_gnu_mut() {
            fill(&mut gnu.name, b"././@LongLink");
        }
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(name.len() as u64 + 1);
        header.set_cksum();
        self.builder.append(&header, [name, b"\0"].concat().as_slice())
    }
}

/// How long a name may be in a header.
const FIELD: usize = 100;

/// Puts as much of a name into a header's field as goes in.
fn fill(field: &mut [u8; FIELD], name: &[u8]) {
    *field = [0; FIELD];
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}
