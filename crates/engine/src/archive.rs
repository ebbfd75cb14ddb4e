//! Files in and out of containers, as tar archives: `cp` and `export`.
//!
//! Paths are resolved by the kernel with the container's root as `/`. A running container's root is
//! reached through its first process, so that its mounts count; a stopped one's is mounted for the
//! occasion, attached nowhere, and gone with its descriptor.

mod extract;
mod pack;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image_store::{ChangeKind, Snapshot};
use model::mount::MountSource;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::container::Container;
use crate::engine::Engine;
pub use extract::Unpacking;

use crate::error::{Doing, Error, Result};

/// What a path in a container is.
#[derive(Debug, Clone)]
pub struct PathInfo {
    /// Its last name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits, set-id bits included.
    pub mode: u32,
    /// What it is.
    pub kind: PathKind,
    /// Nanoseconds since the epoch.
    pub modified: i128,
    /// Where a symlink leads.
    pub link_target: String,
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// A plain file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device.
    Device,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// How long a start may hold up who wants to copy.
const PATIENCE: Duration = Duration::from_secs(15);

impl Engine {
    /// Describes a path. Blocking: a container that starts is waited for.
    ///
    /// # Errors
    /// Where there is no such container or path.
    pub fn stat_path(&self, name: &str, path: &str) -> Result<PathInfo> {
        let container = self.containers.find(name)?;
        let place = self.open_place(&container, path)?;
        place.stat(name)
    }

    /// Writes a path, with everything below it, as a tar archive. Blocking.
    ///
    /// # Errors
    /// Where there is no such container or path, or it can't be read or written.
    pub fn read_archive(&self, name: &str, path: &str, into: impl Write) -> Result<()> {
        let container = self.containers.find(name)?;
        let place = self.open_place(&container, path)?;
        let info = place.stat(name)?;
        let opened = split(&place.path);
        let parent = open_in(&place.root, &opened.parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|_| Error::NoSuchPath { path: path.to_owned(), container: name.to_owned() })?;
        let named = if opened.name.is_empty() { ".".to_owned() } else { opened.name };
        let shown = if info.name.is_empty() { "/".to_owned() } else { info.name };
        pack::pack(parent.as_fd(), &named, &shown, into).doing(|| format!("archive {path}"))
    }

    /// Writes the whole file system as a tar archive. Blocking.
    ///
    /// # Errors
    /// Where there is no such container, or it can't be read or written.
    pub fn export(&self, name: &str, into: impl Write) -> Result<()> {
        let container = self.containers.find(name)?;
        let root = self.open_layers(&container)?;
        let exported = pack::pack_content(root.as_fd(), into).doing(|| "export the file system");
        self.container_event(&container, "export", &[]);
        exported
    }

    /// Unpacks a tar archive into a directory. Blocking.
    ///
    /// # Errors
    /// Where the directory is missing, the root is read-only, or the archive is malformed or climbs.
    pub fn write_archive(&self, name: &str, path: &str, how: Unpacking, from: impl Read) -> Result<()> {
        let container = self.containers.find(name)?;
        if container.spec().host.readonly_rootfs {
            return Err(Error::Conflict { what: "container rootfs is marked read-only".into() });
        }
        let owner = if how.gives_to_user { self.user_of(&container)? } else { None };
        let place = self.open_place(&container, path)?;
        if !place.is_writable {
            return Err(Error::Conflict { what: format!("mounted volume is marked read-only: {path}") });
        }
        let dir = open_in(&place.root, Path::new(&place.path), OFlags::PATH | OFlags::DIRECTORY);
        let dir = dir.map_err(|error| {
            if error == rustix::io::Errno::NOTDIR {
                Error::invalid("extraction point is not a directory")
            } else {
                Error::NoSuchPath { path: path.to_owned(), container: name.to_owned() }
            }
        })?;
        extract::extract(dir.as_fd(), how.keeps_kind, owner, from)
    }

    /// The ids of a container's user, where it names one.
    fn user_of(&self, container: &Arc<Container>) -> Result<Option<(u32, u32)>> {
        let spec = container.spec();
        if spec.user.is_empty() {
            return Ok(None);
        }
        let root = self.open_root(container)?;
        let read = |path: &str| {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let file = open_in(&root, Path::new(path), flags).ok().map(std::fs::File::from);
            let mut bytes = Vec::new();
            if let Some(file) = file.filter(|file| file.metadata().is_ok_and(|found| found.is_file())) {
                // What can't be read to its end is looked through as far as it goes.
                let _ = file.take(4 << 20).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let ids = oci_runtime::users::ids(&spec.user, &read("/etc/passwd"), &read("/etc/group"));
        ids.map(Some).map_err(|error| Error::invalid(error.to_string()))
    }

    /// What a container changed of its image.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn changes(&self, name: &str) -> Result<Vec<(PathBuf, ChangeKind)>> {
        let container = self.containers.find(name)?;
        let changes = self.images.changes(&container.id)?;
        Ok(changes.into_iter().map(|change| (change.path, change.kind)).collect())
    }

    /// The root as the container sees it.
    fn open_root(&self, container: &Arc<Container>) -> Result<Arc<OwnedFd>> {
        let state = container.state();
        let Some(run) = state.run() else { return self.open_layers(container) };
        let path = format!("/proc/{}/root", run.pid);
        rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map(Arc::new)
            .doing(|| format!("open the root of container {}", container.short_id()))
    }

    /// Where a path of a container is: in its root, or, while it does not run, in a directory or volume that
    /// would be mounted there.
    fn open_place(&self, container: &Arc<Container>, path: &str) -> Result<Place> {
        let whole = || -> Result<Place> {
            Ok(Place {
                root: self.open_root(container)?,
                path: path.to_owned(),
                shown: None,
                is_writable: true,
            })
        };
        if container.state().run().is_some() {
            return whole();
        }
        let spec = container.spec();
        let clean = clean(path);
        let over = spec.mount_points.iter().flatten().filter_map(|point| {
            let rest = clean.strip_prefix(&point.target).ok()?.to_owned();
            let source = match &point.source {
                MountSource::Bind { path, .. } => PathBuf::from(path),
                MountSource::Volume { name, subpath, .. } if subpath.is_empty() => {
                    let data = self.volume_dir(name).join("_data");
                    // One with a device of its own is mounted in running containers only.
                    let is_plain = self.volume(name).is_ok_and(|volume| volume.options.is_empty());
                    is_plain.then_some(data)?
                }
                _ => return None,
            };
            Some((point, source, rest))
        });
        let Some((point, source, rest)) = over.max_by_key(|(point, ..)| point.target.len()) else {
            return whole();
        };
        let opened =
            rustix::fs::open(&source, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        // A file that is mounted, or nothing: what the layers have there is the best answer.
        let Ok(root) = opened.map(Arc::new) else { return whole() };
        let follows = if path.ends_with("/.") { "/." } else { "" };
        let shown =
            rest.as_os_str().is_empty().then(|| point.target.rsplit('/').next().unwrap_or("/").to_owned());
        let path = format!("/{}{follows}", rest.display());
        Ok(Place { root, path, shown, is_writable: point.is_writable })
    }

    /// The root by its layers, without the mounts of a running container.
    fn open_layers(&self, container: &Arc<Container>) -> Result<Arc<OwnedFd>> {
        let begun = Instant::now();
        loop {
            // A running container holds upper and work; the same overlay can't be mounted twice.
            let pid = container.state().run().map(|run| run.pid);
            let is_overlay = matches!(self.images.snapshot(&container.id), Some(Snapshot::Overlay { .. }));
            if let Some(pid) = pid.filter(|_| is_overlay) {
                let path = format!("/proc/{pid}/root");
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(&path, flags, Mode::empty());
                return opened.map(Arc::new).doing(|| format!("open {path:?}"));
            }
            let mount = || self.open_layers_of(&container.id, container.spec().rootfs.as_deref());
            if let Some(layers) = container.share_layers(mount)? {
                return Ok(layers);
            }
            if begun.elapsed() > PATIENCE {
                return Err(Error::Conflict {
                    what: format!("container {} is being started, try again", container.short_id()),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The root of a container that does not run; it may not be there yet as one.
    pub(crate) fn open_layers_of(&self, id: &str, rootfs: Option<&Path>) -> Result<OwnedFd> {
        let plain = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .doing(|| format!("open {path:?}"))
        };
        if let Some(rootfs) = rootfs {
            return plain(rootfs);
        }
        let snapshot = self.images.snapshot(id).ok_or_else(|| Error::State {
            what: format!("the file system of container {} is missing", id.get(..12).unwrap_or(id)),
        })?;
        match snapshot {
            Snapshot::Copy { rootfs } => plain(&rootfs),
            Snapshot::Overlay { lowers, upper, work, is_userxattr } => {
                mount_detached(&lowers, &upper, &work, is_userxattr)
            }
        }
    }
}

/// A path of a container: in what, and where there.
struct Place {
    root: Arc<OwnedFd>,
    path: String,
    /// What the root of a volume is called in the container.
    shown: Option<String>,
    is_writable: bool,
}

impl Place {
    fn stat(&self, container: &str) -> Result<PathInfo> {
        let mut info = stat(&self.root, &self.path, container)?;
        if let Some(shown) = &self.shown {
            info.name.clone_from(shown);
        }
        Ok(info)
    }
}

/// A path without `.` and `..`, by its letters; what leads through symlinks is left to the kernel.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// An overlay that is mounted nowhere but in its descriptor.
fn mount_detached(lowers: &[PathBuf], upper: &Path, work: &Path, is_userxattr: bool) -> Result<OwnedFd> {
    let step = || "mount the container's file system";
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing(step)?;
    let set =
        |key: &str, value: &Path| rustix::mount::fsconfig_set_string(fs.as_fd(), key, value).doing(step);
    let joined =
        lowers.iter().map(|lower| lower.to_string_lossy().replace(':', "\\:")).collect::<Vec<_>>().join(":");
    if joined.len() < 255 {
        set("lowerdir", Path::new(&joined))?;
    } else {
        // A value takes 255 bytes; one by one there is no such limit (kernel 6.8).
        lowers.iter().try_for_each(|lower| set("lowerdir+", lower))?;
    }
    set("upperdir", upper)?;
    set("workdir", work)?;
    if is_userxattr {
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "userxattr").doing(step)?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).doing(step)?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).doing(step)
}

/// Resolves a path with `root` as its `/`.
pub(crate) fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// A path's directory and last name. `dir/` and `dir/.` name the directory itself, through symlinks.
struct Split {
    parent: PathBuf,
    name: String,
}

fn split(path: &str) -> Split {
    let follows = path.ends_with('/') || path.ends_with("/.");
    let trimmed = path.trim_end_matches('.').trim_end_matches('/');
    let clean = Path::new(if follows { trimmed } else { path });
    match (clean.parent(), clean.file_name()) {
        (Some(parent), Some(name)) if !follows => {
            Split { parent: parent.to_owned(), name: name.to_string_lossy().into_owned() }
        }
        _ => Split { parent: clean.to_owned(), name: String::new() },
    }
}

fn stat(root: &OwnedFd, path: &str, container: &str) -> Result<PathInfo> {
    let missing = |_| Error::NoSuchPath { path: path.to_owned(), container: container.to_owned() };
    let Split { parent, name } = split(path);
    let dir = open_in(root, &parent, OFlags::PATH).map_err(missing)?;
    let (stat, link_target) = if name.is_empty() {
        (rustix::fs::fstat(&dir).map_err(missing)?, String::new())
    } else {
        let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(missing)?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let target = if is_link { rustix::fs::readlinkat(&dir, &name, Vec::new()).ok() } else { None };
        (stat, target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default())
    };
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => PathKind::Directory,
        FileType::Symlink => PathKind::Symlink,
        FileType::CharacterDevice | FileType::BlockDevice => PathKind::Device,
        FileType::Fifo => PathKind::Fifo,
        FileType::Socket => PathKind::Socket,
        FileType::RegularFile | FileType::Unknown => PathKind::File,
    };
    // `dir/.` is the directory's content, which Docker calls by that name.
    let shown = if path.ends_with("/.") || path == "." {
        ".".to_owned()
    } else if name.is_empty() {
        parent.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "/".into())
    } else {
        name
    };
    Ok(PathInfo {
        name: shown,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        kind,
        modified: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        link_target,
    })
}
