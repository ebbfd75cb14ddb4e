//! Docker's defaults: capabilities, hidden paths, environment.

use model::container::HostSpec;
use oci_runtime::capabilities::names;

use crate::error::{Error, Result};

/// The `PATH` of a container whose image sets none.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container holds unless asked otherwise (Docker's fourteen).
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Paths that tell about the host, hidden.
pub(crate) const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that change the host, made read-only.
pub(crate) const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Every capability that the kernel and this process know.
pub(super) fn all_capabilities() -> Vec<String> {
    names().iter().map(ToString::to_string).collect()
}

/// The default set, with `--cap-add` and `--cap-drop`.
pub(super) fn capabilities(host: &HostSpec) -> Result<Vec<String>> {
    if host.privileged {
        return Ok(all_capabilities());
    }
    let normal = |name: &String| {
        let upper = name.to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if full == "CAP_ALL" || names().contains(&full.as_str()) {
            Ok(full)
        } else {
            Err(Error::invalid(format!("invalid capability: {name:?}")))
        }
    };
    let added = host.cap_add.iter().map(normal).collect::<Result<Vec<_>>>()?;
    let dropped = host.cap_drop.iter().map(normal).collect::<Result<Vec<_>>>()?;
    let has_all = |list: &[String]| list.iter().any(|name| name == "CAP_ALL");
    let keeps = |name: &str| {
        let is_named = added.iter().any(|n| n == name);
        let is_dropped = dropped.iter().any(|n| n == name);
        match (has_all(&added), has_all(&dropped)) {
            (true, _) => !is_dropped,
            (false, true) => is_named,
            (false, false) => (is_named || CAPABILITIES.contains(&name)) && !is_dropped,
        }
    };
    Ok(names().iter().filter(|name| keeps(name)).map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(add: &[&str], drop: &[&str], expected: &[&str]) {
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let host = HostSpec { cap_add: list(add), cap_drop: list(drop), ..HostSpec::default() };
        let mut found = capabilities(&host).unwrap();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        check(&[], &[], &CAPABILITIES);
        check(&["net_admin"], &["ALL"], &["CAP_NET_ADMIN"]);
        check(&[], &["all"], &[]);
        let all_but_one: Vec<_> = {
            let mut all: Vec<_> = names().iter().filter(|name| **name != "CAP_CHOWN").copied().collect();
            all.sort_unstable();
            all
        };
        check(&["ALL"], &["CHOWN"], &all_but_one);
        assert!(capabilities(&HostSpec { cap_add: vec!["NOPE".into()], ..HostSpec::default() }).is_err());
    }
}
