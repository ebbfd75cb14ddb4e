//! Engines run in machines alone here: what those need of macOS.

use std::path::{Path, PathBuf};

use super::Check;

/// Without it, macOS refuses a program every machine.
const ENTITLEMENT: &str = "com.apple.security.virtualization";

pub(super) fn checks() -> Vec<Check> {
    let check = |is_good, what: &str, remedy: &str| Check {
        is_good,
        what: what.to_owned(),
        remedy: remedy.to_owned(),
    };
    let supervisor = supervisor();
    let images = host::machine::images();
    vec![
        check(
            said("/usr/sbin/sysctl", &["-n", "kern.hv_support"]).trim() == "1",
            "virtualization",
            "this Mac's processor has none, or this is itself a virtual machine",
        ),
        check(supervisor.is_some(), "cove-machine", "install it beside cove, or put its folder into PATH"),
        check(
            supervisor.is_some_and(|program| is_entitled(&program)),
            "cove-machine may make machines",
            "sign it: codesign --force --sign - --entitlements packaging/macos/entitlements.plist cove-machine",
        ),
        check(
            images.is_dir(),
            &format!("guest images in {}", images.display()),
            "install Cove's package, or name their folder by COVE_GUEST_IMAGES",
        ),
    ]
}

fn supervisor() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join("cove-machine")).filter(|program| program.is_file()))
}

fn is_entitled(program: &Path) -> bool {
    let program = program.display().to_string();
    said("/usr/bin/codesign", &["--display", "--entitlements", "-", "--xml", &program]).contains(ENTITLEMENT)
}

/// What a program of macOS' says; nothing where it can't be started.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = stdx::process::command(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
