//! What an engine needs of Linux.

use std::path::Path;

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let check = |is_good, what: &str, remedy: &str| Check {
        is_good,
        what: what.to_owned(),
        remedy: remedy.to_owned(),
    };
    let mut checks = vec![
        check(
            text("/proc/filesystems").contains("overlay"),
            "overlay file system",
            "containers get plain copies of their images; load it: modprobe overlay",
        ),
        check(
            text("/proc/self/mounts").contains(" cgroup"),
            "control groups",
            "limits and pause do not work; mount cgroup2 on /sys/fs/cgroup",
        ),
        check(
            text("/proc/self/status").contains("Seccomp:"),
            "system call filters (seccomp)",
            "the kernel lacks CONFIG_SECCOMP_FILTER",
        ),
    ];
    if rustix::process::geteuid().is_root() {
        return checks;
    }
    checks.extend([
        check(
            text("/proc/sys/user/max_user_namespaces").trim() != "0",
            "user namespaces",
            "run: sudo sysctl -w user.max_user_namespaces=15000",
        ),
        check(
            !text("/etc/subuid").trim().is_empty(),
            "subordinate ids",
            "run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
        ),
        check(
            ["/usr/bin/newuidmap", "/bin/newuidmap"].iter().any(|path| Path::new(path).exists()),
            "newuidmap",
            "install the package uidmap",
        ),
        check(
            std::env::var_os("XDG_RUNTIME_DIR").is_some(),
            "XDG_RUNTIME_DIR",
            "log in through a session manager",
        ),
    ]);
    checks
}
