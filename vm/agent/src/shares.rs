//! Folders of the host, mounted under the same path.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, Mode, OFlags, fstatfs, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_remount, open_tree, unmount,
};
use vm_proto::message::Share;
use vsock::{VMADDR_CID_HOST, VsockStream};

use crate::boot::DRIVES;
use crate::layer;

/// How long a share may be busy after the host has said that it tells of no more changes.
const IDLE_DEADLINE: Duration = Duration::from_secs(1);
/// `FUSE_SUPER_MAGIC` of statfs(2), which shares have.
pub(crate) const FUSE: rustix::fs::FsWord = 0x6573_5546;
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The most that is sent at once (`msize`).
const PACKET: usize = 64 << 10;

/// How folders of the host are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a device each, virtiofs'.
    Devices,
    /// By Plan 9's protocol, which the host speaks at a port of the channel.
    Plan9 {
        /// Which.
        port: u32,
    },
    /// From drives that are mounted already ([`crate::boot::DRIVES`]), where the machine is another's.
    Drives,
}

impl Way {
    /// As `cove.shares=` of the kernel's command line says.
    pub(crate) fn of(option: Option<&str>) -> Result<Self> {
        let Some(option) = option else { return Ok(Self::Devices) };
        let port = option.strip_prefix("9p:").and_then(|port| port.parse().ok());
        let port = port.with_context(|| format!("the kernel's command line says cove.shares={option:?}"))?;
        Ok(Self::Plan9 { port })
    }
}

/// What stays the guest's own: a share on top of it would take the guest's system away.
const KEPT: &[&str] =
    &["/proc", "/sys", "/dev", "/run", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/var", "/layers"];

/// Takes all of them away, or none: their devices are about to go.
pub(crate) async fn unmount_all(shares: &[Share], way: Way) -> Result<()> {
    let mut gone = Vec::new();
    let mut outcome = Ok(());
    for share in shares {
        if !mounted(Path::new("/proc/self/mountinfo")).any(|tag| tag == share.tag) {
            continue;
        }
        outcome = unmount_idle(&share.path).await;
        if outcome.is_err() {
            break;
        }
        gone.push(share);
    }
    // In a container it may still be mounted: the mount there is another, of the same device.
    let outcome = outcome.and_then(|()| match in_use(shares) {
        Some(share) => bail!("a container uses the share {}", share.path),
        None => {
            shares.iter().filter(|share| share.is_layered).for_each(|share| layer::end(&share.path));
            Ok(())
        }
    });
    if outcome.is_err() {
        for share in gone {
            if let Err(error) = mount_share(share, way) {
                crate::tell(format_args!("cove-agent: {error:#}"));
            }
        }
    }
    outcome
}

/// Who acts out the host's changes lets go of the share in a moment.
async fn unmount_idle(path: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        match unmount(path, UnmountFlags::empty()) {
            Err(Errno::BUSY) if begin.elapsed() < IDLE_DEADLINE => tokio::time::sleep(LOOK_EVERY).await,
            other => return other.with_context(|| format!("the share {path} is in use")),
        }
    }
}

/// A share that some process still sees.
fn in_use(shares: &[Share]) -> Option<&Share> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes
        .filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit));
    let tags: Vec<String> = numbers.flat_map(|entry| mounted(&entry.path().join("mountinfo"))).collect();
    shares.iter().find(|share| tags.contains(&share.tag))
}

/// The tags of shares in a file like /proc/self/mountinfo (proc(5)): `… - virtiofs TAG OPTIONS`, `9p`, or the layer in front.
fn mounted(mountinfo: &Path) -> impl Iterator<Item = String> + use<> {
    // A process that has ended sees nothing.
    let text = fs::read_to_string(mountinfo).unwrap_or_default();
    text.lines().filter_map(tag).collect::<Vec<_>>().into_iter()
}

fn tag(line: &str) -> Option<String> {
    let mut fields = line.split_once(" - ")?.1.split(' ');
    ["virtiofs", "9p", layer::KIND].contains(&fields.next()?).then(|| fields.next().map(str::to_owned))?
}

/// Mounts one.
pub(crate) fn mount_share(share: &Share, way: Way) -> Result<()> {
    let path = Path::new(&share.path);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ensure!(path.is_absolute() && is_plain && share.path != "/", "{} can't be a share's path", share.path);
    ensure!(
        !KEPT.iter().any(|kept| path == Path::new(kept)),
        "{} is the guest's own: share a folder below it",
        share.path
    );
    fs::create_dir_all(path).with_context(|| format!("failed to make {}", share.path))?;
    if share.is_layered {
        return mount_layered(share, way)
            .with_context(|| format!("failed to mount the share {}", share.path));
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mounted = match way {
        Way::Drives => mount_bind(format!("{DRIVES}{}", share.path), path)
            .and_then(|()| mount_remount(path, MountFlags::BIND | flags, c"")),
        Way::Devices => mount(&share.tag, path, "virtiofs", flags, None::<&CStr>),
        Way::Plan9 { port } => {
            let server = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, port)
                .with_context(|| format!("nobody serves the share {}", share.path))?;
            // The kernel keeps what it was mounted with.
            let options =
                plan9_options(server.as_fd(), &share.tag).map(|(name, value)| format!("{name}={value}"));
            mount(&share.tag, path, "9p", flags, Some(&*CString::new(options.join(","))?))
        }
    };
    let mounted = mounted.and_then(|()| {
        if !share.read_only {
            return Ok(());
        }
        // The mount alone, not its file system: there the host's changes are acted out. The host refuses others.
        mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | flags, c"")
    });
    mounted.with_context(|| format!("failed to mount the share {}", share.path))
}

/// What the kernel is to know of a server (Documentation/filesystems/9p.rst). Files can be mapped.
fn plan9_options(server: BorrowedFd<'_>, tag: &str) -> [(&'static str, String); 6] {
    let number = server.as_raw_fd().to_string();
    [
        ("trans", "fd".to_owned()),
        ("rfdno", number.clone()),
        ("wfdno", number),
        ("msize", PACKET.to_string()),
        ("cache", "mmap".to_owned()),
        ("aname", tag.to_owned()),
    ]
}

/// A share that is mounted at no place.
fn detached(share: &Share, way: Way) -> Result<OwnedFd> {
    match way {
        Way::Drives => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Ok(open_tree(CWD, format!("{DRIVES}{}", share.path), flags)?)
        }
        Way::Devices => made("virtiofs", &share.tag, &[]),
        Way::Plan9 { port } => {
            let server =
                VsockStream::connect_with_cid_port(VMADDR_CID_HOST, port).context("nobody serves it")?;
            made("9p", &share.tag, &plan9_options(server.as_fd(), &share.tag))
        }
    }
}

fn made(kind: &str, source: &str, options: &[(&str, String)]) -> Result<OwnedFd> {
    let made = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(made.as_fd(), "source", source)?;
    for (name, value) in options {
        fsconfig_set_string(made.as_fd(), *name, value.as_str())?;
    }
    fsconfig_create(made.as_fd())?;
    Ok(fsmount(made.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

/// The same with a layer of ours in front, which has the share itself, at no place.
fn mount_layered(share: &Share, way: Way) -> Result<()> {
    let below = detached(share, way)?;
    layer::put(below, &share.tag, &share.path, share.read_only)?;
    if share.read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(&share.path, flags, c"")?;
    }
    Ok(())
}

/// A share as the host's changes in it are acted out.
pub(crate) struct Stage {
    /// Its root, by a mount that nobody else sees and that may be changed by, whatever the share's own is: this kernel
    /// would refuse by itself what is acted out.
    pub(crate) root: OwnedFd,
    /// What is mounted stays in use for as long.
    _seen: OwnedFd,
}

impl Stage {
    /// Of the share that is mounted at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let seen = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        if fstatfs(&seen)?.f_type != FUSE {
            // It was taken away, and what is below it now are files of the guest's own.
            return Err(io::ErrorKind::NotFound.into());
        }
        let clone =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let root = open_tree(&seen, "", clone)?;
        crate::sys::make_writable(&root)?;
        Ok(Self { root, _seen: seen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_told_from_other_mounts() {
        let line = "86 29 0:43 / /home/me rw,nosuid,nodev shared:42 - virtiofs share0 rw";
        assert_eq!(tag(line).as_deref(), Some("share0"));
        let line = "86 29 0:43 / /c/Users/me rw,nosuid,nodev - 9p share1 rw,trans=fd";
        assert_eq!(tag(line).as_deref(), Some("share1"));
        let layered = "86 29 0:43 / /home/me rw,nosuid,nodev shared:42 - fuse.cove share0 rw";
        assert_eq!(tag(layered).as_deref(), Some("share0"));
        assert_eq!(tag("29 1 0:25 / / rw - overlay overlay rw,lowerdir=/layers"), None);
        assert_eq!(tag("nonsense"), None);
    }

    #[test]
    fn the_kernels_command_line_says_how_folders_are_mounted() {
        assert_eq!(Way::of(None).unwrap(), Way::Devices);
        assert_eq!(Way::of(Some("9p:564")).unwrap(), Way::Plan9 { port: 564 });
        for bad in ["", "9p", "9p:", "9p:-1", "nfs:2049"] {
            assert!(Way::of(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_is_told_by_its_descriptor() {
        let file = fs::File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();
        let options = plan9_options(file.as_fd(), "share0").map(|(name, value)| format!("{name}={value}"));
        let expected = format!("trans=fd,rfdno={number},wfdno={number},msize=65536,cache=mmap,aname=share0");
        assert_eq!(options.join(","), expected);
    }
}
