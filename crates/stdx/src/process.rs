//! Child processes whose working directory and environment are chosen, never inherited by accident.

use std::ffi::OsStr;
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

/// How many files this process could have open when it began: the soft and the hard limit.
static OPEN_FILES: OnceLock<(Option<u64>, Option<u64>)> = OnceLock::new();

/// Lets this process have as many files open as it may (getrlimit(2)): the usual soft limit of 1024 is meant
/// for programs that use select(2). What it starts has the raised one too, unless told [`open_files`].
///
/// # Errors
/// setrlimit(2)'s.
pub fn raise_open_files() -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    OPEN_FILES.get_or_init(|| (limit.current, limit.maximum));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// The limits of before, soft and hard; a missing one is none. None at all where they were not raised.
#[must_use]
pub fn open_files() -> Option<(Option<u64>, Option<u64>)> {
    OPEN_FILES.get().copied()
}

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
