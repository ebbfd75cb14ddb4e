//! `--volume` and `--mount` as the engine takes them.

use std::collections::BTreeMap;

use api::container::{BindOptions, Empty, Mount, TmpfsOptions};
use api::volume::{DriverConfig, ImageOptions, VolumeOptions};
use model::drive;

use crate::exit::{Failure, Outcome, USAGE};
use crate::sys;
use crate::units::parse_size;

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(message).with_code(USAGE)
}

/// `--volume`s: those with a source, relative paths made absolute, and the paths that get volumes
/// without a name.
pub(crate) fn parse_volumes(list: &[String]) -> Outcome<(Vec<String>, BTreeMap<String, Empty>)> {
    let (mut binds, mut nameless) = (Vec::new(), BTreeMap::new());
    for text in list {
        match split_source(text, sys::HAS_DRIVES) {
            None => {
                nameless.insert(text.clone(), Empty::default());
            }
            Some((source, rest)) if source.starts_with('.') => {
                binds.push(format!("{}:{rest}", absolute(source)?));
            }
            Some((source, rest)) => binds.push(format!("{}:{rest}", as_engine_sees(source)?)),
        }
    }
    Ok((binds, nameless))
}

/// A volume's source, and what follows it. The colon of a drive's letter ends none.
fn split_source(text: &str, has_drives: bool) -> Option<(&str, &str)> {
    let letter = if has_drives && drive::is_on_drive(text) { text.find(':')? + 1 } else { 0 };
    let at = letter + text.get(letter..)?.find(':')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn absolute(path: &str) -> Outcome<String> {
    let path = std::path::absolute(path).map_err(|error| bad(format!("{path}: {error}")))?;
    let clean: std::path::PathBuf = path.components().collect();
    as_engine_sees(&clean.display().to_string())
}

/// A path of this computer, or a volume's name, as the engine knows it: in a machine's guest drives are folders.
pub(crate) fn as_engine_sees(source: &str) -> Outcome<String> {
    if !sys::HAS_DRIVES || !source.contains('\\') && !drive::is_on_drive(source) {
        return Ok(source.to_owned());
    }
    drive::in_guest(source).ok_or_else(|| {
        bad(format!("{source} is on no drive of this computer: containers see folders of its drives alone"))
    })
}

/// The fields of a line of comma-separated values; one in quotes may hold commas.
fn fields(text: &str) -> Outcome<Vec<String>> {
    let mut all = vec![String::new()];
    let mut is_quoted = false;
    for c in text.chars() {
        match (c, all.last_mut()) {
            ('"', _) => is_quoted = !is_quoted,
            (',', _) if !is_quoted => all.push(String::new()),
            (c, Some(field)) => field.push(c),
            (_, None) => {}
        }
    }
    if is_quoted { Err(bad(format!("a quote is not closed in '{text}'"))) } else { Ok(all) }
}

fn truth(key: &str, value: Option<&str>) -> Outcome<bool> {
    match value {
        None | Some("true" | "True" | "TRUE" | "t" | "T" | "1") => Ok(true),
        Some("false" | "False" | "FALSE" | "f" | "F" | "0") => Ok(false),
        Some(other) => Err(bad(format!("invalid value for {key}: {other}"))),
    }
}

/// `type=bind,source=/a,target=/b,readonly`.
pub(crate) fn parse_mount(text: &str) -> Outcome<Mount> {
    let mut mount = Mount { r#type: "volume".into(), ..Mount::default() };
    let mut options = Options::default();
    for field in fields(text)? {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let needed = || {
            value
                .map(str::to_owned)
                .ok_or_else(|| bad(format!("invalid field '{field}' must be a key=value pair")))
        };
        match key {
            "type" => mount.r#type = needed()?.to_lowercase(),
            "source" | "src" => mount.source = needed()?,
            "target" | "dst" | "destination" => mount.target = needed()?,
            "readonly" | "ro" => mount.read_only = truth(key, value)?,
            "consistency" => mount.consistency = needed()?,
            _ => options.read(key, value, &needed)?,
        }
    }
    if mount.target.is_empty() {
        return Err(bad("target is required"));
    }
    if mount.r#type == "bind" && !mount.source.is_empty() && !mount.source.starts_with('/') {
        mount.source = absolute(&mount.source)?;
    }
    options.put_into(&mut mount)?;
    Ok(mount)
}

/// The options that belong to one type of mount.
#[derive(Default)]
struct Options {
    bind: BindOptions,
    volume: VolumeOptions,
    driver: DriverConfig,
    tmpfs: TmpfsOptions,
    image: ImageOptions,
}

impl Options {
    fn read(&mut self, key: &str, value: Option<&str>, needed: &dyn Fn() -> Outcome<String>) -> Outcome<()> {
        let invalid = |value: &str| bad(format!("invalid value for {key}: {value}"));
        let pair = |text: String| {
            text.split_once('=').map_or((text.clone(), String::new()), |(a, b)| (a.to_owned(), b.to_owned()))
        };
        match key {
            "bind-propagation" => self.bind.propagation = needed()?,
            "bind-nonrecursive" => self.bind.non_recursive = truth(key, value)?,
            "bind-recursive" => match needed()?.as_str() {
                "enabled" => {}
                "disabled" => self.bind.non_recursive = true,
                "writable" => self.bind.read_only_non_recursive = true,
                "readonly" => self.bind.read_only_force_recursive = true,
                other => return Err(invalid(other)),
            },
            "bind-create-src" => self.bind.create_mountpoint = truth(key, value)?,
            "volume-nocopy" => self.volume.no_copy = truth(key, value)?,
            "volume-subpath" => self.volume.subpath = needed()?,
            "volume-label" => {
                let (name, value) = pair(needed()?);
                self.volume.labels.insert(name, value);
            }
            "volume-driver" => self.driver.name = needed()?,
            "volume-opt" => {
                let (name, value) = pair(needed()?);
                self.driver.options.insert(name, value);
            }
            "image-subpath" => self.image.subpath = needed()?,
            "tmpfs-size" => self.tmpfs.size_bytes = parse_size(&needed()?)?,
            "tmpfs-mode" => {
                let text = needed()?;
                self.tmpfs.mode = Some(u32::from_str_radix(&text, 8).map_err(|_| invalid(&text))?);
            }
            other => return Err(bad(format!("unexpected key '{other}' in '{other}'"))),
        }
        Ok(())
    }

    /// Only those of the mount's own type may be there.
    fn put_into(mut self, mount: &mut Mount) -> Outcome<()> {
        if self.driver != DriverConfig::default() {
            self.volume.driver_config = Some(self.driver);
        }
        let kind = mount.r#type.as_str();
        for (of, is_there) in [
            ("bind", self.bind != BindOptions::default()),
            ("volume", self.volume != VolumeOptions::default()),
            ("tmpfs", self.tmpfs != TmpfsOptions::default()),
            ("image", self.image != ImageOptions::default()),
        ] {
            if is_there && of != kind {
                return Err(bad(format!("cannot mix '{of}-*' options with mount type '{kind}'")));
            }
        }
        mount.bind_options = (self.bind != BindOptions::default()).then_some(self.bind);
        mount.volume_options = (self.volume != VolumeOptions::default()).then_some(self.volume);
        mount.tmpfs_options = (self.tmpfs != TmpfsOptions::default()).then_some(self.tmpfs);
        mount.image_options = (self.image != ImageOptions::default()).then_some(self.image);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_docker_reads_them() {
        let mount = parse_mount("type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly").unwrap();
        assert_eq!((mount.source.as_str(), mount.target.as_str(), mount.read_only), ("/a", "/b", true));
        assert!(mount.bind_options.unwrap().read_only_force_recursive);
        let tmpfs = parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").unwrap();
        let tmpfs = tmpfs.tmpfs_options.unwrap();
        assert_eq!((tmpfs.size_bytes, tmpfs.mode), (1 << 20, Some(0o700)));
        let volume = parse_mount(
            "source=v,target=/v,volume-nocopy,volume-label=a=b,volume-opt=type=nfs,\"volume-opt=o=addr=1.2.3.4,rw\"",
        );
        let volume = volume.unwrap();
        assert_eq!(volume.r#type, "volume");
        let options = volume.volume_options.unwrap();
        assert!(options.no_copy && options.labels["a"] == "b");
        assert_eq!(options.driver_config.unwrap().options["o"], "addr=1.2.3.4,rw");
        let image = parse_mount("type=image,source=busybox,target=/i,image-subpath=bin").unwrap();
        assert_eq!(image.image_options.unwrap().subpath, "bin");
        for wrong in [
            "type=bind,src=/a",
            "type=bind,nonsense=1,target=/b",
            "type=bind,source=/a,target=/b,volume-nocopy",
            "type=tmpfs,target=/b,\"tmpfs-size=1m",
            "source,target=/b",
            "type=bind,source=/a,target=/b,readonly=perhaps",
            "type=bind,source=/a,target=/b,bind-recursive=often",
        ] {
            assert!(parse_mount(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_colon_of_a_drive_ends_no_source_where_there_are_drives() {
        let check =
            |text, has_drives, expected| assert_eq!(split_source(text, has_drives), expected, "{text}");
        check(r"C:\src:/dst:ro", true, Some((r"C:\src", "/dst:ro")));
        check("c:/src:/dst", true, Some(("c:/src", "/dst")));
        check("c:/dst", false, Some(("c", "/dst")));
        check("name:/dst", true, Some(("name", "/dst")));
        check(r"C:\src", true, None);
        check("/dst", true, None);
    }

    #[cfg(windows)]
    #[test]
    fn folders_of_drives_are_named_as_the_guest_sees_them() {
        let list = [r"C:\src:/a", "d:/src:/b:ro", "name:/c", r".\here:/d"].map(str::to_owned);
        let (binds, _) = parse_volumes(&list).unwrap();
        let here = std::env::current_dir().unwrap().join("here").display().to_string();
        let here = format!("{}:/d", drive::in_guest(&here).unwrap());
        assert_eq!(binds, ["/c/src:/a", "/d/src:/b:ro", "name:/c", here.as_str()]);
        let mount = parse_mount(r"type=bind,source=C:\a b,target=/t").unwrap();
        assert_eq!(mount.source, "/c/a b");
        assert!(parse_volumes(&[r"\\server\share:/a".to_owned()]).is_err());
    }

    #[test]
    fn volumes_with_a_source_are_told_from_those_without() {
        let list = ["/a:/b", "name:/c:ro", "./here:/d", "/e"].map(str::to_owned);
        let (binds, nameless) = parse_volumes(&list).unwrap();
        let here = absolute("here").unwrap();
        assert_eq!(binds, ["/a:/b".to_owned(), "name:/c:ro".to_owned(), format!("{here}:/d")]);
        assert_eq!(nameless.keys().collect::<Vec<_>>(), ["/e"]);
    }
}
