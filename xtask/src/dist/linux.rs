//! What Debian's package brings besides programs: units, the desktop's entry, maintainer scripts.

use super::deb;
use super::keyfile::Keyfile;
use super::manifests::{Check, Facts};

/// What is wrong in `packaging/linux`.
pub(super) fn wrong(facts: &Facts) -> Vec<String> {
    let mut check = Check::new("linux", facts);
    for (name, target) in [("cove.service", "multi-user.target"), ("cove.user.service", "default.target")] {
        check.file(name, Keyfile::parse, |of, unit| {
            let started = unit.get("Service", "ExecStart");
            of.program(started.strip_prefix("/usr/bin/").unwrap_or(started));
            // Without these, systemd ends containers with the engine, or keeps it from their cgroups.
            of.equal("KillMode", unit.get("Service", "KillMode"), "process");
            of.equal("Delegate", unit.get("Service", "Delegate"), "yes");
            of.equal("WantedBy", unit.get("Install", "WantedBy"), target);
            // It would take the sockets of containers' monitors with the engine.
            of.equal("RuntimeDirectory", unit.get("Service", "RuntimeDirectory"), "");
        });
    }
    check.file("cove-desktop.desktop", Keyfile::parse, |of, entry| {
        let get = |key| entry.get("Desktop Entry", key);
        of.equal("Type", get("Type"), "Application");
        of.program(get("Exec"));
        of.equal("TryExec", get("TryExec"), get("Exec"));
        of.equal("Icon", get("Icon"), deb::ICON);
        of.equal("StartupWMClass", get("StartupWMClass"), of.facts().product.as_str());
        for list in ["Categories", "Keywords"] {
            if !get(list).ends_with(';') {
                of.wrong(&format!("{list} does not end with ;"));
            }
        }
        for program in deb::PROGRAMS {
            of.program(program.name);
        }
        of.stands_in("crates/host/src/sys/linux.rs", &format!("\"/{}\"", deb::GUEST));
    });
    for script in deb::SCRIPTS {
        check.script(script, |of, text| {
            if !text.starts_with("#!/bin/sh\n") || !text.contains("\nset -e\n") {
                of.wrong("a maintainer script begins with #!/bin/sh, and ends where something fails");
            }
        });
    }
    check.done()
}
