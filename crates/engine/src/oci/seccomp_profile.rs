//! Which system calls a container may make: Docker's default profile as data, and profiles in
//! Docker's JSON form.
//!
//! The lists below are no wider than Docker's: a call is allowed to all, to those who hold a
//! capability, or with certain arguments only.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oci_runtime::seccomp::{Program, compile};
use oci_runtime::spec::{Seccomp, SyscallArg, SyscallRule};
use serde::Deserialize;

use crate::error::{Error, Result};

/// Allowed to everybody.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2
    fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat
    fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid
    getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl
    ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32
    lgetxattr link linkat listen listxattr llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at
    nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease
    process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead
    readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename
    renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack
    signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx symlink
    symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime
    utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
    arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2
";

/// Allowed to those who hold the capability.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The `CLONE_NEW*` flags that need `CAP_SYS_ADMIN`.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Execution domains without effect on security: Linux, 32-bit, their UNAME26 forms, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

fn rule(names: &str, action: &str, args: Vec<SyscallArg>) -> SyscallRule {
    SyscallRule {
        names: names.split_whitespace().map(str::to_owned).collect(),
        action: action.into(),
        errno_ret: None,
        args,
    }
}

fn arg(index: u8, op: &str, value: u64, value_two: u64) -> SyscallArg {
    SyscallArg { index, value, value_two, op: op.into() }
}

const ALLOW: &str = "SCMP_ACT_ALLOW";

/// The default profile for a holder of `capabilities`.
fn default_profile(capabilities: &[String]) -> Seccomp {
    let holds = |name: &str| capabilities.iter().any(|held| held == name);
    let mut syscalls =
        vec![rule(ALLOWED, ALLOW, vec![]), rule("socket", ALLOW, vec![arg(0, "SCMP_CMP_NE", AF_VSOCK, 0)])];
    for persona in PERSONALITIES {
        syscalls.push(rule("personality", ALLOW, vec![arg(0, "SCMP_CMP_EQ", persona, 0)]));
    }
    for (capability, names) in BY_CAPABILITY {
        if holds(capability) {
            syscalls.push(rule(names, ALLOW, vec![]));
        }
    }
    if !holds("CAP_SYS_ADMIN") {
        syscalls.push(rule("clone", ALLOW, vec![arg(0, "SCMP_CMP_MASKED_EQ", NAMESPACE_FLAGS, 0)]));
        // Its flags lie in memory, where no filter can look: C libraries fall back on clone.
        let refused = rule("clone3", "SCMP_ACT_ERRNO", vec![]);
        syscalls.push(SyscallRule { errno_ret: Some(libc::ENOSYS.cast_unsigned()), ..refused });
    }
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno_ret: Some(libc::EPERM.cast_unsigned()),
        architectures: architectures(),
        syscalls,
        ..Seccomp::default()
    }
}

fn architectures() -> Vec<String> {
    let names: &[&str] = if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    };
    names.iter().map(ToString::to_string).collect()
}

/// The default profile, compiled once per set of capabilities.
pub(super) fn compiled(capabilities: &[String]) -> Result<Program> {
    static KNOWN: Mutex<Option<HashMap<Vec<String>, Program>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(program) = known.get(capabilities) {
        return Ok(program.clone());
    }
    let program = compile(&default_profile(capabilities))?;
    // Sets differ little between containers; more than a few are somebody playing.
    if known.len() >= 16 {
        known.clear();
    }
    known.insert(capabilities.to_vec(), program.clone());
    Ok(program)
}

/// Docker's profile form: the specification's, with conditions on capability and architecture.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Vec<String>,
    listener_path: String,
    syscalls: Option<Vec<ProfileRule>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ProfileRule {
    name: String,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<SyscallArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile given with `--security-opt seccomp=`, for a holder of `capabilities`.
pub(super) fn parse(text: &str, capabilities: &[String]) -> Result<Seccomp> {
    let profile: Profile = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("decoding seccomp profile failed: {error}")))?;
    if !profile.listener_path.is_empty() {
        return Err(Error::unsupported("seccomp profiles with a listener are not supported"));
    }
    let native = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    let mapped = profile.arch_map.iter().flatten().find(|map| map.architecture == native).map(|map| {
        let mut all = vec![map.architecture.clone()];
        all.extend(map.sub_architectures.iter().flatten().cloned());
        all
    });
    let syscalls = profile
        .syscalls
        .unwrap_or_default()
        .into_iter()
        .filter(|rule| rule.includes.as_ref().is_none_or(|condition| condition.holds_all(capabilities)))
        .filter(|rule| rule.excludes.as_ref().is_none_or(|condition| !condition.holds_any(capabilities)))
        .map(|rule| {
            let mut names = rule.names.unwrap_or_default();
            if !rule.name.is_empty() {
                names.push(rule.name);
            }
            SyscallRule {
                names,
                action: rule.action,
                errno_ret: rule.errno_ret,
                args: rule.args.unwrap_or_default(),
            }
        })
        .collect();
    Ok(Seccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures: mapped.or(profile.architectures).unwrap_or_default(),
        flags: profile.flags,
        syscalls,
        ..Seccomp::default()
    })
}

impl Condition {
    fn parts(&self, capabilities: &[String]) -> [Option<bool>; 3] {
        let list = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        [
            list(&self.caps).map(|caps| caps.iter().all(|cap| capabilities.contains(cap))),
            list(&self.arches).map(|arches| arches.iter().any(|known| known == arch)),
            self.min_kernel.as_deref().map(is_kernel_at_least),
        ]
    }

    fn holds_all(&self, capabilities: &[String]) -> bool {
        self.parts(capabilities).into_iter().flatten().all(|part| part)
    }

    fn holds_any(&self, capabilities: &[String]) -> bool {
        self.parts(capabilities).into_iter().flatten().any(|part| part)
    }
}

fn is_kernel_at_least(wanted: &str) -> bool {
    let numbers = |text: &str| {
        let mut parts =
            text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    numbers(&release) >= numbers(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_compiles_with_and_without_privileges() {
        let plain = compiled(&[]).unwrap();
        let admin = compiled(&["CAP_SYS_ADMIN".into()]).unwrap();
        assert_ne!(plain.instructions, admin.instructions);
        assert!(plain.instructions.len() < 2000, "{}", plain.instructions.len());
    }

    #[test]
    fn a_docker_profile_is_read_with_its_conditions() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"},
                        {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
                        {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
        let names = |caps: &[String]| {
            let profile = parse(text, caps).unwrap();
            profile.syscalls.into_iter().flat_map(|rule| rule.names).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["read", "clone"]);
        assert_eq!(names(&["CAP_SYS_ADMIN".into()]), ["read", "mount"]);
        assert!(parse("{", &[]).is_err());
    }
}
