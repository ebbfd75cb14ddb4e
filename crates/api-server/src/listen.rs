//! Where the daemon listens: unix sockets that belong to its user alone.

use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::net::UnixListener;

/// An address of `--listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An address of the network.
    Tcp(SocketAddr),
}

impl std::str::FromStr for Address {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("unix", _)) => bail!("{text}: the socket's path is not absolute"),
            Some(("tcp", address)) => {
                let address = address.trim_end_matches('/');
                let address = address
                    .strip_prefix("localhost:")
                    .map_or_else(|| address.to_owned(), |port| format!("127.0.0.1:{port}"));
                let parsed = address.parse().map(Self::Tcp);
                parsed
                    .with_context(|| format!("{text}: expected tcp://ADDRESS:PORT, as in tcp://0.0.0.0:2376"))
            }
            _ => bail!("{text}: expected unix:///path/to/socket or tcp://ADDRESS:PORT"),
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
