//! DHCP's messages: what a client says, and what it makes of an answer, which may be anything.

use std::net::Ipv4Addr;
use std::time::Duration;

use vm_proto::message::{Network, Resolver};

/// Ports of both sides.
pub(super) const CLIENT_PORT: u16 = 68;
pub(super) const SERVER_PORT: u16 = 67;
/// Where options begin (RFC 2131, section 2), after four bytes that say that there are some (RFC 2132, section 2).
const OPTIONS: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Who is older than DHCP wants no less (RFC 1542, section 2.1).
const SHORTEST: usize = 300;
/// As many servers of names as are asked at all (resolv.conf(5)).
const RESOLVERS_MAX: usize = 3;
/// A lease that is said to be shorter is renewed no more often.
const LEASE_MIN: u32 = 60;
/// A lease without an end is looked at once in a while all the same.
const LEASE_MAX: u32 = 30 * 24 * 60 * 60;

/// Numbers of options (RFC 2132).
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTERS: u8 = 3;
    pub(super) const RESOLVERS: u8 = 6;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const WANTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const LIST: u8 = 55;
    pub(super) const RENEWAL: u8 = 58;
    pub(super) const END: u8 = 255;
}

/// What a packet of version 4 carries from a server's port to a client's; `None` for all other packets. Sums are not
/// looked at: those of what never was on a wire are not made.
pub(super) fn carried(packet: &[u8]) -> Option<&[u8]> {
    const UDP: u8 = 17;
    let first = *packet.first()?;
    let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let (version, head) = (first >> 4, usize::from(first & 15) * 4);
    // Whoever is offered an address is no judge of pieces: an answer fits in one packet.
    let is_piece = word(6)? & 0x3fff != 0;
    if version != 4 || head < 20 || is_piece || *packet.get(9)? != UDP {
        return None;
    }
    let datagram = packet.get(head..usize::from(word(2)?))?;
    let word = |at: usize| Some(u16::from_be_bytes(*datagram.get(at..)?.first_chunk()?));
    let is_ours = word(0)? == SERVER_PORT && word(2)? == CLIENT_PORT;
    datagram.get(8..usize::from(word(4)?)).filter(|_| is_ours)
}

/// A client, in one conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Client {
    /// Its card's address.
    pub(super) hardware: [u8; 6],
    /// What answers are known by.
    pub(super) transaction: u32,
}

/// What it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To know who has addresses.
    Discover,
    /// An address that was offered.
    Request { address: Ipv4Addr, server: Ipv4Addr },
    /// To keep the one it has.
    Renew { address: Ipv4Addr },
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Offer,
    Acknowledge,
    Refuse,
}

/// An answer to this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    /// Who answers.
    pub(super) server: Option<Ipv4Addr>,
    address: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    resolvers: Vec<Ipv4Addr>,
    domain: Option<String>,
    /// In seconds.
    lease: Option<u32>,
    renewal: Option<u32>,
}

impl Client {
    /// The message that says so.
    pub(super) fn say(&self, wish: Wish) -> Vec<u8> {
        let (kind, own) = match wish {
            Wish::Discover => (1, Ipv4Addr::UNSPECIFIED),
            Wish::Request { .. } => (3, Ipv4Addr::UNSPECIFIED),
            Wish::Renew { address } => (3, address),
        };
        // A request of Ethernet's, whose addresses have six bytes.
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.transaction.to_be_bytes());
        // One that has no address yet hears only what is said to all.
        let flags: u16 = if own.is_unspecified() { 0x8000 } else { 0 };
        bytes.extend([0, 0]);
        bytes.extend(flags.to_be_bytes());
        bytes.extend(own.octets());
        // The addresses of others are theirs to say.
        bytes.resize(28, 0);
        bytes.extend(self.hardware);
        bytes.resize(OPTIONS - COOKIE.len(), 0);
        bytes.extend(COOKIE);
        bytes.extend([option::KIND, 1, kind]);
        if let Wish::Request { address, server } = wish {
            bytes.extend([option::WANTED, 4]);
            bytes.extend(address.octets());
            bytes.extend([option::SERVER, 4]);
            bytes.extend(server.octets());
        }
        bytes.extend([option::LIST, 6, option::MASK, option::ROUTERS, option::RESOLVERS, option::DOMAIN]);
        bytes.extend([option::LEASE, option::RENEWAL, option::END]);
        bytes.resize(bytes.len().max(SHORTEST), 0);
        bytes
    }

    /// An answer to what this client said; `None` for all else.
    pub(super) fn understand(&self, bytes: &[u8]) -> Option<Reply> {
        let (head, options) = bytes.split_at_checked(OPTIONS)?;
        let is_answer = head.get(..3)? == [2, 1, 6]
            && head.get(4..8)? == self.transaction.to_be_bytes()
            && head.get(28..34)? == self.hardware
            && head.get(OPTIONS - COOKIE.len()..)? == COOKIE;
        if !is_answer {
            return None;
        }
        let kind = match value(options, option::KIND)? {
            [2] => Kind::Offer,
            [5] => Kind::Acknowledge,
            [6] => Kind::Refuse,
            _ => return None,
        };
        let resolvers = value(options, option::RESOLVERS).map(addresses).unwrap_or_default();
        Some(Reply {
            kind,
            server: value(options, option::SERVER).and_then(address),
            address: address(head.get(16..20)?)?,
            mask: value(options, option::MASK).and_then(address),
            router: value(options, option::ROUTERS)
                .map(addresses)
                .and_then(|routers| routers.first().copied()),
            resolvers: resolvers.into_iter().take(RESOLVERS_MAX).collect(),
            domain: value(options, option::DOMAIN).and_then(domain),
            lease: value(options, option::LEASE).and_then(seconds),
            renewal: value(options, option::RENEWAL).and_then(seconds),
        })
    }
}

impl Reply {
    /// What it makes of the interface; `None` where that is nothing.
    pub(super) fn network(&self) -> Option<Network> {
        let mask = self.mask?.to_bits();
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        if mask.count_ones() != u32::from(prefix) || prefix == 0 {
            return None;
        }
        // Where no way on is named, whoever answers is one.
        let gateway = self.router.or(self.server)?;
        if !is_a_hosts(self.address) || !is_a_hosts(gateway) || gateway == self.address {
            return None;
        }
        let resolvers = self.resolvers.iter().copied().filter(|server| is_a_hosts(*server));
        let servers: Vec<_> = resolvers.map(Into::into).collect();
        // Who gives addresses and names no resolver mostly is one.
        let servers = if servers.is_empty() { vec![gateway.into()] } else { servers };
        let search = self.domain.iter().cloned().collect();
        let resolver = Resolver { servers, search };
        Some(Network { address: self.address, prefix, gateway, address6: None, resolver })
    }

    /// After how long it is to be renewed, and when it ends.
    pub(super) fn times(&self) -> (Duration, Duration) {
        let length = self.lease.unwrap_or(LEASE_MIN).clamp(LEASE_MIN, LEASE_MAX);
        let renewal = self.renewal.filter(|renewal| (LEASE_MIN / 2..length).contains(renewal));
        let renewal = renewal.unwrap_or(length / 2);
        (Duration::from_secs(renewal.into()), Duration::from_secs(length.into()))
    }
}

/// The first option of a number that is whole.
fn value(options: &[u8], wanted: u8) -> Option<&[u8]> {
    let mut rest = options;
    loop {
        let (number, after) = rest.split_first()?;
        match *number {
            option::PAD => rest = after,
            option::END => return None,
            number => {
                let (length, after) = after.split_first()?;
                let (value, after) = after.split_at_checked(usize::from(*length))?;
                if number == wanted {
                    return Some(value);
                }
                rest = after;
            }
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn addresses(bytes: &[u8]) -> Vec<Ipv4Addr> {
    bytes.as_chunks::<4>().0.iter().copied().map(Ipv4Addr::from).collect()
}

fn seconds(bytes: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(bytes).ok().map(u32::from_be_bytes)
}

/// A domain's name, of which nothing but one can be made in a file.
fn domain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.' || byte == b'_';
    (!text.is_empty() && text.bytes().all(is_plain)).then(|| text.to_owned())
}

/// Whether a host can have that address.
fn is_a_hosts(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Client = Client { hardware: [2, 0, 0, 1, 2, 3], transaction: 0x0102_0304 };

    /// An answer to [`CLIENT`], with options in pairs of a number and a value.
    fn answer(address: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = CLIENT.say(Wish::Discover);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&address);
        bytes.truncate(OPTIONS);
        for (number, value) in options {
            bytes.extend([*number, u8::try_from(value.len()).unwrap()]);
            bytes.extend(*value);
        }
        bytes.push(option::END);
        bytes
    }

    const USUAL: &[(u8, &[u8])] = &[
        (option::KIND, &[5]),
        (option::SERVER, &[192, 168, 64, 1]),
        (option::MASK, &[255, 255, 255, 0]),
        (option::ROUTERS, &[192, 168, 64, 1, 192, 168, 64, 9]),
        (option::RESOLVERS, &[192, 168, 64, 1, 127, 0, 0, 1]),
        (option::LEASE, &[0, 1, 81, 128]),
        (option::DOMAIN, b"home.arpa\0"),
    ];

    /// The usual answer, but for one option.
    fn but(number: u8, value: &[u8]) -> Option<Network> {
        let options: Vec<(u8, &[u8])> = USUAL
            .iter()
            .map(|(known, usual)| (*known, if *known == number { value } else { *usual }))
            .collect();
        CLIENT.understand(&answer([192, 168, 64, 7], &options))?.network()
    }

    #[test]
    fn an_acknowledged_address_is_an_interfaces() {
        let reply = CLIENT.understand(&answer([192, 168, 64, 7], USUAL)).unwrap();
        assert_eq!((reply.kind, reply.server), (Kind::Acknowledge, Some([192, 168, 64, 1].into())));
        assert_eq!(reply.times(), (Duration::from_secs(43_200), Duration::from_secs(86_400)));
        let network = reply.network().unwrap();
        assert_eq!((network.address, network.prefix), ([192, 168, 64, 7].into(), 24));
        assert_eq!(network.gateway, Ipv4Addr::from([192, 168, 64, 1]));
        assert_eq!(network.resolver.servers, [std::net::IpAddr::from([192, 168, 64, 1])]);
        assert_eq!(network.resolver.search, ["home.arpa"]);
    }

    #[test]
    fn what_makes_no_sense_is_no_address() {
        assert!(but(0, &[]).is_some());
        assert!(but(option::MASK, &[255, 0, 255, 0]).is_none());
        assert!(but(option::MASK, &[0, 0, 0, 0]).is_none());
        assert!(but(option::MASK, &[255, 255, 255]).is_none());
        assert!(but(option::ROUTERS, &[0, 0, 0, 0]).is_none());
        assert!(but(option::ROUTERS, &[192, 168, 64, 7]).is_none(), "the way on is itself");
        assert!(but(option::KIND, &[1]).is_none(), "a client's own");
        // A text that would be a line of its own in a file is none.
        assert!(but(option::DOMAIN, b"a\nnameserver 192.0.2.1").unwrap().resolver.search.is_empty());
        for address in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
            assert_eq!(CLIENT.understand(&answer(address, USUAL)).unwrap().network(), None, "{address:?}");
        }
    }

    #[test]
    fn answers_to_others_are_passed_over() {
        let usual = answer([192, 168, 64, 7], USUAL);
        assert!(CLIENT.understand(&usual).is_some());
        for at in [0, 1, 2, 4, 7, 28, 33, OPTIONS - 1] {
            let mut other = usual.clone();
            other[at] ^= 1;
            assert_eq!(CLIENT.understand(&other), None, "{at}");
        }
        assert_eq!(CLIENT.understand(&CLIENT.say(Wish::Discover)), None, "what it said itself");
    }

    #[test]
    fn a_packet_carries_what_is_from_a_server_to_a_client() {
        let usual = answer([192, 168, 64, 7], USUAL);
        let packet = |head: u8, from: u16, to: u16, more: usize| {
            let mut bytes = vec![0x40 | (head / 4), 0];
            let length = usize::from(head) + 8 + usual.len();
            bytes.extend(u16::try_from(length + more).unwrap().to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, 64, 17]);
            bytes.resize(head.into(), 0);
            bytes.extend(from.to_be_bytes());
            bytes.extend(to.to_be_bytes());
            bytes.extend(u16::try_from(8 + usual.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(&usual);
            // As short packets have it on Ethernet.
            bytes.extend([0; 4]);
            bytes
        };
        assert_eq!(carried(&packet(20, 67, 68, 0)), Some(usual.as_slice()));
        assert_eq!(carried(&packet(24, 67, 68, 0)), Some(usual.as_slice()));
        assert_eq!(carried(&packet(20, 67, 68, 5)), None, "it is longer than what came");
        assert_eq!(carried(&packet(20, 53, 68, 0)), None);
        assert_eq!(carried(&packet(20, 67, 67, 0)), None);
        for (at, byte) in [(0, 0x60), (0, 0x44), (6, 0x20), (9, 6), (3, 0), (24, 255)] {
            let mut other = packet(20, 67, 68, 0);
            other[at] = byte;
            assert_eq!(carried(&other), None, "{at}");
        }
    }

    #[test]
    fn a_lease_is_renewed_before_it_ends_and_not_all_the_time() {
        let times = |lease: u32, renewal: u32| {
            let (lease, renewal) = (lease.to_be_bytes(), renewal.to_be_bytes());
            let options = [(option::KIND, &[5][..]), (option::LEASE, &lease), (option::RENEWAL, &renewal)];
            let (renew, length) = CLIENT.understand(&answer([10, 0, 0, 2], &options)).unwrap().times();
            (renew.as_secs(), length.as_secs())
        };
        assert_eq!(times(3600, 600), (600, 3600));
        assert_eq!(times(3600, 3600), (1800, 3600));
        assert_eq!(times(0, 0), (30, 60));
        assert_eq!(times(u32::MAX, u32::MAX), (u64::from(LEASE_MAX / 2), LEASE_MAX.into()));
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_an_address_of_a_host_or_nothing(mut bytes: Vec<u8>, options: Vec<u8>, is_ours: bool) {
            if is_ours {
                bytes = answer([192, 168, 64, 7], &[]);
                bytes.truncate(OPTIONS);
                bytes.extend([option::KIND, 1, 5]);
                bytes.extend(options);
            }
            let _ = carried(&bytes);
            if let Some(reply) = CLIENT.understand(&bytes) {
                let (renew, length) = reply.times();
                proptest::prop_assert!(renew < length && renew.as_secs() >= 30);
                if let Some(network) = reply.network() {
                    proptest::prop_assert!(is_a_hosts(network.address) && is_a_hosts(network.gateway));
                    proptest::prop_assert!((1..=32).contains(&network.prefix));
                    proptest::prop_assert!((1..=RESOLVERS_MAX).contains(&network.resolver.servers.len()));
                }
            }
        }
    }
}
