//! Networks as rows of a list, and the form for a new one.

use api::network::{CreateNetwork, Ipam, IpamConfig, Network};
use serde::{Deserialize, Serialize};

use super::error::UiError;
use super::row::millis;

/// One row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct NetworkRow {
    /// The whole id.
    pub id: String,
    /// As the command line takes it.
    pub name: String,
    /// `bridge`, `host`, `null`, or what the engine has besides.
    pub driver: String,
    /// The Compose project it belongs to.
    pub project: Option<String>,
    /// Which addresses it spans.
    pub ranges: Vec<AddressRange>,
    /// Whether nothing outside can be reached from it.
    pub internal: bool,
    /// Whether its members have IPv6 addresses.
    pub ipv6: bool,
    /// Milliseconds since the epoch; 0 for one that is always there.
    pub created_at: u64,
    /// Whether it is always there.
    pub built_in: bool,
    /// Containers that run on it.
    pub members: Vec<Member>,
}

/// A part of a network's addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct AddressRange {
    /// `172.18.0.0/16`
    pub subnet: String,
    /// Empty where there is none.
    pub gateway: String,
}

/// A container on a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Without the network's prefix; empty where it has none, as the next two.
    pub ipv4: String,
    /// Likewise.
    pub ipv6: String,
    /// The hardware's address.
    pub mac: String,
}

impl NetworkRow {
    /// What a network's own page tells; a list has it without its members.
    #[must_use]
    pub fn of(network: Network) -> Self {
        let mut members: Vec<_> = network
            .containers
            .into_iter()
            .map(|(id, member)| {
                let address = |text: &str| text.split('/').next().unwrap_or_default().to_owned();
                Member {
                    ipv4: address(&member.ipv4_address),
                    ipv6: address(&member.ipv6_address),
                    mac: member.mac_address,
                    name: member.name,
                    id,
                }
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let range = |config: IpamConfig| AddressRange { subnet: config.subnet, gateway: config.gateway };
        Self {
            built_in: matches!(network.name.as_str(), "bridge" | "host" | "none"),
            project: network.labels.get("com.docker.compose.project").cloned(),
            ranges: network.ipam.config.into_iter().map(range).collect(),
            created_at: millis(&network.created).unwrap_or(0),
            id: network.id,
            name: network.name,
            driver: network.driver,
            internal: network.internal,
            ipv6: network.enable_ipv6,
            members,
        }
    }
}

/// What a user fills in for a network; texts are as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkForm {
    /// Its name.
    pub name: String,
    /// One or several, of both versions of IP. Empty: the engine chooses.
    pub subnet: String,
    /// Whether nothing outside can be reached from it.
    pub internal: bool,
    /// Whether its members have IPv6 addresses.
    pub ipv6: bool,
}

impl NetworkForm {
    pub(crate) fn request(&self) -> CreateNetwork {
        let subnets = self.subnet.split([',', ' ', '\t']).filter(|subnet| !subnet.is_empty());
        let config = |subnet: &str| IpamConfig { subnet: subnet.to_owned(), ..IpamConfig::default() };
        CreateNetwork {
            name: self.name.trim().to_owned(),
            driver: "bridge".to_owned(),
            enable_ipv6: self.ipv6.then_some(true),
            ipam: Ipam {
                driver: "default".to_owned(),
                config: subnets.map(config).collect(),
                ..Ipam::default()
            },
            internal: self.internal,
            ..CreateNetwork::default()
        }
    }
}

/// Why a network was not removed, with what to do about it.
pub(crate) fn not_removed(error: UiError) -> UiError {
    match error.hint {
        None if error.message.contains("active endpoints") => {
            error.with_hint("stop these containers, or take them off it, first")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::network::NetworkMember;

    #[test]
    fn members_come_by_name_with_bare_addresses() {
        let member = |name: &str, v4: &str| NetworkMember {
            name: name.into(),
            ipv4_address: v4.into(),
            ..NetworkMember::default()
        };
        let row = NetworkRow::of(Network {
            name: "backend".into(),
            created: "2026-11-24T11:00:00Z".into(),
            containers: [
                ("1".to_owned(), member("web", "172.18.0.3/16")),
                ("2".to_owned(), member("db", "172.18.0.2/16")),
            ]
            .into(),
            ..Network::default()
        });
        let members: Vec<_> = row.members.iter().map(|member| (&*member.name, &*member.ipv4)).collect();
        assert_eq!(members, [("db", "172.18.0.2"), ("web", "172.18.0.3")]);
        assert_eq!((row.built_in, row.created_at), (false, 1_795_518_000_000));
    }

    #[test]
    fn the_networks_that_are_always_there_are_known_and_have_no_age() {
        let row = |name: &str| {
            NetworkRow::of(Network {
                name: name.into(),
                created: "0001-01-01T00:00:00Z".into(),
                ..Network::default()
            })
        };
        assert!(row("bridge").built_in && row("host").built_in && row("none").built_in);
        assert_eq!((row("bridge2").built_in, row("host").created_at), (false, 0));
    }

    #[test]
    fn a_form_leaves_to_the_engine_what_it_does_not_say() {
        let request = NetworkForm { name: " backend ".into(), ..NetworkForm::default() }.request();
        assert_eq!(request.name, "backend");
        assert_eq!(request.enable_ipv6, None);
        assert!(request.ipam.config.is_empty() && !request.internal);
        let request =
            NetworkForm { subnet: "10.9.0.0/24, fd00::/64".into(), ipv6: true, ..NetworkForm::default() }
                .request();
        let subnets: Vec<_> = request.ipam.config.iter().map(|config| config.subnet.as_str()).collect();
        assert_eq!(subnets, ["10.9.0.0/24", "fd00::/64"]);
        assert_eq!(request.enable_ipv6, Some(true));
    }
}
