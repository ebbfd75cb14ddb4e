//! Unix sockets.

use std::io;
use std::path::{Path, PathBuf};

use rustix::net::RecvFlags;
pub use tokio::net::unix::{OwnedReadHalf as ReadHalf, OwnedWriteHalf as WriteHalf};
pub use tokio::net::{UnixListener as Listener, UnixStream as Stream};

/// Connects to whoever listens at `path`.
///
/// # Errors
/// connect(2)'s.
pub async fn connect(path: &Path) -> io::Result<Stream> {
    Stream::connect(path).await
}

/// Listens at `path`.
///
/// # Errors
/// bind(2)'s: what is left of an earlier socket is in the way.
pub fn bind(path: &Path) -> io::Result<Listener> {
    Listener::bind(path)
}

/// Takes away what is left of an earlier socket at `path`.
///
/// # Errors
/// unlink(2)'s.
pub fn clear(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether who connected is gone already, as far as can be told without reading.
#[must_use]
pub fn has_hung_up(stream: &Stream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(stream, &mut [0; 1][..], flags), Ok((0, _)))
}

/// Waits for somebody to connect.
///
/// # Errors
/// accept(2)'s.
pub async fn accept(listener: &mut Listener) -> io::Result<Stream> {
    listener.accept().await.map(|(stream, _)| stream)
}

/// Its two directions. Shutting the one down that writes is the end of input at the other side, and leaves the one that
/// reads open.
#[must_use]
pub fn split(stream: Stream) -> (ReadHalf, WriteHalf) {
    stream.into_split()
}

/// The id of the process at the other side.
///
/// # Errors
/// The system does not tell.
pub fn peer(stream: &Stream) -> io::Result<u32> {
    let pid = stream.peer_cred()?.pid().ok_or(io::ErrorKind::NotFound)?;
    u32::try_from(pid).map_err(io::Error::other)
}

/// The address of what is called `name` among those of `folder`.
#[must_use]
pub fn address(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}
