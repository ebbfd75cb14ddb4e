//! Folders of the host, mounted under the same path.

use std::ffi::CStr;
use std::fs;
use std::path::{Component, Path};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};
use vm_proto::message::Share;

/// What stays the guest's own: a share on top of it would take the guest's system away.
const KEPT: &[&str] =
    &["/proc", "/sys", "/dev", "/run", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/var", "/layers"];

/// Mounts one.
pub(crate) fn mount_share(share: &Share) -> Result<()> {
    let path = Path::new(&share.path);
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ensure!(path.is_absolute() && is_plain && share.path != "/", "{} can't be a share's path", share.path);
    ensure!(
        !KEPT.iter().any(|kept| path == Path::new(kept)),
        "{} is the guest's own: share a folder below it",
        share.path
    );
    fs::create_dir_all(path).with_context(|| format!("failed to make {}", share.path))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, share.read_only);
    mount(&share.tag, path, "virtiofs", flags, None::<&CStr>)
        .with_context(|| format!("failed to mount the share {}", share.path))
}
