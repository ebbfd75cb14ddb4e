//! Sockets by addresses that the standard library does not know. What they carry it does: a socket is a socket.

use std::io;
use std::net::TcpStream;
use std::os::windows::io::{AsRawSocket, AsSocket, FromRawSocket, OwnedSocket};
use std::ptr::null_mut;
use std::sync::Once;
use std::time::Duration;

use windows_sys::Win32::Foundation::{HANDLE, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::Networking::WinSock::{
    INVALID_SOCKET, SOCK_STREAM, SOCKADDR, SOCKET, SOCKET_ERROR, SOMAXCONN, WSA_FLAG_NO_HANDLE_INHERIT,
    WSA_FLAG_OVERLAPPED, WSADATA, WSASocketW, WSAStartup, accept as accept_raw, bind, connect as connect_raw,
    listen as listen_raw, setsockopt,
};
use windows_sys::Win32::System::Hypervisor::{HV_PROTOCOL_RAW, HVSOCKET_CONNECT_TIMEOUT};

use crate::hvsocket::Address;

/// The version of Windows' sockets: 2.2.
const SOCKETS: u16 = 0x0202;

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn begin() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let mut told = WSADATA::default();
        // SAFETY: `told` may be written to. A failure is told by the first socket.
        unsafe { WSAStartup(SOCKETS, &raw mut told) };
    });
}

fn check(code: i32) -> io::Result<()> {
    if code == SOCKET_ERROR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn raw(socket: &impl AsRawSocket) -> io::Result<SOCKET> {
    SOCKET::try_from(socket.as_raw_socket()).map_err(io::Error::other)
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn owned(socket: SOCKET) -> io::Result<OwnedSocket> {
    if socket == INVALID_SOCKET {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made this moment, and nobody else closes it.
    Ok(unsafe { OwnedSocket::from_raw_socket(socket as u64) })
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn socket(of: &Address) -> io::Result<OwnedSocket> {
    begin();
    let flags = WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT;
    // SAFETY: the call takes plain values; which provider's it is, the system says.
    owned(unsafe { WSASocketW(of.family.into(), SOCK_STREAM, of.protocol, std::ptr::null(), 0, flags) })
}

fn length(of: &Address) -> io::Result<i32> {
    i32::try_from(of.bytes.len()).map_err(io::Error::other)
}

/// Connects; blocks until somebody listens there, or says no, or for so long at most where the family knows of that.
///
/// # Errors
/// Nobody listens there.
#[expect(unsafe_code, reason = "the system's calls have no safe form")]
pub fn connect(to: &Address, patience: Duration) -> io::Result<TcpStream> {
    let socket = socket(to)?;
    if to.is_of_guest() {
        let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX).max(1);
        let size = i32::try_from(size_of_val(&milliseconds)).map_err(io::Error::other)?;
        let (level, option) = (HV_PROTOCOL_RAW.cast_signed(), HVSOCKET_CONNECT_TIMEOUT.cast_signed());
        // SAFETY: the socket is open, and the value has that many bytes.
        check(unsafe { setsockopt(raw(&socket)?, level, option, (&raw const milliseconds).cast(), size) })?;
    }
    let address: *const SOCKADDR = to.bytes.as_ptr().cast();
    // SAFETY: the socket is open, and the address has that many bytes.
    check(unsafe { connect_raw(raw(&socket)?, address, length(to)?) })?;
    Ok(socket.into())
}

/// Listens; what comes is taken by [`accept`], which does not wait.
///
/// # Errors
/// Somebody listens there, or may not.
#[expect(unsafe_code, reason = "the system's calls have no safe form")]
pub fn listen(at: &Address) -> io::Result<TcpStream> {
    let socket = socket(at)?;
    let address: *const SOCKADDR = at.bytes.as_ptr().cast();
    // SAFETY: the socket is open, and the address has that many bytes.
    check(unsafe { bind(raw(&socket)?, address, length(at)?) })?;
    // SAFETY: the socket is open.
    check(unsafe { listen_raw(raw(&socket)?, SOMAXCONN.cast_signed()) })?;
    let listening = TcpStream::from(socket);
    listening.set_nonblocking(true)?;
    Ok(listening)
}

/// Takes who has connected.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] where nobody has.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub fn accept(listening: &impl AsSocket) -> io::Result<TcpStream> {
    let socket = raw(&listening.as_socket())?;
    // SAFETY: the socket is open for as long as it is borrowed, and who connected is not asked for.
    let accepted = TcpStream::from(owned(unsafe { accept_raw(socket, null_mut(), null_mut()) })?);
    // SAFETY: the socket is open, and is a handle (`SetHandleInformation`). One that a child gets too is its own fault.
    unsafe { SetHandleInformation(raw(&accepted)? as HANDLE, HANDLE_FLAG_INHERIT, 0) };
    Ok(accepted)
}
