//! What a machine is: `machine.json`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stdx::fs::Durability;

use crate::Error;
use crate::places::Places;

/// Sockets' paths are at most 107 bytes long, and a machine's name is part of several.
const NAME_MAX: usize = 32;
const MEMORY_MIN: u64 = 256 << 20;
const DISK_MIN: u64 = 256 << 20;

/// Who is the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// QEMU, with KVM where it works.
    Qemu,
    /// User Mode Linux: a kernel that is a program. A convenience, and no wall against hostile code.
    Uml,
    /// macOS' Virtualization.framework.
    Vz,
    /// Windows' WSL2: Microsoft's machine, which its distributions share. No wall between them.
    Wsl2,
    /// Windows' Hyper-V, by its Host Compute Service.
    #[serde(rename = "hyperv")]
    HyperV,
}

impl Backend {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Qemu, Self::Uml, Self::Vz, Self::Wsl2, Self::HyperV];

    /// Those of this system, the one that is taken unless somebody says otherwise first.
    #[must_use]
    pub fn here() -> &'static [Self] {
        crate::sys::BACKENDS
    }

    /// Another one of this system's, which has the same disk.
    #[must_use]
    pub fn other_here(self) -> Option<Self> {
        let has_disk = |backend: &Self| crate::backend::capabilities(*backend).has_disk;
        Self::here().iter().copied().find(|other| *other != self && has_disk(other) && has_disk(&self))
    }

    /// Whether it finds the disk that a machine of `other` left.
    #[must_use]
    pub fn keeps_disk_of(self, other: Self) -> bool {
        let has_disk = |backend: Self| crate::backend::capabilities(backend).has_disk;
        self == other || (has_disk(self) && has_disk(other))
    }

    /// Whether its state can be saved and gone on from, on this computer.
    #[must_use]
    pub fn saves(self) -> bool {
        Self::here().contains(&self) && crate::backend::capabilities(self).saves
    }

    /// Whether programs for x86-64 can run in it by Rosetta. Whether this computer has that is another question.
    #[must_use]
    pub fn has_rosetta(self) -> bool {
        crate::backend::capabilities(self).has_rosetta
    }

    /// As `--backend` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Uml => "uml",
            Self::Vz => "vz",
            Self::Wsl2 => "wsl2",
            Self::HyperV => "hyperv",
        }
    }
}

impl Default for Backend {
    /// Where no machine can be had, it is as good as any: what is made of it is refused.
    fn default() -> Self {
        Self::here().first().copied().unwrap_or(Self::Qemu)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|backend| backend.name() == text).ok_or_else(|| Error::Value {
            what: "a backend",
            value: text.to_owned(),
            reason: "there are qemu, uml, vz, wsl2 and hyperv".to_owned(),
        })
    }
}

/// A folder of this computer that the machine sees under the same path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Absolute, and without symbolic links.
    pub path: PathBuf,
    /// The machine can't write to it.
    pub read_only: bool,
}

impl FromStr for Share {
    type Err = Error;

    /// `PATH` or `PATH:ro`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let (path, read_only) = match text.rsplit_once(':') {
            Some((path, "ro")) => (path, true),
            Some((path, "rw")) => (path, false),
            _ => (text, false),
        };
        let wrong = |reason: String| Error::Value { what: "a share", value: text.to_owned(), reason };
        let path = std::fs::canonicalize(path).map_err(|error| wrong(error.to_string()))?;
        if !path.is_dir() {
            return Err(wrong("it is no folder".to_owned()));
        }
        if path == Path::new("/") {
            return Err(wrong("the machine's own system is there: share folders below it".to_owned()));
        }
        Ok(Self { path, read_only })
    }
}

/// A machine as it is to be at its next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Who it is.
    pub backend: Backend,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the data disk; its file takes what is used of it.
    pub disk: u64,
    /// Folders of this computer.
    pub shares: Vec<Share>,
    /// The digest of a guest image to stay with; `None` for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Seconds without clients and running containers after which it goes to sleep; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_after: Option<u64>,
    /// Programs in it may use the user's SSH agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ssh_agent: bool,
    /// Programs for x86-64 run in it by macOS' Rosetta.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rosetta: bool,
}

impl Config {
    /// Becomes a machine of another kind; one whose state can't be saved does not sleep by itself, and what has no Rosetta
    /// goes without.
    pub fn set_backend(&mut self, backend: Backend) {
        self.backend = backend;
        self.sleep_after = self.sleep_after.filter(|_| backend.saves());
        self.rosetta &= backend.has_rosetta();
    }

    /// Refuses what no machine can be.
    ///
    /// # Errors
    /// [`Error::Value`], which says what could be.
    pub fn check(&self) -> Result<(), Error> {
        let wrong =
            |what, value: String, reason: &str| Err(Error::Value { what, value, reason: reason.to_owned() });
        if !Backend::here().contains(&self.backend) {
            let names: Vec<&str> = Backend::here().iter().map(|backend| backend.name()).collect();
            let reason = format!("this system has {}", names.join(" and "));
            return wrong("a backend", self.backend.to_string(), &reason);
        }
        if self.cpus == 0 || self.cpus > 64 {
            return wrong("processors", self.cpus.to_string(), "1 to 64 are");
        }
        if self.memory < MEMORY_MIN {
            return wrong("memory", crate::size::show(self.memory), "at least 256 MiB are needed");
        }
        if self.sleep_after.is_some() && !self.backend.saves() {
            let backend = self.backend.to_string();
            return wrong("sleep after a while", backend, "its state can't be saved; qemu's can");
        }
        if self.rosetta && !self.backend.has_rosetta() {
            let backend = self.backend.to_string();
            return wrong(
                "a machine with Rosetta",
                backend,
                "it is Apple's, and macOS' own machines (vz) have it",
            );
        }
        if self.disk < DISK_MIN {
            return wrong("a disk", crate::size::show(self.disk), "at least 256 MiB are needed");
        }
        Ok(())
    }

    /// Reads a machine's.
    ///
    /// # Errors
    /// There is no such machine, or its file can't be read.
    pub fn read(places: &Places) -> Result<Self, Error> {
        let path = places.config();
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Unknown { name: places.name.clone() });
            }
            other => other.map_err(Error::file("read", &path))?,
        };
        serde_json::from_slice(&bytes).map_err(|source| Error::Content { path, source })
    }

    /// Writes a machine's, on disk when this returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, places: &Places) -> Result<(), Error> {
        self.check()?;
        let path = places.config();
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Content { path: path.clone(), source })?;
        stdx::fs::write_atomic(&path, &text, Durability::Power).map_err(Error::file("write", &path))
    }
}

/// A time as `--sleep-after` takes it: `30s`, `10m`, `1h`, or `off`; in seconds.
///
/// # Errors
/// [`Error::Value`].
pub fn parse_sleep_after(text: &str) -> Result<Option<u64>, Error> {
    let text = text.trim();
    if text == "off" {
        return Ok(None);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim() {
        "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(60 * 60),
        _ => None,
    };
    let seconds =
        unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit)).filter(|time| *time > 0);
    seconds.map(Some).ok_or_else(|| Error::Value {
        what: "a time",
        value: format!("{text:?}"),
        reason: "write it as 30s, 10m, 1h or off".to_owned(),
    })
}

/// The same the other way round.
#[must_use]
pub fn show_sleep_after(seconds: u64) -> String {
    match (seconds % 3600, seconds % 60) {
        (0, _) => format!("{}h", seconds / 3600),
        (_, 0) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// Refuses what can't be a machine's name.
///
/// # Errors
/// [`Error::Name`].
pub fn check_name(name: &str) -> Result<(), Error> {
    let wrong = |reason| Err(Error::Name { name: name.to_owned(), reason });
    if name.is_empty() || name.len() > NAME_MAX {
        return wrong("it has 1 to 32 characters");
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.bytes().all(is_plain) || name.starts_with('-') || name.ends_with('-') {
        return wrong("it is made of small letters, digits and dashes between them");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names_and_never_paths() {
        for good in ["dev", "a", "ci-2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "..", "a/b", "-a", "A", "a b", &"x".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_share_is_a_folder_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let share: Share = format!("{}:ro", path.display()).parse().unwrap();
        assert_eq!(share, Share { path: path.clone(), read_only: true });
        assert!(!cfg!(unix) || "/".parse::<Share>().is_err(), "the guest's own system is there");
        assert!("/no/such/folder".parse::<Share>().is_err());
        let file = path.join("file");
        std::fs::write(&file, "").unwrap();
        assert!(file.display().to_string().parse::<Share>().is_err());
    }

    #[test]
    fn one_that_sleeps_by_itself_may_become_one_that_can_not() {
        let text = r#"{"backend":"qemu","cpus":1,"memory":1073741824,"disk":1073741824,"shares":[],"sleep_after":60}"#;
        let mut config: Config = serde_json::from_str(text).unwrap();
        config.set_backend(Backend::Uml);
        assert_eq!((config.backend, config.sleep_after), (Backend::Uml, None));
        if Backend::here().contains(&Backend::Uml) {
            config.check().unwrap();
        }
    }

    #[test]
    fn rosetta_is_refused_where_it_can_not_be() {
        let text =
            r#"{"backend":"vz","cpus":1,"memory":1073741824,"disk":1073741824,"shares":[],"rosetta":true}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.check().is_ok(), Backend::here().contains(&Backend::Vz));
        for backend in Backend::ALL.into_iter().filter(|backend| *backend != Backend::Vz) {
            let mut other = Config { backend, ..config.clone() };
            if Backend::here().contains(&backend) {
                let said = other.check().unwrap_err().to_string();
                assert!(said.starts_with(&format!("a machine with Rosetta can't be {backend}: ")), "{said}");
            }
            other.set_backend(backend);
            assert!(!other.rosetta, "one that becomes {backend} goes without");
        }
        let plain = serde_json::to_string(&Config { rosetta: false, ..config }).unwrap();
        assert!(!plain.contains("rosetta"), "{plain}");
    }

    #[test]
    fn times_are_read_as_they_are_shown() {
        for (text, seconds) in [("45s", 45), ("10m", 600), ("90m", 5400), ("1h", 3600)] {
            assert_eq!(parse_sleep_after(text).unwrap(), Some(seconds));
            assert_eq!(show_sleep_after(seconds), text);
        }
        assert_eq!(parse_sleep_after("10 min").unwrap(), Some(600));
        assert_eq!(parse_sleep_after("off").unwrap(), None);
        for bad in ["", "0m", "m", "10", "1d", "99999999999999999999h"] {
            assert!(parse_sleep_after(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_backend_is_written_as_it_is_read() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse::<Backend>().unwrap(), backend);
            assert_eq!(serde_json::to_value(backend).unwrap(), backend.name());
        }
        assert!("xen".parse::<Backend>().unwrap_err().to_string().contains("wsl2 and hyperv"));
    }

    #[test]
    fn a_disk_is_kept_by_those_that_find_it() {
        assert!(Backend::Uml.keeps_disk_of(Backend::Qemu));
        assert!(Backend::Wsl2.keeps_disk_of(Backend::Wsl2));
        assert!(!Backend::Wsl2.keeps_disk_of(Backend::HyperV));
        assert!(!Backend::HyperV.keeps_disk_of(Backend::Wsl2));
    }

    #[test]
    fn a_backend_of_another_system_is_refused_with_those_of_this_one() {
        let text = r#"{"backend":"vz","cpus":1,"memory":1073741824,"disk":1073741824,"shares":[]}"#;
        let mut config: Config = serde_json::from_str(text).unwrap();
        for backend in Backend::ALL {
            config.set_backend(backend);
            let is_here = Backend::here().contains(&backend);
            assert_eq!(config.check().is_ok(), is_here, "{backend}");
        }
        if cfg!(target_os = "linux") {
            config.set_backend(Backend::Vz);
            let said = config.check().unwrap_err().to_string();
            assert_eq!(said, "a backend can't be vz: this system has qemu and uml");
        }
    }
}
