//! The last steps of a process on its way into a container: everything between its namespaces and
//! its program.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, Mode};
use rustix::process::{Resource, Rlimit};

use crate::capabilities::Masks;
use crate::error::{Doing, Error, Result};
use crate::rootfs::cstring;
use crate::seccomp;
use crate::spec::{self, Process};
use crate::sys::{self, CStringArray};

/// `PATH` where neither the bundle nor the image sets one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What needs the privileges of the container's root: limits, priorities, bounding set.
pub(crate) fn limit(process: &Process) -> Result<()> {
    for limit in &process.rlimits {
        set_rlimit(limit)?;
    }
    if let Some(scheduler) = &process.scheduler {
        set_scheduler(scheduler)?;
    }
    if let Some(priority) = &process.io_priority {
        let class = match priority.class.as_str() {
            "IOPRIO_CLASS_RT" => 1,
            "IOPRIO_CLASS_BE" => 2,
            "IOPRIO_CLASS_IDLE" => 3,
            other => return Err(Error::invalid(format!("process.ioPriority class {other:?} is unknown"))),
        };
        sys::ioprio_set(class, priority.priority).doing(|| "set the I/O priority")?;
    }
    Ok(())
}

/// Sets how readily the kernel kills this process for want of memory.
pub(crate) fn set_oom_score(process: &Process) -> Result<()> {
    let Some(score) = process.oom_score_adj else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Lowering it needs CAP_SYS_RESOURCE, which a user's own engine never has.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) && !is_host_root() => Ok(()),
        other => other.doing(|| format!("set oom_score_adj to {score}")),
    }
}

/// Whether uid 0 here is uid 0 of the machine.
pub(crate) fn is_host_root() -> bool {
    rustix::process::geteuid().is_root()
        && std::fs::read_to_string("/proc/self/uid_map")
            .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
}

fn set_rlimit(limit: &spec::Rlimit) -> Result<()> {
    let resource = match limit.r#type.strip_prefix("RLIMIT_").unwrap_or(&limit.r#type) {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return Err(Error::invalid(format!("rlimit {:?} is unknown", limit.r#type))),
    };
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    let value = Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
    rustix::process::setrlimit(resource, value)
        .doing(|| format!("set {} to {}:{}", limit.r#type, limit.soft, limit.hard))
}

fn set_scheduler(scheduler: &spec::Scheduler) -> Result<()> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" => 0,
        "SCHED_FIFO" => 1,
        "SCHED_RR" => 2,
        "SCHED_BATCH" => 3,
        "SCHED_ISO" => 4,
        "SCHED_IDLE" => 5,
        "SCHED_DEADLINE" => 6,
        other => return Err(Error::invalid(format!("process.scheduler policy {other:?} is unknown"))),
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(Error::invalid(format!("process.scheduler flag {other:?} is unknown"))),
        };
    }
    let attr = sys::SchedAttr {
        size: u32::try_from(size_of::<sys::SchedAttr>()).unwrap_or(0),
        policy,
        flags,
        nice: scheduler.nice,
        priority: u32::try_from(scheduler.priority).unwrap_or(0),
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    };
    sys::sched_setattr(&attr).doing(|| format!("set the scheduler to {}", scheduler.policy))
}

/// The kernel's execution domain (config-linux.md, "Personality").
pub(crate) fn set_personality(personality: &spec::Personality) -> Result<()> {
    let domain = match personality.domain.as_str() {
        "LINUX" => 0,
        "LINUX32" => 8,
        other => return Err(Error::invalid(format!("linux.personality domain {other:?} is unknown"))),
    };
    if let Some(flag) = personality.flags.first() {
        return Err(Error::invalid(format!("linux.personality flag {flag:?} is unknown")));
    }
    sys::personality(domain).doing(|| "set the personality")
}

/// Becomes the user, drops privileges, installs the filter. Returns the filter's listener.
///
/// Without `no_new_privileges` the filter must go in while `CAP_SYS_ADMIN` is there; with it, last,
/// so that it need not allow the calls that drop privileges.
pub(crate) fn drop_privileges(
    process: &Process,
    filter: Option<&seccomp::Program>,
    send_listener: impl Fn(std::os::fd::OwnedFd) -> Result<()>,
) -> Result<()> {
    let install = || -> Result<()> {
        let listener = filter.map(seccomp::install).transpose()?.flatten();
        listener.map_or(Ok(()), &send_listener)
    };
    let user = &process.user;
    if let Some(mask) = user.umask {
        rustix::process::umask(Mode::from_raw_mode(mask & 0o777));
    }
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).doing(|| "set no_new_privs")?;
    } else {
        install()?;
    }
    let masks = process.capabilities.as_ref().map(Masks::new);
    if let Some(masks) = &masks {
        masks.limit_bounding()?;
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).doing(|| "keep capabilities over setuid")?;
    set_groups(&user.additional_gids)?;
    sys::setgid(user.gid).doing(|| format!("become group {}", user.gid))?;
    sys::setuid(user.uid).doing(|| format!("become user {}", user.uid))?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).doing(|| "end keeping capabilities")?;
    // As somebody else, the directory may be closed; as root it was entered already where it could be.
    enter_directory(&process.cwd)?;
    if let Some(masks) = &masks {
        masks.apply()?;
    }
    if process.no_new_privileges {
        install()?;
    }
    Ok(())
}

fn set_groups(groups: &[u32]) -> Result<()> {
    match sys::setgroups(groups) {
        // A user namespace made without privileges has setgroups denied; nothing is added then.
        Err(error)
            if error.raw_os_error() == Some(libc::EPERM)
                && groups.is_empty()
                && std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "deny") =>
        {
            Ok(())
        }
        other => other.doing(|| "set the supplementary groups"),
    }
}

/// Enters the working directory, which must lie inside the container.
fn enter_directory(cwd: &str) -> Result<()> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    rustix::process::chdir(cwd).doing(|| format!("chdir to cwd ({cwd:?}) set in config.json"))?;
    // A path through a leaked descriptor would end outside the root, where getcwd finds no name.
    match rustix::process::getcwd(Vec::new()) {
        Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
        _ => Err(Error::invalid(format!("the working directory {cwd:?} is outside the container"))),
    }
}

/// Makes the working directory if it is missing, as Docker does for `WORKDIR`.
pub(crate) fn make_directory(cwd: &str) -> Result<()> {
    if cwd.is_empty() || Path::new(cwd).is_dir() {
        return Ok(());
    }
    match std::fs::create_dir_all(cwd) {
        // A read-only root without it: the chdir that follows says what is missing.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES | libc::EPERM)) => {
            Ok(())
        }
        other => other.doing(|| format!("make the working directory {cwd:?}")),
    }
}

/// A program found and ready to be executed.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    argv: CStringArray,
    envp: CStringArray,
}

impl Program {
    /// Finds `args[0]` as a shell would, in the container's `PATH` and as its user.
    pub(crate) fn find(process: &Process) -> Result<Self> {
        let name = process.args.first().filter(|name| !name.is_empty());
        let Some(name) = name else { return Err(Error::invalid("process.args is empty")) };
        let path =
            if name.contains('/') { executable(name, Path::new(name))? } else { search(name, &process.env)? };
        let has_home = process.env.iter().any(|pair| pair.starts_with("HOME="));
        let home = (!has_home).then(|| format!("HOME={}", home_of(process.user.uid)));
        let step = || "copy arguments and environment";
        Ok(Self {
            path,
            argv: CStringArray::new(&process.args).doing(step)?,
            envp: CStringArray::new(process.env.iter().chain(&home)).doing(step)?,
        })
    }

    /// Becomes the program. Returns only the failure.
    pub(crate) fn exec(&self) -> Error {
        let path = match cstring(&self.path) {
            Ok(path) => path,
            Err(error) => return error,
        };
        let source = sys::execve(&path, &self.argv, &self.envp);
        Error::Exec { path: self.path.display().to_string(), source }
    }
}

fn search(name: &str, env: &[String]) -> Result<PathBuf> {
    let path = env.iter().rev().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut refused = None;
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match executable(name, &candidate) {
            Ok(found) => return Ok(found),
            Err(error @ Error::Exec { .. }) => {
                let is_refusal = matches!(&error, Error::Exec { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
                if is_refusal {
                    refused.get_or_insert(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::Exec {
        path: name.to_owned(),
        // Clients match on these words (docker run's exit code 127).
        source: std::io::Error::new(std::io::ErrorKind::NotFound, "executable file not found in $PATH"),
    }))
}

fn executable(name: &str, path: &Path) -> Result<PathBuf> {
    let fail = |source: std::io::Error| Error::Exec { path: name.to_owned(), source };
    let flags = AtFlags::EACCESS;
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, flags)
        .map_err(|error| fail(error.into()))?;
    if path.is_dir() {
        return Err(fail(std::io::ErrorKind::PermissionDenied.into()));
    }
    Ok(path.to_owned())
}

/// The user's home by the container's `/etc/passwd`.
fn home_of(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.nth(2)?.parse::<u32>().ok()?;
        (id == uid).then(|| fields.nth(2).unwrap_or("/").to_owned())
    });
    found.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into())
}

/// Makes `fds` the process's standard streams, and with a terminal its controlling one.
pub(crate) fn take_stdio(fds: [std::os::fd::BorrowedFd<'_>; 3], is_terminal: bool) -> Result<()> {
    rustix::process::setsid()
        .map(drop)
        .or_else(|error| {
            // The leader of a session already: fine as it is.
            if error == rustix::io::Errno::PERM { Ok(()) } else { Err(error) }
        })
        .doing(|| "start a session")?;
    // Copies first, above the range: a source may itself be 0, 1 or 2.
    let mut copies = Vec::with_capacity(3);
    for fd in fds {
        copies.push(rustix::io::fcntl_dupfd_cloexec(fd, 3).doing(|| "copy a standard stream")?);
    }
    for (number, copy) in (0..).zip(&copies) {
        sys::dup2(copy.as_fd(), number).doing(|| "take over a standard stream")?;
    }
    if is_terminal {
        sys::set_controlling_terminal(rustix::stdio::stdin()).doing(|| "take the terminal")?;
    }
    Ok(())
}
