//! The few requests of rtnetlink that a bridge needs (rtnetlink(7)), one socket a namespace.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::ipam::Subnet;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const NLA_F_NESTED: u16 = 0x8000;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;

const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 2;
/// The address families of a request.
const INET: u8 = 2;
const INET6: u8 = 10;
const BRIDGE: u8 = 7;

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

/// An address as the kernel takes it.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A request being written.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        // One request at a time: numbers would tell nothing.
        bytes.extend([0; 8]);
        Self(bytes)
    }

    /// `struct ifinfomsg`.
    fn link(kind: u16, flags: u16, index: u32, up: bool) -> Self {
        let mut message = Self::new(kind, flags);
        message.link_header(index, up);
        message
    }

    fn link_header(&mut self, index: u32, up: bool) {
        let state = if up { IFF_UP } else { 0 };
        self.0.extend([0; 4]);
        self.0.extend(index.to_ne_bytes());
        self.0.extend(state.to_ne_bytes());
        self.0.extend(state.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Writes its length, once all of it is there.
    fn finish(&mut self) {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(field) = self.0.get_mut(..4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn peer(&mut self, peer: &Peer<'_>) {
        let fd = u32::try_from(peer.namespace.as_raw_fd()).unwrap_or(u32::MAX);
        self.name(IFLA_IFNAME, peer.name);
        self.attribute(IFLA_NET_NS_FD, &fd.to_ne_bytes());
        if let Some(mac) = peer.mac {
            self.attribute(IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = peer.mtu {
            self.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
    }

    fn name(&mut self, kind: u16, name: &str) {
        self.attribute(kind, &[name.as_bytes(), b"\0"].concat());
    }

    /// An attribute made of attributes.
    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        if let Some(field) = self.0.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }
}

/// A socket that speaks to the network namespace it was made in.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// Of this thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )?;
        Ok(Self(socket))
    }

    /// One that hears of changes of interfaces.
    pub(crate) fn follow_links() -> io::Result<Self> {
        /// `RTMGRP_LINK`.
        const LINKS: u32 = 1;
        let netlink = Self::open()?;
        rustix::net::bind(&netlink.0, &rustix::net::netlink::SocketAddrNetlink::new(0, LINKS))?;
        Ok(netlink)
    }

    /// Waits for a change.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        rustix::net::recv(&self.0, &mut buffer, RecvFlags::empty())?;
        Ok(())
    }

    /// Sends a request and reads its answer: the body of what was asked for, if anything was.
    fn ask(&self, mut message: Message) -> io::Result<Vec<u8>> {
        message.finish();
        rustix::net::send(&self.0, &message.0, SendFlags::empty())?;
        let mut body = Vec::new();
        let mut buffer = vec![0; 16 << 10];
        loop {
            let (received, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..received).unwrap_or_default();
            while let Some((kind, payload, after)) = split(rest) {
                rest = after;
                if kind == NLMSG_ERROR {
                    return outcome(payload).map(|()| body);
                }
                body = payload.to_vec();
            }
        }
    }

    /// Sends a request that is answered by many messages, and hands out the body of each.
    fn dump(&self, mut message: Message, each: impl FnMut(&[u8])) -> io::Result<()> {
        message.finish();
        rustix::net::send(&self.0, &message.0, SendFlags::empty())?;
        read_dump(&self.0, each)
    }

    /// The number of an interface.
    pub(crate) fn index(&self, name: &str) -> io::Result<u32> {
        let mut message = Message::link(RTM_GETLINK, 0, 0, false);
        message.name(IFLA_IFNAME, name);
        let body = self.ask(message)?;
        let index = body.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        index.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A bridge, with a note of whose it is.
    pub(crate) fn add_bridge(&self, name: &str, owner: &str, mtu: Option<u32>) -> io::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, true);
        message.name(IFLA_IFNAME, name);
        if let Some(mtu) = mtu {
            message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        message.nested(IFLA_LINKINFO, |info| info.attribute(IFLA_INFO_KIND, b"bridge"));
        self.ask(message)?;
        // The kernel takes a note only of an interface that is there.
        self.own(name, owner)
    }

    /// Notes whose an interface is.
    pub(crate) fn own(&self, name: &str, owner: &str) -> io::Result<()> {
        let mut note = Message::link(RTM_NEWLINK, 0, self.index(name)?, true);
        note.attribute(IFLA_IFALIAS, owner.as_bytes());
        self.ask(note).map(drop)
    }

    /// A pair: `name` on a bridge, and its peer in another namespace.
    pub(crate) fn add_pair(&self, name: &str, master: u32, peer: &Peer<'_>) -> io::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, true);
        message.name(IFLA_IFNAME, name);
        message.attribute(IFLA_MASTER, &master.to_ne_bytes());
        if let Some(mtu) = peer.mtu {
            message.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        }
        message.nested(IFLA_LINKINFO, |info| {
            info.attribute(IFLA_INFO_KIND, b"veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |inner| {
                    inner.link_header(0, false);
                    inner.peer(peer);
                });
            });
        });
        self.ask(message).map(drop)
    }

    /// An interface on top of one of the host's, in another namespace.
    pub(crate) fn add_stacked(&self, parent: u32, stacked: Stacked, peer: &Peer<'_>) -> io::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, false);
        message.attribute(IFLA_LINK, &parent.to_ne_bytes());
        message.peer(peer);
        message.nested(IFLA_LINKINFO, |info| match stacked {
            Stacked::Macvlan(mode) => {
                info.attribute(IFLA_INFO_KIND, b"macvlan");
                info.nested(IFLA_INFO_DATA, |data| data.attribute(IFLA_MACVLAN_MODE, &mode.to_ne_bytes()));
            }
            Stacked::Ipvlan(mode) => {
                info.attribute(IFLA_INFO_KIND, b"ipvlan");
                info.nested(IFLA_INFO_DATA, |data| data.attribute(IFLA_IPVLAN_MODE, &mode.to_ne_bytes()));
            }
        });
        self.ask(message).map(drop)
    }

    /// Keeps a port of a bridge from speaking to others that are kept so.
    pub(crate) fn isolate(&self, index: u32) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.0.extend([BRIDGE, 0, 0, 0]);
        message.0.extend(index.to_ne_bytes());
        message.0.extend([0; 8]);
        message.nested(IFLA_PROTINFO | NLA_F_NESTED, |port| port.attribute(IFLA_BRPORT_ISOLATED, &[1]));
        self.ask(message).map(drop)
    }

    /// Gives an interface that is down another name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut message = Message::link(RTM_NEWLINK, 0, self.index(from)?, false);
        message.name(IFLA_IFNAME, to);
        self.ask(message).map(drop)
    }

    /// Brings an interface up.
    pub(crate) fn up(&self, index: u32) -> io::Result<()> {
        self.ask(Message::link(RTM_NEWLINK, 0, index, true)).map(drop)
    }

    /// Removes an interface; one that is gone is no failure.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        let mut message = Message::link(RTM_DELLINK, 0, 0, false);
        message.name(IFLA_IFNAME, name);
        match self.ask(message) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other.map(drop),
        }
    }

    /// The names of the interfaces with that owner's note.
    pub(crate) fn owned_by(&self, owner: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        self.dump(Message::link(RTM_GETLINK, NLM_F_DUMP, 0, false), |body| {
            let (mut name, mut is_owned) = (None, false);
            for (kind, value) in attributes(body.get(16..).unwrap_or_default()) {
                let text = || String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
                match kind {
                    IFLA_IFNAME => name = Some(text()),
                    IFLA_IFALIAS => is_owned = text() == owner,
                    _ => {}
                }
            }
            names.extend(name.filter(|_| is_owned));
        })?;
        Ok(names)
    }

    /// Gives an interface an address; one that it has is no failure.
    pub(crate) fn add_address(&self, index: u32, address: IpAddr, subnet: Subnet) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
        // Nobody else gives out addresses here: no second of waiting for an objection.
        let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
        message.0.extend([family(address), subnet.prefix(), flags, 0]);
        message.0.extend(index.to_ne_bytes());
        message.attribute(IFA_LOCAL, &octets(address));
        message.attribute(IFA_ADDRESS, &octets(address));
        if address.is_ipv4() {
            message.attribute(IFA_BROADCAST, &octets(subnet.last()));
        }
        match self.ask(message) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sends everything else to a gateway, or out of an interface.
    pub(crate) fn set_default_route(&self, gateway: IpAddr, index: u32) -> io::Result<()> {
        let mut message = default_route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, gateway);
        message.attribute(RTA_GATEWAY, &octets(gateway));
        message.attribute(RTA_OIF, &index.to_ne_bytes());
        self.ask(message).map(drop)
    }

    /// Takes in whatever has a mark, though it is for somebody else; what is so already is no failure.
    pub(crate) fn take_in_marked(&self, mark: u32, version_of: IpAddr) -> io::Result<()> {
        /// A table of nobody's (`/etc/iproute2/rt_tables`), asked before the main one.
        const TABLE: u8 = 206;
        const PRIORITY: u32 = 206;
        const TO_TABLE: u8 = 1;
        const BOOT: u8 = 3;
        const OF_HOST: u8 = 254;
        const LOCAL: u8 = 2;
        let family = family(version_of);
        let mut route = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
        route.0.extend([family, 0, 0, 0, TABLE, BOOT, OF_HOST, LOCAL]);
        route.0.extend([0; 4]);
        route.attribute(RTA_OIF, &self.index("lo")?.to_ne_bytes());
        self.ask(route)?;
        // `struct fib_rule_hdr`.
        let mut rule = Message::new(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
        rule.0.extend([family, 0, 0, 0, TABLE, 0, 0, TO_TABLE]);
        rule.0.extend([0; 4]);
        rule.attribute(FRA_PRIORITY, &PRIORITY.to_ne_bytes());
        rule.attribute(FRA_FWMARK, &mark.to_ne_bytes());
        match self.ask(rule) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sends nothing else anywhere, for the version of IP of an address; where nothing was, that is no
    /// failure.
    pub(crate) fn remove_default_route(&self, version_of: IpAddr) -> io::Result<()> {
        match self.ask(default_route(RTM_DELROUTE, 0, version_of)) {
            // A kernel without that version of IP has no routes of it either.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::ENETUNREACH | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
                ) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }
}

/// The route to everywhere in the main table.
fn default_route(kind: u16, flags: u16, version_of: IpAddr) -> Message {
    const MAIN_TABLE: u8 = 254;
    const BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    let mut message = Message::new(kind, flags);
    message.0.extend([family(version_of), 0, 0, 0, MAIN_TABLE, BOOT, 0, UNICAST]);
    message.0.extend([0; 4]);
    message
}

/// The end of a connection that is made in another namespace.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer<'a> {
    /// What it is called there.
    pub(crate) name: &'a str,
    pub(crate) namespace: BorrowedFd<'a>,
    /// The hardware address; none of its own where it shares its parent's.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: Option<u32>,
}

/// An interface on top of another, with the kernel's number of its mode.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stacked {
    Macvlan(u32),
    Ipvlan(u16),
}

/// The attributes of a message, as far as they are well formed.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !NLA_F_NESTED, value))
    })
}

/// Reads the answers to a dump to their end, and hands out the body of each.
pub(crate) fn read_dump(socket: &OwnedFd, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (received, _) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..received).unwrap_or_default();
        while let Some((kind, payload, after)) = split(rest) {
            rest = after;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return outcome(payload),
                _ => each(payload),
            }
        }
    }
}

/// What the body of an `NLMSG_ERROR` says: 0 is that all went well.
pub(crate) fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

/// One message of a packet: its kind, its payload, and what follows.
pub(crate) fn split(packet: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let number = |at: usize| packet.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let length = usize::try_from(number(0)?).ok()?;
    let kind = u16::from_ne_bytes(packet.get(4..6)?.try_into().ok()?);
    let payload = packet.get(16..length)?;
    Some((kind, payload, packet.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_measured() {
        let mut message = Message::new(RTM_NEWLINK, 0);
        message.nested(IFLA_LINKINFO, |info| info.attribute(IFLA_INFO_KIND, b"veth5"));
        // Header, outer head, inner head, five bytes and three of padding.
        assert_eq!(message.0.len(), 16 + 4 + 4 + 8);
        assert_eq!(message.0.get(16..18), Some(&16_u16.to_ne_bytes()[..]));
        assert_eq!(message.0.get(20..22), Some(&9_u16.to_ne_bytes()[..]));
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_kernel_sends_is_taken_apart_without_a_panic(packet: Vec<u8>) {
            let mut rest = packet.as_slice();
            let mut count = 0;
            while let Some((_, _, after)) = split(rest) {
                if after.len() >= rest.len() {
                    break;
                }
                rest = after;
                count += 1;
            }
            proptest::prop_assert!(count <= packet.len());
        }
    }
}
