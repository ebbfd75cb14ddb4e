//! Copy-up: an empty volume gets what the image has at its place, with owners, modes and attributes.
//!
//! ```text
//! empty ── copy to `filling` ── sync ── rename to `filled` ── move each entry in ── full
//!   ^            │ crash                        │ crash            │
//!   └────────────┘ (thrown away)                └── gone on with ──┘
//! ```
//!
//! So a volume is empty or is going to be full; half of the files are never taken for all of them.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

/// Where a volume is filled.
pub(crate) struct Place {
    /// The volume's files.
    pub(crate) root: OwnedFd,
    /// A directory of the same file system that the copy is made in.
    pub(crate) aside: OwnedFd,
    pub(crate) filling: &'static str,
    pub(crate) filled: &'static str,
}

impl Place {
    /// A volume that is a directory `_data` of the engine's.
    pub(crate) fn beside(volume: &Path) -> io::Result<Self> {
        Ok(Self {
            root: open_dir(&volume.join("_data"))?,
            aside: open_dir(volume)?,
            filling: "filling",
            filled: "filled",
        })
    }

    /// A volume that is something else's: the copy is made in itself.
    pub(crate) fn within(root: OwnedFd) -> io::Result<Self> {
        Ok(Self { aside: root.try_clone()?, root, filling: ".cove-filling", filled: ".cove-filled" })
    }

    /// Goes on with what a crash cut off.
    pub(crate) fn recover(&self) -> io::Result<()> {
        if self.open(self.filling)?.is_some() {
            remove_tree(self.aside.as_fd(), OsStr::new(self.filling))?;
        }
        match self.open(self.filled)? {
            Some(filled) => self.move_in(&filled),
            None => Ok(()),
        }
    }

    /// Copies `from` in, if nothing is there. Once this returns, it is on the disk with `is_durable`.
    pub(crate) fn fill(&self, from: BorrowedFd<'_>, is_durable: bool) -> io::Result<()> {
        self.recover()?;
        if !self.is_empty()? {
            return Ok(());
        }
        rustix::fs::mkdirat(&self.aside, self.filling, Mode::RWXU)?;
        let copied = self.copy(from, is_durable);
        if copied.is_err() {
            // The failure is what matters; what is left is thrown away by the next.
            let _ = remove_tree(self.aside.as_fd(), OsStr::new(self.filling));
        }
        copied?;
        let filled = self.open(self.filled)?.ok_or(io::ErrorKind::NotFound)?;
        self.move_in(&filled)
    }

    fn copy(&self, from: BorrowedFd<'_>, is_durable: bool) -> io::Result<()> {
        let to = self.open(self.filling)?.ok_or(io::ErrorKind::NotFound)?;
        copy_tree(from, to.as_fd())?;
        if is_durable {
            rustix::fs::syncfs(&to)?;
        }
        rustix::fs::renameat(&self.aside, self.filling, &self.aside, self.filled)?;
        if is_durable {
            rustix::fs::fsync(&self.aside)?;
        }
        Ok(())
    }

    /// Whether the volume has no files but those of an unfinished copy.
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        let own = [self.filling, self.filled];
        Ok(names(self.root.as_fd())?
            .iter()
            .all(|name| own.iter().any(|own| name.to_bytes() == own.as_bytes())))
    }

    /// Moves what was copied to its place. What a container has made there meanwhile stays.
    fn move_in(&self, filled: &OwnedFd) -> io::Result<()> {
        let stat = rustix::fs::fstat(filled)?;
        copy_attributes(&own_path(filled.as_fd()), &own_path(self.root.as_fd()))?;
        rustix::fs::fchown(&self.root, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rustix::fs::fchmod(&self.root, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        for name in names(filled.as_fd())? {
            match rustix::fs::renameat_with(filled, &name, &self.root, &name, RenameFlags::NOREPLACE) {
                Ok(()) | Err(Errno::EXIST) => {}
                // Network file systems don't know how to ask.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    if rustix::fs::statat(&self.root, &name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                        rustix::fs::renameat(filled, &name, &self.root, &name)?;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        rustix::fs::futimens(&self.root, &times(&stat))?;
        remove_tree(self.aside.as_fd(), OsStr::new(self.filled))
    }

    fn open(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.aside, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A path that names what is behind a descriptor, for calls that take only paths.
fn own_path(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}/.", fd.as_raw_fd()).into()
}

fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Opens a directory below `root` that this copy made or reads; no symlink is followed on the way.
fn below(root: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// Copies everything below `from`, and what `from` itself is. Directories wait in a list, not on the
/// stack nor with open descriptors, however deep an image goes.
fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut dirs = vec![PathBuf::new()];
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut at = 0;
    while let Some(path) = dirs.get(at).cloned() {
        let (source, target) = (below(from, &path)?, below(to, &path)?);
        for name in names(source.as_fd())? {
            let child = path.join(OsStr::from_bytes(name.to_bytes()));
            let stat = rustix::fs::statat(&source, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rustix::fs::mkdirat(&target, &name, Mode::RWXU)?;
                dirs.push(child);
                continue;
            }
            if let Some(first) = links.get(&(stat.st_dev, stat.st_ino)) {
                link(to, first, target.as_fd(), &name)?;
                continue;
            }
            if copy_one(source.as_fd(), target.as_fd(), &name, &stat)? && stat.st_nlink > 1 {
                links.insert((stat.st_dev, stat.st_ino), child);
            }
        }
        at += 1;
    }
    // What is in a directory changes its time, so they are finished from the leaves up.
    for path in dirs.iter().rev() {
        let (source, target) = (below(from, path)?, below(to, path)?);
        let stat = rustix::fs::fstat(&source)?;
        rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        copy_attributes(&own_path(source.as_fd()), &own_path(target.as_fd()))?;
        rustix::fs::futimens(&target, &times(&stat))?;
    }
    Ok(())
}

/// Gives a file that was copied already one more name.
fn link(root: BorrowedFd<'_>, first: &Path, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let parent = below(root, first.parent().unwrap_or(Path::new("")))?;
    let first = first.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::fs::linkat(&parent, first, dir, name, AtFlags::empty())?)
}

/// Copies what is no directory. `false`: a device, which can't be made here.
fn copy_one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<bool> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut target = File::from(rustix::fs::openat(to, name, flags, Mode::RWXU)?);
            io::copy(&mut source, &mut target)?;
        }
        FileType::Symlink => {
            rustix::fs::symlinkat(rustix::fs::readlinkat(from, name, Vec::new())?, to, name)?;
        }
        _ => match rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev) {
            // Without root there are no devices to make, nor to open.
            Err(Errno::PERM) => return Ok(false),
            other => other?,
        },
    }
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        // After the owner, whose change takes the set-id bits away. By a descriptor of the file itself: in
        // a volume that is in use, a name may have become a symlink meanwhile.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(to, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == kind {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            rustix::fs::chmodat(rustix::fs::CWD, path, mode, AtFlags::empty())?;
        }
    }
    let path = |dir: BorrowedFd<'_>| {
        Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(OsStr::from_bytes(name.to_bytes()))
    };
    copy_attributes(&path(from), &path(to))?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(true)
}

/// Copies extended attributes, as far as the file system there takes them.
fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        let is_overlays = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        if name.is_empty() || is_overlays {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(from, name, &mut value[..])?;
        let value = value.get(..length).unwrap_or_default();
        match rustix::fs::lsetxattr(to, name, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Removes a directory with all in it, following nothing.
fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    std::fs::remove_dir_all(Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
}

/// Bytes in files below a directory, each counted once.
pub(crate) fn usage(root: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let (mut total, mut dirs) = (0, vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else if metadata.nlink() < 2 || seen.insert((metadata.dev(), metadata.ino())) {
                total += metadata.len();
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    struct Fixture {
        dir: PathBuf,
    }

    impl Fixture {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("engine-fill-{name}-{}", std::process::id()));
            std::fs::create_dir_all(dir.join("volume/_data")).unwrap();
            let image = dir.join("image");
            std::fs::create_dir_all(image.join("deep/er")).unwrap();
            std::fs::write(image.join("deep/er/file"), "text").unwrap();
            std::fs::hard_link(image.join("deep/er/file"), image.join("second")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", image.join("link")).unwrap();
            // As far as the file system of the tests takes them.
            let _ = rustix::fs::lsetxattr(image.join("second"), "user.kind", b"kept", XattrFlags::empty());
            std::fs::set_permissions(image.join("deep"), PermissionsExt::from_mode(0o2750)).unwrap();
            std::fs::set_permissions(&image, PermissionsExt::from_mode(0o1777)).unwrap();
            Self { dir }
        }

        fn place(&self) -> Place {
            Place::beside(&self.dir.join("volume")).unwrap()
        }

        fn image(&self) -> OwnedFd {
            open_dir(&self.dir.join("image")).unwrap()
        }

        fn names(&self, path: &str) -> Vec<String> {
            let entries = std::fs::read_dir(self.dir.join(path)).unwrap().flatten();
            let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn is_full(&self) {
            assert_eq!(self.names("volume/_data"), ["deep", "link", "second"]);
            assert_eq!(self.names("volume"), ["_data"]);
            let data = self.dir.join("volume/_data");
            let of = |name: &str| std::fs::symlink_metadata(data.join(name)).unwrap();
            assert_eq!(of("").mode() & 0o7777, 0o1777);
            assert_eq!(of("deep").mode() & 0o7777, 0o2750);
            assert_eq!(of("deep/er/file").ino(), of("second").ino());
            let attribute = |path: PathBuf| {
                let mut value = [0; 16];
                rustix::fs::lgetxattr(path, "user.kind", &mut value[..]).map(|n| value[..n].to_vec())
            };
            let image = self.dir.join("image");
            assert_eq!(attribute(data.join("second")), attribute(image.join("second")));
            assert_eq!(of("second").mtime(), std::fs::metadata(image.join("second")).unwrap().mtime());
            assert_eq!(std::fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn an_empty_volume_takes_all_and_a_full_one_nothing() {
        let fixture = Fixture::new("all");
        fixture.place().fill(fixture.image().as_fd(), true).unwrap();
        fixture.is_full();
        std::fs::write(fixture.dir.join("image/new"), "").unwrap();
        fixture.place().fill(fixture.image().as_fd(), true).unwrap();
        fixture.is_full();
    }

    #[test]
    fn a_copy_that_was_cut_off_is_thrown_away() {
        let fixture = Fixture::new("cut");
        std::fs::create_dir_all(fixture.dir.join("volume/filling/half")).unwrap();
        fixture.place().recover().unwrap();
        assert_eq!(fixture.names("volume"), ["_data"]);
        assert!(fixture.names("volume/_data").is_empty());
        std::fs::create_dir_all(fixture.dir.join("volume/filling/half")).unwrap();
        fixture.place().fill(fixture.image().as_fd(), true).unwrap();
        fixture.is_full();
    }

    #[test]
    fn a_move_that_was_cut_off_is_gone_on_with() {
        let fixture = Fixture::new("moved");
        // As it is after the copy, with one entry moved.
        let place = fixture.place();
        rustix::fs::mkdirat(&place.aside, "filling", Mode::RWXU).unwrap();
        place.copy(fixture.image().as_fd(), true).unwrap();
        let volume = fixture.dir.join("volume");
        std::fs::rename(volume.join("filled/second"), volume.join("_data/second")).unwrap();
        fixture.place().recover().unwrap();
        fixture.is_full();
    }
}
