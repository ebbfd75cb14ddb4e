//! How the guest looks names up: `/etc/resolv.conf`, and the host's own name.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use vm_proto::message::{Network, Resolver};

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
