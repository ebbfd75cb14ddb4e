//! Where the daemon listens: unix sockets that belong to its user alone, addresses of the network, and sockets that it was
//! started with.

use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::net::AddressFamily;
use tokio::net::UnixListener;
use tokio_vsock::VsockListener;

/// An address of `--listen`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An address of the network.
    Tcp(SocketAddr),
    /// A socket that listens already, by the number it was inherited under: a service manager's, or of a virtual machine
    /// towards its host.
    Inherited(RawFd),
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix://{}", path.display()),
            Self::Tcp(address) => write!(formatter, "tcp://{address}"),
            Self::Inherited(number) => write!(formatter, "fd://{number}"),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("unix", _)) => bail!("{text}: the socket's path is not absolute"),
            Some(("fd", number)) => match number.parse() {
                Ok(number @ (0 | 3..)) => Ok(Self::Inherited(number)),
                _ => bail!(
                    "{text}: expected fd://NUMBER of a socket that this program is started with: 0, or 3 and up"
                ),
            },
            Some(("tcp", address)) => {
                let address = address.trim_end_matches('/');
                let address = address
                    .strip_prefix("localhost:")
                    .map_or_else(|| address.to_owned(), |port| format!("127.0.0.1:{port}"));
                let parsed = address.parse().map(Self::Tcp);
                parsed
                    .with_context(|| format!("{text}: expected tcp://ADDRESS:PORT, as in tcp://0.0.0.0:2376"))
            }
            _ => bail!("{text}: expected unix:///path/to/socket, tcp://ADDRESS:PORT or fd://NUMBER"),
        }
    }
}

/// A socket that this program was started with.
#[derive(Debug)]
pub enum Inherited {
    /// Of this system.
    Unix(UnixListener),
    /// Of a virtual machine, where its host connects.
    Vsock(VsockListener),
}

/// Takes over a socket that listens; call it once for a number, before anything else is opened.
///
/// # Errors
/// Where there is none of that number, or it is of another kind.
pub fn inherit(number: RawFd) -> Result<OwnedFd> {
    crate::sys::inherited(number)
        .with_context(|| format!("fd://{number}: this program was started without such a socket"))
}

impl Inherited {
    /// Of what [`inherit`] took over.
    ///
    /// # Errors
    /// It is neither a unix nor a vsock socket, or does not listen.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
        rustix::io::ioctl_fionbio(&socket, true).context("failed to use an inherited socket")?;
        match rustix::net::getsockname(&socket).map(|name| name.address_family()) {
            Ok(AddressFamily::UNIX) if listens => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                Ok(Self::Unix(UnixListener::from_std(listener).context("failed to use an inherited socket")?))
            }
            Ok(AddressFamily::VSOCK) if listens => Ok(Self::Vsock(VsockListener::from(socket))),
            _ => bail!("the inherited descriptor is no unix or vsock socket that listens"),
        }
    }
}

/// Binds a socket, mode 0600. One that nobody answers on is left over from a crash and replaced.
///
/// # Errors
/// Where somebody answers, something else is there, or the directory can't be used.
pub fn bind(path: &Path) -> Result<UnixListener> {
    let dir = path.parent().context("the socket's path has no directory")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .with_context(|| format!("failed to make {}", dir.display()))?;
    if let Ok(metadata) = path.symlink_metadata() {
        if !metadata.file_type().is_socket() {
            bail!("{} exists and is no socket", path.display());
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            bail!("another daemon answers on {}", path.display());
        }
        std::fs::remove_file(path)
            .with_context(|| format!("failed to remove the stale {}", path.display()))?;
    }
    // Bound under another name and closed to others before it appears under its own.
    let temp = path.with_extension(format!("tmp{}", std::process::id()));
    let _ = std::fs::remove_file(&temp);
    let listener =
        UnixListener::bind(&temp).with_context(|| format!("failed to listen on {}", path.display()))?;
    std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&temp, path))
        .with_context(|| format!("failed to listen on {}", path.display()))?;
    Ok(listener)
}
