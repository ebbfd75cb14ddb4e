//! The cgroup file systems a container sees.

use std::os::fd::AsFd;
use std::path::Path;

use super::{Cgroups, relative};
use crate::error::{Doing, Result};
use crate::mount_options::{MountOptions, attr};
use crate::rootfs::{Rootfs, cstring, fd_path, text};
use crate::sys;

impl Cgroups {
    /// Mounts what the host has: the v2 tree, or a directory with one mount per v1 hierarchy.
    pub(crate) fn mount_in(
        &self,
        root: &Rootfs,
        destination: &Path,
        options: &MountOptions,
        has_namespace: bool,
    ) -> Result<()> {
        let flags = options.mount_flags();
        if self.layout.is_unified() {
            let target = root.create_dir(destination)?;
            return self.mount_v2(&target, destination, flags, has_namespace);
        }
        let target = root.create_dir(destination)?;
        let base = flags & !libc::MS_RDONLY;
        sys::mount(Some(c"tmpfs"), &fd_path(target.as_fd()), Some(c"tmpfs"), base, Some(c"mode=755"))
            .doing(|| format!("mount tmpfs on {destination:?}"))?;
        let mut points: Vec<&Path> = Vec::new();
        for (controller, point) in &self.layout.v1 {
            if points.contains(&point.as_path()) || self.v1_dir(controller).is_none() {
                continue;
            }
            points.push(point);
            let path = destination.join(point.file_name().unwrap_or_default());
            let target = root.create_dir(&path)?;
            self.mount_v1(&target, controller, point, flags, has_namespace)?;
        }
        // Who may write cgroups may be an engine, which freezes and kills by the second version.
        if let (Some(point), Some(_), true) = (&self.layout.v2, &self.v2, flags & libc::MS_RDONLY == 0) {
            let path = destination.join(point.file_name().unwrap_or_default());
            let target = root.create_dir(&path)?;
            self.mount_v2(&target, &path, flags, has_namespace)?;
        }
        if options.set & attr::RDONLY != 0 {
            let top = root.open(destination).doing(|| format!("open {destination:?}"))?;
            let readonly = sys::MountAttr { set: attr::RDONLY, ..sys::MountAttr::default() };
            sys::mount_setattr(top.as_fd(), false, &readonly)
                .doing(|| format!("make {destination:?} read-only"))?;
        }
        Ok(())
    }

    fn mount_v2(
        &self,
        target: &std::os::fd::OwnedFd,
        destination: &Path,
        flags: libc::c_ulong,
        has_namespace: bool,
    ) -> Result<()> {
        if has_namespace {
            let made = sys::mount(Some(c"cgroup"), &fd_path(target.as_fd()), Some(c"cgroup2"), flags, None);
            if made.is_ok() {
                return Ok(());
            }
        }
        let Some(dir) = self.v2.as_deref().or(self.layout.v2.as_deref()) else { return Ok(()) };
        bind(dir, target, flags).doing(|| format!("bind {dir:?} on {destination:?}"))
    }

    fn mount_v1(
        &self,
        target: &std::os::fd::OwnedFd,
        controller: &str,
        point: &Path,
        flags: libc::c_ulong,
        has_namespace: bool,
    ) -> Result<()> {
        if has_namespace {
            // A hierarchy is named by all of its controllers, or by any one that is its own.
            let names: Vec<&str> =
                self.layout.v1.iter().filter(|(_, at)| at == point).map(|(name, _)| name.as_str()).collect();
            let data = text(&names.join(","))?;
            sys::mount(Some(c"cgroup"), &fd_path(target.as_fd()), Some(c"cgroup"), flags, Some(&data))
                .doing(|| format!("mount the cgroup hierarchy {controller}"))
        } else {
            let dir = point.join(relative(&self.path));
            bind(&dir, target, flags).doing(|| format!("bind the cgroup {dir:?}"))
        }
    }
}

fn bind(source: &Path, target: &std::os::fd::OwnedFd, flags: libc::c_ulong) -> std::io::Result<()> {
    let source = cstring(source).map_err(std::io::Error::other)?;
    let target = fd_path(target.as_fd());
    sys::mount(Some(&source), &target, None, libc::MS_BIND, None)?;
    // The descriptor still names what is below the new mount, so the mount is found by its path.
    let above = std::fs::read_link(target.to_string_lossy().as_ref())?;
    let above = cstring(&above).map_err(std::io::Error::other)?;
    sys::mount(None, &above, None, libc::MS_BIND | libc::MS_REMOUNT | flags, None)
}
