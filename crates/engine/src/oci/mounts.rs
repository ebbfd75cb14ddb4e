//! What is mounted in a container: the system's file systems, the engine's files, the user's binds.

use std::path::PathBuf;

use model::container::ContainerSpec;
use oci_runtime::spec::Mount;

use super::Context;

/// All of them, in the order they are made: what lies deeper comes later.
pub(super) fn mounts(container: &ContainerSpec, context: &Context<'_>) -> Vec<Mount> {
    let mut all = system(container, context);
    for (target, file) in [
        ("/etc/resolv.conf", &context.files.resolv_conf),
        ("/etc/hostname", &context.files.hostname),
        ("/etc/hosts", &context.files.hosts),
    ] {
        all.push(mount(target, "bind", &file.to_string_lossy(), &["rbind", "rprivate"]));
    }
    // The user's mount takes the place of the system's at the same path.
    all.retain(|mount| !context.user_mounts.iter().any(|user| user.destination == mount.destination));
    all.extend(context.user_mounts.iter().cloned());
    all.sort_by_key(|mount| mount.destination.components().count());
    all
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: PathBuf::from(target),
        kind: kind.into(),
        source: source.into(),
        options: options.iter().map(ToString::to_string).collect(),
        ..Mount::default()
    }
}

fn system(container: &ContainerSpec, context: &Context<'_>) -> Vec<Mount> {
    let host = &container.host;
    let access = if host.privileged { "rw" } else { "ro" };
    let shm_size = if host.shm_size > 0 { host.shm_size } else { 64 << 20 };
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    // A pid namespace of the host's or another's can't be seen through a new proc without its rights;
    // a bind of the host's is the same view.
    if context.is_rootless && host.pid_mode == "host" {
        all[0] = mount("/proc", "bind", "/proc", &["rbind", "rslave", "nosuid", "noexec", "nodev"]);
    }
    if context.is_rootless && host.network_mode == "host" {
        all.push(mount("/sys", "bind", "/sys", &["rbind", "rslave", "nosuid", "noexec", "nodev", access]));
    } else {
        all.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]));
        all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", access]));
    }
    if host.ipc_mode == "host" {
        all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rslave", "nosuid", "noexec", "nodev"]));
        all.push(mount(
            "/dev/mqueue",
            "bind",
            "/dev/mqueue",
            &["rbind", "rslave", "nosuid", "noexec", "nodev"],
        ));
    } else {
        all.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
        if host.ipc_mode != "none" {
            let size = format!("size={shm_size}");
            all.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
        }
    }
    all
}
