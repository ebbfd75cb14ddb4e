//! The one question to a socket that needs `unsafe`.
#![expect(unsafe_code, reason = "ioctl takes any pointer, and the one asked with here an integer's")]

use std::os::fd::AsFd;

use rustix::ioctl::{Getter, ioctl};

/// How many bytes were sent that the other side has not read (unix(7), `SIOCOUTQ`).
///
/// # Errors
/// Of something that is no socket.
pub(crate) fn unread_by_peer(socket: impl AsFd) -> rustix::io::Result<i32> {
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: the kernel writes one integer for this request, which is what the getter has room for.
    let asked = unsafe { Getter::<SIOCOUTQ, i32>::new() };
    // SAFETY: as above; the socket is open for as long as it is borrowed.
    unsafe { ioctl(socket, asked) }
}
