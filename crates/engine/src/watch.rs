//! Descriptors in tokio's event loop.
#![expect(unsafe_code, reason = "tokio asks its callers to vouch for the descriptor")]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes a descriptor non-blocking and watches it.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // SAFETY: an OwnedFd is open and stays the same descriptor until the AsyncFd that owns it is dropped.
    let registered = unsafe { AsyncFd::register(fd) };
    Ok(registered?)
}
