//! The one call to the kernel that the compiler can't vouch for.
#![expect(unsafe_code, reason = "this module is where it is kept")]

use std::io;

use rustix::thread::UnshareFlags;

/// Gives the calling thread a working directory and umask of its own. Threads that it starts later share these with it.
///
/// virtiofsd changes both: it clears the umask, and for extended attributes it changes directory.
pub(crate) fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: unshare is unsafe where threads rely on sharing what is taken apart. CLONE_FS alone takes the working
    // directory, the root and the umask apart, none of which memory safety depends on; descriptors (CLONE_FILES), by
    // which `OwnedFd` is sound, stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    Ok(())
}
