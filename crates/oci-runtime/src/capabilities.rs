//! Capability sets by the specification's names.

use crate::error::{Doing, Result};
use crate::spec::Capabilities;
use crate::sys;

/// capabilities(7), in the kernel's order.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Every capability's name, lowest first.
#[must_use]
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// The sets as bit masks. Names this build does not know are left out, as the specification asks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Masks {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Masks {
    pub(crate) fn new(sets: &Capabilities) -> Self {
        let mask = |names: &[String]| {
            names
                .iter()
                .filter_map(|name| NAMES.iter().position(|known| known == name))
                .fold(0, |mask, bit| mask | 1 << bit)
        };
        Self {
            bounding: mask(&sets.bounding),
            effective: mask(&sets.effective),
            inheritable: mask(&sets.inheritable),
            permitted: mask(&sets.permitted),
            ambient: mask(&sets.ambient),
        }
    }

    /// Takes from the bounding set what isn't listed. Needs `CAP_SETPCAP`, so it comes before [`Self::apply`].
    pub(crate) fn limit_bounding(&self) -> Result<()> {
        for bit in 0..64 {
            if self.bounding & (1 << bit) != 0 {
                continue;
            }
            match sys::prctl(libc::PR_CAPBSET_DROP, bit, 0) {
                Ok(_) => {}
                // The first number the kernel does not know.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => return Err(error).doing(|| "drop a capability from the bounding set"),
            }
        }
        Ok(())
    }

    /// Sets the other four sets. Capabilities the process can't have are left out.
    pub(crate) fn apply(&self) -> Result<()> {
        let set = sys::capset(self.effective, self.permitted, self.inheritable);
        match set {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                // Inside a user namespace, or below a parent with fewer: keep what there is of them.
                let have = current_permitted()?;
                sys::capset(self.effective & have, self.permitted & have, self.inheritable & have)
            }
            other => other,
        }
        .doing(|| "set capabilities")?;
        for bit in 0..NAMES.len() {
            if self.ambient & (1 << bit) != 0 {
                // Without the permitted and inheritable bit the kernel refuses, and the set stays smaller.
                let _ = sys::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                    bit as libc::c_ulong,
                );
            }
        }
        Ok(())
    }
}

fn current_permitted() -> Result<u64> {
    rustix::thread::capabilities(None).map(|sets| sets.permitted.bits()).doing(|| "read capabilities")
}
