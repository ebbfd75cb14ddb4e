//! The driver `local`: names, and the options that put something else in a volume than a directory.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The one driver there is.
pub(crate) const DRIVER: &str = "local";

/// A file system or a directory that a volume stands for, as mount(8) would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) kind: String,
    pub(crate) device: String,
    pub(crate) options: Vec<String>,
}

impl Device {
    /// Reads `type`, `o` and `device`; None where the volume is a plain directory.
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Result<Option<Self>> {
        for (name, value) in options {
            match name.as_str() {
                "type" | "o" | "device" => {}
                "size" => return Err(Error::unsupported("quota size requested but no quota support")),
                _ => return Err(Error::invalid(format!("invalid option: {name:?}"))),
            }
            if value.contains('\0') {
                return Err(Error::invalid(format!("option {name:?} holds a zero byte")));
            }
        }
        if options.is_empty() {
            return Ok(None);
        }
        let text = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
        if let Some(missing) = ["device", "type"].into_iter().find(|name| text(name).is_empty()) {
            return Err(Error::invalid(format!("missing required option: {missing:?}")));
        }
        let list = text("o").split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        let device = Self { kind: text("type").to_owned(), device: text("device").to_owned(), options: list };
        if device.is_bind() && !device.device.starts_with('/') {
            return Err(Error::invalid(format!("device {:?} of a bind must be absolute", device.device)));
        }
        Ok(Some(device))
    }

    /// Whether it is a directory that is there already.
    pub(crate) fn is_bind(&self) -> bool {
        self.kind == "bind" || self.options.iter().any(|option| option == "bind" || option == "rbind")
    }

    /// Whether it is memory, new for each container that mounts it.
    pub(crate) fn is_tmpfs(&self) -> bool {
        !self.is_bind() && matches!(self.kind.as_str(), "tmpfs" | "ramfs")
    }

    /// Whether each mount of it is a file system of its own (memory), or can't be repeated (overlay).
    pub(crate) fn is_made_anew(&self) -> bool {
        self.is_tmpfs() || (!self.is_bind() && self.kind == "overlay")
    }

    /// The server whose name has to be looked up, as the kernel only takes addresses.
    pub(crate) fn server(&self) -> Option<&str> {
        let addr = self.options.iter().find_map(|option| option.strip_prefix("addr="));
        let host = match self.kind.as_str() {
            "nfs" | "nfs4" => addr,
            "cifs" | "smb3" => addr.or_else(|| self.device.trim_start_matches('/').split('/').next()),
            _ => None,
        };
        host.filter(|host| !host.is_empty())
    }

    /// The same with the server's address in place of its name.
    pub(crate) fn with_address(mut self, address: std::net::IpAddr) -> Self {
        self.options.retain(|option| !option.starts_with("addr="));
        self.options.push(format!("addr={address}"));
        self
    }
}

/// Docker's rule for names; nothing that could climb passes.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    if name.len() > 255 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too long, names should be at most 255 characters"
        )));
    }
    if !crate::names::is_valid(name) {
        return Err(Error::invalid(format!(
            "create {name}: {name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    Ok(())
}

/// Refuses every driver but the one.
pub(crate) fn check_driver(name: &str, driver: &str) -> Result<()> {
    if matches!(driver, "" | DRIVER) {
        return Ok(());
    }
    Err(Error::NoSuchVolume {
        what: format!(
            "create {name}: error looking up volume plugin {driver}: plugin {driver:?} not found; the driver \"local\" is the one there is"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_make_a_device_or_say_what_is_wrong() {
        assert_eq!(Device::parse(&options(&[])).unwrap(), None);
        let nfs = [("type", "nfs"), ("o", "addr=files.example,rw,nolock"), ("device", ":/export")];
        let device = Device::parse(&options(&nfs)).unwrap().unwrap();
        assert_eq!(device.server(), Some("files.example"));
        let known = device.with_address(std::net::IpAddr::from([10, 0, 0, 1]));
        assert_eq!(known.options, ["rw", "nolock", "addr=10.0.0.1"]);
        let bind = [("type", "none"), ("o", "bind"), ("device", "/srv")];
        assert!(Device::parse(&options(&bind)).unwrap().unwrap().is_bind());
        for wrong in [
            &[("o", "bind")][..],
            &[("type", "tmpfs")],
            &[("size", "1g")],
            &[("mode", "1")],
            &[("type", "none"), ("o", "bind"), ("device", "srv")],
        ] {
            assert!(Device::parse(&options(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_that_climb_are_refused() {
        for name in ["ab", "a.b-c_d", "0x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(256);
        for name in ["", "a", "..", ".a", "a/b", "../a", "/a", "a b", "a\0", long.as_str()] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
