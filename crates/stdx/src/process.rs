//! Child processes whose working directory and environment are chosen, never inherited by accident.

use std::ffi::OsStr;
use std::process::Command;

/// Environment variables a child needs to find programs, files and the user's locale.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TERM",
    "XDG_RUNTIME_DIR",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
];

/// What a credential helper needs to reach its user and its store.
pub const CREDENTIAL_HELPER: &[&str] = &[
    "DOCKER_CONFIG",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "GNUPGHOME",
    "PASSWORD_STORE_DIR",
];

/// A command that starts in `/` and sees only a handful of this process's environment.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the one constructor")]
    let mut command = Command::new(program);
    command.current_dir("/").env_clear();
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}
/// Hands variables of this process's environment on, as far as they are set.
pub fn pass(command: &mut Command, names: &[&str]) {
    command.envs(names.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
}
