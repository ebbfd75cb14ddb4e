//! A network's specification as the kernel is asked for it: drivers, their options, and ranges.

use std::net::IpAddr;

use model::network::{NetworkSpec, RangeSpec};
use network::{Config, IpvlanMode, Kind, MacvlanMode, Networks, Range, Subnet};

use super::NetworkRecord;
use crate::error::{Error, Result};

const BRIDGE_NAME: &str = "com.docker.network.bridge.name";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const BETWEEN: &str = "com.docker.network.bridge.enable_icc";
const MTU: &str = "com.docker.network.driver.mtu";
/// The address that published ports are at where none is named.
pub(super) const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
/// What interfaces are called in containers.
pub(super) const PREFIX: &str = "com.docker.network.container_iface_prefix";

/// Docker's rule for the name of a network.
pub(super) fn check_name(name: &str) -> Result<()> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_fine = name.starts_with(is_word)
        && name.ends_with(is_word)
        && name.len() <= 128
        && name.chars().all(|c| is_word(c) || matches!(c, '-' | '.' | ' '));
    if name.is_empty() {
        return Err(Error::invalid("invalid network name: a name is needed"));
    }
    if !is_fine {
        return Err(Error::invalid(format!(
            "invalid network name {name:?}: only [a-zA-Z0-9_] and, between them, [-. ] are allowed"
        )));
    }
    Ok(())
}

/// Fills in what is left to the engine, after which the record says all there is to know.
pub(super) fn complete(record: &mut NetworkRecord, kernel: &Networks) -> Result<()> {
    let spec = &mut record.spec;
    if spec.driver.is_empty() || spec.driver == "default" {
        spec.driver = "bridge".into();
    }
    check_driver(&spec.driver)?;
    check_options(spec)?;
    if !spec.has_v4 && !spec.has_v6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    let mut ranges = Vec::new();
    for is_v6 in [false, true] {
        let given: Vec<&RangeSpec> = spec.ranges.iter().filter(|range| is_of(range, is_v6)).collect();
        let is_wanted = if is_v6 { spec.has_v6 } else { spec.has_v4 };
        match given.as_slice() {
            [one] if is_wanted => ranges.push(one_range(one, is_v6, kernel)?),
            // Docker's clients send an empty one where nothing is asked for.
            [] if is_wanted => ranges.push(text_of(&kernel.free_range(is_v6)?, RangeSpec::default())),
            [] => {}
            [one, ..] if !is_wanted => {
                let version = if is_v6 { "IPv6" } else { "IPv4" };
                return Err(Error::invalid(format!(
                    "{version} is not enabled, and subnet {} is of it",
                    one.subnet
                )));
            }
            _ => {
                return Err(Error::unsupported(
                    "a network has one subnet for each version of IP; more than one is not supported",
                ));
            }
        }
    }
    spec.ranges = ranges;
    Ok(())
}

fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "bridge" | "macvlan" | "ipvlan" => Ok(()),
        "host" | "null" | "none" => {
            Err(Error::Forbidden { what: format!("only one instance of \"{driver}\" network is allowed") })
        }
        "overlay" => Err(Error::unsupported(
            "overlay networks belong to a swarm, which Cove does not have; bridge, macvlan and ipvlan are there",
        )),
        other => Err(Error::invalid(format!(
            "could not find plugin {other} in v1 plugin registry: plugin not found; bridge, macvlan and ipvlan are there"
        ))),
    }
}

/// Which version of IP a range is for: what it names tells; one that names nothing is IPv4's.
fn is_of(range: &RangeSpec, is_v6: bool) -> bool {
    let named = [&range.subnet, &range.range, &range.gateway].into_iter().find(|text| !text.is_empty());
    let is_empty = named.is_none() && range.auxiliary.is_empty();
    !is_empty && named.is_some_and(|text| text.contains(':')) == is_v6
}

fn one_range(given: &RangeSpec, is_v6: bool, kernel: &Networks) -> Result<RangeSpec> {
    let range = if given.subnet.is_empty() {
        if !given.range.is_empty() || !given.gateway.is_empty() {
            return Err(Error::invalid("a gateway or an address range needs a subnet"));
        }
        kernel.free_range(is_v6)?
    } else {
        let subnet: Subnet = given.subnet.parse()?;
        if let Some(route) = kernel.routed(subnet) {
            return Err(Error::Conflict {
                what: format!(
                    "cannot create network: subnet {subnet} overlaps with {route}, which this computer reaches another way; choose another --subnet"
                ),
            });
        }
        Range::of(subnet)
    };
    let filled = text_of(&range, given.clone());
    parse_range(&filled)?.check()?;
    Ok(filled)
}

/// A range in words, over what was given in words.
fn text_of(range: &Range, given: RangeSpec) -> RangeSpec {
    let or = |given: String, found: String| if given.is_empty() { found } else { given };
    RangeSpec {
        subnet: or(given.subnet, range.subnet.to_string()),
        gateway: or(given.gateway, range.gateway.to_string()),
        ..given
    }
}

fn parse_range(spec: &RangeSpec) -> Result<Range> {
    let address = |text: &str| -> Result<IpAddr> {
        // Docker's clients may send `10.0.0.1/24`.
        let bare = text.split('/').next().unwrap_or(text);
        bare.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))
    };
    let range = if spec.range.is_empty() { None } else { Some(spec.range.parse()?) };
    Ok(Range {
        subnet: spec.subnet.parse()?,
        gateway: address(&spec.gateway)?,
        range,
        reserved: spec.auxiliary.values().map(|text| address(text)).collect::<Result<_>>()?,
    })
}

fn flag(spec: &NetworkSpec, name: &str, default: bool) -> Result<bool> {
    match spec.options.get(name).map(String::as_str) {
        None | Some("") => Ok(default),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => {
            Err(Error::invalid(format!("invalid value for {name}: {other:?} is neither true nor false")))
        }
    }
}

/// Refuses options that would be ignored.
fn check_options(spec: &NetworkSpec) -> Result<()> {
    let known: &[&str] = match spec.driver.as_str() {
        "bridge" => &[BRIDGE_NAME, MASQUERADE, BETWEEN, MTU, HOST_BINDING, PREFIX],
        "macvlan" => &["parent", "macvlan_mode", MTU, PREFIX],
        _ => &["parent", "ipvlan_mode", MTU, PREFIX],
    };
    // Options of nobody's are notes, which Docker keeps too; its own mean something.
    let means = |name: &&String| name.starts_with("com.docker.network.") || spec.driver != "bridge";
    match spec.options.keys().filter(means).find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Error::unsupported(format!(
            "network option {name:?} is not supported for driver {}; these are: {}",
            spec.driver,
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

/// What the kernel is asked for.
pub(super) fn config(record: &NetworkRecord) -> Result<Config> {
    let spec = &record.spec;
    let option = |name: &str| spec.options.get(name).filter(|value| !value.is_empty());
    let mtu = option(MTU).map(|text| {
        let bytes = text.parse::<u32>().ok().filter(|mtu| (68..=65535).contains(mtu));
        bytes.ok_or_else(|| Error::invalid(format!("invalid MTU: {text:?}")))
    });
    if let Some(text) = option(HOST_BINDING) {
        text.parse::<IpAddr>().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?;
    }
    if let Some(prefix) = option(PREFIX)
        && (prefix.len() > 10 || !prefix.chars().all(|c| c.is_ascii_alphanumeric()))
    {
        return Err(Error::invalid(format!("invalid prefix of interfaces: {prefix:?}")));
    }
    let parent = option("parent").cloned();
    let kind = match spec.driver.as_str() {
        "macvlan" => Kind::Macvlan {
            parent,
            mode: match option("macvlan_mode").map(String::as_str) {
                None | Some("bridge") => MacvlanMode::Bridge,
                Some("private") => MacvlanMode::Private,
                Some("vepa") => MacvlanMode::Vepa,
                Some("passthru") => MacvlanMode::Passthru,
                Some(other) => {
                    return Err(Error::invalid(format!("requested macvlan mode '{other}' is not valid")));
                }
            },
        },
        "ipvlan" => Kind::Ipvlan {
            parent,
            mode: match option("ipvlan_mode").map(String::as_str) {
                None | Some("l2") => IpvlanMode::L2,
                Some("l3") => IpvlanMode::L3,
                Some("l3s") => IpvlanMode::L3s,
                Some(other) => {
                    return Err(Error::invalid(format!("requested ipvlan mode '{other}' is not valid")));
                }
            },
        },
        _ => {
            let interface = option(BRIDGE_NAME)
                .cloned()
                .unwrap_or_else(|| format!("cv-{}", record.id.get(..12).unwrap_or_default()));
            let is_fine = (1..=15).contains(&interface.len())
                && interface.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if !is_fine {
                return Err(Error::invalid(format!(
                    "invalid name of a bridge: {interface:?}; it has one to fifteen letters, digits or [-_.]"
                )));
            }
            Kind::Bridge {
                interface,
                masquerades: flag(spec, MASQUERADE, true)?,
                isolates: !flag(spec, BETWEEN, true)?,
            }
        }
    };
    Ok(Config {
        id: record.id.clone(),
        kind,
        ranges: spec.ranges.iter().map(parse_range).collect::<Result<_>>()?,
        is_internal: spec.is_internal,
        mtu: mtu.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn record(change: impl FnOnce(&mut NetworkSpec)) -> NetworkRecord {
        let mut spec = NetworkSpec { name: "n".into(), has_v4: true, ..NetworkSpec::default() };
        change(&mut spec);
        NetworkRecord { id: "a".repeat(64), created: 1, spec }
    }

    fn completed(change: impl FnOnce(&mut NetworkSpec)) -> Result<Config> {
        let mut record = record(change);
        complete(
            &mut record,
            &Networks::new(
                "test".into(),
                network::Place::of_host("/nowhere".into(), "/nowhere".into()),
                false,
            ),
        )?;
        config(&record)
    }

    fn range(subnet: &str, gateway: &str) -> RangeSpec {
        RangeSpec { subnet: subnet.into(), gateway: gateway.into(), ..RangeSpec::default() }
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let config = completed(|spec| spec.has_v6 = true).unwrap();
        assert_eq!(config.ranges.len(), 2);
        assert!(config.ranges.iter().any(|range| range.gateway.is_ipv6()), "{config:?}");
        assert!(matches!(config.kind, Kind::Bridge { masquerades: true, isolates: false, .. }));
        let named = completed(|spec| spec.ranges = vec![range("10.99.0.0/24", "")]).unwrap();
        assert_eq!(named.ranges.first().unwrap().gateway.to_string(), "10.99.0.1");
        // Docker's clients send this where nothing is asked for.
        assert_eq!(completed(|spec| spec.ranges = vec![RangeSpec::default()]).unwrap().ranges.len(), 1);
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_words() {
        type Change = fn(&mut NetworkSpec);
        let cases: [(Change, &str); 8] = [
            (|spec| spec.driver = "overlay".into(), "swarm"),
            (|spec| spec.driver = "weave".into(), "plugin not found"),
            (|spec| spec.ranges = vec![range("10.99.0.0/24", "10.98.0.1")], "no matching subnet for gateway"),
            (|spec| spec.ranges = vec![range("10.99.0.1/24", "")], "it should be 10.99.0.0/24"),
            (|spec| spec.ranges = vec![range("fd00:1::/64", "")], "IPv6 is not enabled"),
            (
                |spec| spec.options = BTreeMap::from([("com.docker.network.x".into(), "y".into())]),
                "not supported for driver bridge",
            ),
            (|spec| spec.options = BTreeMap::from([(MTU.into(), "12".into())]), "invalid MTU"),
            (
                |spec| spec.options = BTreeMap::from([(BRIDGE_NAME.into(), "../x".into())]),
                "invalid name of a bridge",
            ),
        ];
        for (change, expected) in cases {
            let error = completed(change).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn names_follow_dockers_rule() {
        for name in ["a", "my_net-1.x", "two words"] {
            check_name(name).unwrap();
        }
        for name in ["", "-a", "a/b", "../a", "a\n", "ü"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
