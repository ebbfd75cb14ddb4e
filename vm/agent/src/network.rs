//! The guest's one interface: its addresses and the way out.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::Notify;
use vm_proto::message::{Network, WayOut};

use crate::dhcp::{self, Lease};
use crate::{resolver, sys, tell};

/// How soon somebody who gave an address, and is silent now, is asked again.
const AGAIN: Duration = Duration::from_secs(30);

/// What the one interface has become.
#[derive(Debug)]
pub(crate) struct Configured {
    /// Its addresses, the way out, and who knows names.
    pub(crate) network: Network,
    /// Keeps them, where they are had for a while only.
    pub(crate) keeper: Option<Keeper>,
}

/// Sets addresses, routes and resolver, as the host says or whoever is asked.
pub(crate) async fn configure(way_out: &WayOut) -> Result<Configured> {
    let interface = first_interface().context("the machine has no network interface")?;
    match way_out {
        WayOut::Told(network) => {
            apply(&interface, network)?;
            Ok(Configured { network: network.clone(), keeper: None })
        }
        WayOut::Asked => {
            sys::bring_up(&interface).context("failed to bring the interface up")?;
            let lease = dhcp::ask(&interface).await.context("failed to get an address by DHCP")?;
            apply(&interface, &lease.network)?;
            let network = lease.network.clone();
            Ok(Configured { network, keeper: Some(Keeper { interface, lease, woken: Arc::default() }) })
        }
    }
}

fn apply(interface: &str, network: &Network) -> Result<()> {
    if network.prefix > 32 {
        bail!("{}/{} is no network", network.address, network.prefix);
    }
    sys::set_address(interface, network.address, network.prefix).context("failed to set the address")?;
    sys::add_default_route(network.gateway).context("failed to set the way out")?;
    configure_version6(interface, network)?;
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

/// Keeps addresses that are had for a while.
#[derive(Debug)]
pub(crate) struct Keeper {
    interface: String,
    lease: Lease,
    /// The guest goes on after a sleep, of which its clock knows nothing.
    pub(crate) woken: Arc<Notify>,
}

impl Keeper {
    /// Renews them for as long as the guest runs, and asks anew where that fails.
    pub(crate) async fn keep(mut self) -> Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(self.lease.renew_at().into()) => self.renew().await,
                () = self.woken.notified() => self.ask_again().await,
            }
        }
    }

    /// Until it is renewed, or over.
    async fn renew(&mut self) {
        while std::time::Instant::now() < self.lease.ends_at() {
            match dhcp::renew(&self.interface, &self.lease).await {
                Ok(lease) => return self.become_what(lease),
                Err(error) => tell(format_args!("cove-agent: failed to renew the address: {error:#}")),
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = self.woken.notified() => break,
            }
        }
        self.ask_again().await;
    }

    async fn ask_again(&mut self) {
        loop {
            match dhcp::ask(&self.interface).await {
                Ok(lease) => return self.become_what(lease),
                Err(error) => tell(format_args!("cove-agent: failed to get an address by DHCP: {error:#}")),
            }
            if std::time::Instant::now() >= self.lease.ends_at() {
                // It may be another's by now.
                let _ = sys::clear_address(&self.interface);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn become_what(&mut self, lease: Lease) {
        let old = std::mem::replace(&mut self.lease, lease);
        let new = &self.lease.network;
        let outcome = if (old.network.address, old.network.prefix, old.network.gateway)
            == (new.address, new.prefix, new.gateway)
            && std::time::Instant::now() < old.ends_at()
        {
            resolver::set(&new.resolver)
        } else {
            let _ = sys::clear_address(&self.interface);
            apply(&self.interface, new)
        };
        if let Err(error) = outcome {
            tell(format_args!("cove-agent: {error:#}"));
        }
    }
}

/// What somebody else has made the interfaces: the way out.
pub(crate) fn found() -> Option<Network> {
    let gateway = gateway(&fs::read_to_string("/proc/net/route").ok()?)?;
    let address = std::net::Ipv4Addr::UNSPECIFIED;
    Some(Network { address, prefix: 0, gateway, address6: None, resolver: resolver::known() })
}

/// Of the kernel's table: interface, destination, gateway and more, in the machine's own order.
fn gateway(routes: &str) -> Option<std::net::Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| gateway.to_ne_bytes().into())
    })
}

/// Loopback must be up even where there is no other way.
pub(crate) fn bring_loopback_up() -> Result<()> {
    sys::bring_up("lo").context("failed to bring loopback up")
}

/// The first that has a device behind it.
pub(crate) fn first_interface() -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_out_is_found_in_the_kernels_table() {
        let table = "Iface\tDestination\tGateway \tFlags\neth0\t0000A8C0\t00000000\t0001\n\
                     eth0\t00000000\t0101A8C0\t0003\n";
        assert_eq!(gateway(table), Some([192, 168, 1, 1].into()));
        assert_eq!(gateway("Iface\tDestination\tGateway\n"), None);
    }
}
