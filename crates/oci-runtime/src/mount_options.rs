//! The options of one mount of the bundle, sorted into what each system call wants.

use crate::error::{Error, Result};

/// Attributes of the mount itself, as mount_setattr(2) numbers them.
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const ATIME: u64 = 0x70;
    pub(crate) const NOATIME: u64 = 0x10;
    pub(crate) const STRICTATIME: u64 = 0x20;
    pub(crate) const NODIRATIME: u64 = 0x80;
    pub(crate) const IDMAP: u64 = 0x10_0000;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Sorted options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) is_bind: bool,
    pub(crate) is_recursive: bool,
    pub(crate) is_remount: bool,
    pub(crate) copies_up: bool,
    /// `idmap` on the mount, or with `true` on all below it.
    pub(crate) idmap: Option<bool>,
    /// Attributes of this mount to set and to clear.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The same for everything below it too (`rro` and the like).
    pub(crate) recursive_set: u64,
    pub(crate) recursive_clear: u64,
    /// Superblock flags (`MS_*`) that are no attributes.
    pub(crate) super_flags: libc::c_ulong,
    /// `MS_PRIVATE` and the like, each perhaps with `MS_REC`.
    pub(crate) propagation: Vec<libc::c_ulong>,
    /// For the file system, comma separated.
    pub(crate) data: String,
}

impl MountOptions {
    /// Sorts the bundle's options (config.md, "Linux mount options").
    pub(crate) fn parse(kind: &str, options: &[String]) -> Result<Self> {
        let mut parsed = Self { is_bind: kind == "bind", ..Self::default() };
        for option in options {
            parsed.add(option)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<()> {
        match option {
            "defaults" | "" => {}
            "bind" => self.is_bind = true,
            "rbind" => (self.is_bind, self.is_recursive) = (true, true),
            "remount" => self.is_remount = true,
            "tmpcopyup" => self.copies_up = true,
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            "sync" => self.super_flags |= libc::MS_SYNCHRONOUS,
            "async" => self.super_flags &= !libc::MS_SYNCHRONOUS,
            "dirsync" => self.super_flags |= libc::MS_DIRSYNC,
            "mand" => self.super_flags |= libc::MS_MANDLOCK,
            "nomand" => self.super_flags &= !libc::MS_MANDLOCK,
            "silent" => self.super_flags |= libc::MS_SILENT,
            "loud" => self.super_flags &= !libc::MS_SILENT,
            "iversion" => self.super_flags |= libc::MS_I_VERSION,
            "noiversion" => self.super_flags &= !libc::MS_I_VERSION,
            _ => {
                if let Some(propagation) = propagation(option) {
                    self.propagation.push(propagation);
                } else if let Some((bits, is_set)) = attribute(option) {
                    change(&mut self.set, &mut self.clear, bits, is_set);
                } else if let Some((bits, is_set)) = option.strip_prefix('r').and_then(attribute) {
                    change(&mut self.recursive_set, &mut self.recursive_clear, bits, is_set);
                } else if option.contains('\0') {
                    return Err(Error::invalid(format!("mount option {option:?} holds a zero byte")));
                } else {
                    if !self.data.is_empty() {
                        self.data.push(',');
                    }
                    self.data.push_str(option);
                }
            }
        }
        Ok(())
    }

    /// The attributes as flags of mount(2), for a new file system.
    pub(crate) fn mount_flags(&self) -> libc::c_ulong {
        let pairs = [
            (attr::RDONLY, libc::MS_RDONLY),
            (attr::NOSUID, libc::MS_NOSUID),
            (attr::NODEV, libc::MS_NODEV),
            (attr::NOEXEC, libc::MS_NOEXEC),
            (attr::NOATIME, libc::MS_NOATIME),
            (attr::STRICTATIME, libc::MS_STRICTATIME),
            (attr::NODIRATIME, libc::MS_NODIRATIME),
            (attr::NOSYMFOLLOW, 256),
        ];
        pairs
            .iter()
            .filter(|(bit, _)| self.set & bit != 0)
            .fold(self.super_flags, |flags, (_, flag)| flags | flag)
    }
}

fn change(set: &mut u64, clear: &mut u64, bits: u64, is_set: bool) {
    if is_set {
        // The access time modes exclude each other; the kernel wants them cleared together.
        if bits & attr::ATIME != 0 {
            *set &= !attr::ATIME;
            *clear |= attr::ATIME;
        }
        *set |= bits;
        *clear &= !(bits & !attr::ATIME);
    } else {
        *set &= !bits;
        *clear |= bits;
    }
}

fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (attr::RDONLY, true),
        "rw" => (attr::RDONLY, false),
        "nosuid" => (attr::NOSUID, true),
        "suid" => (attr::NOSUID, false),
        "nodev" => (attr::NODEV, true),
        "dev" => (attr::NODEV, false),
        "noexec" => (attr::NOEXEC, true),
        "exec" => (attr::NOEXEC, false),
        "noatime" => (attr::NOATIME, true),
        "strictatime" => (attr::STRICTATIME, true),
        "atime" | "relatime" | "norelatime" | "nostrictatime" => (attr::ATIME, false),
        "nodiratime" => (attr::NODIRATIME, true),
        "diratime" => (attr::NODIRATIME, false),
        "nosymfollow" => (attr::NOSYMFOLLOW, true),
        "symfollow" => (attr::NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// `MS_*` of a propagation's name.
pub(crate) fn propagation(name: &str) -> Option<libc::c_ulong> {
    Some(match name {
        "private" => libc::MS_PRIVATE,
        "rprivate" => libc::MS_PRIVATE | libc::MS_REC,
        "shared" => libc::MS_SHARED,
        "rshared" => libc::MS_SHARED | libc::MS_REC,
        "slave" => libc::MS_SLAVE,
        "rslave" => libc::MS_SLAVE | libc::MS_REC,
        "unbindable" => libc::MS_UNBINDABLE,
        "runbindable" => libc::MS_UNBINDABLE | libc::MS_REC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[&str], expected: &MountOptions) {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        assert_eq!(&MountOptions::parse("", &options).unwrap(), expected);
    }

    #[test]
    fn options_are_sorted_and_the_rest_is_data() {
        check(
            &["rbind", "ro", "rnoexec", "rprivate", "size=64k", "mode=755"],
            &MountOptions {
                is_bind: true,
                is_recursive: true,
                set: attr::RDONLY,
                recursive_set: attr::NOEXEC,
                propagation: vec![libc::MS_PRIVATE | libc::MS_REC],
                data: "size=64k,mode=755".into(),
                ..MountOptions::default()
            },
        );
    }

    #[test]
    fn the_last_of_two_contrary_options_counts() {
        check(&["ro", "rw"], &MountOptions { clear: attr::RDONLY, ..MountOptions::default() });
        check(&["rw", "ro"], &MountOptions { set: attr::RDONLY, ..MountOptions::default() });
    }
}
