//! What the cloned process does until its program runs.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Arrival, Exec, Launch, reaper};
use crate::cgroup::Cgroups;
use crate::channel::{Channel, Message};
use crate::devices;
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::namespaces::{self, CLONE_NEWTIME, Namespaces};
use crate::process::{self, Program};
use crate::rootfs::{self, PreparedMount, Rootfs};
use crate::spec::{Process, State};
use crate::sys::{self, Fork};
use crate::users;

/// Everything the first process needs; read-only, as the parent left it.
pub(super) struct Init<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) cgroups: &'a Cgroups,
    pub(super) namespaces: &'a Namespaces,
    pub(super) mounts: &'a [PreparedMount<'a>],
}

impl Init<'_> {
    /// Builds the container around this process and executes its program.
    pub(super) fn run(&self, channel: &Channel) -> Result<Infallible> {
        let spec = self.launch.spec;
        let empty = crate::spec::Linux::default();
        let linux = spec.linux.as_ref().unwrap_or(&empty);
        let default_process = Process::default();
        let process = spec.process.as_ref().unwrap_or(&default_process);
        if self.namespaces.has_new(libc::CLONE_NEWUSER) {
            channel.await_go()?;
            namespaces::become_root()?;
        }
        // /proc/self of the host's proc still names this process here.
        process::set_oom_score(process)?;
        if self.namespaces.are_entered_by_child() {
            self.namespaces.enter()?;
        }
        self.unshare_early()?;
        self.name_host()?;
        if self.namespaces.has_new(libc::CLONE_NEWNET) {
            sys::loopback_up().doing(|| "bring the loopback interface up")?;
        }
        let cgroups = self.enter_cgroups(channel)?;
        self.unshare_late(linux)?;
        let terminal = self.build_root(channel, &cgroups)?;
        self.close_root(linux)?;
        let process = &*users::resolve(process)?;
        if let Some(personality) = &linux.personality {
            process::set_personality(personality)?;
        }
        if let Some((master, slave)) = terminal {
            resize(&master, process)?;
            process::take_stdio([slave.as_fd(), slave.as_fd(), slave.as_fd()], true)?;
            own_terminal(&slave, process)?;
            channel.send(&Message::Terminal(master))?;
        } else {
            process::take_stdio(self.launch.stdio, false)?;
        }
        process::limit(process)?;
        process::make_directory(&process.cwd)?;
        self.finish(process, channel)
    }

    /// The namespaces that ask nothing of the cgroups.
    fn unshare_early(&self) -> Result<()> {
        let new = self.namespaces.new
            & (libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET);
        if new == 0 {
            return Ok(());
        }
        sys::unshare(new).doing(|| "make the namespaces")
    }

    /// Waits for the cgroups and enters them. Returns those there are.
    fn enter_cgroups(&self, channel: &Channel) -> Result<Cgroups> {
        match channel.receive()? {
            Some(Message::Cgroups(entrances)) => {
                enter(&entrances)?;
                let has_all = entrances.len() == self.cgroups.v1_count();
                Ok(if has_all { self.cgroups.clone() } else { self.cgroups.without_v1() })
            }
            other => Err(Error::State { what: format!("the parent process gave up ({other:?})") }),
        }
    }

    /// A cgroup namespace is rooted where its maker is, and a time namespace must get its offsets
    /// before anyone is in it.
    fn unshare_late(&self, linux: &crate::spec::Linux) -> Result<()> {
        if self.namespaces.has_new(libc::CLONE_NEWCGROUP) {
            sys::unshare(libc::CLONE_NEWCGROUP).doing(|| "make a cgroup namespace")?;
        }
        if self.namespaces.has_new(CLONE_NEWTIME) {
            sys::unshare(CLONE_NEWTIME).doing(|| "make a time namespace")?;
            namespaces::write_time_offsets(linux)?;
        }
        Ok(())
    }

    fn name_host(&self) -> Result<()> {
        let spec = self.launch.spec;
        if !spec.hostname.is_empty() {
            rustix::system::sethostname(spec.hostname.as_bytes()).doing(|| "set the hostname")?;
        }
        if !spec.domainname.is_empty() {
            rustix::system::setdomainname(spec.domainname.as_bytes()).doing(|| "set the domain name")?;
        }
        Ok(())
    }

    /// Mounts everything, runs the hooks that come before the root is entered, and enters it.
    fn build_root(&self, channel: &Channel, cgroups: &Cgroups) -> Result<Option<(OwnedFd, OwnedFd)>> {
        let Launch { spec, rootfs, overlay, .. } = self.launch;
        if self.namespaces.joins(libc::CLONE_NEWNS) {
            return Ok(None);
        }
        let has_mount_namespace = self.namespaces.has_new(libc::CLONE_NEWNS);
        if !has_mount_namespace {
            Rootfs::bare(rootfs)?.enter(spec, false)?;
            return Ok(None);
        }
        let root = Rootfs::mount(spec, rootfs, *overlay)?;
        if overlay.is_some() {
            channel.send(&Message::Root(root.fd().try_clone_to_owned().doing(|| "copy the root")?))?;
        }
        let has_cgroup_namespace = self.namespaces.has_new(libc::CLONE_NEWCGROUP);
        for mount in self.mounts {
            root.apply(mount, cgroups, has_cgroup_namespace)?;
        }
        root.make_devices(spec)?;
        if let Some(all) = &spec.hooks {
            channel.ask(&Message::NeedHooks)?;
            hooks::run("createContainer", &all.create_container, &self.state("creating"))?;
        }
        let wants_terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        let terminal = if wants_terminal { Some(devices::open_terminal(&root)?) } else { None };
        if let Some((_, slave)) = &terminal {
            devices::bind_console(&root, slave.as_fd())?;
        }
        root.enter(spec, true)?;
        Ok(terminal)
    }

    /// Takes back what the container must not change.
    fn close_root(&self, linux: &crate::spec::Linux) -> Result<()> {
        for (name, value) in &linux.sysctl {
            set_sysctl(name, value)?;
        }
        if self.namespaces.has_new(libc::CLONE_NEWNS) {
            rootfs::make_paths_readonly(&linux.readonly_paths)?;
            rootfs::mask(&linux.masked_paths)?;
            if self.launch.spec.root.as_ref().is_some_and(|root| root.readonly) {
                Rootfs::make_readonly()?;
            }
        }
        Ok(())
    }

    fn finish(&self, process: &Process, channel: &Channel) -> Result<Infallible> {
        if let Some(gate) = self.launch.gate {
            // `create` tells a missing program, not `start`.
            Program::find(process)?;
            channel.send(&Message::Created)?;
            wait_at(gate)?;
        }
        if let Some(all) = &self.launch.spec.hooks {
            hooks::run("startContainer", &all.start_container, &self.state("created"))?;
        }
        // Before the filter, which may forbid clone3; the child is the one that goes on.
        if self.launch.has_init
            && let Fork::Parent(pid) = sys::clone3(0, None).doing(|| "clone the program's process")?
        {
            return reaper::run(pid, process);
        }
        if self.launch.has_init {
            lead(process)?;
        }
        become_program(process, self.launch.filter, self.launch.preserved_fds, channel)
    }

    fn state(&self, status: &str) -> State {
        // Inside its own pid namespace the first process is 1, which is what these hooks see.
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        State { status: status.into(), pid, ..self.launch.state.clone() }
    }
}

/// Joins a running container; the namespaces are entered already.
pub(super) fn join(
    exec: &Exec<'_>,
    entrances: &[OwnedFd],
    arrival: Arrival,
    channel: &Channel,
) -> Result<Infallible> {
    if arrival == Arrival::Moved {
        channel.await_go()?;
    }
    enter(entrances)?;
    let process = &*users::resolve(exec.process)?;
    if let Some(affinity) = &process.exec_cpu_affinity {
        let cpus = if affinity.after.is_empty() { &affinity.initial } else { &affinity.after };
        if !cpus.is_empty() {
            sys::sched_setaffinity(&cpu_list(cpus)?).doing(|| format!("run on the processors {cpus}"))?;
        }
    }
    process::set_oom_score(process)?;
    if process.terminal {
        let root = Rootfs::bare(std::path::Path::new("/"))?;
        let (master, slave) = devices::open_terminal(&root)?;
        resize(&master, process)?;
        process::take_stdio([slave.as_fd(), slave.as_fd(), slave.as_fd()], true)?;
        own_terminal(&slave, process)?;
        channel.send(&Message::Terminal(master))?;
    } else {
        process::take_stdio(exec.stdio, false)?;
    }
    process::limit(process)?;
    become_program(process, exec.filter, exec.preserved_fds, channel)
}

fn become_program(
    process: &Process,
    filter: Option<&crate::seccomp::Program>,
    preserved_fds: u32,
    channel: &Channel,
) -> Result<Infallible> {
    process::drop_privileges(process, filter, |listener| channel.ask(&Message::SeccompListener(listener)))?;
    sys::reset_signals().doing(|| "reset signals")?;
    let program = Program::find(process)?;
    sys::set_cloexec_from(3 + preserved_fds).doing(|| "mark descriptors to close")?;
    for fd in 3..3 + preserved_fds {
        // A number that was not open is no descriptor to preserve.
        let _ = sys::clear_cloexec(i32::try_from(fd).unwrap_or(i32::MAX));
    }
    Err(program.exec())
}

/// Takes a process group of its own, and the terminal, as tini does.
fn lead(process: &Process) -> Result<()> {
    rustix::process::setpgid(None, None).doing(|| "lead a process group")?;
    if process.terminal {
        // From the background, taking the terminal would stop this process.
        let _ignored = sys::signal_fd(&[libc::SIGTTOU]).doing(|| "hold back SIGTTOU")?;
        let own = rustix::process::getpid();
        rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own).doing(|| "take the terminal")?;
    }
    Ok(())
}

fn enter(entrances: &[OwnedFd]) -> Result<()> {
    entrances.iter().try_for_each(|fd| rustix::io::write(fd, b"0").map(drop).doing(|| "enter the cgroup"))
}

fn resize(master: &OwnedFd, process: &Process) -> Result<()> {
    let Some(size) = process.console_size.filter(|size| size.height != 0 && size.width != 0) else {
        return Ok(());
    };
    let size =
        rustix::termios::Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(master, size).doing(|| "size the terminal")
}

/// Gives the terminal to the user, so that programs that open it by name may.
fn own_terminal(slave: &OwnedFd, process: &Process) -> Result<()> {
    if process.user.uid == 0 {
        return Ok(());
    }
    let owner = rustix::fs::Uid::from_raw(process.user.uid);
    rustix::fs::fchown(slave, Some(owner), None).doing(|| "give the terminal to the user")
}

fn wait_at(gate: BorrowedFd<'_>) -> Result<()> {
    let fd = gate.try_clone_to_owned().doing(|| "copy the gate")?;
    let mut byte = [0];
    let read = std::fs::File::from(fd).read(&mut byte).doing(|| "wait for start")?;
    if read == 0 {
        return Err(Error::State { what: "the container was given up before it was started".into() });
    }
    Ok(())
}

fn set_sysctl(name: &str, value: &str) -> Result<()> {
    // Interface names hold dots; both `net.ipv4.x` and `net/ipv4/x` are in use.
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    if path.split('/').any(|part| part == ".." || part.is_empty()) {
        return Err(Error::invalid(format!("sysctl {name:?} is no name")));
    }
    std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/sys/{path}"))
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .doing(|| format!("set sysctl {name} to {value:?}"))
}

/// `0-2,5` as numbers.
fn cpu_list(list: &str) -> Result<Vec<usize>> {
    let bad = || Error::invalid(format!("processor list {list:?} is malformed"));
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| bad())?;
        let last: usize = last.trim().parse().map_err(|_| bad())?;
        if first > last || last >= 1024 {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}
