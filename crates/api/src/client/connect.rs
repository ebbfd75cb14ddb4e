//! Where an engine listens, and the socket to it: this file picks what the platform offers.

use std::fmt;
use std::io;
use std::path::PathBuf;
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
    /// `tcp://127.0.0.1:2375`: plain HTTP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

impl Endpoint {
    pub(crate) async fn connect(&self) -> io::Result<Socket> {
        match self {
            #[cfg(unix)]
            Self::Unix(path) => Ok(Socket::Unix(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
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
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
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
        let Some(rest) = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")) else {
            return Err(wrong("it must start with unix:// or tcp://"));
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
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    Tcp(TcpStream),
}

pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

impl Socket {
    /// Its two directions, each of which can end without the other.
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            #[cfg(unix)]
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
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
            #[cfg(unix)]
            Socket::Unix(inner) => {
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
        true
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
        check("unix://cove.sock", Err("absolute"));
        check("tcp://host", Err("port is missing"));
        check("tcp://host:x", Err("not a number"));
        check("cove.sock", Err("must start with"));
    }
}
