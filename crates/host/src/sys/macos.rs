//! What is macOS's alone.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::variable;
use crate::error::Error;
use crate::service::Manager;

/// Whether engines run here without a machine.
pub(crate) const HAS_ENGINES: bool = false;
/// What says where sockets of a user's programs go.
pub(crate) const RUNTIME_DIR: &str = "HOME";
/// What says where a user's data goes.
pub(crate) const DATA_DIR: &str = "HOME";
/// Where sockets of the computer's own programs go.
pub(crate) const SYSTEM_RUNTIME_DIR: &str = "/var/run/cove";
/// Where guest images are that were installed.
pub(crate) const GUEST_IMAGES: &str = "/Library/Application Support/Cove/guest";
/// The longest path of a program that the system tells (`PROC_PIDPATHINFO_MAXSIZE`).
const PATH_MAX: u32 = 4096;

/// Where sockets of a user's programs go, each in a folder of its own. The system has no such place that is private,
/// stays until a reboot, and leaves room for a name: a socket's path has at most 103 bytes here.
pub(crate) fn runtime_dir() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR").or_else(|| Some(variable(RUNTIME_DIR)?.join(".local/run")))
}

/// Where a user's data goes, each program's in a folder of its own.
pub(crate) fn data_dir() -> Option<PathBuf> {
    Some(variable(DATA_DIR)?.join("Library/Application Support"))
}

/// How a user's services start before that user logs in.
pub(crate) const BEFORE_LOGIN: &str = "It starts when you log in; with sudo it starts before that.";

/// Who keeps services.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there may be nobody")]
pub(crate) fn service_manager() -> Result<Manager, Error> {
    Ok(Manager::Launchd)
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub(super) fn program_of(pid: u32) -> io::Result<PathBuf> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let mut path = [0_u8; PATH_MAX as usize];
    // SAFETY: `path` may be written to for `PATH_MAX` bytes, which is its length.
    let length = unsafe { libc::proc_pidpath(pid, path.as_mut_ptr().cast(), PATH_MAX) };
    match usize::try_from(length).ok().and_then(|length| path.get(..length)) {
        Some(path) if !path.is_empty() => Ok(OsStr::from_bytes(path).into()),
        _ => Err(io::Error::last_os_error()),
    }
}
