//! Subnets and the addresses in them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A range of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The first address.
    pub base: Ipv4Addr,
    /// How many leading bits all have in common: 8 to 30.
    pub prefix: u8,
}

impl Subnet {
    /// # Errors
    /// Where the prefix leaves no room for a container, or bits are set behind it.
    pub fn new(base: Ipv4Addr, prefix: u8) -> Result<Self> {
        let subnet = Self { base, prefix };
        if !(8..=30).contains(&prefix) || u32::from(base) & !subnet.mask() != 0 {
            return Err(Error::Invalid { what: format!("{base}/{prefix} is no subnet for containers") });
        }
        Ok(subnet)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// Whether an address is one of it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.base)
    }

    /// Whether they have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// The last address, which all hear.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) | !self.mask())
    }

    /// The bridge's own address: the first that a host may have.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + 1)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// Docker's default pools: what a bridge may be given.
pub(crate) fn candidates() -> impl Iterator<Item = Subnet> {
    let large = (17..=31).map(|second| Subnet { base: Ipv4Addr::new(172, second, 0, 0), prefix: 16 });
    let small =
        (0..=240).step_by(16).map(|third| Subnet { base: Ipv4Addr::new(192, 168, third, 0), prefix: 20 });
    large.chain(small)
}

/// The addresses of one subnet that are given out.
#[derive(Debug)]
pub(crate) struct Pool {
    subnet: Subnet,
    taken: BTreeSet<u32>,
    /// Where the search goes on: an address that was just given back rests a while.
    next: u32,
}

impl Pool {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self { subnet, taken: BTreeSet::new(), next: 2 }
    }

    /// An address nobody has.
    pub(crate) fn take(&mut self) -> Result<Ipv4Addr> {
        let base = u32::from(self.subnet.base);
        let count = u32::from(self.subnet.broadcast()) - base;
        // Neither the subnet's own name, nor the gateway, nor the broadcast.
        for offset in (self.next..count).chain(2..self.next.min(count)) {
            if self.taken.insert(base + offset) {
                self.next = offset + 1;
                return Ok(Ipv4Addr::from(base + offset));
            }
        }
        Err(Error::Invalid {
            what: format!("no available IPv4 addresses on this network's address pools: {}", self.subnet),
        })
    }

    /// Notes an address that somebody has. `false`: it is none of the subnet, or somebody else's.
    pub(crate) fn claim(&mut self, address: Ipv4Addr) -> bool {
        let is_free = self.subnet.contains(address)
            && address != self.subnet.base
            && address != self.subnet.gateway()
            && address != self.subnet.broadcast();
        is_free && self.taken.insert(address.into())
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address.into());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_address_is_given_twice(prefix in 26_u8..=30, steps in prop::collection::vec(any::<(bool, u8)>(), 0..300)) {
            let subnet = Subnet::new(Ipv4Addr::new(10, 1, 0, 0), prefix).unwrap();
            let mut pool = Pool::new(subnet);
            let mut held = Vec::new();
            for (takes, which) in steps {
                if takes {
                    match pool.take() {
                        Ok(address) => {
                            prop_assert!(subnet.contains(address) && !held.contains(&address));
                            prop_assert!(address != subnet.gateway() && address != subnet.broadcast() && address != subnet.base);
                            held.push(address);
                        }
                        Err(_) => prop_assert_eq!(held.len(), (1_usize << (32 - prefix)) - 3),
                    }
                } else if !held.is_empty() {
                    let address = held.swap_remove(usize::from(which) % held.len());
                    pool.give_back(address);
                    prop_assert!(pool.claim(address));
                    pool.give_back(address);
                }
            }
        }

        #[test]
        fn subnets_overlap_when_one_has_the_others_base(a: u32, b: u32, p in 8_u8..=30, q in 8_u8..=30) {
            let of = |n: u32, p: u8| { let s = Subnet { base: 0.into(), prefix: p }; Subnet { base: (n & s.mask()).into(), prefix: p } };
            let (a, b) = (of(a, p), of(b, q));
            prop_assert_eq!(a.overlaps(b), b.overlaps(a));
            prop_assert!(a.overlaps(a));
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for (base, prefix) in [([10, 0, 0, 1], 24), ([10, 0, 0, 0], 31), ([0, 0, 0, 0], 0)] {
            assert!(Subnet::new(Ipv4Addr::from(base), prefix).is_err());
        }
    }
}
