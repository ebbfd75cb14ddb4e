//! The channel to the host: vsock, and for an agent that is not alone in its machine, sockets in a folder, whose other side
//! is carried to the host by [`crate::inside`].

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::either::Either;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// Where sockets are, for the ports of this guest (`guest-PORT`) and of the host (`host-PORT`).
pub(crate) const FOLDER: &str = "/run/cove-channel";

/// How the host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// By a device of the machine's.
    Vsock,
    /// By sockets in [`FOLDER`].
    Sockets,
}

/// Whom the host connects to.
#[derive(Debug)]
pub(crate) enum Listener {
    Vsock(VsockListener),
    Socket(UnixListener),
}

/// A stream to or from the host.
pub(crate) type Stream = Either<VsockStream, UnixStream>;

/// Where what listens at a port of this guest is.
pub(crate) fn of_guest(port: u32) -> String {
    format!("{FOLDER}/guest-{port}")
}

/// Where what listens at a port of the host is.
pub(crate) fn of_host(port: u32) -> String {
    format!("{FOLDER}/host-{port}")
}

impl Channel {
    /// Where the host connects from when this returns on.
    pub(crate) fn listen(self, port: u32) -> Result<Listener> {
        match self {
            Self::Vsock => VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
                .map(Listener::Vsock)
                .with_context(|| format!("failed to listen on vsock port {port}")),
            Self::Sockets => bind(&of_guest(port)).map(Listener::Socket),
        }
    }

    /// Connects to a port of the host's.
    pub(crate) async fn connect(self, port: u32) -> io::Result<Stream> {
        match self {
            Self::Vsock => {
                VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, port)).await.map(Either::Left)
            }
            Self::Sockets => UnixStream::connect(of_host(port)).await.map(Either::Right),
        }
    }
}

/// Listens at a path, whatever was left there.
pub(crate) fn bind(path: &str) -> Result<UnixListener> {
    let _ = fs::remove_file(path);
    UnixListener::bind(path).with_context(|| format!("failed to listen on {path}"))
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Vsock(listener) => listener.accept().await.map(|(stream, _)| Either::Left(stream)),
            Self::Socket(listener) => listener.accept().await.map(|(stream, _)| Either::Right(stream)),
        }
    }

    /// For a program that accepts itself.
    pub(crate) fn into_fd(self) -> Result<OwnedFd> {
        Ok(match self {
            Self::Vsock(listener) => listener.into(),
            Self::Socket(listener) => listener.into_std()?.into(),
        })
    }
}

/// What the kernel knows it by.
pub(crate) fn descriptor(stream: &Stream) -> BorrowedFd<'_> {
    match stream {
        Either::Left(vsock) => vsock.as_fd(),
        Either::Right(socket) => socket.as_fd(),
    }
}
