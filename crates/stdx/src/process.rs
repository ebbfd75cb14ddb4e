//! Child processes whose working directory and environment are chosen, never inherited by accident.

#[cfg(unix)]
mod limits;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use crate::sys;
#[cfg(unix)]
pub use limits::{open_files, raise_open_files};

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

/// Which proxies lead to the world.
pub const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// A command that starts in the file system's root and sees only a handful of this process's environment.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is the one constructor")]
    let mut command = Command::new(program);
    command.current_dir(sys::root_dir()).env_clear();
    for name in sys::INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// The user's folder, as their programs are told it: `HOME`, or `USERPROFILE` on Windows.
#[must_use]
pub fn home() -> Option<PathBuf> {
    std::env::var_os(sys::HOME).filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Hands variables of this process's environment on, as far as they are set.
pub fn pass(command: &mut Command, names: &[&str]) {
    command.envs(names.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
}
