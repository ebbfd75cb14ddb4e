//! The guest's one interface: its addresses and the way out.

use std::fs;

use anyhow::{Context, Result, bail};
use vm_proto::message::Network;

use crate::{resolver, sys};

/// Sets addresses, routes and resolver.
pub(crate) fn configure(network: &Network) -> Result<()> {
    let interface = first_interface().context("the machine has no network interface")?;
    if network.prefix > 32 {
        bail!("{}/{} is no network", network.address, network.prefix);
    }
    sys::set_address(&interface, network.address, network.prefix).context("failed to set the address")?;
    sys::add_default_route(network.gateway).context("failed to set the way out")?;
    configure_version6(&interface, network)?;
    resolver::set(&network.resolver)
}

/// Follows a host that may have another way out than before a sleep.
pub(crate) fn reconfigure(network: &Network) -> Result<()> {
    let interface = first_interface().context("the machine has no network interface")?;
    configure_version6(&interface, network)?;
    resolver::set(&network.resolver)
}

/// IPv6 where there is such a way; else none, as what leads nowhere would be tried in vain.
fn configure_version6(interface: &str, network: &Network) -> Result<()> {
    let setting = |name: &str, value: &str| {
        // A kernel without IPv6 has none.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/{name}"), value);
    };
    // What there was goes.
    setting("disable_ipv6", "1");
    let Some(version6) = &network.address6 else { return Ok(()) };
    // Addresses are given here; asking around for duplicates takes a second.
    setting("accept_dad", "0");
    setting("disable_ipv6", "0");
    sys::set_address6(interface, version6.address, version6.prefix)
        .context("failed to set the IPv6 address")?;
    sys::add_default_route6(interface, version6.gateway).context("failed to set the way out for IPv6")
}

/// Loopback must be up even where there is no other way.
pub(crate) fn bring_loopback_up() -> Result<()> {
    sys::bring_up("lo").context("failed to bring loopback up")
}

/// The first that has a device behind it.
fn first_interface() -> Option<String> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.path().join("device").exists().then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect();
    names.sort();
    names.into_iter().next()
}
