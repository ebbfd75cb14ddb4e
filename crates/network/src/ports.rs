//! Published ports: which are wanted, which are had, and who is in the way.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use model::holder::Port as Carried;
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
    /// Streams of messages.
    Sctp,
}

impl Protocol {
    /// Its number above IP.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
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
    /// The host's address; none is every one, of both versions of IP.
    pub address: Option<IpAddr>,
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
    /// The host's address; `0.0.0.0` and `::` are every one of their version.
    pub address: IpAddr,
    /// The host's port.
    pub outer: u16,
}

/// A port kept from everybody else: bound, and read from by nobody, or by who holds a user's network.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) published: Published,
    /// None: who holds a user's network has it, or somebody took it while no daemon ran; the rule stands all
    /// the same.
    pub(crate) socket: Option<OwnedFd>,
}

/// What becomes of what arrives at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// The firewall's rules lead it on: the socket only keeps others out.
    LedOn,
    /// The same, and the address may be one of the computer around this one, which carries it here.
    CarriedHere,
    /// It is read from the socket.
    Read,
}

/// How often a random port is tried that is free for one version of IP, but not for the other.
const TRIES: usize = 16;

impl Hold {
    /// Takes a port, or one of a range, for the versions of IP that the container speaks. `is_led`: rules lead
    /// on what arrives, but where `arrivals` says otherwise.
    pub(crate) fn take(
        port: &Port,
        has_v4: bool,
        has_v6: bool,
        is_led: bool,
        arrivals: &dyn Fn(IpAddr) -> Arrivals,
    ) -> Result<Vec<Self>> {
        if !is_led && port.protocol == Protocol::Sctp {
            return Err(Error::Unsupported {
                what: "publishing ports of SCTP needs root; an engine without it has those of TCP and UDP"
                    .into(),
            });
        }
        let addresses: Vec<IpAddr> = match port.address {
            Some(address) => vec![address],
            None => [(has_v4, Ipv4Addr::UNSPECIFIED.into()), (has_v6, Ipv6Addr::UNSPECIFIED.into())]
                .into_iter()
                .filter_map(|(is_there, address)| is_there.then_some(address))
                .collect(),
        };
        if let Some(address) = addresses.iter().find(|a| if a.is_ipv4() { !has_v4 } else { !has_v6 }) {
            return Err(Error::Invalid {
                what: format!(
                    "cannot publish a port at {address}: the container's network does not speak that version of IP"
                ),
            });
        }
        let (from, to) = port.outer;
        if from == 0 {
            // The kernel knows which are free; the rules hold for any number.
            let mut outcome = Self::all(port, &addresses, 0, arrivals);
            for _ in 1..TRIES {
                if outcome.is_ok() || addresses.len() < 2 {
                    break;
                }
                outcome = Self::all(port, &addresses, 0, arrivals);
            }
            return outcome;
        }
        let mut failure = None;
        for outer in from..=to.max(from) {
            match Self::all(port, &addresses, outer, arrivals) {
                Ok(holds) => return Ok(holds),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Invalid { what: format!("{from}-{to} is no range of ports") }))
    }

    /// The same number at each address; the first's choice where it is 0.
    fn all(
        port: &Port,
        addresses: &[IpAddr],
        outer: u16,
        arrivals: &dyn Fn(IpAddr) -> Arrivals,
    ) -> Result<Vec<Self>> {
        let mut outer = outer;
        let mut holds = Vec::new();
        for address in addresses {
            let at = SocketAddr::new(*address, outer);
            let bound = bind(port.protocol, at, arrivals(*address)).and_then(|socket| {
                let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
                Ok((socket, address.port()))
            });
            let (socket, chosen) = bound.map_err(|error| refused(port.protocol, at, &error))?;
            outer = chosen;
            let published =
                Published { inner: port.inner, protocol: port.protocol, address: *address, outer };
            holds.push(Self { published, socket: Some(socket) });
        }
        Ok(holds)
    }

    /// Takes a port again that a container has.
    pub(crate) fn again(published: &Published, arrivals: Arrivals) -> Self {
        let at = SocketAddr::new(published.address, published.outer);
        let socket =
            bind(published.protocol, at, arrivals).map_err(|error| refused(published.protocol, at, &error));
        if let Err(error) = &socket {
            tracing::warn!(%error, "a published port was taken while no daemon ran");
        }
        Self { published: published.clone(), socket: socket.ok() }
    }

    /// One that who holds a user's network has, or is to open again.
    pub(crate) fn elsewhere(published: &Published) -> Self {
        Self { published: published.clone(), socket: None }
    }
}

/// A socket for a port that who holds a user's network has lost.
pub(crate) fn bind_for_holder(port: Carried) -> io::Result<OwnedFd> {
    let protocol = match port.carried {
        model::holder::Carried::Tcp => Protocol::Tcp,
        model::holder::Carried::Udp => Protocol::Udp,
    };
    bind(protocol, port.outer, Arrivals::Read)
        .map_err(|error| io::Error::other(refused(protocol, port.outer, &error).to_string()))
}

fn bind(protocol: Protocol, at: SocketAddr, arrivals: Arrivals) -> io::Result<OwnedFd> {
    // As many as the kernel lets wait.
    const BACKLOG: i32 = 4096;
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, above) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, rustix::net::ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, rustix::net::ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, rustix::net::ipproto::SCTP),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(above))?;
    if at.is_ipv6() {
        // The other version has a socket of its own.
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Of IPv6, one that is not read from only keeps others out, as long as it does not share its address; what
    // rules don't lead on is refused rather than left to wait.
    let is_read = arrivals == Arrivals::Read;
    let listens = protocol != Protocol::Udp && (at.is_ipv4() || is_read);
    if listens {
        // A connection of before that lingers is no owner.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if arrivals == Arrivals::CarriedHere {
        match at {
            SocketAddr::V4(_) => rustix::net::sockopt::set_ip_freebind(&socket, true)?,
            SocketAddr::V6(_) => rustix::net::sockopt::set_ipv6_freebind(&socket, true)?,
        }
    }
    rustix::net::bind(&socket, &at)?;
    if listens {
        // Bound alone, a port can be bound again by whoever reuses addresses; one that listens can't.
        rustix::net::listen(&socket, if is_read { BACKLOG } else { 1 })?;
    }
    Ok(socket)
}

/// A refusal in Docker's words, with the owner's name where it can be found.
fn refused(protocol: Protocol, at: SocketAddr, error: &io::Error) -> Error {
    let text = format!("{at}/{protocol}");
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = stdx::port::owner(&protocol.to_string(), at.port())
                .map_or_else(String::new, |(pid, name)| format!(" by {name} (process {pid})"));
            Error::Taken { what: format!("Bind for {text} failed: port is already allocated{owner}") }
        }
        io::ErrorKind::AddrNotAvailable => Error::Invalid {
            what: format!("cannot publish {text}: this computer does not have that address"),
        },
        io::ErrorKind::PermissionDenied if (1..1024).contains(&at.port()) => Error::Unsupported {
            what: format!(
                "cannot publish {text}: ports below {} are root's; choose a higher one, or let everybody have them: \
                 sysctl net.ipv4.ip_unprivileged_port_start={}",
                first_of_everybody(),
                at.port()
            ),
        },
        _ if protocol == Protocol::Sctp && error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            Error::Unsupported { what: format!("cannot publish {text}: this kernel has no SCTP") }
        }
        _ => Error::Os { doing: format!("publish {text}"), source: io::Error::from(error.kind()) },
    }
}

/// The first port that needs no privilege (Linux's ip-sysctl.rst).
fn first_of_everybody() -> String {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.map_or_else(|_| "1024".into(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let outer = listener.local_addr().unwrap().port();
        let address = Some(Ipv4Addr::LOCALHOST.into());
        let take = |outer| {
            let port = Port { inner: 80, protocol: Protocol::Tcp, address, outer };
            Hold::take(&port, true, false, true, &|_| Arrivals::LedOn)
        };
        let error = take((outer, outer)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Taken { .. }), "{text}");
        assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
        // The next of a range is as good.
        let holds = take((outer, outer.saturating_add(20))).unwrap();
        let held = holds.first().unwrap().published.outer;
        assert_ne!(held, outer);
        // Held, it can't be had by anybody.
        assert!(std::net::TcpListener::bind(("127.0.0.1", held)).is_err());
        assert_ne!(take((0, 0)).unwrap().first().unwrap().published.outer, 0);
    }

    #[test]
    fn an_address_of_the_computer_around_this_one_can_be_published_at() {
        // Of TEST-NET-1 (RFC 5737): nobody's.
        let address = Some(Ipv4Addr::new(192, 0, 2, 77).into());
        let port = Port { inner: 80, protocol: Protocol::Tcp, address, outer: (0, 0) };
        let take = |arrivals: Arrivals| Hold::take(&port, true, false, true, &|_| arrivals);
        assert!(matches!(take(Arrivals::LedOn), Err(Error::Invalid { .. })));
        let held = take(Arrivals::CarriedHere).unwrap().remove(0);
        let again = Hold::again(&held.published, Arrivals::CarriedHere);
        assert!(again.socket.is_none(), "it is held");
        drop(held.socket);
        assert!(Hold::again(&held.published, Arrivals::CarriedHere).socket.is_some());
    }

    #[test]
    fn every_address_is_that_of_both_versions() {
        let port = Port { inner: 80, protocol: Protocol::Tcp, address: None, outer: (0, 0) };
        let outer = |holds: Vec<Hold>| holds.iter().map(|hold| hold.published.outer).collect::<Vec<_>>();
        let both = outer(Hold::take(&port, true, true, true, &|_| Arrivals::LedOn).unwrap());
        assert!(matches!(both.as_slice(), [a, b] if a == b), "{both:?}");
        assert_eq!(outer(Hold::take(&port, true, false, false, &|_| Arrivals::Read).unwrap()).len(), 1);
        let six = Port { address: Some(Ipv6Addr::LOCALHOST.into()), ..port };
        assert!(matches!(
            Hold::take(&six, true, false, true, &|_| Arrivals::LedOn),
            Err(Error::Invalid { .. })
        ));
    }
}
