//! Control groups of one container: v2, v1, and the hybrid of both.
//!
//! A container has one directory of the same name in each hierarchy. Hierarchies that only matter
//! when limited (cpuset) are entered when a limit asks for them. Where v2 is mounted, even without
//! controllers, its `cgroup.freeze`, `cgroup.kill` and `cpu.stat` take the place of v1's freezer
//! and cpuacct, which costs two directories less at each start.

mod device_filter;
mod layout;
mod mount;
mod stats;
pub mod systemd;
mod v1;
mod v2;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Result};
use crate::spec::{DeviceRule, Resources, Spec};
use systemd::Unit;

pub use layout::Layout;
pub use stats::{IoStat, Stats};

/// What to do where no cgroup can be made, as for a user without delegation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Fail.
    Refuse,
    /// Go on without, unless a limit was asked for.
    Tolerate,
}

/// The directories of one container.
#[derive(Debug, Clone, Default)]
pub struct Cgroups {
    /// Controller and directory, per v1 hierarchy entered.
    v1: Vec<(String, PathBuf)>,
    v2: Option<PathBuf>,
    layout: Layout,
    path: PathBuf,
    /// systemd's, which all of them are in.
    unit: Option<Unit>,
    /// What the unit is started with, until it is.
    planned: Option<Vec<systemd::Property>>,
}

impl Cgroups {
    /// Plans the directories of `path` (below each hierarchy's root) and makes the one of v2, which
    /// the container's first process is cloned into. [`Self::complete`] makes the others.
    ///
    /// # Errors
    /// Where it is refused, unless that is tolerated and there is nothing to limit.
    pub fn begin(
        layout: &Layout,
        path: &Path,
        resources: Option<&Resources>,
        missing: Missing,
    ) -> Result<Self> {
        let mut cgroups = Self { layout: layout.clone(), path: path.to_owned(), ..Self::default() };
        if let Some(root) = &layout.v2 {
            let dir = root.join(relative(path));
            match make_dir(&dir) {
                Err(error) if is_tolerable(&error, resources, missing) => return Ok(cgroups),
                other => other?,
            }
            v2::enable_controllers(root, relative(path), layout.is_unified(), resources)?;
            cgroups.v2 = Some(dir);
        }
        for (controller, root) in &layout.v1 {
            if layout.is_entered(controller, resources) {
                cgroups.v1.push((controller.clone(), root.join(relative(path))));
            }
        }
        Ok(cgroups)
    }

    /// Plans the directories of a container in a unit of systemd's, which [`Self::complete`] asks for.
    ///
    /// # Errors
    /// Where systemd can't be asked where its units are, or an annotation asks for what can't be.
    pub fn begin_in_unit(layout: &Layout, unit: Unit, id: &str, spec: &Spec) -> Result<Self> {
        let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let planned = systemd::properties(id, resources, &spec.annotations, layout.is_unified())?;
        let path = unit.find_path()?;
        let under = |root: &Path| root.join(relative(&path));
        let entered = layout.v1.iter().filter(|(controller, _)| layout.is_entered(controller, resources));
        let v1 = entered.map(|(controller, root)| (controller.clone(), under(root))).collect();
        let v2 = layout.v2.as_deref().map(under);
        Ok(Self { v1, v2, layout: layout.clone(), path, unit: Some(unit), planned: Some(planned) })
    }

    /// Starts the unit with the container's first process, and moves that on into its own directory of v2.
    fn enter_unit(&mut self, pid: i32, resources: Option<&Resources>) -> Result<()> {
        let (Some(unit), Some(planned)) = (&self.unit, self.planned.take()) else { return Ok(()) };
        if let Err(error) = unit.start(pid, &planned) {
            // A unit that was there before is somebody else's, to be left alone.
            *self = Self { layout: self.layout.clone(), ..Self::default() };
            return Err(error);
        }
        let (Some(root), Some(dir)) = (&self.layout.v2, &self.v2) else { return Ok(()) };
        std::fs::create_dir(dir).doing(|| format!("make the cgroup {dir:?} in systemd's"))?;
        write(&dir.join("cgroup.procs"), pid)?;
        v2::enable_controllers_of_unit(root, dir, relative(&self.path), &self.layout, resources)
    }

    /// Makes what was planned and sets the limits. It runs beside the container's first process `pid`,
    /// which goes no further than its namespaces meanwhile.
    ///
    /// # Errors
    /// Where a directory or a limit is refused; the caller deletes what was made.
    pub fn complete(&mut self, pid: i32, resources: Option<&Resources>, missing: Missing) -> Result<()> {
        self.enter_unit(pid, resources)?;
        match self.v1.iter().try_for_each(|(_, dir)| make_dir(dir)) {
            Err(error) if is_tolerable(&error, resources, missing) => {
                let _ = remove_dirs(self.v1.drain(..).map(|(_, dir)| dir));
            }
            other => other?,
        }
        match self.apply(resources.unwrap_or(&Resources::default()), Phase::Create) {
            Err(error) if is_tolerable(&error, resources, missing) => Ok(()),
            other => other,
        }
    }

    /// The directories of a container made earlier, as far as they exist.
    #[must_use]
    pub fn open(layout: &Layout, path: &Path) -> Self {
        let under = |root: &Path| root.join(relative(path));
        let v1 = layout
            .v1
            .iter()
            .map(|(controller, root)| (controller.clone(), under(root)))
            .filter(|(_, dir)| dir.is_dir())
            .collect();
        let v2 = layout.v2.as_ref().map(|root| under(root)).filter(|dir| dir.is_dir());
        Self { v1, v2, layout: layout.clone(), path: path.to_owned(), unit: None, planned: None }
    }

    /// The same, in a unit of systemd's.
    #[must_use]
    pub fn in_unit(self, unit: Option<Unit>) -> Self {
        Self { unit, ..self }
    }

    /// The unit of systemd's that they are in.
    #[must_use]
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// Below each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a cgroup at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    /// The v2 directory, for `CLONE_INTO_CGROUP`: a process that is born inside need not be moved,
    /// which would wait until no process of the machine forks.
    ///
    /// # Errors
    /// Any error of opening it.
    pub fn birthplace(&self) -> Result<Option<OwnedFd>> {
        // A unit of systemd's starts with a process in it.
        let Some(dir) = self.v2.as_ref().filter(|_| self.planned.is_none()) else { return Ok(None) };
        open_dir(dir).map(Some)
    }

    /// The v2 directory of a process in the container. Where that runs systemd, the container's own one
    /// hands controllers on, and takes no process any more (cgroup-v2.rst, "No Internal Process Constraint").
    ///
    /// # Errors
    /// Any error of finding or opening it.
    pub fn birthplace_beside(&self, pid: i32) -> Result<Option<OwnedFd>> {
        let Some(root) = self.layout.v2_mount() else { return Ok(None) };
        let file = format!("/proc/{pid}/cgroup");
        let text = stdx::fs::read_kernel_text(&file).doing(|| format!("read {file}"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        path.map(|path| open_dir(&root.join(relative(Path::new(path))))).transpose()
    }

    /// Files that a process with one thread writes `0` to in order to enter v1's hierarchies, opened
    /// while paths still resolve. They are v1's `tasks`: unlike `cgroup.procs`, they let a thread move
    /// itself without a lock on every fork of the machine (kernel/cgroup, `cgroup_procs_write_start`).
    ///
    /// # Errors
    /// Any error of opening them.
    pub fn entrances(&self) -> Result<Vec<OwnedFd>> {
        self.v1
            .iter()
            .map(|(_, dir)| {
                let file = dir.join("tasks");
                let open = OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(&file);
                open.map(OwnedFd::from).doing(|| format!("open {file:?}"))
            })
            .collect()
    }

    /// As [`Self::entrances`], for one more process: systemd has moved the first one into its own hierarchy.
    ///
    /// # Errors
    /// Any error of opening them.
    pub(crate) fn later_entrances(&self) -> Result<Vec<OwnedFd>> {
        let mut all = self.entrances()?;
        if let (Some(_), Some(root), Some(unit)) = (&self.unit, &self.layout.named, self.path.parent()) {
            let file = root.join(relative(unit)).join("tasks");
            let open = OpenOptions::new().write(true).custom_flags(libc::O_CLOEXEC).open(&file);
            all.push(open.map(OwnedFd::from).doing(|| format!("open {file:?}"))?);
        }
        Ok(all)
    }

    /// Without v1's, as where they were refused.
    pub(crate) fn without_v1(&self) -> Self {
        Self { v1: Vec::new(), ..self.clone() }
    }

    /// How many v1 directories there are or will be.
    pub(crate) fn v1_count(&self) -> usize {
        self.v1.len()
    }

    /// Has systemd move a process into the container's unit, where this one may not.
    ///
    /// # Errors
    /// Where there is no unit, or systemd refuses.
    pub(crate) fn attach(&self, pid: i32) -> Result<()> {
        let Some(unit) = &self.unit else { return Ok(()) };
        unit.attach(pid)
    }

    /// Moves a process in.
    ///
    /// # Errors
    /// Any error of writing its id.
    pub fn add(&self, pid: i32) -> Result<()> {
        self.dirs().try_for_each(|dir| write(&dir.join("cgroup.procs"), pid))
    }

    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|(_, dir)| dir.as_path()).chain(self.v2.as_deref())
    }

    fn v1_dir(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, dir)| dir.as_path())
    }

    /// Changes limits of a living container; what the request leaves out stays.
    ///
    /// # Errors
    /// Where the kernel refuses a value, or no hierarchy has the controller.
    pub fn update(&mut self, resources: &Resources) -> Result<()> {
        if let Some(unit) = &self.unit {
            unit.update(resources, self.layout.is_unified())?;
        }
        for (controller, root) in self.layout.v1.clone() {
            if self.v1_dir(&controller).is_none() && self.layout.is_entered(&controller, Some(resources)) {
                let dir = root.join(relative(&self.path));
                make_dir(&dir)?;
                let joined = Self { v1: vec![(controller.clone(), dir.clone())], ..Self::default() };
                // Values go first: cpuset takes no process before it has them.
                v1::apply(&joined, resources, Phase::Create)?;
                for pid in self.pids()? {
                    write(&dir.join("cgroup.procs"), pid)?;
                }
                self.v1.push((controller, dir));
            }
        }
        self.apply(resources, Phase::Update)
    }

    fn apply(&self, resources: &Resources, phase: Phase) -> Result<()> {
        v1::apply(self, resources, phase)?;
        if let Some(dir) = &self.v2 {
            v2::apply(dir, &self.layout, resources, phase)?;
        }
        Ok(())
    }

    /// Every process in it, those of sub-groups too.
    ///
    /// # Errors
    /// Any error of reading, but that it is gone.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let Some(dir) = self.v2.as_deref().or_else(|| self.dirs().next()) else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        collect_pids(dir, &mut pids).doing(|| format!("list the processes of {dir:?}"))?;
        Ok(pids)
    }

    /// Sends SIGKILL to everything in it.
    ///
    /// # Errors
    /// Any error of reading its members.
    pub fn kill(&self) -> Result<()> {
        if let Some(dir) = &self.v2
            && std::fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        for pid in self.pids()? {
            // It may have gone since it was listed.
            let _ = crate::sys::kill(pid, libc::SIGKILL);
        }
        Ok(())
    }

    /// Stops or continues every process in it, and waits for that.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without a freezer; an error when it takes over ten seconds.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        if let Some(dir) = &self.v2 {
            write(&dir.join("cgroup.freeze"), u8::from(is_frozen))?;
            let wanted = format!("frozen {}", u8::from(is_frozen));
            return wait_until(|| read(&dir.join("cgroup.events")).is_ok_and(|text| text.contains(&wanted)));
        }
        let Some(dir) = self.v1_dir("freezer") else {
            return Err(Error::Unsupported {
                what: "pausing needs cgroups, and this container has none".into(),
            });
        };
        let wanted = if is_frozen { "FROZEN" } else { "THAWED" };
        let file = dir.join("freezer.state");
        wait_until(|| {
            // v1 may miss a process that forks meanwhile; writing again catches it.
            write(&file, wanted).is_ok() && read(&file).is_ok_and(|state| state.trim() == wanted)
        })
    }

    /// Whether [`Self::freeze`] stands.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let v2 = self
            .v2
            .as_ref()
            .is_some_and(|dir| read(&dir.join("cgroup.freeze")).is_ok_and(|s| s.trim() == "1"));
        v2 || self
            .v1_dir("freezer")
            .is_some_and(|dir| read(&dir.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED"))
    }

    /// How often the kernel killed a process in it for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        stats::oom_kills(self)
    }

    /// What it has used.
    #[must_use]
    pub fn stats(&self) -> Stats {
        stats::read_all(self)
    }

    /// Removes the directories, and sub-groups the container made. Goes on after an error.
    ///
    /// # Errors
    /// The first of all failures.
    pub fn delete(&self) -> Result<()> {
        let removed = remove_dirs(self.dirs());
        let Some(unit) = self.unit.as_ref().filter(|_| self.planned.is_none()) else { return removed };
        let stopped = unit.stop();
        // systemd removes its own; not those of controllers that it does not know.
        let above = self.v1.iter().filter_map(|(_, dir)| dir.parent());
        removed.and(stopped).and(remove_dirs(above))
    }
}

/// Goes on after an error and returns the first.
fn remove_dirs<P: AsRef<Path>>(dirs: impl Iterator<Item = P>) -> Result<()> {
    let mut first = Ok(());
    for dir in dirs {
        let dir = dir.as_ref();
        first = first.and(remove_dir(dir).doing(|| format!("remove the cgroup {dir:?}")));
    }
    first
}

/// Whether a container without limits may go on without what was refused.
fn is_tolerable(error: &Error, resources: Option<&Resources>, missing: Missing) -> bool {
    let is_refused = matches!(error, Error::Os { source, .. }
        if matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOENT)));
    missing == Missing::Tolerate && is_refused && !resources.is_some_and(has_limits)
}

/// Whether values are set for the first time or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Create,
    Update,
}

/// Rules every container gets after a bundle's `deny all` (config-linux.md, "Default Devices").
fn with_default_devices(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    let rule = |kind: &str, major, minor, access: &str| DeviceRule {
        allow: true,
        kind: kind.into(),
        major,
        minor,
        access: access.into(),
    };
    let mut all = Vec::with_capacity(rules.len() + 10);
    all.extend(rules.iter().take_while(|rule| !rule.allow).cloned());
    if !all.is_empty() {
        all.push(rule("c", None, None, "m"));
        all.push(rule("b", None, None, "m"));
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
            all.push(rule("c", Some(major), Some(minor), "rwm"));
        }
        all.push(rule("c", Some(136), None, "rwm"));
    }
    all.extend(rules.iter().skip_while(|rule| !rule.allow).cloned());
    all
}

fn has_limits(resources: &Resources) -> bool {
    resources.memory.is_some()
        || resources.cpu.is_some()
        || resources.block_io.is_some()
        || resources.pids.as_ref().is_some_and(|pids| pids.limit > 0)
        || !resources.hugepage_limits.is_empty()
        || !resources.unified.is_empty()
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn open_dir(dir: &Path) -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {dir:?}"))
}

fn make_dir(dir: &Path) -> Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir_all(dir),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
    .doing(|| {
        format!("make the cgroup {dir:?} (as a user, limits need a cgroup that was delegated to that user)")
    })
}

/// Removes a cgroup and those below it. A process on its way out keeps it busy for a moment.
fn remove_dir(dir: &Path) -> io::Result<()> {
    let mut pause = std::time::Duration::from_micros(50);
    for _ in 0..16 {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
        }
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_dir(&entry.path())?;
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(std::time::Duration::from_millis(100));
    }
    std::fs::remove_dir(dir)
}

fn collect_pids(dir: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match std::fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A group with threads of processes that are counted in its parent.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(()),
        other => other?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}

fn wait_until(mut is_done: impl FnMut() -> bool) -> Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut pause = std::time::Duration::from_micros(100);
    while !is_done() {
        if std::time::Instant::now() > deadline {
            return Err(Error::State {
                what: "the container's processes did not stop or continue within 10 s".into(),
            });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(std::time::Duration::from_millis(20));
    }
    Ok(())
}

fn read(file: &Path) -> io::Result<String> {
    std::fs::read_to_string(file)
}

/// Writes one value; the error names file and value.
fn write(file: &Path, value: impl std::fmt::Display) -> Result<()> {
    let value = value.to_string();
    OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .doing(|| format!("write {value:?} to {}", file.display()))
}

/// As [`write`], for a file that not every kernel has.
fn write_if_there(file: &Path, value: impl std::fmt::Display) -> Result<()> {
    if file.exists() { write(file, value) } else { Ok(()) }
}
