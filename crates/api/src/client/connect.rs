//! Where an engine listens, and the connection to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::error::Error;

/// An engine's address, as `--host` and `COVE_HOST` write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `unix:///run/cove/cove.sock`
    Unix(PathBuf),
    /// `npipe:////./pipe/cove`: Windows' pipe `\\.\pipe\cove`.
    Pipe(PathBuf),
    /// `tcp://127.0.0.1:2375`: plain HTTP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// What all of Windows' pipes begin with, and as addresses write it.
const PIPES: &str = r"\\.\pipe\";
const PIPES_IN_ADDRESSES: &str = "//./pipe/";

impl Endpoint {
    /// Where an engine of this computer listens: at a Unix socket, or at a pipe where those are what the system has.
    #[must_use]
    pub fn local(path: PathBuf) -> Self {
        if path.to_string_lossy().starts_with(PIPES) { Self::Pipe(path) } else { Self::Unix(path) }
    }

    pub(crate) async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(path) if cfg!(unix) => Ok(Socket::Local(ipc::connect(path).await?)),
            Self::Pipe(path) if cfg!(windows) => Ok(Socket::Local(ipc::connect(path).await?)),
            Self::Unix(_) => {
                Err(elsewhere("Unix sockets are not reached from Windows: use npipe:// or tcp://"))
            }
            Self::Pipe(_) => Err(elsewhere("named pipes are there on Windows alone: use unix:// or tcp://")),
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    /// What to put into HTTP's `Host`. Engines behind a socket ignore it, but it must be there.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Unix(_) | Self::Pipe(_) => "localhost".to_owned(),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Pipe(path) => write!(f, "npipe://{}", slashes(path)),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

fn elsewhere(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

/// A pipe's path as addresses write it.
fn slashes(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(address: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Address { address: address.to_owned(), reason };
        if let Some(path) = address.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong("a socket's path must be absolute, as in unix:///run/cove/cove.sock"))
            };
        }
        if let Some(path) = address.strip_prefix("npipe://") {
            // Docker's clients take either kind of slash.
            let path = path.replace('\\', "/");
            let name = path.strip_prefix(PIPES_IN_ADDRESSES).filter(|name| !name.is_empty());
            let name =
                name.ok_or_else(|| wrong("a pipe of this computer is meant, as in npipe:////./pipe/cove"))?;
            return Ok(Self::Pipe(format!("{PIPES}{name}").into()));
        }
        let Some(rest) = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")) else {
            return Err(wrong("it must start with unix://, npipe:// or tcp://"));
        };
        let (host, port) = rest
            .trim_end_matches('/')
            .rsplit_once(':')
            .ok_or_else(|| wrong("a port is missing, as in tcp://127.0.0.1:2375"))?;
        let port = port.parse().map_err(|_| wrong("the port is not a number"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong("a host is missing, as in tcp://127.0.0.1:2375"));
        }
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

/// A connected socket of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    Local(ipc::Stream),
    Tcp(TcpStream),
}

pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

impl Socket {
    /// Its two directions, each of which can end without the other.
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Local(stream) => {
                let (read, write) = ipc::split(stream);
                (Box::new(read), Box::new(write))
            }
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
        }
    }
}

/// Runs `$body` with `$stream` bound to the pinned inner stream.
macro_rules! each {
    ($self:ident, $stream:ident => $body:expr) => {
        match $self.get_mut() {
            Socket::Local(inner) => {
                let $stream = Pin::new(inner);
                $body
            }
            Socket::Tcp(inner) => {
                let $stream = Pin::new(inner);
                $body
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Local(stream) => stream.is_write_vectored(),
            Self::Tcp(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: Result<&str, &str>) {
        match (address.parse::<Endpoint>(), expected) {
            (Ok(endpoint), Ok(text)) => assert_eq!(endpoint.to_string(), text),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, _) => panic!("{address}: {got:?}"),
        }
    }

    #[test]
    fn addresses_are_read_as_docker_writes_them() {
        check("unix:///run/cove/cove.sock", Ok("unix:///run/cove/cove.sock"));
        check("tcp://127.0.0.1:2375", Ok("tcp://127.0.0.1:2375"));
        check("tcp://[::1]:2375/", Ok("tcp://::1:2375"));
        check("npipe:////./pipe/cove", Ok("npipe:////./pipe/cove"));
        check(r"npipe://\\.\pipe\docker_engine", Ok("npipe:////./pipe/docker_engine"));
        check("npipe:////server/pipe/cove", Err("this computer"));
        check("npipe:////./pipe/", Err("this computer"));
        check("unix://cove.sock", Err("absolute"));
        check("tcp://host", Err("port is missing"));
        check("tcp://host:x", Err("not a number"));
        check("cove.sock", Err("must start with"));
    }

    #[test]
    fn a_path_of_this_computer_is_a_socket_or_a_pipe() {
        assert_eq!(Endpoint::local("/run/cove.sock".into()).to_string(), "unix:///run/cove.sock");
        assert_eq!(Endpoint::local(r"\\.\pipe\cove".into()).to_string(), "npipe:////./pipe/cove");
    }
}
