//! The namespaces of a bundle: which are new, which are joined.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error, Result};
use crate::spec::{IdMapping, Linux, Namespace};
use crate::sys;

/// Name in the specification, file below `/proc/PID/ns`, clone flag. User comes first: it gives the
/// right to enter the others.
const KINDS: [(&str, &str, libc::c_int); 8] = [
    ("user", "user", libc::CLONE_NEWUSER),
    ("cgroup", "cgroup", libc::CLONE_NEWCGROUP),
    ("ipc", "ipc", libc::CLONE_NEWIPC),
    ("uts", "uts", libc::CLONE_NEWUTS),
    ("network", "net", libc::CLONE_NEWNET),
    ("pid", "pid", libc::CLONE_NEWPID),
    ("time", "time", 0x80),
    ("mount", "mnt", libc::CLONE_NEWNS),
];

/// `CLONE_NEWTIME`, which libc does not have for every target.
pub(crate) const CLONE_NEWTIME: libc::c_int = 0x80;

/// What to make and what to enter.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` flags of the new ones.
    pub(crate) new: libc::c_int,
    /// The ones to enter, opened, in the order to enter them.
    pub(crate) joined: Vec<(libc::c_int, OwnedFd)>,
}

impl Namespaces {
    /// Sorts the bundle's list and opens what is to be joined.
    pub(crate) fn new(list: &[Namespace]) -> Result<Self> {
        let mut namespaces = Self::default();
        let mut seen = 0;
        for (name, _, flag) in KINDS {
            for entry in list.iter().filter(|entry| entry.r#type == name) {
                if seen & flag != 0 {
                    return Err(Error::invalid(format!("linux.namespaces lists {name:?} twice")));
                }
                seen |= flag;
                match entry.path.as_deref().filter(|path| !path.as_os_str().is_empty()) {
                    None => namespaces.new |= flag,
                    Some(path) => namespaces.joined.push((flag, open(path)?)),
                }
            }
        }
        match list.iter().find(|entry| !KINDS.iter().any(|(name, ..)| *name == entry.r#type)) {
            Some(entry) => Err(Error::invalid(format!("namespace type {:?} is unknown", entry.r#type))),
            None => Ok(namespaces),
        }
    }

    /// All namespaces of a process that differ from this process's own.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let mut namespaces = Self::default();
        for (_, file, flag) in KINDS {
            let theirs = format!("/proc/{pid}/ns/{file}");
            let Ok(link) = std::fs::read_link(&theirs) else {
                // A kernel without this kind; any other failure shows at the next one.
                continue;
            };
            let is_same = std::fs::read_link(format!("/proc/self/ns/{file}")).is_ok_and(|own| own == link);
            if !is_same {
                namespaces.joined.push((flag, open(Path::new(&theirs))?));
            }
        }
        Ok(namespaces)
    }

    /// Whether the child can enter what is joined by itself: neither a pid namespace, which holds for
    /// children only, nor one whose owner it would have to be.
    pub(crate) fn are_entered_by_child(&self) -> bool {
        let plain = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        !self.has_new(libc::CLONE_NEWUSER) && self.joined.iter().all(|(flag, _)| flag & plain != 0)
    }

    pub(crate) fn has_new(&self, flag: libc::c_int) -> bool {
        self.new & flag != 0
    }

    pub(crate) fn joins(&self, flag: libc::c_int) -> bool {
        self.joined.iter().any(|(joined, _)| *joined == flag)
    }

    /// Enters the joined ones. A pid namespace holds for children only.
    pub(crate) fn enter(&self) -> Result<()> {
        for (flag, fd) in &self.joined {
            sys::setns(fd.as_fd(), *flag).doing(|| format!("enter the {} namespace", name_of(*flag)))?;
            if *flag == libc::CLONE_NEWUSER {
                become_root()?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open the namespace {path:?}"))
}

fn name_of(flag: libc::c_int) -> &'static str {
    KINDS.iter().find(|(.., kind)| *kind == flag).map_or("unknown", |(name, ..)| name)
}

/// Takes uid and gid 0 of the user namespace just entered.
pub(crate) fn become_root() -> Result<()> {
    // Where setgroups is denied, the groups of before stay and mean nothing inside.
    let _ = sys::setgroups(&[]);
    sys::setgid(0).doing(|| "become group 0 of the user namespace")?;
    sys::setuid(0).doing(|| "become user 0 of the user namespace")
}

/// Writes the id maps of `pid`'s new user namespace: directly where this process may, else through
/// `newuidmap` and `newgidmap` with the user's subordinate ids.
pub(crate) fn write_id_maps(pid: i32, linux: &Linux) -> Result<()> {
    let lines = |maps: &[IdMapping]| {
        maps.iter().fold(String::new(), |text, map| {
            text + &format!("{} {} {}\n", map.container_id, map.host_id, map.size)
        })
    };
    let (uids, gids) = (lines(&linux.uid_mappings), lines(&linux.gid_mappings));
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid("a new user namespace needs linux.uidMappings and linux.gidMappings"));
    }
    if std::fs::write(format!("/proc/{pid}/uid_map"), &uids).is_ok() {
        if std::fs::write(format!("/proc/{pid}/gid_map"), &gids).is_err() {
            // One's own group alone may be mapped without privileges once setgroups is given up.
            std::fs::write(format!("/proc/{pid}/setgroups"), "deny").doing(|| "deny setgroups")?;
            std::fs::write(format!("/proc/{pid}/gid_map"), &gids).doing(|| "write the gid map")?;
        }
        return Ok(());
    }
    map_by_program("newuidmap", pid, &uids)?;
    map_by_program("newgidmap", pid, &gids)
}

fn map_by_program(program: &str, pid: i32, lines: &str) -> Result<()> {
    let output = stdx::process::command(program)
        .arg(pid.to_string())
        .args(lines.split_whitespace())
        .output()
        .doing(|| format!("run {program} (package uidmap)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::State { what: format!("{program} refused the id map: {said}") })
}

/// Sets the clocks of the time namespace that this process's successor enters.
pub(crate) fn write_time_offsets(linux: &Linux) -> Result<()> {
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(format!("linux.timeOffsets clock {clock:?} is unknown")));
        }
        text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    if text.is_empty() {
        return Ok(());
    }
    std::fs::write("/proc/self/timens_offsets", text).doing(|| "set the time namespace's offsets")
}

/// A user namespace with these maps, held by nothing but the descriptor, for id-mapped mounts.
pub(crate) fn userns_for(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let linux = Linux { uid_mappings: uids.to_vec(), gid_mappings: gids.to_vec(), ..Linux::default() };
    match sys::clone3(libc::CLONE_NEWUSER, None).doing(|| "make a user namespace for an id-mapped mount")? {
        sys::Fork::Child => loop {
            // Holds the namespace until the parent has a descriptor of it, and is killed then.
            std::thread::sleep(std::time::Duration::from_secs(60));
        },
        sys::Fork::Parent(pid) => {
            let made =
                write_id_maps(pid, &linux).and_then(|()| open(Path::new(&format!("/proc/{pid}/ns/user"))));
            let _ = sys::kill(pid, libc::SIGKILL);
            let _ = sys::wait(pid, true);
            made
        }
    }
}
