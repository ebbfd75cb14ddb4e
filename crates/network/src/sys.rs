//! The one system call that needs `unsafe`.
#![expect(unsafe_code, reason = "unshare is unsafe in general, and safe for the flag used here")]

use std::io;

/// Moves this thread, and no other, into a new network namespace.
///
/// # Errors
/// unshare(2)'s.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: unshare takes an integer; CLONE_NEWNET shares no memory and closes no descriptor.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
