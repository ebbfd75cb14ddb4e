//! Connections inside the guest in the name of clients outside of it: whoever is spoken to sees their addresses.
//!
//! A socket may have an address that is nobody's here (ip(7), `IP_TRANSPARENT`). What is sent to such an address would
//! leave by the way out; so what the socket sends has a mark, its connection keeps that, and what answers gets another
//! one, with which it is taken in, wherever it is for:
//!
//! ```text
//! socket ── output: CLIENT, kept by the connection ── what is published ──> container, or a socket of the guest's own
//! socket <── rule of ANSWER: `lo` ── prerouting or output: the connection's mark ── to the client's address <──┘
//! ```
//!
//! That is made when the first such client comes, so that a start does not wait for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Mutex, mpsc};
use vm_proto::message::{FromGuest, Step};

use crate::children::Children;
use crate::netlink::{self, INET, INET6};
use crate::{network, nft, sys};

/// How long a connection may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long one in a client's name may take: a container may have no way to that address.
const NAMED_DEADLINE: Duration = Duration::from_secs(3);
/// How soon rules may be made again by which no answer came.
const AGAIN: Duration = Duration::from_secs(10);

/// The marks of what is sent in a client's name, and of what answers. They are whole numbers of ours, without the bits that
/// Kubernetes looks at, and none of the engine's.
const CLIENT: u32 = 0x0c0e_0001;
const ANSWER: u32 = 0x0c0e_0002;

/// The rules, in nft's language. A packet does not keep its mark beyond them: who else sorts packets by marks sees none.
/// An answer of the guest's own was led to the way out before, and is led anew (`type route`).
fn rules() -> String {
    const TABLE: &str = "inet cove-clients";
    let answer = format!("ct direction reply ct mark {CLIENT} meta mark set {ANSWER}");
    format!(
        "table {TABLE}\n\
         delete table {TABLE}\n\
         table {TABLE} {{\n\
           chain clients {{\n\
             type filter hook output priority mangle; policy accept;\n\
             meta mark {CLIENT} ct mark set {CLIENT} meta mark set 0\n\
           }}\n\
           chain answers {{\n\
             type filter hook prerouting priority mangle; policy accept;\n\
             {answer}\n\
           }}\n\
           chain own_answers {{\n\
             type route hook output priority mangle; policy accept;\n\
             {answer}\n\
           }}\n\
         }}\n"
    )
}

/// Who connects for clients outside.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    children: Children,
    tell_host: mpsc::Sender<FromGuest>,
    way_back: Arc<Mutex<WayBack>>,
}

/// What leads answers back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum WayBack {
    /// Nobody has needed it so far, or it is to be made again.
    Wanted,
    /// It was made; `interface` leads out of the guest.
    Made { interface: String, at: Instant },
    /// The kernel can't.
    Missing,
}

/// What is spoken to, and the address it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Named {
    target: SocketAddr,
    client: SocketAddr,
}

impl Clients {
    /// Nothing is made yet, and never is where the network is others' too: their connections are none of ours to lead.
    pub(crate) fn new(children: Children, tell_host: mpsc::Sender<FromGuest>, is_inside: bool) -> Self {
        let way_back = if is_inside { WayBack::Missing } else { WayBack::Wanted };
        Self { children, tell_host, way_back: Arc::new(Mutex::new(way_back)) }
    }

    /// A connection to what is published or listens at an address, in the client's name where that can be.
    pub(crate) async fn connect(
        &self,
        address: IpAddr,
        port: u16,
        client: SocketAddr,
    ) -> io::Result<TcpStream> {
        if let Some(named) = self.named(address, port, client).await {
            for from in named.places() {
                match tokio::time::timeout(NAMED_DEADLINE, connect_from(from, named.target)).await {
                    Ok(Err(error)) if is_taken(&error) => {}
                    // Nobody listens: that has nothing to do with who asks.
                    Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Err(error),
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(_)) => break,
                    Err(_) => {
                        self.make_again().await;
                        break;
                    }
                }
            }
        }
        let connected = tokio::time::timeout(DEADLINE, TcpStream::connect((reached(address), port)));
        connected.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The same for packets. Nobody hears there whether any comes back.
    pub(crate) async fn connect_udp(
        &self,
        address: IpAddr,
        port: u16,
        client: SocketAddr,
    ) -> io::Result<UdpSocket> {
        if let Some(named) = self.named(address, port, client).await {
            for from in named.places() {
                match connect_udp_from(from, named.target).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) if is_taken(&error) => {}
                    Err(_) => break,
                }
            }
        }
        let target = SocketAddr::new(reached(address), port);
        let socket = UdpSocket::bind((unspecified(target), 0)).await?;
        socket.connect(target).await?;
        Ok(socket)
    }

    /// How a client's address is shown, if it can be.
    async fn named(&self, address: IpAddr, port: u16, client: SocketAddr) -> Option<Named> {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        if address.is_loopback() || address.is_ipv4() != client.is_ipv4() || !is_elsewhere(client.ip()) {
            return None;
        }
        let interface = self.way_back().await?;
        // The guest's own address that a client sees: what answers there has it, too.
        let own = own_address(client, None).await.ok()?;
        let by_way_out = own_address(client, Some(&interface)).await.ok()?;
        // A client may have an address of the guest's, or one of a container's network, where it would be looked for.
        if own == client.ip() || own != by_way_out {
            return None;
        }
        let target = if address.is_unspecified() { own } else { address };
        Some(Named { target: SocketAddr::new(target, port), client })
    }

    /// The interface that leads out, once answers are led back. Those that come meanwhile wait.
    async fn way_back(&self) -> Option<String> {
        let mut way_back = self.way_back.lock().await;
        if *way_back == WayBack::Wanted {
            *way_back = match self.make().await {
                Ok(interface) => WayBack::Made { interface, at: Instant::now() },
                Err(error) => {
                    let text = format!(
                        "containers see the machine's own address in the place of those of their ports' clients: {error:#}"
                    );
                    // A host that is gone is noticed by who listens to it.
                    let _ = self.tell_host.send(FromGuest::Warning { step: Step::Network, text }).await;
                    WayBack::Missing
                }
            };
        }
        match &*way_back {
            WayBack::Made { interface, .. } => Some(interface.clone()),
            WayBack::Wanted | WayBack::Missing => None,
        }
    }

    async fn make(&self) -> Result<String> {
        let interface = network::first_interface().context("the machine has no network interface")?;
        nft::apply(&rules(), &self.children).await?;
        for family in [INET, INET6] {
            match netlink::take_in_marked(ANSWER, family) {
                // A kernel without IPv6 has no clients of that version either.
                Err(error) if family == INET6 && is_unknown(&error) => {}
                other => other.context("failed to lead answers back to who speaks for a client")?,
            }
        }
        Ok(interface)
    }

    /// Somebody may have taken the rules away.
    async fn make_again(&self) {
        let mut way_back = self.way_back.lock().await;
        if let WayBack::Made { at, .. } = &*way_back
            && at.elapsed() > AGAIN
        {
            *way_back = WayBack::Wanted;
        }
    }
}

impl Named {
    /// What a socket may be bound to: the client's port may be in use here.
    fn places(self) -> [SocketAddr; 2] {
        [self.client, SocketAddr::new(self.client.ip(), 0)]
    }
}

/// What listens everywhere is reached on loopback.
pub(crate) fn reached(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Whether it is an address that somebody elsewhere may have: a bridge does not carry what comes from loopback, and what a
/// link's own address means is known on that link alone.
fn is_elsewhere(client: IpAddr) -> bool {
    let is_of_link = match client {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !is_of_link && !client.is_loopback() && !client.is_unspecified() && !client.is_multicast()
}

fn unspecified(of_version: SocketAddr) -> IpAddr {
    if of_version.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The address by which this guest would speak to a client. Nothing is sent.
async fn own_address(client: SocketAddr, interface: Option<&str>) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((unspecified(client), 0)).await?;
    socket.bind_device(interface.map(str::as_bytes))?;
    socket.connect(client).await?;
    Ok(socket.local_addr()?.ip())
}

async fn connect_from(from: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(socket.as_fd(), from)?;
    socket.bind(from)?;
    socket.connect(target).await
}

async fn connect_udp_from(from: SocketAddr, target: SocketAddr) -> io::Result<UdpSocket> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    prepare(socket.as_fd(), from)?;
    rustix::net::bind(&socket, &from)?;
    let socket = UdpSocket::from_std(socket.into())?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Lets a socket have a client's address and port, beside others of the same client's that lead elsewhere.
fn prepare(socket: BorrowedFd<'_>, from: SocketAddr) -> io::Result<()> {
    let mark = libc::c_int::try_from(CLIENT).map_err(io::Error::other)?;
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, mark)?;
    let (level, transparent) = match from {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    sys::set_option(socket, level, transparent, 1)?;
    if from.port() == 0 {
        // The kernel chooses when it knows where this leads.
        sys::set_option(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
    } else {
        sys::set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_nothing_elsewhere_are_not_shown() {
        let check = |address: &str, expected| {
            assert_eq!(is_elsewhere(address.parse().unwrap()), expected, "{address}");
        };
        for address in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1"] {
            check(address, false);
        }
        for address in ["192.0.2.7", "10.0.2.2", "2001:db8::7", "fd00::2"] {
            check(address, true);
        }
    }

    #[test]
    fn a_port_in_use_is_not_insisted_on() {
        let (target, client) = ("10.0.2.15:80".parse().unwrap(), "192.0.2.7:4000".parse().unwrap());
        let places = Named { target, client }.places();
        assert_eq!(places, [client, "192.0.2.7:0".parse().unwrap()]);
    }

    #[test]
    fn marks_are_told_apart_and_have_no_bits_of_kubernetes() {
        for mark in [CLIENT, ANSWER] {
            assert_eq!(mark & 0xc000, 0, "{mark:#x}");
        }
        assert_ne!(CLIENT, ANSWER);
        assert!(rules().contains(&format!("meta mark {CLIENT} ct mark set {CLIENT}")));
    }
}
