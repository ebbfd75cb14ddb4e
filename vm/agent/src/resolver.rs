//! How the guest looks names up: `/etc/resolv.conf`, and the host's own name.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use vm_proto::message::{Network, Resolver};

use crate::children::Children;
use crate::nft;

/// Rules of ours, in nft's language: none are left of it.
const NO_RULES: &str = "table inet cove-resolver\ndelete table inet cove-resolver\n";

/// Whether questions for one resolver are led to another.
static IS_LED: AtomicBool = AtomicBool::new(false);

/// Asks others from now on, as the host does. Containers that run were given a copy of what there was: where the kernel can
/// lead what is for that resolver to the new one, it stays the one that is asked.
pub(crate) async fn follow(told: &Resolver, children: &Children) -> Result<()> {
    let (asked, new) = (known().servers.first().copied(), told.servers.first().copied());
    let pair = asked.zip(new).filter(|(asked, new)| asked != new && asked.is_ipv4() == new.is_ipv4());
    let is_led = match pair {
        Some((asked, new)) => {
            let is_led = nft::apply(&led(asked, new), children).await.is_ok();
            IS_LED.fetch_or(is_led, Ordering::Relaxed);
            is_led
        }
        None => {
            forget(children).await;
            false
        }
    };
    match pair.filter(|_| is_led) {
        Some((asked, _)) => {
            let others = told.servers.iter().skip(1).copied();
            let servers = std::iter::once(asked).chain(others).collect();
            set(&Resolver { servers, search: told.search.clone() })
        }
        None => set(told),
    }
}

/// Leads nothing elsewhere any more: what the host asks now is another matter than before a sleep. Where nothing is led, which is
/// nearly always, it takes no time.
pub(crate) async fn forget(children: &Children) {
    if IS_LED.swap(false, Ordering::Relaxed) {
        // They were made by the same program.
        let _ = nft::apply(NO_RULES, children).await;
    }
}

/// The rules that lead questions for one resolver to another, the guest's own and those of containers.
fn led(asked: IpAddr, new: IpAddr) -> String {
    let family = if asked.is_ipv4() { "ip" } else { "ip6" };
    let chain = |hook: &str| {
        format!(
            "  chain {hook} {{\n    type nat hook {hook} priority -105;\n    \
             {family} daddr {asked} meta l4proto {{ tcp, udp }} th dport 53 dnat {family} to {new}\n  }}\n"
        )
    };
    format!("{NO_RULES}table inet cove-resolver {{\n{}{}}}\n", chain("prerouting"), chain("output"))
}

/// Writes `/etc/resolv.conf`.
pub(crate) fn set(resolver: &Resolver) -> Result<()> {
    let mut text = String::new();
    for server in &resolver.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !resolver.search.is_empty() {
        let _ = writeln!(text, "search {}", resolver.search.join(" "));
    }
    fs::write("/etc/resolv.conf", text).context("failed to write /etc/resolv.conf")
}

/// What `/etc/resolv.conf` says now.
pub(crate) fn known() -> Resolver {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                resolver.servers.extend(server);
            }
            Some("search") => resolver.search = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    resolver
}

/// The host's addresses as seen from here: it is behind the way out.
pub(crate) fn host_addresses(network: &Network) -> impl Iterator<Item = IpAddr> {
    let version6 = network.address6.as_ref().map(|version6| version6.gateway.into());
    std::iter::once(network.gateway.into()).chain(version6)
}

/// Writes `/etc/hosts`: this guest, and the host behind the way out.
pub(crate) fn name_host(hostname: &str, network: Option<&Network>) -> Result<()> {
    let mut text = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{hostname}\n");
    if let Some(network) = network {
        for address in host_addresses(network) {
            let _ = writeln!(text, "{address}\thost.docker.internal");
        }
    }
    fs::write("/etc/hosts", text).context("failed to write /etc/hosts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_led_by_whichever_way_they_come() {
        let expected = "table inet cove-resolver\ndelete table inet cove-resolver\ntable inet cove-resolver {\n\
                        \x20 chain prerouting {\n    type nat hook prerouting priority -105;\n\
                        \x20   ip daddr 10.0.2.3 meta l4proto { tcp, udp } th dport 53 dnat ip to 192.0.2.1\n  }\n\
                        \x20 chain output {\n    type nat hook output priority -105;\n\
                        \x20   ip daddr 10.0.2.3 meta l4proto { tcp, udp } th dport 53 dnat ip to 192.0.2.1\n  }\n}\n";
        assert_eq!(led([10, 0, 2, 3].into(), [192, 0, 2, 1].into()), expected);
        let version6 = led("2001:db8::3".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(version6.contains("ip6 daddr 2001:db8::3 ") && version6.contains("dnat ip6 to 2001:db8::1"));
    }
}
