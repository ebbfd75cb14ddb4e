//! The writable part of a container's file system.
//!
//! `snapshots/ID/` holds `upper` and `work` for overlay (or `rootfs`, a copy) and `image`, a link
//! whose target names the image: making one is a few calls and no database. It holds its image's
//! layers against garbage collection as long as it exists.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::Digest;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Doing, Error, Result};
use crate::store::{Config, ImageStore};

/// What a container's root is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// Layers to stack.
    Overlay {
        /// Read-only layers, the uppermost first.
        lowers: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// The kernel's scratch directory.
        work: PathBuf,
        /// Whether overlay's attributes are `user.overlay.*`.
        is_userxattr: bool,
    },
    /// A tree of its own.
    Copy {
        /// The tree.
        rootfs: PathBuf,
    },
}

/// A path a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute, in the container.
    pub path: PathBuf,
    /// How.
    pub kind: ChangeKind,
}

/// How a path changed; the numbers are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there before.
    Modified = 0,
    /// It is new.
    Added = 1,
    /// It is gone.
    Deleted = 2,
}

impl ImageStore {
    fn snapshot_dir(&self, key: &str) -> PathBuf {
        self.config.root.join("snapshots").join(key)
    }

    /// Makes the snapshot of a new container. Cheap with overlay; a copy where there is none.
    ///
    /// # Errors
    /// Where there is no such image, or the disk refuses; nothing is left then.
    pub fn prepare_snapshot(&self, key: &str, image: &Digest) -> Result<Snapshot> {
        let _gc = self.gc.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let record = self.resolve(&image.to_string())?;
        let dir = self.snapshot_dir(key);
        let step = || format!("make the snapshot {}", dir.display());
        std::fs::create_dir(&dir).doing(step)?;
        let made = std::os::unix::fs::symlink(image.to_string(), dir.join("image")).and_then(|()| {
            if *self.uses_overlay.get_or_init(|| overlay_is_to_be_used(&self.config)) {
                // The mode of the upper directory is that of the container's root.
                std::fs::create_dir(dir.join("upper"))?;
                std::fs::create_dir(dir.join("work"))?;
                match self.lowers(&record.diff_ids).first().map(std::fs::metadata) {
                    Some(Ok(top)) => take_over(&dir.join("upper"), &top),
                    _ => Ok(()),
                }
            } else {
                std::fs::create_dir(dir.join("rootfs"))?;
                let lowers = self.lowers(&record.diff_ids);
                lowers.iter().rev().try_for_each(|lower| stack_copy(lower, &dir.join("rootfs")))
            }
        });
        if let Err(error) = made {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(error).doing(step);
        }
        self.snapshot(key).ok_or_else(|| Error::NoSuchImage { name: image.to_string() })
    }

    /// The snapshot of a container.
    #[must_use]
    pub fn snapshot(&self, key: &str) -> Option<Snapshot> {
        let dir = self.snapshot_dir(key);
        if dir.join("rootfs").exists() {
            return Some(Snapshot::Copy { rootfs: dir.join("rootfs") });
        }
        let mut lowers = self.lowers(&self.layers_of_snapshot(key)?);
        if lowers.is_empty() {
            // An image without layers: overlay wants one lower all the same.
            let empty = dir.join("empty");
            let _ = std::fs::create_dir(&empty);
            lowers.push(empty);
        }
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        Some(Snapshot::Overlay { lowers, upper, work, is_userxattr: self.config.is_rootless })
    }

    /// The layers a snapshot stands on, the lowest first. Kept beside the snapshot once its image is removed.
    fn layers_of_snapshot(&self, key: &str) -> Option<Vec<Digest>> {
        let dir = self.snapshot_dir(key);
        if let Ok(text) = std::fs::read_to_string(dir.join("layers")) {
            return text.lines().map(|line| line.parse().ok()).collect();
        }
        let target = std::fs::read_link(dir.join("image")).ok()?;
        let image = self.resolve(target.to_str()?).ok()?;
        Some(image.diff_ids.clone())
    }

    /// The layers each snapshot stands on. A snapshot whose image is about to go gets its list of layers
    /// written down, since the image will no longer tell.
    pub(crate) fn pinned_stacks(&self) -> Vec<Vec<Digest>> {
        self.snapshot_keys().iter().filter_map(|key| self.layers_of_snapshot(key)).collect()
    }

    /// Writes the layers of each snapshot of `image` beside it.
    pub(crate) fn pin_snapshots_of(&self, image: &Digest, diff_ids: &[Digest]) -> Result<()> {
        let wanted = image.to_string();
        let text: String = diff_ids.iter().map(|diff_id| format!("{diff_id}\n")).collect();
        for key in self.snapshot_keys() {
            let dir = self.snapshot_dir(&key);
            if std::fs::read_link(dir.join("image")).is_ok_and(|target| target.as_os_str() == wanted.as_str())
            {
                let path = dir.join("layers");
                let write = || stdx::fs::write_atomic(&path, text.as_bytes(), stdx::fs::Durability::Power);
                self.database
                    .with_room(write)
                    .doing(|| format!("write down the layers of {}", dir.display()))?;
            }
        }
        Ok(())
    }

    /// Removes a snapshot; the tree is deleted in the background.
    ///
    /// # Errors
    /// None at present.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        let dir = self.snapshot_dir(key);
        // A container that wrote nothing leaves a few empty directories: those go at once.
        let is_small = std::fs::read_dir(dir.join("upper")).is_ok_and(|mut entries| entries.next().is_none());
        if is_small && std::fs::remove_dir_all(&dir).is_ok() {
            return Ok(());
        }
        self.discard(&dir);
        Ok(())
    }

    /// The key of every snapshot.
    #[must_use]
    pub fn snapshot_keys(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.config.root.join("snapshots")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Bytes a container has written.
    #[must_use]
    pub fn snapshot_usage(&self, key: &str) -> u64 {
        match self.snapshot(key) {
            Some(Snapshot::Overlay { upper, .. }) => usage(&upper),
            Some(Snapshot::Copy { rootfs }) => usage(&rootfs),
            None => 0,
        }
    }

    /// What a container changed of its image, by path.
    ///
    /// # Errors
    /// Where there is no such snapshot, or it is a copy, of which nothing tells the changes.
    pub fn changes(&self, key: &str) -> Result<Vec<Change>> {
        match self.snapshot(key) {
            Some(Snapshot::Overlay { lowers, upper, .. }) => {
                let mut changes = Vec::new();
                find_changes(&upper, Path::new("/"), &lowers, &mut changes).doing(|| "list the changes")?;
                changes.sort_by(|a, b| a.path.cmp(&b.path));
                Ok(changes)
            }
            Some(Snapshot::Copy { .. }) => Err(Error::Unsupported {
                what: "changes can't be told where overlay is not available".into(),
            }),
            None => Err(Error::NoSuchImage { name: key.to_owned() }),
        }
    }
}

/// Gives a directory the mode and owner of another.
pub(crate) fn take_over(dir: &Path, from: &std::fs::Metadata) -> io::Result<()> {
    std::os::unix::fs::chown(dir, Some(from.uid()), Some(from.gid()))?;
    let mode = Mode::from_raw_mode(from.mode() & 0o7777);
    Ok(rustix::fs::chmod(dir, mode)?)
}

/// Whether snapshots are overlays.
pub(crate) fn overlay_is_to_be_used(config: &Config) -> bool {
    !config.forces_copy && overlay_works(config)
}

/// Tries a real mount: whether overlay works here depends on kernel, file system and privileges.
fn overlay_works(config: &Config) -> bool {
    let base = config.root.join("ingest").join("probe");
    let _ = std::fs::remove_dir_all(&base);
    let mounted = (|| -> io::Result<OwnedFd> {
        for dir in ["lower", "upper", "work"] {
            std::fs::create_dir_all(base.join(dir))?;
        }
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, dir) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
            rustix::mount::fsconfig_set_string(fs.as_fd(), key, base.join(dir))?;
        }
        if config.is_rootless {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "userxattr")?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())?;
        Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
    })();
    if let Err(error) = &mounted {
        tracing::warn!(%error, root = %config.root.display(), "overlay can't be mounted here: containers get plain copies");
    }
    let works = mounted.is_ok();
    drop(mounted);
    let _ = std::fs::remove_dir_all(&base);
    works
}

pub(crate) fn is_whiteout(metadata: &std::fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

pub(crate) fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 4];
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        rustix::fs::lgetxattr(dir, *name, &mut value[..]).is_ok_and(|n| n == 1 && value[0] == b'y')
    })
}

/// Copies a layer onto a tree, with its whiteouts carried out.
fn stack_copy(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(from)?;
    take_over(to, &metadata)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = std::fs::symlink_metadata(&source)?;
        let there = std::fs::symlink_metadata(&target).ok();
        let keeps_dir =
            metadata.is_dir() && there.as_ref().is_some_and(std::fs::Metadata::is_dir) && !is_opaque(&source);
        if let Some(there) = there.filter(|_| !keeps_dir) {
            if there.is_dir() { std::fs::remove_dir_all(&target)? } else { std::fs::remove_file(&target)? }
        }
        if is_whiteout(&metadata) {
            continue;
        }
        if metadata.is_dir() {
            if !keeps_dir {
                std::fs::create_dir(&target)?;
            }
            stack_copy(&source, &target)?;
        } else {
            copy_one(&source, &target, &metadata)?;
        }
        copy_attributes(&source, &target);
    }
    Ok(())
}

fn copy_one(source: &Path, target: &Path, metadata: &std::fs::Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_symlink() {
        std::os::unix::fs::symlink(std::fs::read_link(source)?, target)?;
    } else if kind.is_file() {
        std::fs::copy(source, target)?;
    } else {
        let kind = rustix::fs::FileType::from_raw_mode(metadata.mode());
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            target,
            kind,
            Mode::from_raw_mode(metadata.mode() & 0o7777),
            metadata.rdev(),
        );
        // Devices can't be made without root, nor opened.
        if made == Err(rustix::io::Errno::PERM) {
            return Ok(());
        }
        made?;
    }
    std::os::unix::fs::lchown(target, Some(metadata.uid()), Some(metadata.gid()))?;
    if !kind.is_symlink() {
        rustix::fs::chmod(target, Mode::from_raw_mode(metadata.mode() & 0o7777))?;
    }
    set_time(target, metadata)
}

pub(crate) fn set_time(target: &Path, metadata: &Metadata) -> io::Result<()> {
    let time = rustix::fs::Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let stamps = rustix::fs::Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, target, &stamps, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// As far as the file system takes them.
pub(crate) fn copy_attributes(source: &Path, target: &Path) {
    for (name, value) in attributes(source) {
        if !name.as_bytes().starts_with(b"trusted.overlay.") && !name.as_bytes().starts_with(b"user.overlay.")
        {
            let _ = rustix::fs::lsetxattr(target, &name, &value, rustix::fs::XattrFlags::empty());
        }
    }
}

/// Extended attributes of a file.
pub(crate) fn attributes(path: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let mut names = vec![0; 64 * 1024];
    let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return Vec::new() };
    names
        .get(..length)
        .unwrap_or_default()
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let name = OsStr::from_bytes(name).to_owned();
            let mut value = vec![0; 64 * 1024];
            let length = rustix::fs::lgetxattr(path, &name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((name, value))
        })
        .collect()
}

fn usage(dir: &Path) -> u64 {
    let mut total = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Ok(metadata) = entry.metadata() {
                if metadata.is_dir() {
                    dirs.push(entry.path());
                } else {
                    total += metadata.len();
                }
            }
        }
    }
    total
}

/// Files and directories that were made to be mounted on, and are hidden by that from the container:
/// Docker keeps them in a layer of their own, below the one that shows changes.
const MOUNT_POINTS: [&str; 9] = [
    "/dev",
    "/dev/console",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
];

/// Whether an entry of the writable layer is such a thing and nothing more.
pub(crate) fn is_mount_point(shown: &Path, metadata: &Metadata) -> bool {
    let is_known = shown == Path::new("/sys") || MOUNT_POINTS.iter().any(|known| shown == Path::new(known));
    // A directory's own entries are looked at by themselves.
    is_known && (metadata.is_dir() || (metadata.is_file() && metadata.len() == 0))
}

/// Lists what is below `dir`. Whether something was left out, because it is a mount point.
fn find_changes(dir: &Path, shown: &Path, lowers: &[PathBuf], changes: &mut Vec<Change>) -> io::Result<bool> {
    let mut has_left_out = false;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let (path, shown) = (entry.path(), shown.join(entry.file_name()));
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let before = below(&shown, lowers);
        let kind = if is_whiteout(&metadata) {
            ChangeKind::Deleted
        } else if before.is_some() {
            ChangeKind::Modified
        } else {
            ChangeKind::Added
        };
        let is_made = kind == ChangeKind::Added && is_mount_point(&shown, &metadata);
        let at = changes.len();
        changes.push(Change { path: shown.clone(), kind });
        let mut is_left_out = is_made;
        if metadata.is_dir() {
            let has_left_out_below = find_changes(&path, &shown, lowers, changes)?;
            let has_more_below = changes.len() > at + 1;
            let is_same = before.as_ref().is_none_or(|before| {
                (before.st_mode, before.st_uid, before.st_gid)
                    == (metadata.mode(), metadata.uid(), metadata.gid())
            });
            is_left_out = (is_made || (has_left_out_below && is_same)) && !has_more_below;
        }
        if is_left_out {
            changes.truncate(at);
            has_left_out = true;
        }
    }
    Ok(has_left_out)
}

/// A path below the writable layer, if it is there.
fn below(path: &Path, lowers: &[PathBuf]) -> Option<rustix::fs::Stat> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    for lower in lowers {
        let Ok(root) =
            rustix::fs::open(lower, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            continue;
        };
        // Every part of the path may be hidden by this layer.
        let mut part = PathBuf::new();
        for component in relative.components() {
            part.push(component);
            match rustix::fs::statat(&root, &part, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode)
                        == rustix::fs::FileType::CharacterDevice;
                    if is_device && stat.st_rdev == 0 {
                        return None;
                    }
                    if part == relative {
                        return Some(stat);
                    }
                }
                Err(_) => break,
            }
        }
    }
    None
}
