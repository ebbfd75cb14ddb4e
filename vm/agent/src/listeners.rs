//! Which sockets listen in the guest's own network: what containers with the host's network offer.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vm_proto::message::{LISTENERS_MAX, Listener};

/// `TCP_LISTEN` of the kernel's tables.
const LISTEN: &str = "0A";

/// All of them now.
pub(crate) fn look() -> Vec<Listener> {
    let table = |path| fs::read_to_string(path).unwrap_or_default();
    let mut found: BTreeSet<Listener> = parse(&table("/proc/net/tcp")).collect();
    found.extend(parse(&table("/proc/net/tcp6")));
    found.into_iter().take(LISTENERS_MAX).collect()
}

/// Whether a socket of this guest's has that address: what none has would leave the guest, and might come back by the host.
pub(crate) fn is_held(address: IpAddr, port: u16, tables: [&str; 2]) -> bool {
    tables.iter().any(|path| {
        let table = fs::read_to_string(path).unwrap_or_default();
        sockets(&table).any(|(held, number, _)| number == port && held == address)
    })
}

fn parse(table: &str) -> impl Iterator<Item = Listener> + '_ {
    let listens = |(address, port, state)| (state == LISTEN).then_some(Listener { address, port });
    sockets(table).filter_map(listens)
}

/// Addresses, ports and states.
fn sockets(table: &str) -> impl Iterator<Item = (IpAddr, u16, &str)> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next()?;
        let state = fields.nth(1)?;
        let (address, port) = local.split_once(':')?;
        Some((parse_address(address)?, u16::from_str_radix(port, 16).ok()?, state))
    })
}

/// Words of four bytes, each in the machine's own order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(at)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000000\n   \
                     1: 0100007F:1F91 00000000:0000 01 00000000:00000000\n";
        let found: Vec<Listener> = parse(table).collect();
        assert_eq!(found, [Listener { address: Ipv4Addr::LOCALHOST.into(), port: 8080 }]);
        let table = "head\n 0: 00000000000000000000000001000000:0050 0:0 0A\n";
        let found: Vec<Listener> = parse(table).collect();
        assert_eq!(found, [Listener { address: Ipv6Addr::LOCALHOST.into(), port: 80 }]);
    }
}
