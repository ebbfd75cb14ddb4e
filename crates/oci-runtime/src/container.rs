//! Containers as `create`, `start` and `delete` know them: a file each, with their state.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::systemd::{Owner, Unit};
use crate::cgroup::{Cgroups, Layout, Missing};
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::spec::{self, Spec};
use crate::sys;

/// The version of the specification this runtime follows.
pub const OCI_VERSION: &str = "1.2.0";

/// The longest id: with what is put behind it, it must fit a file name of 255 bytes.
const MAX_ID: usize = 200;

/// What is kept of a container between two commands, as `ID.json` in the state root.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The container's id.
    pub id: String,
    /// The first process, in the pid namespace of the state root's owner.
    pub pid: i32,
    /// When it started, in clock ticks after boot, which tells it from a later process of the same id.
    pub start_time: u64,
    /// Where `config.json` was.
    pub bundle: PathBuf,
    /// The directory that is its root.
    pub rootfs: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// Below each hierarchy's root.
    pub cgroup_path: PathBuf,
    /// The unit of systemd's that they are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// The bundle as it was at creation: later changes of the file don't count.
    pub spec: Spec,
}

/// Where a container is in its life (runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// Its program runs and is frozen.
    Paused,
    /// Its first process is gone.
    Stopped,
}

impl Status {
    /// The specification's word; `paused` is runc's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The directory that holds the state of all containers of one caller.
#[derive(Debug, Clone)]
pub struct StateRoot(PathBuf);

impl StateRoot {
    /// `--root`, or the default of this user.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        Self(path.unwrap_or_else(|| match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if !rustix::process::geteuid().is_root() => PathBuf::from(dir).join("cove-runtime"),
            _ => PathBuf::from("/run/cove-runtime"),
        }))
    }

    /// The state file of one container.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the id is no plain name.
    pub fn file(&self, id: &str) -> Result<PathBuf> {
        let is_plain =
            id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'+'));
        if id.is_empty() || id.len() > MAX_ID || !is_plain || id == "." || id == ".." {
            return Err(Error::invalid(format!(
                "container id {id:?} is not made of up to {MAX_ID} letters, digits and _+-."
            )));
        }
        Ok(self.0.join(format!("{id}.json")))
    }

    /// Takes the id: makes the file that becomes the state file. Returns the latter's path.
    ///
    /// # Errors
    /// [`Error::State`] where the id is taken.
    pub fn reserve(&self, id: &str) -> Result<PathBuf> {
        let file = self.file(id)?;
        let taken = || Error::State { what: format!("container {id} exists already") };
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.0)
            .doing(|| format!("make {:?}", self.0))?;
        let draft = draft_of(&file);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(taken()),
            other => drop(other.doing(|| format!("make {draft:?}"))?),
        }
        if file.exists() {
            std::fs::remove_file(&draft).doing(|| format!("remove {draft:?}"))?;
            return Err(taken());
        }
        Ok(file)
    }

    /// Reads a container's state.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none.
    pub fn load(&self, id: &str) -> Result<Record> {
        let file = self.file(id)?;
        let bytes = match std::fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound { id: id.to_owned() });
            }
            other => other.doing(|| format!("read {file:?}"))?,
        };
        serde_json::from_slice(&bytes).map_err(std::io::Error::from).doing(|| format!("read {file:?}"))
    }

    /// Every container's id.
    ///
    /// # Errors
    /// Any error of listing the directory, but that it is missing.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.doing(|| format!("list {:?}", self.0))?,
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect();
        ids.sort();
        Ok(ids)
    }
}

impl Record {
    /// Writes the state file of a reserved id, whole or not at all.
    ///
    /// # Errors
    /// Any error of writing it.
    pub fn save(&self, file: &Path) -> Result<()> {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        let draft = draft_of(file);
        // Nothing is replaced: ext4 would write the file out at once (its `auto_da_alloc`).
        std::fs::write(&draft, bytes)
            .and_then(|()| std::fs::rename(&draft, file))
            .doing(|| format!("write {file:?}"))
    }

    /// Asks the kernel.
    #[must_use]
    pub fn status(&self, file: &Path) -> Status {
        if !is_alive(self.pid, self.start_time) {
            Status::Stopped
        } else if gate_of(file).exists() {
            Status::Created
        } else if self.cgroups().is_ok_and(|cgroups| cgroups.is_frozen()) {
            Status::Paused
        } else {
            Status::Running
        }
    }

    /// Its cgroups, as they are now.
    ///
    /// # Errors
    /// Any error of finding the hierarchies.
    pub fn cgroups(&self) -> Result<Cgroups> {
        Ok(Cgroups::open(&Layout::detect()?, &self.cgroup_path).in_unit(self.unit.clone()))
    }

    /// What `state` prints and hooks are told.
    #[must_use]
    pub fn oci_state(&self, status: Status) -> spec::State {
        spec::State {
            oci_version: OCI_VERSION.into(),
            id: self.id.clone(),
            status: status.as_str().into(),
            pid: if status == Status::Stopped { 0 } else { self.pid },
            bundle: self.bundle.clone(),
            annotations: self.spec.annotations.clone(),
        }
    }

    /// Removes what is left of a stopped container; goes on after an error.
    ///
    /// # Errors
    /// The first failure.
    pub fn delete(&self, file: &Path) -> Result<()> {
        self.delete_with(file, &self.cgroups()?)
    }

    /// As [`Self::delete`], where its cgroups are known.
    ///
    /// # Errors
    /// The first failure.
    pub fn delete_with(&self, file: &Path, cgroups: &Cgroups) -> Result<()> {
        let killed = cgroups.kill();
        let removed = cgroups.delete();
        let gone = forget(file);
        if let Some(all) = &self.spec.hooks {
            // The container is gone whatever they say (runtime.md, "Lifecycle", step 13).
            for error in hooks::run_all("poststop", &all.poststop, &self.oci_state(Status::Stopped)) {
                crate::cli::warn(&error.chain());
            }
        }
        killed.and(removed).and(gone)
    }
}

/// The pipe that a created container waits at, beside its state file.
pub(crate) fn gate_of(file: &Path) -> PathBuf {
    file.with_extension("fifo")
}

/// What becomes the state file.
fn draft_of(file: &Path) -> PathBuf {
    file.with_extension("new")
}

/// Removes the files of a container.
///
/// # Errors
/// Any error of removing them, but that they are gone.
pub(crate) fn forget(file: &Path) -> Result<()> {
    [gate_of(file), draft_of(file), file.to_owned()].iter().try_for_each(|file| {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.doing(|| format!("remove {file:?}")),
        }
    })
}

/// Reads a bundle's `config.json`.
///
/// # Errors
/// Where it is missing, malformed, or of another major version.
pub fn read_bundle(bundle: &Path) -> Result<Spec> {
    let file = bundle.join("config.json");
    let bytes = std::fs::read(&file).doing(|| format!("read {file:?}"))?;
    let spec: Spec = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("{}: {error}", file.display())))?;
    if !spec.oci_version.starts_with("1.") {
        return Err(Error::Unsupported { what: format!("ociVersion {:?} is not 1.x", spec.oci_version) });
    }
    Ok(spec)
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// This runtime, anywhere: `cgroupsPath` is taken below each hierarchy's root.
    Cgroupfs,
    /// systemd, a unit for each container: `cgroupsPath` is `slice:prefix:name`.
    Systemd,
}

/// The container's cgroup, begun.
///
/// # Errors
/// As [`Cgroups::begin`] and [`Cgroups::begin_in_unit`].
pub fn begin_cgroups(spec: &Spec, id: &str, driver: CgroupDriver, missing: Missing) -> Result<Cgroups> {
    let linux = spec.linux.as_ref();
    let wanted = linux.map(|linux| linux.cgroups_path.as_str()).filter(|path| !path.is_empty());
    if driver == CgroupDriver::Systemd {
        let unit = Unit::parse(wanted.unwrap_or_default(), id, Owner::of_caller())?;
        return Cgroups::begin_in_unit(&Layout::detect()?, unit, id, spec);
    }
    let path = match wanted {
        None => PathBuf::from("/cove-runtime").join(id),
        // systemd's form, `slice:prefix:name`, as a plain path of the same parts.
        Some(path) if path.matches(':').count() == 2 && !path.contains('/') => {
            path.split(':').filter(|part| !part.is_empty()).fold(PathBuf::from("/"), |p, part| p.join(part))
        }
        Some(path) => Path::new("/").join(path),
    };
    if path.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::invalid(format!("cgroupsPath {path:?} climbs")));
    }
    let resources = linux.and_then(|linux| linux.resources.as_ref());
    Cgroups::begin(&Layout::detect()?, &path, resources, missing)
}

/// Whether `pid` is still the process that started at `start_time`, and no zombie.
#[must_use]
pub fn is_alive(pid: i32, start_time: u64) -> bool {
    pid > 0
        && process_stat(pid)
            .is_some_and(|(state, started)| started == start_time && state != 'Z' && state != 'X')
}

/// State letter and start time of a process (proc_pid_stat(5), fields 3 and 22).
#[must_use]
pub fn process_stat(pid: i32) -> Option<(char, u64)> {
    let text = stdx::fs::read_kernel_text(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses included.
    let rest = text.rsplit_once(") ")?.1;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A signal by number, `TERM` or `SIGTERM`.
///
/// # Errors
/// [`Error::Invalid`] for any other text.
pub fn parse_signal(text: &str) -> Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok());
    let realtime = || {
        let (base, sign, offset) = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => (34, 1, rest.trim_start_matches('+')),
            (_, Some(rest)) => (64, -1, rest.trim_start_matches('-')),
            _ => return None,
        };
        let offset = if offset.is_empty() { 0 } else { offset.parse::<i32>().ok()? };
        Some(base + sign * offset)
    };
    by_name
        .or_else(|| name.parse().ok())
        .or_else(realtime)
        .filter(|signal| (0..=64).contains(signal))
        .ok_or_else(|| Error::invalid(format!("signal {text:?} is unknown")))
}

/// Sends a signal to the container's first process, or to all of it.
///
/// # Errors
/// Where it has stopped, or kill(2) refuses.
pub fn kill(record: &Record, file: &Path, signal: i32, is_all: bool) -> Result<()> {
    if is_all && signal == libc::SIGKILL {
        return record.cgroups()?.kill();
    }
    if is_all {
        for pid in record.cgroups()?.pids()? {
            // It may have gone since it was listed.
            let _ = sys::kill(pid, signal);
        }
        return Ok(());
    }
    if record.status(file) == Status::Stopped {
        return Err(Error::State { what: format!("container {} is not running", record.id) });
    }
    sys::kill(record.pid, signal).doing(|| format!("send signal {signal} to container {}", record.id))
}
