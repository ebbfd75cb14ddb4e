//! A file system that is mounted nowhere: a descriptor to be read through, attached somewhere, or dropped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags};

use crate::error::{Doing, Error, Result};
use crate::mount_options::{MountOptions, attr};

/// Mounts a file system of `kind` with mount(8)'s options. It is made with the caller's network and
/// privileges, and is gone with its last descriptor unless it was attached.
///
/// # Errors
/// Where the kernel refuses the file system, its source or an option.
pub fn detached(kind: &str, source: &str, options: &[String]) -> Result<OwnedFd> {
    mount(kind, source, &MountOptions::parse(kind, options)?)
}

/// As [`detached`], of options that are sorted already.
pub(crate) fn mount(kind: &str, source: &str, options: &MountOptions) -> Result<OwnedFd> {
    let step = || format!("mount a file system of type {kind:?} from {source:?}");
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing(step)?;
    let configured = configure(context.as_fd(), source, options).and_then(|()| {
        let bits = u32::try_from(options.set).unwrap_or(0);
        rustix::mount::fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::from_bits_retain(bits),
        )
    });
    configured.doing(|| match complaint(context.as_fd()) {
        said if said.is_empty() => step(),
        said => format!("{} ({said})", step()),
    })
}

fn configure(context: BorrowedFd<'_>, source: &str, options: &MountOptions) -> rustix::io::Result<()> {
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(context, "source", source)?;
    }
    for option in options.data.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(context, key, value)?,
            None => rustix::mount::fsconfig_set_flag(context, option)?,
        }
    }
    let flags = [
        (options.set & attr::RDONLY != 0, "ro"),
        (options.super_flags & libc::MS_SYNCHRONOUS != 0, "sync"),
        (options.super_flags & libc::MS_DIRSYNC != 0, "dirsync"),
        (options.super_flags & libc::MS_MANDLOCK != 0, "mand"),
    ];
    for (_, name) in flags.iter().filter(|(is_set, _)| *is_set) {
        rustix::mount::fsconfig_set_flag(context, *name)?;
    }
    rustix::mount::fsconfig_create(context)
}

/// What the kernel has to say of a configuration it refused, a line each.
fn complaint(context: BorrowedFd<'_>) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        // A letter for how grave it is, and a blank.
        lines.push(text.trim_end().get(2..).unwrap_or_default().to_owned());
        if length == 0 || lines.len() > 8 {
            break;
        }
    }
    lines.join("; ")
}

/// Opens what lies at `subpath` of a directory (`O_PATH`): the kernel sees to it that neither `..` nor
/// a symlink leads out.
///
/// # Errors
/// Where there is nothing, or it leads out.
pub fn open_beneath(dir: BorrowedFd<'_>, subpath: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(dir, subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Err(Errno::XDEV | Errno::LOOP) => {
            Err(Error::invalid(format!("subpath {subpath:?} leads out of what it is a part of")))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => {
            Err(Error::invalid(format!("subpath {subpath:?} does not exist")))
        }
        other => other.doing(|| format!("open the subpath {subpath:?}")),
    }
}

/// A detached copy of the mount that `fd` is in, rooted at `fd`.
pub(crate) fn copy_mount(fd: BorrowedFd<'_>, is_recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_EMPTY_PATH;
    if is_recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(fd, "", flags)
}
