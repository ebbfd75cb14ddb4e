//! What is Linux's alone: it runs engines itself.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::io::unix::AsyncFd;

use super::variable;
use crate::error::Error;
use crate::service::Manager;

/// Whether engines run here without a machine.
pub(crate) const HAS_ENGINES: bool = true;
/// What says where sockets of a user's programs go.
pub(crate) const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// What says where a user's data goes, or the folder it is in.
pub(crate) const DATA_DIR: &str = "HOME";
/// Where sockets of the computer's own programs go.
pub(crate) const SYSTEM_RUNTIME_DIR: &str = "/run/cove";
/// Where guest images are that were installed.
pub(crate) const GUEST_IMAGES: &str = "/usr/share/cove/guest";

/// Where sockets of a user's programs go, each in a folder of its own.
pub(crate) fn runtime_dir() -> Option<PathBuf> {
    variable(RUNTIME_DIR)
}

/// Where a user's data goes, each program's in a folder of its own.
pub(crate) fn data_dir() -> Option<PathBuf> {
    variable("XDG_DATA_HOME").or_else(|| variable(DATA_DIR).map(|home| home.join(".local/share")))
}

/// How a user's services start before that user logs in.
pub(crate) const BEFORE_LOGIN: &str =
    "It starts when you log in; before that, too, after: loginctl enable-linger";

/// Who keeps services.
pub(crate) fn service_manager() -> Result<Manager, Error> {
    // As sd_booted(3) looks for it.
    if Path::new("/run/systemd/system").is_dir() {
        Ok(Manager::Systemd)
    } else {
        Err(Error::NoServiceManager)
    }
}

pub(super) fn program_of(pid: u32) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe"))
}

/// A descriptor, which does not block, in tokio's event loop.
#[expect(unsafe_code, reason = "tokio asks its callers to vouch for the descriptor")]
pub(super) fn in_event_loop(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor until the AsyncFd that owns it is dropped.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
