//! The mounts a user asks for, read as Docker reads them: `--volume`, `--mount`, `--tmpfs`.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use model::container::{ContainerSpec, MountSpec};
use model::drive;
use model::mount::{MountPoint, MountSource};

use crate::error::{Error, Result};

/// A mount as it is asked for. A volume that nobody named has no name yet, nor has an image its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) point: MountPoint,
    /// What its volume is to be, where there is none of the name.
    pub(crate) volume: VolumeWish,
}

/// What a volume is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VolumeWish {
    /// Empty is `local`.
    pub(crate) driver: String,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
}

/// How the mounts of another container are taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// As they are there.
    AsThere,
    /// Not to be written.
    ReadOnly,
}

/// How clients write the paths of the computer that they are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paths {
    /// From the root.
    Unix,
    /// Also from a drive, which is a folder here: `C:\src` is `/c/src`. For engines in machines on Windows.
    Drives,
}

/// Everything asked for by name and path, checked; without `--volumes-from` and the image's volumes.
pub(crate) fn wanted(container: &ContainerSpec, paths: Paths) -> Result<Vec<Wanted>> {
    let host = &container.host;
    let mut all = Vec::new();
    for text in &host.binds {
        all.push(Wanted {
            point: parse_bind(text, paths)?,
            volume: VolumeWish { driver: host.volume_driver.clone(), ..VolumeWish::default() },
        });
    }
    for spec in &host.mounts {
        all.push(from_mount(spec, paths)?);
    }
    for (target, options) in &host.tmpfs {
        all.push(Wanted { point: tmpfs(target, options)?, volume: VolumeWish::default() });
    }
    for (at, one) in all.iter().enumerate() {
        let target = &one.point.target;
        if all.iter().take(at).any(|earlier| earlier.point.target == *target) {
            return Err(Error::invalid(format!("Duplicate mount point: {target}")));
        }
    }
    Ok(all)
}

/// The paths that get volumes without a name: the image's and the user's, but those mounted on already.
pub(crate) fn anonymous(container: &ContainerSpec, taken: &[MountPoint]) -> Result<Vec<MountPoint>> {
    let mut points: Vec<MountPoint> = Vec::new();
    for path in &container.volumes {
        let target = target_of(path)?;
        if taken.iter().chain(&points).all(|point| point.target != target) {
            points.push(volume_point("", target, true));
        }
    }
    Ok(points)
}

/// `container[:ro|rw]`.
pub(crate) fn parse_volumes_from(text: &str) -> Result<(&str, Takeover)> {
    let (name, mode) = text.split_once(':').unwrap_or((text, "rw"));
    let takeover = match mode {
        // Labels are SELinux's, which relabels nothing where it does not run.
        "rw" | "z" | "Z" | "rw,z" | "rw,Z" => Takeover::AsThere,
        "ro" | "ro,z" | "ro,Z" => Takeover::ReadOnly,
        _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
    };
    if name.is_empty() {
        return Err(Error::invalid(format!("malformed volumes-from specification: {text}")));
    }
    Ok((name, takeover))
}

/// A mount point's path: absolute, without empty parts, climbing nowhere.
fn target_of(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    if path.contains('\0') || Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err(Error::invalid(format!("invalid mount path: '{path}' must not climb")));
    }
    let clean: std::path::PathBuf = Path::new(path).components().collect();
    if clean == Path::new("/") {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    Ok(clean.to_string_lossy().into_owned())
}

fn volume_point(name: &str, target: String, copies_up: bool) -> MountPoint {
    MountPoint {
        source: MountSource::Volume {
            name: name.to_owned(),
            subpath: String::new(),
            copies_up,
            is_anonymous: name.is_empty(),
        },
        target,
        mode: String::new(),
        is_writable: true,
        is_readonly_shallow: false,
        propagation: String::new(),
    }
}

/// What the third part of a `--volume` says.
#[derive(Default)]
struct Mode<'a> {
    access: Option<&'a str>,
    propagation: Option<&'a str>,
    label: Option<&'a str>,
    consistency: Option<&'a str>,
    nocopy: Option<&'a str>,
}

impl<'a> Mode<'a> {
    /// None where a word is unknown, or two of a kind are there.
    fn parse(text: &'a str) -> Option<Self> {
        let mut mode = Self::default();
        for word in text.split(',').filter(|_| !text.is_empty()) {
            let slot = match word {
                "ro" | "rw" => &mut mode.access,
                "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => &mut mode.propagation,
                // SELinux's, which relabels nothing where it does not run.
                "z" | "Z" => &mut mode.label,
                // Docker Desktop's, without meaning on Linux.
                "consistent" | "cached" | "delegated" | "default" => &mut mode.consistency,
                "nocopy" => &mut mode.nocopy,
                _ => return None,
            };
            if slot.replace(word).is_some() {
                return None;
            }
        }
        Some(mode)
    }
}

/// `[source:]target[:options]`; a source that is no path is a volume's name.
fn parse_bind(text: &str, paths: Paths) -> Result<MountPoint> {
    if paths == Paths::Drives
        && let Some(text) = bind_from_drive(text)
    {
        return parse_bind(&text, Paths::Unix);
    }
    let parts: Vec<&str> = text.split(':').collect();
    let malformed = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let (source, target, words) = match parts.as_slice() {
        [target] => ("", *target, ""),
        // Docker: "cannot include a mode without a source".
        [_, mode] if !mode.starts_with('/') && Mode::parse(mode).is_some() => return Err(malformed()),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(malformed()),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(malformed());
    }
    let mode = Mode::parse(words).ok_or_else(|| Error::invalid(format!("invalid mode: {words}")))?;
    let target = target_of(target)
        .map_err(|error| Error::invalid(format!("invalid volume specification: '{text}': {error}")))?;
    let extra = |kind: &str, field: &str| {
        Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": field {field} must not be specified"
        ))
    };
    let point = if source.starts_with('/') {
        if mode.nocopy.is_some() {
            return Err(extra("bind", "VolumeOptions"));
        }
        MountPoint {
            // Docker makes the missing source of a `--volume`, and not of a `--mount`.
            source: MountSource::Bind { path: source.to_owned(), creates: true, is_recursive: true },
            propagation: mode.propagation.unwrap_or("rprivate").to_owned(),
            ..volume_point("", target, false)
        }
    } else {
        if mode.propagation.is_some() {
            return Err(extra("volume", "BindOptions"));
        }
        volume_point(source, target, mode.nocopy.is_none())
    };
    let is_named_volume = point.volume().is_some_and(|name| !name.is_empty());
    Ok(MountPoint {
        is_writable: mode.access != Some("ro"),
        // Docker's default, which it shows though it says nothing without SELinux.
        mode: if words.is_empty() && is_named_volume { "z".into() } else { words.to_owned() },
        ..point
    })
}

/// `C:\source:target[:options]` with the source as it is here.
fn bind_from_drive(text: &str) -> Option<String> {
    // What follows the drive's own colon ends with the next.
    let (drive, rest) = text.split_at_checked(2)?;
    let (path, rest) = rest.split_once(':')?;
    Some(format!("{}:{rest}", drive::in_guest(&format!("{drive}{path}"))?))
}

fn from_mount(spec: &MountSpec, paths: Paths) -> Result<Wanted> {
    let invalid =
        |what: &str| Error::invalid(format!("invalid mount config for type \"{}\": {what}", spec.kind));
    if spec.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    let target = target_of(&spec.target).map_err(|error| invalid(&error.to_string()))?;
    if !spec.subpath.is_empty() {
        check_subpath(&spec.subpath).map_err(|what| invalid(&what))?;
    }
    let base =
        MountPoint { is_writable: !spec.is_readonly, ..volume_point(&spec.source, target, !spec.is_nocopy) };
    let point = match spec.kind.as_str() {
        "bind" => match drive::in_guest(&spec.source).filter(|_| paths == Paths::Drives) {
            Some(source) => bind_of(&MountSpec { source, ..spec.clone() }, base, invalid)?,
            None => bind_of(spec, base, invalid)?,
        },
        "volume" => MountPoint {
            source: MountSource::Volume {
                name: spec.source.clone(),
                subpath: spec.subpath.clone(),
                // A part of a volume is there already, with what is in it.
                copies_up: !spec.is_nocopy && spec.subpath.is_empty(),
                is_anonymous: spec.source.is_empty(),
            },
            mode: "z".into(),
            ..base
        },
        "tmpfs" => {
            if !spec.source.is_empty() {
                return Err(invalid("field Source must not be specified"));
            }
            tmpfs_of(spec)?
        }
        "image" => {
            if spec.source.is_empty() {
                return Err(invalid("field Source must not be empty"));
            }
            MountPoint {
                source: MountSource::Image {
                    name: spec.source.clone(),
                    snapshot: String::new(),
                    subpath: spec.subpath.clone(),
                },
                is_writable: false,
                ..base
            }
        }
        other => return Err(Error::invalid(format!("mount type unknown: {other:?}"))),
    };
    let volume = VolumeWish {
        driver: spec.volume_driver.clone(),
        options: spec.volume_options.clone(),
        labels: spec.volume_labels.clone(),
    };
    Ok(Wanted { point, volume })
}

/// By the look of it; what a symlink does, the kernel tells at the start.
fn check_subpath(subpath: &str) -> Result<(), String> {
    let is_within =
        Path::new(subpath).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_within && !subpath.contains('\0') {
        Ok(())
    } else {
        Err("subpath must be a relative path within the volume".to_owned())
    }
}

fn bind_of(spec: &MountSpec, base: MountPoint, invalid: impl Fn(&str) -> Error) -> Result<MountPoint> {
    if spec.source.is_empty() {
        return Err(invalid("field Source must not be empty"));
    }
    if !spec.source.starts_with('/') {
        return Err(invalid(&format!("invalid mount path: '{}' mount path must be absolute", spec.source)));
    }
    let propagation = if spec.propagation.is_empty() { "rprivate" } else { &spec.propagation };
    if !matches!(propagation, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave") {
        return Err(Error::invalid(format!("invalid propagation mode: {propagation}")));
    }
    let conflicts = [
        (
            spec.is_readonly_non_recursive && !spec.is_readonly,
            "!ReadOnly && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            spec.is_readonly_force_recursive && !spec.is_readonly,
            "!ReadOnly && BindOptions.ReadOnlyForceRecursive",
        ),
        (
            spec.is_readonly_force_recursive && spec.is_readonly_non_recursive,
            "BindOptions.ReadOnlyForceRecursive && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            spec.is_readonly_force_recursive && spec.is_non_recursive,
            "BindOptions.ReadOnlyForceRecursive && BindOptions.NonRecursive",
        ),
    ];
    if let Some((_, what)) = conflicts.iter().find(|(is_there, _)| *is_there) {
        return Err(invalid(&format!("mount options conflict: {what}")));
    }
    if !spec.creates_source && Path::new(&spec.source).symlink_metadata().is_err() {
        return Err(invalid(&format!("bind source path does not exist: {}", spec.source)));
    }
    Ok(MountPoint {
        source: MountSource::Bind {
            path: spec.source.clone(),
            creates: spec.creates_source,
            is_recursive: !spec.is_non_recursive,
        },
        propagation: propagation.to_owned(),
        is_readonly_shallow: spec.is_readonly_non_recursive,
        ..base
    })
}

fn tmpfs_of(spec: &MountSpec) -> Result<MountPoint> {
    let mut options = Vec::new();
    if spec.tmpfs_size > 0 {
        options.push(format!("size={}", spec.tmpfs_size));
    }
    options.extend(spec.tmpfs_mode.map(|mode| format!("mode={mode:o}")));
    for option in &spec.tmpfs_options {
        options.push(match option.as_slice() {
            [word] => word.clone(),
            [key, value] => format!("{key}={value}"),
            _ => return Err(Error::invalid(format!("invalid tmpfs option {option:?}"))),
        });
    }
    if spec.is_readonly {
        options.push("ro".into());
    }
    Ok(MountPoint { mode: String::new(), ..tmpfs(&spec.target, &options.join(","))? })
}

fn tmpfs(target: &str, options: &str) -> Result<MountPoint> {
    const KNOWN: [&str; 15] = [
        "ro",
        "rw",
        "noexec",
        "nosuid",
        "nodev",
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "mpol",
        "noatime",
        "relatime",
        "async",
    ];
    let mut list: Vec<String> = ["noexec", "nosuid", "nodev"].map(Into::into).to_vec();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "exec" | "suid" | "dev" => list.retain(|known| known != &format!("no{option}")),
            _ if option == "sync" || KNOWN.contains(&option.split('=').next().unwrap_or_default()) => {
                list.push(option.to_owned());
            }
            other => return Err(Error::invalid(format!("invalid tmpfs option [\"{other}\"]"))),
        }
    }
    Ok(MountPoint {
        source: MountSource::Tmpfs { options: list },
        mode: options.to_owned(),
        is_writable: !options.split(',').any(|option| option == "ro"),
        ..volume_point("", target_of(target)?, false)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(&str, &str, &str, bool)>) {
        check_of(Paths::Unix, text, expected);
    }

    fn check_of(paths: Paths, text: &str, expected: Option<(&str, &str, &str, bool)>) {
        let found = parse_bind(text, paths).ok();
        let found = found.as_ref().map(|point| {
            let source = match &point.source {
                MountSource::Bind { path, .. } => path.as_str(),
                _ => point.volume().unwrap_or("?"),
            };
            (point.source.kind(), source, point.target.as_str(), point.is_writable)
        });
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn binds_and_volumes_are_read_as_docker_reads_them() {
        check("/a:/b", Some(("bind", "/a", "/b", true)));
        check("/a://b/./:ro", Some(("bind", "/a", "/b", false)));
        check("/a:/b:rw,rslave,z", Some(("bind", "/a", "/b", true)));
        check("name:/b", Some(("volume", "name", "/b", true)));
        check("name:/b:ro,nocopy", Some(("volume", "name", "/b", false)));
        check("/b", Some(("volume", "", "/b", true)));
        for wrong in [
            "",
            "a",
            "/a:ro",
            ":/b",
            "/a:",
            "/a:b",
            "/a:/",
            "/a:/b/../c",
            "/a:/b:nonsense",
            "/a:/b:ro,rw",
            "/a:/b:nocopy",
            "name:/b:rshared",
            "/a:/b:z,Z",
            "/a:/b:ro:x",
            "/a:/b:ro,",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_source_on_a_drive_is_a_folder_where_there_are_drives() {
        for (text, expected) in [
            (r"C:\src:/b", Some(("bind", "/c/src", "/b", true))),
            (r"c:\:/b:ro", Some(("bind", "/c", "/b", false))),
            ("D:/my files/x:/b:ro,z", Some(("bind", "/d/my files/x", "/b", false))),
            (r"C:\src:b", None),
            (r"C:\src", None),
            (r"C:\src:/b:x", None),
        ] {
            check_of(Paths::Drives, text, expected);
            check(text, None);
        }
        // What has no target is no drive's folder, and all else is as it is without drives.
        check_of(Paths::Drives, "c:/b", Some(("volume", "c", "/b", true)));
        check_of(Paths::Drives, "/a:/b:ro", Some(("bind", "/a", "/b", false)));
        check_of(Paths::Drives, "name:/b", Some(("volume", "name", "/b", true)));
        check_of(Paths::Drives, "/b", Some(("volume", "", "/b", true)));
        check_of(Paths::Drives, "\u{e9}:/b", Some(("volume", "\u{e9}", "/b", true)));
        let spec = MountSpec {
            kind: "bind".into(),
            source: r"C:\src".into(),
            target: "/b".into(),
            creates_source: true,
            ..MountSpec::default()
        };
        let MountSource::Bind { path, .. } = from_mount(&spec, Paths::Drives).unwrap().point.source else {
            panic!("no bind")
        };
        assert_eq!(path, "/c/src");
        assert!(from_mount(&spec, Paths::Unix).unwrap_err().to_string().contains("must be absolute"));
    }

    #[test]
    fn one_path_takes_one_mount() {
        let mut container = ContainerSpec::default();
        container.host.binds = vec!["/a:/b".into()];
        container.host.tmpfs.insert("/b/".into(), String::new());
        let refused = wanted(&container, Paths::Unix).unwrap_err().to_string();
        assert_eq!(refused, "Duplicate mount point: /b");
        container.host.tmpfs.clear();
        assert_eq!(wanted(&container, Paths::Unix).unwrap().len(), 1);
        // A path of the image that the user mounts on gets no volume.
        container.volumes = vec!["/b".into(), "/c/".into(), "/c".into()];
        let taken: Vec<_> =
            wanted(&container, Paths::Unix).unwrap().into_iter().map(|one| one.point).collect();
        let more = anonymous(&container, &taken).unwrap();
        assert_eq!(more.iter().map(|point| point.target.as_str()).collect::<Vec<_>>(), ["/c"]);
    }

    #[test]
    fn mounts_that_contradict_themselves_are_refused() {
        let base = MountSpec {
            kind: "bind".into(),
            source: "/".into(),
            target: "/t".into(),
            ..MountSpec::default()
        };
        assert!(from_mount(&base, Paths::Unix).is_ok());
        let volume = MountSpec { kind: "volume".into(), source: "v".into(), ..base.clone() };
        for (wrong, why) in [
            (MountSpec { kind: "npipe".into(), ..base.clone() }, "mount type unknown"),
            (MountSpec { target: String::new(), ..base.clone() }, "field Target must not be empty"),
            (MountSpec { target: "t".into(), ..base.clone() }, "must be absolute"),
            (MountSpec { source: "x".into(), ..base.clone() }, "must be absolute"),
            (
                MountSpec { source: "/no/such/thing".into(), ..base.clone() },
                "bind source path does not exist",
            ),
            (MountSpec { propagation: "often".into(), ..base.clone() }, "invalid propagation mode"),
            (MountSpec { is_readonly_force_recursive: true, ..base.clone() }, "mount options conflict"),
            (MountSpec { subpath: "../up".into(), ..volume.clone() }, "relative path within the volume"),
            (MountSpec { subpath: "/etc".into(), ..volume.clone() }, "relative path within the volume"),
            (MountSpec { kind: "image".into(), source: String::new(), ..base.clone() }, "field Source"),
            (MountSpec { kind: "tmpfs".into(), ..base.clone() }, "field Source must not be specified"),
        ] {
            let refused = from_mount(&wrong, Paths::Unix).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn mounts_of_others_are_named_with_their_mode() {
        assert_eq!(parse_volumes_from("a").unwrap(), ("a", Takeover::AsThere));
        assert_eq!(parse_volumes_from("a:ro").unwrap(), ("a", Takeover::ReadOnly));
        assert!(parse_volumes_from(":ro").is_err() && parse_volumes_from("a:now").is_err());
    }
}
