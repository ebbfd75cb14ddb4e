//! What a container asks of its networks: checked, and made complete, before anything is done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use model::container::ContainerSpec;
use model::network::EndpointSpec;
use network::Request;

use super::{EngineNetworks, NetworkRecord};
use crate::error::{Error, Result};

/// What the interface is called in the container.
const INTERFACE_NAME: &str = "com.docker.network.endpoint.ifname";
/// Kernel parameters of the interface.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// The id of a container's place on a network: of both of theirs, so that it is the same whenever it is asked for.
#[must_use]
pub fn endpoint_id(container: &str, network: &str) -> String {
    // A list of containers asks for one of each: no digit goes through a `char`.
    let value = |digit: u8| (digit & 15) + 9 * (digit >> 6 & 1);
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
    let digits = container.bytes().zip(network.bytes()).map(|(a, b)| digit((value(a) ^ value(b)) & 15));
    String::from_utf8(digits.collect()).unwrap_or_default()
}

/// Writes out which networks a container is on, by their names.
///
/// # Errors
/// What can't be had. A network that is not there is a mistake of the request: Docker's clients take "not
/// found" for a missing image, and would pull it.
pub(crate) fn normalize(
    spec: &mut ContainerSpec,
    networks: &EngineNetworks,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let asked = std::mem::take(&mut spec.host.networks);
    let mode = spec.host.network_mode.clone();
    let primary = match mode.as_str() {
        "" | "default" | "bridge" if networks.has_bridge() => {
            spec.host.network_mode = "bridge".into();
            Some("bridge".to_owned())
        }
        "" | "default" => {
            spec.host.network_mode = "none".into();
            warnings.push(
                "There is no bridge network here, which needs the program nft (package nftables): \
                 the container has no network. Use --network host to share the host's."
                    .into(),
            );
            None
        }
        "none" | "host" => None,
        other if other.starts_with("container:") => None,
        other => Some(named(networks, other)?.spec.name.clone()),
    };
    let mut wanted: BTreeMap<String, EndpointSpec> = BTreeMap::new();
    for (name, endpoint) in asked {
        let is_default = matches!(name.as_str(), "default" | "");
        let name = match (&primary, is_default) {
            (Some(primary), true) => primary.clone(),
            _ => match named(networks, &name)?.spec.name.as_str() {
                "host" | "none" => continue,
                name => name.to_owned(),
            },
        };
        wanted.insert(name, endpoint);
    }
    match primary {
        Some(primary) => drop(wanted.entry(primary).or_default()),
        None if !wanted.is_empty() => {
            return Err(Error::invalid(format!(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes ({:?})",
                spec.host.network_mode
            )));
        }
        None => {}
    }
    for (name, endpoint) in &wanted {
        check_request(&*networks.find(name)?, endpoint)?;
    }
    let publishes = spec.host.publishes_all || !spec.host.ports.is_empty();
    if publishes {
        let records = wanted.keys().map(|name| networks.find(name)).collect::<Result<Vec<_>>>()?;
        let reason = if wanted.is_empty() {
            Some(format!("they need a bridge network, and the container's is {:?}", spec.host.network_mode))
        } else if records.iter().all(|record| record.spec.is_internal || record.spec.driver != "bridge") {
            Some("none of the container's networks is a bridge with a way out".to_owned())
        } else {
            None
        };
        warnings.extend(reason.map(|reason| format!("Published ports are discarded: {reason}.")));
    }
    let has_way_out =
        wanted.keys().any(|name| networks.find(name).is_ok_and(|record| !record.spec.is_internal));
    warnings.extend(networks.warning().filter(|_| has_way_out).map(str::to_owned));
    spec.host.networks = wanted;
    Ok(())
}

fn named(networks: &EngineNetworks, name: &str) -> Result<Arc<NetworkRecord>> {
    networks.find(name).map_err(|error| Error::invalid(error.to_string()))
}

/// Refuses what a network can't give, in Docker's words.
pub(crate) fn check_request(record: &NetworkRecord, endpoint: &EndpointSpec) -> Result<()> {
    let is_default = record.spec.name == "bridge";
    if is_default && (!endpoint.v4.is_empty() || !endpoint.v6.is_empty()) {
        return Err(Error::invalid("user specified IP address is supported on user defined networks only"));
    }
    if is_default && !endpoint.aliases.is_empty() {
        return Err(Error::invalid("network-scoped aliases are only supported for user-defined networks"));
    }
    // Options of nobody's are notes, which Docker keeps too; its own mean something.
    let known = [INTERFACE_NAME, SYSCTLS];
    let is_dockers = |name: &&String| name.starts_with("com.docker.network.");
    if let Some(name) =
        endpoint.options.keys().filter(is_dockers).find(|name| !known.contains(&name.as_str()))
    {
        return Err(Error::unsupported(format!("endpoint option {name:?} is not supported")));
    }
    for alias in &endpoint.aliases {
        if alias.is_empty() || alias.len() > 253 || alias.chars().any(char::is_whitespace) {
            return Err(Error::invalid(format!("invalid network alias: {alias:?}")));
        }
    }
    for link in &endpoint.links {
        if link.split(':').next().is_none_or(str::is_empty) {
            return Err(Error::invalid(format!(
                "invalid link: {link:?}; it is CONTAINER or CONTAINER:ALIAS"
            )));
        }
    }
    request(endpoint, String::new()).map(drop)
}

/// What the kernel's side is asked for.
pub(super) fn request(endpoint: &EndpointSpec, inner: String) -> Result<Request> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (text, is_v4) in [(&endpoint.v4, true), (&endpoint.v6, false)] {
        if text.is_empty() {
            continue;
        }
        let address = text.parse::<IpAddr>().ok().filter(|address| address.is_ipv4() == is_v4);
        let version = if is_v4 { 4 } else { 6 };
        addresses
            .push(address.ok_or_else(|| Error::invalid(format!("invalid IPv{version} address: {text}")))?);
    }
    let mac = if endpoint.mac.is_empty() { None } else { Some(mac(&endpoint.mac)?) };
    let inner = match endpoint.options.get(INTERFACE_NAME) {
        Some(name) => interface_name(name)?,
        None => inner,
    };
    let address = |text: &String| {
        text.parse().map_err(|_| Error::invalid(format!("invalid link-local IP address: {text}")))
    };
    Ok(Request {
        link_local: endpoint.link_local.iter().map(address).collect::<Result<_>>()?,
        sysctls: sysctls(endpoint.options.get(SYSCTLS).map_or("", String::as_str), &inner)?,
        inner,
        addresses,
        mac,
    })
}

/// What the interface is called in the container.
fn interface_name(name: &str) -> Result<String> {
    let is_fine = (1..=15).contains(&name.len())
        && !matches!(name, "." | ".." | "lo")
        && name.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '/' | ':'));
    if is_fine {
        Ok(name.to_owned())
    } else {
        Err(Error::invalid(format!("invalid interface name: {name:?}")))
    }
}

/// `net.ipv4.conf.IFNAME.log_martians=1,…` as paths and values.
fn sysctls(text: &str, inner: &str) -> Result<Vec<(String, String)>> {
    let one = |pair: &str| -> Result<(String, String)> {
        let bad = || {
            Error::invalid(format!(
                "invalid sysctl {pair:?}: it is net.ipv4|ipv6|mpls.conf|neigh.IFNAME.NAME=VALUE"
            ))
        };
        let (name, value) = pair.split_once('=').ok_or_else(bad)?;
        let parts: Vec<&str> = name.split('.').collect();
        let ["net", family @ ("ipv4" | "ipv6" | "mpls"), kind @ ("conf" | "neigh"), "IFNAME", key] =
            parts[..]
        else {
            return Err(bad());
        };
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(bad());
        }
        Ok((format!("/proc/sys/net/{family}/{kind}/{inner}/{key}"), value.to_owned()))
    };
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(one).collect()
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|part| if part.len() == 2 { u8::from_str_radix(part, 16).ok() } else { None })
        .collect();
    bytes
        .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
        // The lowest bit of the first marks a group of receivers.
        .filter(|[first, ..]| first & 1 == 0)
        .ok_or_else(|| Error::invalid(format!("invalid MAC address: {text}")))
}

/// `container:alias`, or a container alone, which is then its own alias.
pub(super) fn link(text: &str) -> (String, String) {
    let text = text.trim_start_matches('/');
    // Docker's clients send back what inspect gave them: `/db:/web/alias`.
    let (target, alias) = text.split_once(':').unwrap_or((text, text));
    (target.to_owned(), alias.rsplit('/').next().unwrap_or(alias).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_id_is_that_of_both() {
        let (a, b) = ("0123456789abcdef".repeat(4), "f".repeat(64));
        assert_eq!(endpoint_id(&a, &b), "fedcba9876543210".repeat(4));
        assert_eq!(endpoint_id(&a, &b), endpoint_id(&b, &a));
    }

    #[test]
    fn addresses_are_read_or_refused() {
        assert_eq!(mac("02:42:ac:11:00:02").unwrap(), [2, 0x42, 0xac, 0x11, 0, 2]);
        for bad in ["", "02:42", "02:42:ac:11:00:zz", "01:42:ac:11:00:02", "2:42:ac:11:0:2"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
        let of = |v4: &str, v6: &str| {
            request(&EndpointSpec { v4: v4.into(), v6: v6.into(), ..EndpointSpec::default() }, String::new())
        };
        assert_eq!(of("10.0.0.2", "fd00::2").unwrap().addresses.len(), 2);
        assert!(of("fd00::2", "").is_err() && of("x", "").is_err() && of("", "10.0.0.2").is_err());
    }

    #[test]
    fn links_are_read_as_docker_writes_them() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(link("db"), pair("db", "db"));
        assert_eq!(link("db:sql"), pair("db", "sql"));
        assert_eq!(link("/db:/web/sql"), pair("db", "sql"));
    }
}
