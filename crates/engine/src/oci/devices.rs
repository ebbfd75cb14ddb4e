//! Devices of the host in the container, and what it may do with devices at all.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::container::{ContainerSpec, DeviceMapping};
use oci_runtime::spec::{Device, DeviceRule};

use crate::error::{Doing, Error, Result};

/// Nodes to make, and rules in the order they count.
pub(super) fn devices(
    container: &ContainerSpec,
    is_rootless: bool,
) -> Result<(Vec<Device>, Vec<DeviceRule>)> {
    let host = &container.host;
    if host.privileged {
        let all = DeviceRule { allow: true, kind: "a".into(), access: "rwm".into(), ..DeviceRule::default() };
        let nodes = if is_rootless { Vec::new() } else { host_devices(Path::new("/dev"))? };
        return Ok((nodes, vec![all]));
    }
    let mut rules =
        vec![DeviceRule { allow: false, kind: "a".into(), access: "rwm".into(), ..DeviceRule::default() }];
    let mut nodes = Vec::new();
    for mapping in &host.resources.devices {
        let found = mapped(mapping)?;
        for device in found {
            rules.push(DeviceRule {
                allow: true,
                kind: device.r#type.clone(),
                major: Some(device.major),
                minor: Some(device.minor),
                access: mapping.permissions.clone(),
            });
            nodes.push(device);
        }
    }
    for text in &host.resources.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    Ok((nodes, rules))
}

/// A device, or every device below a directory.
fn mapped(mapping: &DeviceMapping) -> Result<Vec<Device>> {
    let source = Path::new(&mapping.host);
    let target = if mapping.container.is_empty() { source } else { Path::new(&mapping.container) };
    if !mapping.permissions.chars().all(|c| "rwm".contains(c)) {
        return Err(Error::invalid(format!("invalid device mode: {}", mapping.permissions)));
    }
    let found = std::fs::metadata(source);
    let metadata = found.doing(|| format!("gather device information for {:?}", mapping.host))?;
    if !metadata.is_dir() {
        return node(source, target).map(|device| vec![device]).ok_or_else(|| {
            Error::invalid(format!(
                "error gathering device information while adding custom device {:?}: not a device node",
                mapping.host
            ))
        });
    }
    Ok(host_devices(source)?
        .into_iter()
        .map(|device| Device {
            path: device
                .path
                .strip_prefix(source)
                .map_or_else(|_| device.path.clone(), |rest| target.join(rest)),
            ..device
        })
        .collect())
}

fn node(source: &Path, target: &Path) -> Option<Device> {
    let metadata = std::fs::metadata(source).ok()?;
    let kind = if metadata.file_type().is_char_device() {
        "c"
    } else if metadata.file_type().is_block_device() {
        "b"
    } else {
        return None;
    };
    Some(Device {
        r#type: kind.into(),
        path: target.to_owned(),
        major: i64::from(rustix::fs::major(metadata.rdev())),
        minor: i64::from(rustix::fs::minor(metadata.rdev())),
        file_mode: Some(metadata.mode() & 0o777),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
    })
}

/// Every device node below `dir`, without what each container has of its own.
fn host_devices(dir: &Path) -> Result<Vec<Device>> {
    const OWN: [&str; 5] = ["pts", "shm", "fd", "mqueue", "console"];
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).doing(|| format!("list {dir:?}"))?.flatten() {
            let is_own = entry.file_name().to_str().is_some_and(|name| OWN.contains(&name));
            let Ok(kind) = entry.file_type() else { continue };
            if is_own {
                continue;
            }
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if !kind.is_symlink() {
                found.extend(node(&entry.path(), &entry.path()));
            }
        }
    }
    Ok(found)
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse_rule(text: &str) -> Result<DeviceRule> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split_whitespace();
    let (kind, numbers, access) =
        (words.next().ok_or_else(bad)?, words.next().ok_or_else(bad)?, words.next().ok_or_else(bad)?);
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| if text == "*" { Ok(None) } else { text.parse().map(Some).map_err(|_| bad()) };
    if !matches!(kind, "a" | "b" | "c")
        || !access.chars().all(|c| "rwm".contains(c))
        || words.next().is_some()
    {
        return Err(bad());
    }
    Ok(DeviceRule {
        allow: true,
        kind: kind.into(),
        major: number(major)?,
        minor: number(minor)?,
        access: access.into(),
    })
}
