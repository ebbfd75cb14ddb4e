//! How the guest looks names up: `/etc/resolv.conf`, and the host's own name.

use std::fmt::Write;
use std::fs;

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

/// Writes `/etc/hosts`: this guest, and the host behind the way out.
pub(crate) fn name_host(hostname: &str, network: Option<&Network>) -> Result<()> {
    let mut text = format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{hostname}\n");
    if let Some(network) = network {
        let _ = writeln!(text, "{}\thost.docker.internal", network.gateway);
    }
    fs::write("/etc/hosts", text).context("failed to write /etc/hosts")
}
