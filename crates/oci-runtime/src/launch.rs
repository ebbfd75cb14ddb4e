//! Brings a container's first process, or one more, to its program.
//!
//! ```text
//!  caller                                   child
//!    │ open bind sources, make the v2 cgroup  │
//!    ├── clone3(into it, pid, user) ─────────>│
//!    │  write uid_map, gid_map ──── go ──────>│ (with a new user namespace)
//!    │  make the other cgroups, set limits    │ make the other namespaces
//!    ├─────────────── cgroups ───────────────>│ enter them, mount the root and all in it
//!    │<───────────── need hooks ──────────────┤ (with hooks)
//!    │  prestart, createRuntime ─── go ──────>│ createContainer hooks, pivot_root, mask
//!    │<───────────── terminal ────────────────┤ (with one)
//!    │<───────────── created ─────────────────┤ (with a gate) waits for it, startContainer hooks
//!    │<──────── end of stream, or failed ─────┤ execve
//! ```
//!
//! Where namespaces are joined, an intermediate process joins them and clones the child with
//! `CLONE_PARENT`, so that the caller keeps its own namespaces and is the child's parent all the same.

mod init;
mod reaper;

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::cgroup::{Cgroups, Missing};
use crate::channel::{Channel, Message};
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::namespaces::{self, Namespaces};
use crate::rootfs::{self, Overlay};
use crate::seccomp;
use crate::spec::{Hooks, Mount, Process, Spec, State};
use crate::sys::{self, Fork};

/// A container about to be made.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The bundle's `config.json`.
    pub spec: &'a Spec,
    /// What hooks are told.
    pub state: State,
    /// The directory that becomes the root, or that `overlay` is mounted on.
    pub rootfs: &'a Path,
    /// Mounted in the container's own namespace.
    pub overlay: Option<&'a Overlay>,
    /// Whether it may do without cgroups.
    pub missing_cgroups: Missing,
    /// The compiled filter.
    pub filter: Option<&'a seccomp::Program>,
    /// The standard streams; ignored with a terminal.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Read to its end before the program is executed, where `create` and `start` are two steps.
    pub gate: Option<BorrowedFd<'a>>,
    /// How many descriptors from 3 on the program inherits.
    pub preserved_fds: u32,
    /// Whether the first process stays, as the init of the program.
    pub has_init: bool,
}

/// A process to be started inside a container that runs.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The container's first process.
    pub pid: i32,
    /// What to run, as whom.
    pub process: &'a Process,
    /// Entered by the process.
    pub cgroups: &'a Cgroups,
    /// The compiled filter.
    pub filter: Option<&'a seccomp::Program>,
    /// Where a filter that notifies sends its listener, and for what hooks are told.
    pub state: State,
    /// The standard streams; ignored with a terminal.
    pub stdio: [BorrowedFd<'a>; 3],
    /// How many descriptors from 3 on the program inherits.
    pub preserved_fds: u32,
}

/// A process that runs its program, or waits at its gate.
#[derive(Debug)]
pub struct Launched {
    /// In the caller's pid namespace; the caller is its parent.
    pub pid: i32,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Its overlay. Held by the caller until the container's end is told: the last holder waits for
    /// what was written to reach the disk.
    pub root: Option<OwnedFd>,
}

/// Makes the container and what `cgroups` lacks of its groups. Returns when its program runs, or waits
/// at the gate.
///
/// # Errors
/// Whatever step failed, the child's included; the child is gone then and reaped. The caller deletes
/// `cgroups`.
pub fn launch(launch: &Launch<'_>, cgroups: &mut Cgroups) -> Result<Launched> {
    let empty = crate::spec::Linux::default();
    let linux = launch.spec.linux.as_ref().unwrap_or(&empty);
    let namespaces = Namespaces::new(&linux.namespaces)?;
    check(launch.spec, &namespaces)?;
    let mounts = rootfs::prepare(launch.spec, |mount| idmap_for(mount, linux))?;
    let birthplace = cgroups.birthplace()?;
    let (ours, theirs) = Channel::pair()?;
    let init = init::Init { launch, cgroups, namespaces: &namespaces, mounts: &mounts };
    let pid = spawn(&namespaces, birthplace.as_ref(), &ours, theirs, |channel| init.run(channel))?;
    let answered = settle(&ours, pid, launch, &namespaces, cgroups).and_then(|()| {
        attend(&ours, pid, launch.spec.hooks.as_ref(), &launch.state, linux, launch.gate.is_some())
    });
    if answered.is_err() {
        abandon(pid);
    }
    answered.map(|given| Launched { pid, terminal: given.terminal, root: given.root })
}

/// Gives the child its ids and its cgroups while it makes its namespaces.
fn settle(
    channel: &Channel,
    pid: i32,
    launch: &Launch<'_>,
    namespaces: &Namespaces,
    cgroups: &mut Cgroups,
) -> Result<()> {
    let linux = launch.spec.linux.as_ref();
    // A child that failed meanwhile hears nothing; what it said of that is read later.
    if let Some(linux) = linux.filter(|_| namespaces.has_new(libc::CLONE_NEWUSER)) {
        namespaces::write_id_maps(pid, linux)?;
        let _ = channel.send(&Message::Go);
    }
    cgroups.complete(pid, linux.and_then(|linux| linux.resources.as_ref()), launch.missing_cgroups)?;
    let _ = channel.send(&Message::Cgroups(cgroups.entrances()?));
    Ok(())
}

/// Starts the process. Returns when its program runs.
///
/// # Errors
/// As [`launch()`].
pub fn exec(exec: &Exec<'_>) -> Result<Launched> {
    let namespaces = Namespaces::of(exec.pid)?;
    let entrances = exec.cgroups.later_entrances()?;
    let spawn_in = |birthplace: Option<OwnedFd>, arrival| {
        let (ours, theirs) = Channel::pair()?;
        let pid = spawn(&namespaces, birthplace.as_ref(), &ours, theirs, |channel| {
            init::join(exec, &entrances, arrival, channel)
        })?;
        Ok((ours, pid))
    };
    let (ours, pid) = match spawn_in(exec.cgroups.birthplace()?, Arrival::Born) {
        Err(Error::Os { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => {
            spawn_in(exec.cgroups.birthplace_beside(exec.pid)?, Arrival::Born)?
        }
        // From a user's session into the part of the user's systemd leads a way that root alone may go.
        Err(Error::Os { source, .. })
            if source.raw_os_error() == Some(libc::EACCES) && exec.cgroups.unit().is_some() =>
        {
            let (ours, pid) = spawn_in(None, Arrival::Moved)?;
            let moved = exec.cgroups.attach(pid).and_then(|()| ours.send(&Message::Go));
            if moved.is_err() {
                abandon(pid);
            }
            moved.map(|()| (ours, pid))?
        }
        other => other?,
    };
    let answered = attend(&ours, pid, None, &exec.state, &crate::spec::Linux::default(), false);
    if answered.is_err() {
        abandon(pid);
    }
    answered.map(|given| Launched { pid, terminal: given.terminal, root: given.root })
}

/// How one more process comes into a container's v2 cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// By its clone.
    Born,
    /// By systemd, which it waits for.
    Moved,
}

fn abandon(pid: i32) {
    // It may be dead already; either way it must not stay a zombie.
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = sys::wait(pid, true);
}

/// Refuses what no later step would explain.
fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    if spec.root.is_none() {
        return Err(Error::invalid("the bundle has no root"));
    }
    if !spec.hostname.is_empty()
        && !namespaces.has_new(libc::CLONE_NEWUTS)
        && !namespaces.joins(libc::CLONE_NEWUTS)
    {
        return Err(Error::invalid("a hostname needs a uts namespace"));
    }
    if !namespaces.has_new(libc::CLONE_NEWNS) && !spec.mounts.is_empty() {
        return Err(Error::invalid("mounts need a new mount namespace"));
    }
    if let Some(process) = &spec.process {
        if !process.cwd.starts_with('/') {
            return Err(Error::invalid(format!("process.cwd {:?} is not absolute", process.cwd)));
        }
        if !process.apparmor_profile.is_empty() && !Path::new("/sys/kernel/security/apparmor").exists() {
            return Err(Error::Unsupported { what: "this kernel has no AppArmor".into() });
        }
        if !process.selinux_label.is_empty() && !Path::new("/sys/fs/selinux").exists() {
            return Err(Error::Unsupported { what: "this kernel has no SELinux".into() });
        }
    }
    let linux = spec.linux.as_ref();
    if linux.is_some_and(|linux| linux.intel_rdt.is_some()) {
        return Err(Error::Unsupported { what: "linux.intelRdt is not supported".into() });
    }
    Ok(())
}

/// The user namespace whose maps a mount asks for: its own, or the container's.
fn idmap_for(mount: &Mount, linux: &crate::spec::Linux) -> Result<Option<OwnedFd>> {
    let asks = mount.options.iter().any(|option| option == "idmap" || option == "ridmap");
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return namespaces::userns_for(&mount.uid_mappings, &mount.gid_mappings).map(Some);
    }
    if !asks {
        return Ok(None);
    }
    if linux.uid_mappings.is_empty() {
        return Err(Error::invalid(format!(
            "mount {:?} asks for idmap, but there are no mappings",
            mount.destination
        )));
    }
    namespaces::userns_for(&linux.uid_mappings, &linux.gid_mappings).map(Some)
}

/// Clones the child, through an intermediate where namespaces are joined, and runs `body` in it.
///
/// Only the namespaces that a process can't move into by itself are made here; the others are made by
/// the child, while the parent goes on.
fn spawn(
    namespaces: &Namespaces,
    birthplace: Option<&OwnedFd>,
    ours: &Channel,
    theirs: Channel,
    body: impl FnOnce(&Channel) -> Result<Infallible>,
) -> Result<i32> {
    let new = namespaces.new & (libc::CLONE_NEWUSER | libc::CLONE_NEWPID);
    let birthplace = birthplace.map(AsFd::as_fd);
    if namespaces.are_entered_by_child() {
        return match sys::clone3(new, birthplace).doing(|| "clone the container's process")? {
            Fork::Parent(pid) => Ok(pid),
            Fork::Child => run_child(&theirs, body),
        };
    }
    // Born in the cgroup before it joins a cgroup namespace, from which the way in could not be seen.
    match sys::clone3(0, birthplace).doing(|| "clone the process that joins namespaces")? {
        Fork::Parent(intermediate) => {
            drop(theirs);
            let told = ours.receive();
            sys::wait(intermediate, true).doing(|| "wait for the process that joins namespaces")?;
            match told? {
                Some(Message::Pid(pid)) => Ok(pid),
                Some(Message::Failed(error)) => Err(error),
                other => {
                    Err(Error::State { what: format!("joining the namespaces ended early ({other:?})") })
                }
            }
        }
        Fork::Child => run_child(&theirs, |channel| {
            namespaces.enter()?;
            match sys::clone3(new | libc::CLONE_PARENT, None).doing(|| "clone into the namespaces")? {
                Fork::Child => body(channel),
                Fork::Parent(pid) => {
                    channel.send(&Message::Pid(pid))?;
                    sys::exit_now(0)
                }
            }
        }),
    }
}

/// Runs `body` in a cloned process: it executes a program or reports why not, and never returns.
fn run_child(channel: &Channel, body: impl FnOnce(&Channel) -> Result<Infallible>) -> ! {
    let Err(error) = body(channel);
    // With the parent gone there is nobody left to tell.
    let _ = channel.send(&Message::Failed(error));
    sys::exit_now(1)
}

/// What the child handed over.
#[derive(Default)]
struct Given {
    terminal: Option<OwnedFd>,
    root: Option<OwnedFd>,
}

/// Answers the child until its program runs or it waits at the gate.
fn attend(
    channel: &Channel,
    pid: i32,
    hooks: Option<&Hooks>,
    state: &State,
    linux: &crate::spec::Linux,
    has_gate: bool,
) -> Result<Given> {
    let mut given = Given::default();
    loop {
        match channel.receive()? {
            None => {
                // The end of the stream is an exec, unless the child was killed on its way.
                return Ok(given);
            }
            Some(Message::Created) if has_gate => return Ok(given),
            Some(Message::NeedHooks) => {
                if let Some(all) = hooks {
                    let state = State { pid, status: "creating".into(), ..state.clone() };
                    hooks::run("prestart", &all.prestart, &state)?;
                    hooks::run("createRuntime", &all.create_runtime, &state)?;
                }
                channel.send(&Message::Go)?;
            }
            Some(Message::Terminal(fd)) => given.terminal = Some(fd),
            Some(Message::Root(fd)) => given.root = Some(fd),
            Some(Message::SeccompListener(fd)) => {
                send_listener(linux.seccomp.as_ref(), &fd, pid, state)?;
                channel.send(&Message::Go)?;
            }
            Some(Message::Failed(error)) => return Err(error),
            Some(other @ (Message::Created | Message::Cgroups(_) | Message::Pid(_) | Message::Go)) => {
                return Err(Error::State {
                    what: format!("the container's process said {other:?} out of turn"),
                });
            }
        }
    }
}

/// Hands the seccomp listener to the agent the bundle names (config-linux.md, "containerProcessState").
fn send_listener(
    seccomp: Option<&crate::spec::Seccomp>,
    fd: &OwnedFd,
    pid: i32,
    state: &State,
) -> Result<()> {
    let path = seccomp.map(|seccomp| seccomp.listener_path.as_str()).unwrap_or_default();
    if path.is_empty() {
        return Err(Error::invalid("a seccomp rule notifies, but linux.seccomp.listenerPath is empty"));
    }
    let step = || format!("hand the seccomp listener to {path}");
    let socket = std::os::unix::net::UnixStream::connect(path).doing(step)?;
    let message = serde_json::json!({
        "ociVersion": state.oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": seccomp.map(|seccomp| seccomp.listener_metadata.as_str()).unwrap_or_default(),
        "state": state,
    });
    let bytes = serde_json::to_vec(&message).unwrap_or_default();
    stdx::socket::send_with_fds(socket.as_fd(), &bytes, &[fd.as_fd()]).doing(step)
}
