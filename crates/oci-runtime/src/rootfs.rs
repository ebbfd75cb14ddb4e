//! Builds the container's file system in its mount namespace and enters it.
//!
//! Every path of the bundle is resolved by the kernel inside the container's root (`openat2` with
//! `RESOLVE_IN_ROOT`), and mounted on through the descriptor found, so that no symlink of an image
//! leads a mount outside.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::devices;
use crate::error::{Doing, Error, Result};
use crate::filesystem;
use crate::mount_options::{MountOptions, attr, propagation};
use crate::spec::{Mount, Spec};
use crate::sys;

/// An overlay to mount as the container's root, inside its own mount namespace.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Overlay {
    /// Read-only layers, the uppermost first.
    pub lowers: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// The kernel's scratch directory, beside `upper`.
    pub work: PathBuf,
    /// Whether overlay's own attributes are `user.overlay.*` (a daemon without root).
    #[serde(default)]
    pub is_userxattr: bool,
    /// Whether nothing of it need reach the disk: the kernel then syncs nothing for it, not even at
    /// the end (Documentation/filesystems/overlayfs.rst, "Volatile mount").
    #[serde(default)]
    pub is_volatile: bool,
}

/// A mount of the bundle, its options sorted, its source perhaps opened already.
pub(crate) struct PreparedMount<'a> {
    mount: &'a Mount,
    options: MountOptions,
    /// The detached copy of a bind mount's source.
    tree: Option<Tree>,
}

struct Tree {
    fd: OwnedFd,
    is_dir: bool,
}

/// Opens what only the caller may reach (sources of bind mounts), before namespaces change.
pub(crate) fn prepare<'a>(
    spec: &'a Spec,
    idmap: impl Fn(&Mount) -> Result<Option<OwnedFd>>,
) -> Result<Vec<PreparedMount<'a>>> {
    let mut prepared = Vec::with_capacity(spec.mounts.len());
    for mount in &spec.mounts {
        let options = MountOptions::parse(&mount.kind, &mount.options)?;
        let mut tree = None;
        if options.is_bind && !options.is_remount {
            match open_source(mount, &options) {
                Ok(mut source) => {
                    set_attributes(&mut source, mount, &options, idmap(mount)?.as_ref())?;
                    tree = Some(source);
                }
                // Without privileges here, the container's own user namespace may have them.
                Err(Error::Os { source, .. }) if source.raw_os_error() == Some(libc::EPERM) => {}
                Err(error) => return Err(error),
            }
        } else if mount.is_detached {
            let fd = filesystem::mount(&mount.kind, &mount.source, &options)?;
            let mut fresh = Tree { fd, is_dir: true };
            set_attributes(&mut fresh, mount, &options, None)?;
            tree = Some(fresh);
        } else if options.idmap.is_some() || !mount.uid_mappings.is_empty() {
            return Err(Error::Unsupported {
                what: format!("mount {:?}: id mappings are for bind mounts", mount.destination),
            });
        }
        prepared.push(PreparedMount { mount, options, tree });
    }
    Ok(prepared)
}

fn open_source(mount: &Mount, options: &MountOptions) -> Result<Tree> {
    let step = || format!("open {:?} to mount it on {:?}", mount.source, mount.destination);
    if mount.subpath.as_os_str().is_empty() {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE;
        if options.is_recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        return Tree::of(rustix::mount::open_tree(rustix::fs::CWD, &mount.source, flags).doing(step)?)
            .doing(step);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let whole = rustix::fs::open(&mount.source, flags, Mode::empty()).doing(step)?;
    let part = filesystem::open_beneath(whole.as_fd(), &mount.subpath)?;
    Tree::of(filesystem::copy_mount(part.as_fd(), options.is_recursive).doing(step)?).doing(step)
}

impl Tree {
    fn of(fd: OwnedFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory })
    }
}

fn set_attributes(
    tree: &mut Tree,
    mount: &Mount,
    options: &MountOptions,
    userns: Option<&OwnedFd>,
) -> Result<()> {
    let apply = |is_recursive, attr: &sys::MountAttr| {
        sys::mount_setattr(tree.fd.as_fd(), is_recursive, attr)
            .doing(|| format!("set the attributes of the mount on {:?}", mount.destination))
    };
    if let Some(userns) = userns {
        let userns_fd = u64::try_from(userns.as_raw_fd()).unwrap_or(u64::MAX);
        let is_recursive = options.idmap == Some(true);
        apply(is_recursive, &sys::MountAttr { set: attr::IDMAP, userns_fd, ..sys::MountAttr::default() })?;
    }
    if options.recursive_set | options.recursive_clear != 0 {
        let attr = sys::MountAttr {
            set: options.recursive_set,
            clear: options.recursive_clear,
            ..sys::MountAttr::default()
        };
        apply(true, &attr)?;
    }
    if options.set | options.clear != 0 {
        apply(
            false,
            &sys::MountAttr { set: options.set, clear: options.clear, ..sys::MountAttr::default() },
        )?;
    }
    Ok(())
}

/// The container's root while it is being built: a directory that paths are resolved in.
pub(crate) struct Rootfs {
    fd: OwnedFd,
    path: PathBuf,
}

impl Rootfs {
    /// Mounts the root itself: an overlay or a directory bound onto itself.
    pub(crate) fn mount(spec: &Spec, path: &Path, overlay: Option<&Overlay>) -> Result<Self> {
        let linux = spec.linux.as_ref();
        let wanted = linux.map_or("", |linux| linux.rootfs_propagation.as_str());
        let flags = match wanted {
            "" => libc::MS_SLAVE | libc::MS_REC,
            name => propagation(name)
                .map(|flag| flag | libc::MS_REC)
                .ok_or_else(|| Error::invalid(format!("linux.rootfsPropagation {name:?} is unknown")))?,
        };
        sys::mount(None, c"/", None, flags, None).doing(|| "change the propagation of /")?;
        // With a shared root, a mount made below would show outside; pivot_root refuses it too.
        if flags & libc::MS_SHARED != 0 {
            make_parent_private(path)?;
        }
        let target = cstring(path)?;
        if let Some(overlay) = overlay {
            overlay.mount(&target)?;
        } else {
            sys::mount(Some(&target), &target, None, libc::MS_BIND | libc::MS_REC, None)
                .doing(|| format!("bind the root {path:?}"))?;
        }
        Self::bare(path)
    }

    /// A directory as it is, with nothing mounted.
    pub(crate) fn bare(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(|| format!("open the root {path:?}"))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens a path inside the root (`O_PATH`).
    pub(crate) fn open(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        open_in(self.fd.as_fd(), path, OFlags::PATH)
    }

    /// Opens the directory, making what is missing of it.
    pub(crate) fn create_dir(&self, path: &Path) -> Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::NOENT) => {}
            other => return other.doing(|| format!("open {path:?} in the root")),
        }
        // Most often it is the last part alone.
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Ok(above) = self.open(parent)
            && rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)).is_ok()
        {
            return self.open(path).doing(|| format!("open {path:?} in the root"));
        }
        let mut made = PathBuf::new();
        let mut fd = self.open(Path::new("/")).doing(|| "open the root")?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            made.push(name);
            fd = match self.open(&made) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&fd, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error).doing(|| format!("make {made:?} in the root")),
                    }
                    self.open(&made)
                }
                other => other,
            }
            .doing(|| format!("open {made:?} in the root"))?;
        }
        Ok(fd)
    }

    /// Opens the file, making it and its directories if missing.
    pub(crate) fn create_file(&self, path: &Path) -> Result<OwnedFd> {
        match self.open(path) {
            Err(Errno::NOENT) => {}
            other => return other.doing(|| format!("open {path:?} in the root")),
        }
        let (dir, name) = self.parent_of(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, name, flags, Mode::from_raw_mode(0o644))
            .doing(|| format!("make {path:?} in the root"))?;
        self.open(path).doing(|| format!("open {path:?} in the root"))
    }

    /// The directory a path is in, made if missing, and its last name.
    pub(crate) fn parent_of<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| Error::invalid(format!("path {path:?} has no name")))?;
        let dir = self.create_dir(path.parent().unwrap_or(Path::new("/")))?;
        Ok((dir, name))
    }

    /// Makes one mount of the bundle.
    pub(crate) fn apply(
        &self,
        prepared: &PreparedMount<'_>,
        cgroups: &Cgroups,
        has_cgroup_namespace: bool,
    ) -> Result<()> {
        let PreparedMount { mount, options, tree } = prepared;
        if options.is_remount {
            return self.remount(mount, options);
        }
        if mount.overlay.is_some() || (mount.is_detached && !mount.subpath.as_os_str().is_empty()) {
            let mut part = staged_part(mount, tree.as_ref())?;
            set_attributes(&mut part, mount, options, None)?;
            return self.attach(mount, options, &part);
        }
        if options.is_bind || mount.is_detached {
            let opened;
            let tree = if let Some(tree) = tree {
                tree
            } else {
                let mut source = open_source(mount, options)?;
                set_attributes(&mut source, mount, options, None)?;
                opened = source;
                &opened
            };
            return self.attach(mount, options, tree);
        }
        if mount.kind == "cgroup" {
            return cgroups.mount_in(self, &mount.destination, options, has_cgroup_namespace);
        }
        let target = self.create_dir(&mount.destination)?;
        let copy = if options.copies_up { Some(self.open_dir_tree(&mount.destination)?) } else { None };
        self.new_filesystem(mount, options, &target)?;
        if let Some(copy) = copy {
            let fresh = self.open(&mount.destination).doing(|| format!("open {:?}", mount.destination))?;
            copy_tree(copy.as_fd(), fresh.as_fd()).doing(|| format!("copy {:?} up", mount.destination))?;
        }
        self.set_propagation(mount, options)
    }

    fn new_filesystem(&self, mount: &Mount, options: &MountOptions, target: &OwnedFd) -> Result<()> {
        let kind = text(&mount.kind)?;
        let source = text(if mount.source.is_empty() { &mount.kind } else { &mount.source })?;
        let data = if options.data.is_empty() { None } else { Some(text(&options.data)?) };
        let flags = options.mount_flags();
        let made = sys::mount(Some(&source), &fd_path(target.as_fd()), Some(&kind), flags, data.as_deref());
        match made {
            // The kernel hides a mqueue or sysfs it can't give to a user namespace behind EPERM; a
            // read-only view of the host's is what runc and crun fall back to.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && mount.kind == "sysfs" => {
                sys::mount(Some(c"/sys"), &fd_path(target.as_fd()), None, libc::MS_BIND | libc::MS_REC, None)
            }
            other => other,
        }
        .doing(|| format!("mount {} on {:?}", mount.kind, mount.destination))
    }

    fn attach(&self, mount: &Mount, options: &MountOptions, tree: &Tree) -> Result<()> {
        let target = if tree.is_dir {
            self.create_dir(&mount.destination)
        } else {
            self.create_file(&mount.destination)
        }?;
        let copy = if options.copies_up { Some(self.open_dir_tree(&mount.destination)?) } else { None };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(&tree.fd, "", &target, "", flags)
            .doing(|| format!("mount {:?} on {:?}", mount.source, mount.destination))?;
        if let Some(copy) = copy {
            copy_tree(copy.as_fd(), tree.fd.as_fd()).doing(|| format!("copy {:?} up", mount.destination))?;
        }
        self.set_propagation(mount, options)
    }

    fn remount(&self, mount: &Mount, options: &MountOptions) -> Result<()> {
        let target =
            self.open(&mount.destination).doing(|| format!("open {:?} to remount it", mount.destination))?;
        let attr = sys::MountAttr { set: options.set, clear: options.clear, ..sys::MountAttr::default() };
        sys::mount_setattr(target.as_fd(), false, &attr).doing(|| format!("remount {:?}", mount.destination))
    }

    fn set_propagation(&self, mount: &Mount, options: &MountOptions) -> Result<()> {
        if options.propagation.is_empty() {
            return Ok(());
        }
        let target = self.open(&mount.destination).doing(|| format!("open {:?}", mount.destination))?;
        for flags in &options.propagation {
            sys::mount(None, &fd_path(target.as_fd()), None, *flags, None)
                .doing(|| format!("set the propagation of {:?}", mount.destination))?;
        }
        Ok(())
    }

    fn open_dir_tree(&self, path: &Path) -> Result<OwnedFd> {
        open_in(self.fd.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY).doing(|| format!("open {path:?}"))
    }

    /// Makes the device nodes every container has, those the bundle adds, and the usual links.
    pub(crate) fn make_devices(&self, spec: &Spec) -> Result<()> {
        let dev_is_bound = spec.mounts.iter().any(|mount| {
            mount.destination == Path::new("/dev")
                && (mount.kind == "bind" || mount.options.iter().any(|o| o == "bind" || o == "rbind"))
        });
        if dev_is_bound {
            return Ok(());
        }
        let listed = spec.linux.as_ref().map_or(&[][..], |linux| &linux.devices);
        devices::make(self, listed)?;
        devices::link(self)
    }

    /// Makes this the root of the process and lets go of the host's.
    pub(crate) fn enter(&self, spec: &Spec, has_mount_namespace: bool) -> Result<()> {
        if has_mount_namespace {
            rustix::process::fchdir(&self.fd).doing(|| "enter the root")?;
            // Old and new root are stacked on one directory, so nothing need be made in the image.
            sys::pivot_root(c".", c".").doing(|| format!("pivot to {:?}", self.path))?;
            // The old root must not propagate its unmounting to the host.
            sys::mount(None, c".", None, libc::MS_SLAVE | libc::MS_REC, None)
                .doing(|| "detach the old root from the host")?;
            sys::umount(c".", libc::MNT_DETACH).doing(|| "unmount the old root")?;
        } else {
            rustix::process::fchdir(&self.fd).doing(|| "enter the root")?;
            rustix::process::chroot(".").doing(|| format!("chroot to {:?}", self.path))?;
        }
        rustix::process::chdir("/").doing(|| "change to /")?;
        if let Some(linux) = &spec.linux
            && matches!(
                linux.rootfs_propagation.as_str(),
                "shared" | "rshared" | "unbindable" | "runbindable"
            )
        {
            let flags = propagation(&linux.rootfs_propagation).unwrap_or(libc::MS_PRIVATE);
            sys::mount(None, c"/", None, flags, None).doing(|| "set the propagation of the root")?;
        }
        Ok(())
    }

    /// Makes the root read-only, after everything in it was made.
    pub(crate) fn make_readonly() -> Result<()> {
        let fd = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).doing(|| "open /")?;
        let attr = sys::MountAttr { set: attr::RDONLY, ..sys::MountAttr::default() };
        sys::mount_setattr(fd.as_fd(), false, &attr).doing(|| "make the root read-only")
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Overlay {
    fn mount(&self, target: &std::ffi::CStr) -> Result<()> {
        self.mount_somehow(target)?;
        if self.upper.as_os_str().is_empty() {
            return Ok(());
        }
        // Where the kernel can't make a directory in `work`, it mounts read-only and says so in its log alone.
        let is_read_only = |path: &std::ffi::CStr| {
            rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
        };
        if !is_read_only(target) {
            return Ok(());
        }
        let cause = if is_read_only(&cstring(&self.work)?) { Errno::ROFS } else { Errno::NOSPC };
        Err(cause).doing(|| format!("write in {:?}, which an overlay needs", self.work))
    }

    fn mount_somehow(&self, target: &std::ffi::CStr) -> Result<()> {
        // Layers are given relative to their common directory: the kernel takes one page of options.
        let mut data = Vec::with_capacity(512);
        data.extend(b"lowerdir=");
        for (index, lower) in self.lowers.iter().enumerate() {
            if index > 0 {
                data.push(b':');
            }
            escape(lower, &mut data);
        }
        if !self.upper.as_os_str().is_empty() {
            data.extend(b",upperdir=");
            escape(&self.upper, &mut data);
            data.extend(b",workdir=");
            escape(&self.work, &mut data);
        }
        if self.is_userxattr {
            data.extend(b",userxattr");
        }
        if self.is_volatile {
            data.extend(b",volatile");
        }
        // The overlay of the run before may still be on its way to the disk.
        data.extend(b",index=off");
        if data.len() >= 4096 {
            return self.mount_by_steps(target);
        }
        let data = CString::new(data).map_err(|_| Error::invalid("an overlay path holds a zero byte"))?;
        sys::mount(Some(c"overlay"), target, Some(c"overlay"), 0, Some(&data))
            .doing(|| format!("mount overlay on {target:?}"))
    }

    /// The new mount API takes each layer by itself (`lowerdir+`, kernel 6.8), so there is no limit of a page.
    fn mount_by_steps(&self, target: &std::ffi::CStr) -> Result<()> {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let step = || format!("mount overlay of {} layers on {target:?}", self.lowers.len());
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).doing(step)?;
        for lower in &self.lowers {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", lower).doing(step)?;
        }
        if !self.upper.as_os_str().is_empty() {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "upperdir", &self.upper).doing(step)?;
            rustix::mount::fsconfig_set_string(fs.as_fd(), "workdir", &self.work).doing(step)?;
        }
        if self.is_userxattr {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "userxattr").doing(step)?;
        }
        if self.is_volatile {
            rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile").doing(step)?;
        }
        rustix::mount::fsconfig_set_string(fs.as_fd(), "index", "off").doing(step)?;
        rustix::mount::fsconfig_create(fs.as_fd()).doing(step)?;
        let mount =
            rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
                .doing(step)?;
        rustix::mount::move_mount(
            &mount,
            "",
            rustix::fs::CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .doing(step)
    }
}

/// Overlay's option parser splits at `:` and `,` and takes a backslash before them.
fn escape(path: &Path, into: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

/// Mounts what a part is wanted of on its stage, in this mount namespace, takes the part, and clears the
/// stage: only a mount that has a place can be copied from.
fn staged_part(mount: &Mount, tree: Option<&Tree>) -> Result<Tree> {
    let step = || format!("mount a part of {:?} on {:?}", mount.source, mount.destination);
    let stage = cstring(&mount.stage)?;
    if let Some(overlay) = &mount.overlay {
        overlay.mount(&stage)?;
    } else if let Some(tree) = tree {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree.fd, "", rustix::fs::CWD, &mount.stage, flags).doing(step)?;
    }
    let whole =
        rustix::fs::open(&mount.stage, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .doing(step)?;
    let part = if mount.subpath.as_os_str().is_empty() {
        whole
    } else {
        filesystem::open_beneath(whole.as_fd(), &mount.subpath)?
    };
    let copy = Tree::of(filesystem::copy_mount(part.as_fd(), false).doing(step)?).doing(step)?;
    sys::umount(&stage, libc::MNT_DETACH).doing(step)?;
    Ok(copy)
}

/// Hides paths of the entered root: files behind `/dev/null`, directories behind one empty tmpfs.
pub(crate) fn mask(paths: &[String]) -> Result<()> {
    // The first directory's, copied for the others.
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let step = || format!("mask {path}");
        // A mount that is refused costs the kernel a grace period, so the kind is asked for first.
        let target = match rustix::fs::open(path.as_str(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.doing(step)?,
        };
        let stat = rustix::fs::fstat(&target).doing(step)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            sys::mount(Some(c"/dev/null"), &text(path)?, None, libc::MS_BIND, None).doing(step)?;
        } else if let Some(empty) = &empty {
            let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::AT_EMPTY_PATH;
            let copy = rustix::mount::open_tree(empty, "", flags).doing(step)?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            rustix::mount::move_mount(&copy, "", &target, "", flags).doing(step)?;
        } else {
            let target = text(path)?;
            sys::mount(Some(c"tmpfs"), &target, Some(c"tmpfs"), libc::MS_RDONLY, Some(c"size=0k"))
                .doing(step)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            empty = Some(rustix::fs::open(path.as_str(), flags, Mode::empty()).doing(step)?);
        }
    }
    Ok(())
}

/// Makes paths of the entered root read-only, with what is mounted below them.
pub(crate) fn make_paths_readonly(paths: &[String]) -> Result<()> {
    for path in paths {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
        let tree = match rustix::mount::open_tree(rustix::fs::CWD, path, flags) {
            Err(Errno::NOENT) => continue,
            other => other.doing(|| format!("open {path} to make it read-only"))?,
        };
        let attr = sys::MountAttr { set: attr::RDONLY, ..sys::MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), true, &attr).doing(|| format!("make {path} read-only"))?;
        rustix::mount::move_mount(&tree, "", rustix::fs::CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .doing(|| format!("make {path} read-only"))?;
    }
    Ok(())
}

/// The path that names `fd` itself, for calls that take only paths.
pub(crate) fn fd_path(fd: BorrowedFd<'_>) -> CString {
    // A formatted integer holds no zero byte.
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Resolves `path` with `root` as its `/`: symlinks and `..` can't leave it.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes the mount that holds `path` private.
fn make_parent_private(path: &Path) -> Result<()> {
    let mut dir = path;
    loop {
        match sys::mount(None, &cstring(dir)?, None, libc::MS_PRIVATE, None) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => match dir.parent() {
                Some(parent) => dir = parent,
                None => return Ok(()),
            },
            Err(error) => return Err(error).doing(|| format!("make the mount of {path:?} private")),
        }
    }
}

/// Copies directories, files and symlinks with their modes and owners, for `tmpcopyup`.
fn copy_tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for entry in rustix::fs::Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let target = rustix::fs::openat(to, name, flags, Mode::empty())?;
                copy_tree(source.as_fd(), target.as_fd())?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = std::fs::File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut target = std::fs::File::from(rustix::fs::openat(to, name, flags, mode)?);
                std::io::copy(&mut source, &mut target)
                    .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(link, to, name)?;
            }
            _ => continue,
        }
        let owner = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// A path as a C string.
pub(crate) fn cstring(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid(format!("path {path:?} holds a zero byte")))
}

/// Text as a C string.
pub(crate) fn text(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?} holds a zero byte")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_without_room_for_its_work_is_refused_and_says_why() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        // In a mount namespace of its own, which goes with the thread.
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                sys::unshare(libc::CLONE_FS | libc::CLONE_NEWNS).unwrap();
                sys::mount(None, c"/", None, libc::MS_SLAVE | libc::MS_REC, None).unwrap();
                // Room for four directories and its own root.
                let target = cstring(dir).unwrap();
                sys::mount(Some(c"none"), &target, Some(c"tmpfs"), 0, Some(c"nr_inodes=5")).unwrap();
                for name in ["lower", "upper", "work", "root"] {
                    std::fs::create_dir(dir.join(name)).unwrap();
                }
                let overlay = Overlay {
                    lowers: vec![dir.join("lower")],
                    upper: dir.join("upper"),
                    work: dir.join("work"),
                    ..Overlay::default()
                };
                let error = overlay.mount(&cstring(&dir.join("root")).unwrap()).unwrap_err();
                assert!(
                    error.chain().to_lowercase().contains("no space left on device"),
                    "{}",
                    error.chain()
                );
            });
            done.join().unwrap();
        });
    }
}
