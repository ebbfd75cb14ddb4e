//! Subnets and the addresses in them, of both versions of IP.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A range of addresses that share their first bits. On the wire and on disk: `172.17.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Subnet {
    /// # Errors
    /// Where the prefix leaves no room for a container, or bits are set behind it.
    pub fn new(base: IpAddr, prefix: u8) -> Result<Self> {
        let (least, most) = if base.is_ipv4() { (8, 30) } else { (8, 126) };
        let subnet = Self::around(base, prefix);
        if !(least..=most).contains(&prefix) {
            return Err(Error::Invalid {
                what: format!("invalid subnet {base}/{prefix}: the prefix must be {least} to {most}"),
            });
        }
        if subnet.base != base {
            return Err(Error::Invalid {
                what: format!("invalid subnet {base}/{prefix}: it should be {subnet}"),
            });
        }
        Ok(subnet)
    }

    /// The range of that size that holds an address.
    pub(crate) fn around(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(width(address));
        let unmasked = Self { base: address, prefix };
        Self { base: unmasked.at(number(address) & !unmasked.host_bits()), prefix }
    }

    /// The first address.
    #[must_use]
    pub fn base(self) -> IpAddr {
        self.base
    }

    /// How many leading bits all have in common.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    fn host_bits(self) -> u128 {
        let free = u32::from(width(self.base) - self.prefix);
        1_u128.checked_shl(free).map_or(u128::MAX, |size| size - 1)
    }

    /// A number as an address of this version.
    fn at(self, number: u128) -> IpAddr {
        match self.base {
            // Numbers of this version fit by construction.
            IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    /// Whether an address is one of it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.base.is_ipv4() && number(address) & !self.host_bits() == number(self.base)
    }

    /// Whether all of another's addresses are its own.
    #[must_use]
    pub fn spans(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.base)
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// The last address; of version 4, all hear what is sent to it.
    #[must_use]
    pub fn last(self) -> IpAddr {
        self.at(number(self.base) | self.host_bits())
    }

    /// The gateway's address where none is asked for: the first that a host may have.
    #[must_use]
    pub fn first_host(self) -> IpAddr {
        self.at(number(self.base) + 1)
    }

    /// Whether a host may have an address.
    #[must_use]
    pub fn is_for_hosts(self, address: IpAddr) -> bool {
        self.contains(address) && address != self.base && !(address.is_ipv4() && address == self.last())
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Invalid { what: format!("invalid CIDR address: {text}") };
        let (base, prefix) = text.split_once('/').ok_or_else(bad)?;
        Self::new(base.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// Docker's default pools: what a network may be given.
pub(crate) fn candidates() -> impl Iterator<Item = Subnet> {
    let large = (17..=31).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..=240).step_by(16).map(|third| (Ipv4Addr::new(192, 168, third, 0), 20));
    large.chain(small).map(|(base, prefix)| Subnet { base: base.into(), prefix })
}

/// What a network's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// All of them.
    pub subnet: Subnet,
    /// The bridge's own.
    pub gateway: IpAddr,
    /// Those that are given out without being asked for; all where none is named.
    pub range: Option<Subnet>,
    /// Those that are never given out.
    pub reserved: Vec<IpAddr>,
}

impl Range {
    /// All of a subnet, with its first address for the gateway.
    #[must_use]
    pub fn of(subnet: Subnet) -> Self {
        Self { subnet, gateway: subnet.first_host(), range: None, reserved: Vec::new() }
    }

    /// # Errors
    /// Where an address or the range is not of the subnet.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::Invalid { what });
        let subnet = self.subnet;
        if !subnet.is_for_hosts(self.gateway) {
            return invalid(format!(
                "no matching subnet for gateway {}: {subnet} is what the network spans",
                self.gateway
            ));
        }
        if let Some(range) = self.range.filter(|range| !subnet.spans(*range)) {
            return invalid(format!(
                "no matching subnet for range {range}: {subnet} is what the network spans"
            ));
        }
        match self.reserved.iter().find(|address| !subnet.contains(**address)) {
            Some(address) => invalid(format!(
                "no matching subnet for aux-address {address}: {subnet} is what the network spans"
            )),
            None => Ok(()),
        }
    }
}

/// The addresses of one range that are given out.
#[derive(Debug)]
pub(crate) struct Pool {
    subnet: Subnet,
    /// What is given without being asked for, both ends included.
    within: (u128, u128),
    taken: BTreeSet<u128>,
    /// Where the search goes on: an address that was just given back rests a while.
    next: u128,
}

impl Pool {
    pub(crate) fn new(range: &Range) -> Self {
        let from = range.range.unwrap_or(range.subnet);
        let within = (number(from.base), number(from.last()));
        let taken = range.reserved.iter().chain([&range.gateway]).map(|address| number(*address)).collect();
        Self { subnet: range.subnet, within, taken, next: within.0 }
    }

    /// An address nobody has.
    pub(crate) fn take(&mut self) -> Result<IpAddr> {
        let (first, last) = self.within;
        // As many tries as there can be refusals: what is taken, and the two that no host may have.
        let tries = (self.taken.len() as u128 + 3).min(last - first + 1);
        let mut at = self.next;
        for _ in 0..tries {
            let address = self.subnet.at(at);
            let following = if at == last { first } else { at + 1 };
            if self.subnet.is_for_hosts(address) && self.taken.insert(at) {
                self.next = following;
                return Ok(address);
            }
            at = following;
        }
        let version = if self.subnet.base.is_ipv4() { 4 } else { 6 };
        Err(Error::Invalid {
            what: format!(
                "no available IPv{version} addresses on this network's address pools: {}",
                self.subnet
            ),
        })
    }

    /// Gives out the address that is asked for.
    ///
    /// # Errors
    /// It is none of the subnet, or somebody else's.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<()> {
        if !self.subnet.is_for_hosts(address) {
            return Err(Error::Invalid {
                what: format!(
                    "no configured subnet or ip-range contain the IP address {address}: the network is {}",
                    self.subnet
                ),
            });
        }
        if !self.taken.insert(number(address)) {
            return Err(Error::Conflict { what: format!("Address already in use: {address}") });
        }
        Ok(())
    }

    pub(crate) fn give_back(&mut self, address: IpAddr) {
        self.taken.remove(&number(address));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(
            is_six: bool,
            left in 2_u8..=6,
            half: bool,
            steps in prop::collection::vec(any::<(bool, u8)>(), 0..300),
        ) {
            let (base, prefix): (IpAddr, u8) =
                if is_six { ("fd00::".parse().unwrap(), 128 - left) } else { ("10.1.0.0".parse().unwrap(), 32 - left) };
            let whole = Subnet::new(base, prefix).unwrap();
            let upper = (half && left > 2).then(|| Subnet::around(whole.last(), prefix + 1));
            let range = Range { range: upper, ..Range::of(whole) };
            range.check().unwrap();
            let mut pool = Pool::new(&range);
            let from = upper.unwrap_or(whole);
            let room = (0..(1_u128 << (width(base) - from.prefix())))
                .map(|offset| from.at(number(from.base()) + offset))
                .filter(|address| whole.is_for_hosts(*address) && *address != range.gateway)
                .count();
            let mut held = Vec::new();
            for (takes, which) in steps {
                if takes {
                    match pool.take() {
                        Ok(address) => {
                            prop_assert!(from.contains(address) && whole.is_for_hosts(address));
                            prop_assert!(!held.contains(&address) && address != range.gateway);
                            held.push(address);
                        }
                        Err(_) => prop_assert_eq!(held.len(), room),
                    }
                } else if !held.is_empty() {
                    let address = held.swap_remove(usize::from(which) % held.len());
                    prop_assert!(pool.claim(address).is_err());
                    pool.give_back(address);
                    pool.claim(address).unwrap();
                    pool.give_back(address);
                }
            }
        }

        #[test]
        fn subnets_overlap_when_one_has_the_others_base(a: u32, b: u32, p in 8_u8..=30, q in 8_u8..=30) {
            let of = |n: u32, p: u8| Subnet::around(Ipv4Addr::from(n).into(), p);
            let (a, b) = (of(a, p), of(b, q));
            prop_assert_eq!(a.overlaps(b), b.overlaps(a));
            prop_assert_eq!(a.overlaps(b), a.spans(b) || b.spans(a));
            prop_assert!(a.overlaps(a));
        }

        #[test]
        fn what_is_printed_is_read(n: u128, is_six: bool, prefix in 8_u8..=30) {
            let address: IpAddr = if is_six { Ipv6Addr::from(n).into() } else { Ipv4Addr::from((n >> 96) as u32).into() };
            let subnet = Subnet::around(address, prefix);
            prop_assert_eq!(subnet.to_string().parse::<Subnet>().unwrap(), subnet);
        }

        #[test]
        fn any_text_is_a_subnet_or_an_error(text: String) {
            let _ = text.parse::<Subnet>();
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for text in
            ["10.0.0.1/24", "10.0.0.0/31", "0.0.0.0/0", "10.0.0.0", "fd00::/127", "fd00::1/64", "a/24"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        let odd = "10.0.0.1/24".parse::<Subnet>().unwrap_err().to_string();
        assert!(odd.contains("it should be 10.0.0.0/24"), "{odd}");
    }

    #[test]
    fn what_a_range_names_lies_in_its_subnet() {
        let range = Range::of(subnet("172.30.0.0/16"));
        range.check().unwrap();
        let elsewhere = || "10.0.0.1".parse().unwrap();
        assert!(Range { gateway: elsewhere(), ..range.clone() }.check().is_err());
        assert!(Range { reserved: vec![elsewhere()], ..range.clone() }.check().is_err());
        assert!(Range { range: Some(subnet("172.31.0.0/24")), ..range }.check().is_err());
    }
}
