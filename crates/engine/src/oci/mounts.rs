//! What is mounted in a container: the system's file systems, the engine's files, the user's binds.

use std::path::{Component, Path, PathBuf};

use model::container::{ContainerSpec, MountSpec};
use oci_runtime::spec::Mount;

use super::Context;
use crate::error::{Doing, Error, Result};

/// A mount the user asked for, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// `bind` or `tmpfs`.
    pub kind: &'static str,
    /// Path on the host; empty for a tmpfs.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// The options as written.
    pub mode: String,
    /// Whether it can be written.
    pub is_writable: bool,
    /// `rprivate` and the like.
    pub propagation: String,
    options: Vec<String>,
    creates_source: bool,
}

/// All of them, in the order they are made: what lies deeper comes later.
pub(super) fn mounts(container: &ContainerSpec, context: &Context<'_>) -> Result<Vec<Mount>> {
    let user = mount_points(container)?;
    let mut all = system(container, context);
    for (target, file) in [
        ("/etc/resolv.conf", &context.files.resolv_conf),
        ("/etc/hostname", &context.files.hostname),
        ("/etc/hosts", &context.files.hosts),
    ] {
        all.push(mount(target, "bind", &file.to_string_lossy(), &["rbind", "rprivate"]));
    }
    // The user's mount takes the place of the system's at the same path.
    all.retain(|mount| !user.iter().any(|point| Path::new(&point.target) == mount.destination));
    for point in user {
        if point.kind == "bind" {
            prepare_source(&point)?;
        }
        all.push(Mount {
            destination: PathBuf::from(&point.target),
            kind: point.kind.to_owned(),
            source: if point.kind == "bind" { point.source } else { "tmpfs".into() },
            options: point.options,
            ..Mount::default()
        });
    }
    all.sort_by_key(|mount| mount.destination.components().count());
    Ok(all)
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

/// The user's mounts: `--volume`, `--mount` and `--tmpfs`, checked.
pub(crate) fn mount_points(container: &ContainerSpec) -> Result<Vec<MountPoint>> {
    let host = &container.host;
    let mut points = Vec::new();
    for text in &host.binds {
        points.push(parse_bind(text)?);
    }
    for spec in &host.mounts {
        points.push(from_mount(spec)?);
    }
    for (target, options) in &host.tmpfs {
        points.push(tmpfs(target, options)?);
    }
    for (at, point) in points.iter().enumerate() {
        let target = &point.target;
        if !target.starts_with('/') {
            return Err(Error::invalid(format!(
                "invalid mount config: mount path {target:?} must be absolute"
            )));
        }
        if Path::new(target).components().any(|part| part == Component::ParentDir) || target == "/" {
            return Err(Error::invalid(format!(
                "invalid mount config: destination {target:?} can't be '/' or climb"
            )));
        }
        if points.iter().take(at).any(|earlier| earlier.target == *target) {
            return Err(Error::invalid(format!("Duplicate mount point: {target}")));
        }
    }
    Ok(points)
}

/// `source:target[:options]`.
fn parse_bind(text: &str) -> Result<MountPoint> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(Error::invalid(format!("invalid volume specification: '{text}'"))),
    };
    if !source.starts_with('/') {
        return Err(Error::unsupported(format!(
            "'{text}': named volumes are not supported yet; give an absolute path to bind"
        )));
    }
    let mut point = MountPoint {
        kind: "bind",
        source: source.to_owned(),
        target: target.trim_end_matches('/').to_owned(),
        mode: mode.to_owned(),
        is_writable: true,
        propagation: "rprivate".into(),
        options: vec!["rbind".into()],
        // Docker makes the missing source of a `--volume`, and not of a `--mount`.
        creates_source: true,
    };
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => point.is_writable = false,
            "rw" => point.is_writable = true,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                point.propagation = option.to_owned();
            }
            // Labels are SELinux's, which relabels nothing where it does not run; consistency is a
            // word of Docker Desktop's without meaning on Linux.
            "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => {}
            other => return Err(Error::invalid(format!("invalid mode: {other}"))),
        }
    }
    point.options.push(point.propagation.clone());
    if !point.is_writable {
        point.options.push("ro".into());
    }
    Ok(point)
}

fn from_mount(spec: &MountSpec) -> Result<MountPoint> {
    match spec.kind.as_str() {
        "bind" => {}
        "tmpfs" => {
            let mut options = Vec::new();
            if spec.tmpfs_size > 0 {
                options.push(format!("size={}", spec.tmpfs_size));
            }
            options.extend(spec.tmpfs_mode.map(|mode| format!("mode={mode:o}")));
            if spec.is_readonly {
                options.push("ro".into());
            }
            return tmpfs(&spec.target, &options.join(","));
        }
        "volume" => {
            return Err(Error::unsupported(
                "named volumes are not supported yet; use type=bind or type=tmpfs",
            ));
        }
        "image" => return Err(Error::unsupported("mounts of type=image are not supported yet")),
        other => return Err(Error::invalid(format!("mount type unknown: {other:?}"))),
    }
    if !spec.source.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be absolute",
            spec.source
        )));
    }
    let propagation = if spec.propagation.is_empty() { "rprivate" } else { &spec.propagation };
    if !matches!(propagation, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave") {
        return Err(Error::invalid(format!("invalid propagation mode: {propagation}")));
    }
    let mut options: Vec<String> =
        vec![if spec.is_non_recursive { "bind" } else { "rbind" }.into(), propagation.into()];
    if spec.is_readonly {
        options.push("ro".into());
        if !spec.is_non_recursive && !spec.is_readonly_non_recursive {
            options.push("rro".into());
        }
    }
    Ok(MountPoint {
        kind: "bind",
        source: spec.source.clone(),
        target: spec.target.clone(),
        mode: String::new(),
        is_writable: !spec.is_readonly,
        propagation: propagation.to_owned(),
        options,
        creates_source: spec.creates_source,
    })
}

fn tmpfs(target: &str, options: &str) -> Result<MountPoint> {
    let mut list: Vec<String> = ["noexec", "nosuid", "nodev"].map(Into::into).to_vec();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "exec" | "suid" | "dev" => list.retain(|known| known != &format!("no{option}")),
            _ if matches!(
                option.split('=').next(),
                Some(
                    "ro" | "rw"
                        | "noexec"
                        | "nosuid"
                        | "nodev"
                        | "size"
                        | "mode"
                        | "uid"
                        | "gid"
                        | "nr_inodes"
                        | "nr_blocks"
                        | "mpol"
                        | "noatime"
                        | "relatime"
                        | "async"
                        | "sync"
                )
            ) =>
            {
                list.push(option.to_owned());
            }
            other => return Err(Error::invalid(format!("invalid tmpfs option [\"{other}\"]"))),
        }
    }
    Ok(MountPoint {
        kind: "tmpfs",
        source: String::new(),
        target: target.to_owned(),
        mode: options.to_owned(),
        is_writable: !options.split(',').any(|option| option == "ro"),
        propagation: String::new(),
        options: list,
        creates_source: false,
    })
}

fn prepare_source(point: &MountPoint) -> Result<()> {
    if Path::new(&point.source).symlink_metadata().is_ok() {
        return Ok(());
    }
    if !point.creates_source {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            point.source
        )));
    }
    std::fs::create_dir_all(&point.source).doing(|| format!("make the bind source {:?}", point.source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str, bool)>) {
        let found = parse_bind(text).ok();
        let found = found.as_ref().map(|p| (p.source.as_str(), p.target.as_str(), p.is_writable));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        check("/a:/b", Some(("/a", "/b", true)));
        check("/a:/b/:ro", Some(("/a", "/b", false)));
        check("/a:/b:rw,rslave,z", Some(("/a", "/b", true)));
        check("name:/b", None);
        check("/a:/b:nonsense", None);
        check("/a", None);
    }

    #[test]
    fn one_path_takes_one_mount() {
        let mut container = ContainerSpec::default();
        container.host.binds = vec!["/a:/b".into()];
        container.host.tmpfs.insert("/b".into(), String::new());
        assert!(mount_points(&container).is_err());
        container.host.tmpfs.clear();
        container.host.binds.push("/c:/d/../e".into());
        assert!(mount_points(&container).is_err());
    }
}
