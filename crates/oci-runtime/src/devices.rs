//! The device nodes of a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};
use crate::rootfs::{Rootfs, fd_path};
use crate::spec::Device;
use crate::sys;

/// config-linux.md, "Default Devices": path, major, minor. `/dev/ptmx` is a link.
const DEFAULTS: [(&str, i64, i64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Target, and name in `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Makes the default nodes and the listed ones.
pub(crate) fn make(root: &Rootfs, listed: &[Device]) -> Result<()> {
    let dev = root.create_dir(Path::new("/dev"))?;
    // umask would take bits from the modes the bundle names.
    let umask = rustix::process::umask(Mode::empty());
    let made = DEFAULTS
        .iter()
        .filter(|(path, ..)| !listed.iter().any(|device| device.path == Path::new(path)))
        .try_for_each(|(path, major, minor)| {
            let device = Device {
                r#type: "c".into(),
                path: PathBuf::from(path),
                major: *major,
                minor: *minor,
                file_mode: Some(0o666),
                ..Device::default()
            };
            make_one(root, Some(&dev), &device)
        })
        .and_then(|()| listed.iter().try_for_each(|device| make_one(root, None, device)));
    rustix::process::umask(umask);
    made
}

/// Makes one, in a directory that is open already or in its own.
fn make_one(root: &Rootfs, dir: Option<&OwnedFd>, device: &Device) -> Result<()> {
    let step = || format!("make device {:?}", device.path);
    let kind = match device.r#type.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(Error::invalid(format!("device {:?}: type {other:?} is unknown", device.path))),
    };
    let opened;
    let (dir, name) = match (dir, device.path.file_name()) {
        (Some(dir), Some(name)) => (dir, name),
        _ => {
            opened = root.parent_of(&device.path)?;
            (&opened.0, opened.1)
        }
    };
    let number = u32::try_from(device.major).ok().zip(u32::try_from(device.minor).ok());
    let number = if kind == FileType::Fifo { Some((0, 0)) } else { number };
    let Some((major, minor)) = number else {
        return Err(Error::invalid(format!(
            "device {:?}: {}:{} is no device",
            device.path, device.major, device.minor
        )));
    };
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(0o666) & 0o7777);
    match rustix::fs::mknodat(dir, name, kind, mode, rustix::fs::makedev(major, minor)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        // In a user namespace no node can be made; the host's, bound here, does the same.
        Err(Errno::PERM) if kind != FileType::Fifo => return bind_host_device(root, device),
        Err(error) => return Err(error).doing(step),
    }
    let (uid, gid) = (device.uid.unwrap_or(0), device.gid.unwrap_or(0));
    if uid != 0 || gid != 0 {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).doing(step)?;
    }
    Ok(())
}

fn bind_host_device(root: &Rootfs, device: &Device) -> Result<()> {
    let source = crate::rootfs::cstring(&device.path)?;
    let target = root.create_file(&device.path)?;
    sys::mount(Some(&source), &fd_path(target.as_fd()), None, libc::MS_BIND, None)
        .doing(|| format!("bind the host's {:?}", device.path))
}

/// Makes the links that programs expect in `/dev`; what an image has there already stays.
pub(crate) fn link(root: &Rootfs) -> Result<()> {
    let dir = root.create_dir(Path::new("/dev"))?;
    for (target, name) in LINKS {
        if name == "ptmx" {
            // An image's own node would open the host's terminals.
            let _ = rustix::fs::unlinkat(&dir, name, AtFlags::empty());
        }
        match rustix::fs::symlinkat(target, &dir, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).doing(|| format!("link /dev/{name}")),
        }
    }
    Ok(())
}

/// Puts the terminal `slave` where programs look for the console.
pub(crate) fn bind_console(root: &Rootfs, slave: std::os::fd::BorrowedFd<'_>) -> Result<()> {
    let target = root.create_file(Path::new("/dev/console"))?;
    sys::mount(Some(&fd_path(slave)), &fd_path(target.as_fd()), None, libc::MS_BIND, None)
        .doing(|| "bind the terminal on /dev/console")
}

/// Opens a new terminal of the container's own devpts: master and slave.
pub(crate) fn open_terminal(root: &Rootfs) -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    // A bundle without a devpts of its own gets a terminal of the host's.
    let master = crate::rootfs::open_in(root.fd(), Path::new("/dev/pts/ptmx"), OFlags::RDWR | OFlags::NOCTTY)
        .or_else(|_| {
            rustix::fs::open("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        })
        .doing(|| "open a terminal")?;
    rustix::pty::unlockpt(&master).doing(|| "unlock the terminal")?;
    let flags =
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).doing(|| "open the terminal's other end")?;
    Ok((master, slave))
}
