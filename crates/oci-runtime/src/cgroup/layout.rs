//! Where this machine has its cgroup hierarchies mounted.

use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::spec::Resources;

/// The mount points of the hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Controller and mount point, one entry per controller.
    pub(super) v1: Vec<(String, PathBuf)>,
    pub(super) v2: Option<PathBuf>,
    /// Where in the v2 hierarchy `v2` is: at its mount point, or further below.
    v2_mount: Option<PathBuf>,
    /// The v1 hierarchy without controllers that systemd finds its units' processes by.
    pub(super) named: Option<PathBuf>,
    /// Controllers of the v2 hierarchy.
    pub(super) v2_controllers: Vec<String>,
}

/// v1 controllers that are entered only when a limit of theirs is set.
const ON_DEMAND: [&str; 6] = ["cpuset", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma"];

impl Layout {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// Any error of reading it.
    pub fn detect() -> Result<Self> {
        let text =
            stdx::fs::read_kernel_text("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
        let mut layout = Self::parse(&text);
        layout.v2_mount.clone_from(&layout.v2);
        layout.read_controllers();
        Ok(layout)
    }

    /// The same, with the v2 hierarchy from one of its directories on, as if that were its root.
    #[must_use]
    pub fn below(mut self, path: &Path) -> Self {
        self.v2 = self.v2_mount.as_ref().map(|root| root.join(super::relative(path)));
        self.read_controllers();
        self
    }

    fn read_controllers(&mut self) {
        let Some(root) = &self.v2 else { return };
        let controllers = stdx::fs::read_kernel_text(root.join("cgroup.controllers")).unwrap_or_default();
        self.v2_controllers = controllers.split_whitespace().map(str::to_owned).collect();
    }

    /// The v2 hierarchy's mount point.
    pub(super) fn v2_mount(&self) -> Option<&Path> {
        self.v2_mount.as_deref()
    }

    fn parse(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if layout.v2.is_none() => layout.v2 = Some(point),
                Some("cgroup") => layout.add_v1(&point, right.nth(1).unwrap_or("")),
                _ => {}
            }
        }
        layout
    }

    fn add_v1(&mut self, point: &Path, options: &str) {
        const CONTROLLERS: [&str; 13] = [
            "cpu",
            "cpuacct",
            "cpuset",
            "memory",
            "devices",
            "freezer",
            "blkio",
            "pids",
            "hugetlb",
            "net_cls",
            "net_prio",
            "perf_event",
            "rdma",
        ];
        for option in options.split(',') {
            if option == "name=systemd" {
                self.named = Some(point.to_owned());
            }
            let is_new = !self.v1.iter().any(|(name, _)| name == option);
            if is_new && CONTROLLERS.contains(&option) {
                self.v1.push((option.to_owned(), point.to_owned()));
            }
        }
    }

    /// Whether v2 is the only version.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// The controllers a container can be limited with.
    #[must_use]
    pub fn has_controller(&self, name: &str) -> bool {
        let v2_name = if name == "blkio" { "io" } else { name };
        self.v1.iter().any(|(controller, _)| controller == name)
            || self.v2_controllers.iter().any(|c| c == v2_name)
    }

    pub(super) fn is_entered(&self, controller: &str, resources: Option<&Resources>) -> bool {
        // v2 does their work, with or without controllers.
        if self.v2.is_some() && matches!(controller, "freezer" | "cpuacct") {
            return false;
        }
        if !ON_DEMAND.contains(&controller) {
            return true;
        }
        resources.is_some_and(|resources| match controller {
            "cpuset" => {
                resources.cpu.as_ref().is_some_and(|cpu| !cpu.cpus.is_empty() || !cpu.mems.is_empty())
            }
            "hugetlb" => !resources.hugepage_limits.is_empty(),
            "net_cls" => resources.network.as_ref().is_some_and(|network| network.class_id.is_some()),
            "net_prio" => resources.network.as_ref().is_some_and(|network| !network.priorities.is_empty()),
            "rdma" => !resources.rdma.is_empty(),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_layout_has_both_versions() {
        let layout = Layout::parse(
            "30 22 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        let cpu = PathBuf::from("/sys/fs/cgroup/cpu");
        assert_eq!(layout.v1, [("cpu".into(), cpu.clone()), ("cpuacct".into(), cpu)]);
        assert_eq!(layout.v2, Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(layout.named, Some("/sys/fs/cgroup/systemd".into()));
        assert!(!layout.is_unified());
    }
}
