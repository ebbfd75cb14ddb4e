//! What needs `unsafe`: a question to a socket, and a socket that came from whoever started this program.
#![expect(
    unsafe_code,
    reason = "ioctl takes any pointer, and a descriptor's number says nothing of its owner"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// Takes over a descriptor that this program was started with. Call it once for a number, before others are opened.
///
/// # Errors
/// `EBADF`: it was started with none of that number.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open.
    let asked = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(asked)?;
    rustix::io::fcntl_setfd(asked, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and inherited numbers have no other owner in this program.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
