//! Published ports: which are wanted, which are had, and who is in the way.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What runs above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port that is to be reached from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The container's.
    pub inner: u16,
    /// What runs above IP.
    pub protocol: Protocol,
    /// The host's address; `0.0.0.0` is every one.
    pub address: Ipv4Addr,
    /// The host's ports, any one of them; from and to zero is one that is free.
    pub outer: (u16, u16),
}

/// A port that is reached from outside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The container's.
    pub inner: u16,
    /// What runs above IP.
    pub protocol: Protocol,
    /// The host's address; `0.0.0.0` is every one.
    pub address: Ipv4Addr,
    /// The host's port.
    pub outer: u16,
}

/// A port kept from everybody else: bound, and never read from.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) published: Published,
    _socket: OwnedFd,
}

impl Hold {
    /// Takes a port, or one of a range.
    pub(crate) fn take(port: &Port) -> Result<Self> {
        let (from, to) = port.outer;
        if from == 0 {
            // The kernel knows which are free; the rules hold for any number.
            let (socket, address) = bind(port.protocol, port.address, 0)
                .and_then(|socket| {
                    let address = SocketAddrV4::try_from(rustix::net::getsockname(&socket)?)?;
                    Ok((socket, address))
                })
                .map_err(|error| refused(port, 0, &error))?;
            return Ok(Self { published: port.at(address.port()), _socket: socket });
        }
        let mut failure = None;
        for outer in from..=to.max(from) {
            match bind(port.protocol, port.address, outer) {
                Ok(socket) => return Ok(Self { published: port.at(outer), _socket: socket }),
                Err(error) => failure = Some(refused(port, outer, &error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Invalid { what: format!("{from}-{to} is no range of ports") }))
    }

    /// Takes a port again that a container has.
    pub(crate) fn again(published: &Published) -> Result<Self> {
        let outer = (published.outer, published.outer);
        let Published { inner, protocol, address, .. } = *published;
        Self::take(&Port { inner, protocol, address, outer })
    }
}

impl Port {
    fn at(&self, outer: u16) -> Published {
        Published { inner: self.inner, protocol: self.protocol, address: self.address, outer }
    }
}

fn bind(protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if protocol == Protocol::Tcp {
        // A connection of before that lingers is no owner.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddrV4::new(address, port))?;
    if protocol == Protocol::Tcp {
        // Bound alone, a port can be bound again by whoever reuses addresses; one that listens can't.
        rustix::net::listen(&socket, 1)?;
    }
    Ok(socket)
}

/// A refusal in Docker's words, with the owner's name where it can be found.
fn refused(port: &Port, outer: u16, error: &io::Error) -> Error {
    let at = format!("{}:{outer}/{}", port.address, port.protocol);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = owner(port.protocol, outer)
                .map_or_else(String::new, |(pid, name)| format!(" by {name} (process {pid})"));
            Error::Taken { what: format!("Bind for {at} failed: port is already allocated{owner}") }
        }
        io::ErrorKind::AddrNotAvailable => {
            Error::Invalid { what: format!("cannot publish {at}: this computer does not have that address") }
        }
        _ => Error::Os { doing: format!("publish {at}"), source: io::Error::from(error.kind()) },
    }
}

/// The process that has a port, as far as this one may see it (proc_net(5)).
fn owner(protocol: Protocol, port: u16) -> Option<(u32, String)> {
    let inode = ["", "6"].iter().find_map(|version| {
        let table = std::fs::read_to_string(format!("/proc/net/{protocol}{version}")).ok()?;
        table.lines().skip(1).find_map(|line| socket_of(line, protocol, port))
    })?;
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let mut fds = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if fds.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

/// The inode in a line of `/proc/net/tcp` that is bound to a port.
fn socket_of(line: &str, protocol: Protocol, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let is_wanted = u16::from_str_radix(local, 16).ok()? == port;
    let is_owner = protocol == Protocol::Udp || *fields.get(3)? == LISTEN;
    (is_wanted && is_owner).then(|| fields.get(9)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = listener.local_addr().unwrap().port();
        let port = |outer| Port { inner: 80, protocol: Protocol::Tcp, address: Ipv4Addr::LOCALHOST, outer };
        let error = Hold::take(&port((outer, outer))).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Taken { .. }), "{text}");
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        // The next of a range is as good.
        let hold = Hold::take(&port((outer, outer.saturating_add(20)))).unwrap();
        assert_ne!(hold.published.outer, outer);
        // Held, it can't be had by anybody.
        assert!(std::net::TcpListener::bind(("127.0.0.1", hold.published.outer)).is_err());
        let any = Hold::take(&port((0, 0))).unwrap();
        assert_ne!(any.published.outer, 0);
    }
}
