//! Networks as rows of a list, and the form for a new one.

use std::net::IpAddr;

use api::network::{CreateNetwork, Ipam, IpamConfig, Network};
use serde::{Deserialize, Serialize};

use super::error::UiError;
use super::form::{Preview, Variable, lines, list};
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
    /// What its driver was told.
    pub options: Vec<Variable>,
    /// Notes on it.
    pub labels: Vec<Variable>,
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
    /// The part of it that containers' addresses are chosen from; empty for all of it.
    pub range: String,
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
        let range = |config: IpamConfig| AddressRange {
            subnet: config.subnet,
            gateway: config.gateway,
            range: config.ip_range,
        };
        Self {
            built_in: matches!(network.name.as_str(), "bridge" | "host" | "none"),
            project: network.labels.get("com.docker.compose.project").cloned(),
            ranges: network.ipam.config.into_iter().map(range).collect(),
            created_at: millis(&network.created).unwrap_or(0),
            options: lines(network.options),
            labels: lines(network.labels),
            id: network.id,
            name: network.name,
            driver: network.driver,
            internal: network.internal,
            ipv6: network.enable_ipv6,
            members,
        }
    }
}

/// How a network reaches its members.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum NetworkDriver {
    /// A switch inside the engine's computer, which leads outside by the computer's own address.
    #[default]
    Bridge,
    /// Hardware addresses of their own on an interface of the engine's computer.
    Macvlan,
    /// The hardware address of that interface, and addresses of their own.
    Ipvlan,
}

/// What a user fills in for a network; texts are as typed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkForm {
    /// Its name.
    pub name: String,
    /// How it reaches its members.
    pub driver: NetworkDriver,
    /// The interface of the engine's computer that it lies on; a bridge has none.
    pub parent: String,
    /// One for each version of IP. Empty: the engine chooses.
    pub subnet: String,
    /// One in each subnet, or none. Empty: the engine chooses.
    pub gateway: String,
    /// The part of each subnet that addresses are chosen from. Empty: all of it.
    pub range: String,
    /// Whether nothing outside can be reached from it.
    pub internal: bool,
    /// Whether its members have IPv6 addresses.
    pub ipv6: bool,
    /// What its driver is told. Lines that are empty are ignored.
    pub options: Vec<Variable>,
    /// Likewise.
    pub labels: Vec<Variable>,
}

impl NetworkDriver {
    fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

impl NetworkForm {
    /// Checks the form.
    #[must_use]
    pub fn preview(&self) -> Preview {
        self.read().0
    }

    /// What to make.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn request(&self) -> Result<CreateNetwork, UiError> {
        let (preview, request) = self.read();
        preview.check(request)
    }

    fn read(&self) -> (Preview, CreateNetwork) {
        let mut preview = Preview::of(&["network", "create"]);
        if self.driver != NetworkDriver::Bridge {
            preview.option("--driver", self.driver.name());
        }
        if self.internal {
            preview.word("--internal");
        }
        if self.ipv6 {
            preview.word("--ipv6");
        }
        let config = self.read_ranges(&mut preview);
        let parent = self.parent.trim();
        let has_parent = self.driver != NetworkDriver::Bridge && !parent.is_empty();
        if has_parent {
            preview.option("--opt", &format!("parent={parent}"));
        }
        let mut options = preview.pairs(&self.options, "options", "--opt");
        if has_parent && options.insert("parent".to_owned(), parent.to_owned()).is_some() {
            preview.problem("parent", "the parent interface is among the options too");
        }
        let labels = preview.pairs(&self.labels, "labels", "--label");
        let name = self.name.trim();
        preview.word_or(name, "NAME");
        if name.is_empty() {
            preview.problem("name", "a network needs a name");
        }
        let request = CreateNetwork {
            name: name.to_owned(),
            driver: self.driver.name().to_owned(),
            enable_ipv6: self.ipv6.then_some(true),
            ipam: Ipam { driver: "default".to_owned(), config, ..Ipam::default() },
            internal: self.internal,
            options,
            labels,
            ..CreateNetwork::default()
        };
        (preview, request)
    }

    /// Subnets, each with the gateway and the range of its version of IP.
    fn read_ranges(&self, preview: &mut Preview) -> Vec<IpamConfig> {
        let mut config = Vec::new();
        for subnet in list(&self.subnet) {
            preview.option("--subnet", subnet);
            if !is_subnet(subnet) {
                preview.problem("subnet", "a subnet is written as 10.9.0.0/24 or fd00:9::/64");
            } else if is_v6(subnet) && !self.ipv6 {
                preview.problem("subnet", &format!("switch IPv6 on for {subnet}"));
            }
            config.push(IpamConfig { subnet: subnet.to_owned(), ..IpamConfig::default() });
        }
        for gateway in list(&self.gateway) {
            preview.option("--gateway", gateway);
            if gateway.parse::<IpAddr>().is_err() {
                preview.problem("gateway", "a gateway is an address such as 10.9.0.1");
                continue;
            }
            match config.iter_mut().find(|config| is_v6(&config.subnet) == is_v6(gateway)) {
                Some(config) => gateway.clone_into(&mut config.gateway),
                None => preview.problem("gateway", &format!("fill in the subnet that {gateway} is in")),
            }
        }
        for range in list(&self.range) {
            preview.option("--ip-range", range);
            if !is_subnet(range) {
                preview.problem("range", "a range is written as 10.9.0.128/25");
                continue;
            }
            match config.iter_mut().find(|config| is_v6(&config.subnet) == is_v6(range)) {
                Some(config) => range.clone_into(&mut config.ip_range),
                None => preview.problem("range", &format!("fill in the subnet that {range} is in")),
            }
        }
        config
    }
}

fn is_v6(address: &str) -> bool {
    address.contains(':')
}

/// `10.9.0.0/24`
fn is_subnet(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = if is_v6(address) { 128 } else { 32 };
    address.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
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
        let form = NetworkForm { name: " backend ".into(), ..NetworkForm::default() };
        let request = form.request().unwrap();
        assert_eq!((request.name.as_str(), request.driver.as_str()), ("backend", "bridge"));
        assert_eq!(request.enable_ipv6, None);
        assert!(request.ipam.config.is_empty() && !request.internal);
        assert_eq!(form.preview().words.join(" "), "network create backend");
        assert_eq!(NetworkForm::default().preview().words.join(" "), "network create NAME");
    }

    #[test]
    fn gateways_and_ranges_go_to_the_subnet_of_their_version() {
        let form = NetworkForm {
            name: "back end".into(),
            driver: NetworkDriver::Macvlan,
            parent: "eth0.30".into(),
            subnet: "10.9.0.0/24, fd00::/64".into(),
            gateway: "fd00::1 10.9.0.9".into(),
            range: "10.9.0.128/25".into(),
            internal: true,
            ipv6: true,
            options: vec![Variable { name: "macvlan_mode".into(), value: "private".into() }],
            labels: vec![Variable { name: "tier".into(), value: "2".into() }, Variable::default()],
        };
        let words = "network create --driver macvlan --internal --ipv6 --subnet 10.9.0.0/24 --subnet fd00::/64 \
                     --gateway fd00::1 --gateway 10.9.0.9 --ip-range 10.9.0.128/25 --opt parent=eth0.30 \
                     --opt macvlan_mode=private --label tier=2 'back end'";
        assert_eq!(form.preview().words.join(" "), words);
        let request = form.request().unwrap();
        let ranges: Vec<_> = request
            .ipam
            .config
            .iter()
            .map(|config| (config.subnet.as_str(), config.gateway.as_str(), config.ip_range.as_str()))
            .collect();
        assert_eq!(ranges, [("10.9.0.0/24", "10.9.0.9", "10.9.0.128/25"), ("fd00::/64", "fd00::1", "")]);
        assert_eq!(request.options["parent"], "eth0.30");
        assert_eq!((request.options.len(), request.labels.len()), (2, 1));
    }

    #[test]
    fn what_is_wrong_is_told_of_its_field() {
        let check = |form: NetworkForm, field: &str| {
            let form = NetworkForm { name: "n".into(), ..form };
            let fields: Vec<_> = form.preview().problems.into_iter().map(|problem| problem.field).collect();
            assert_eq!(fields, [field], "{form:?}");
        };
        let form = NetworkForm::default;
        check(NetworkForm { subnet: "10.9.0.0".into(), ..form() }, "subnet");
        check(NetworkForm { subnet: "10.9.0.0/33".into(), ..form() }, "subnet");
        check(NetworkForm { subnet: "fd00::/64".into(), ..form() }, "subnet");
        check(NetworkForm { gateway: "10.9.0.1".into(), ..form() }, "gateway");
        check(NetworkForm { subnet: "10.9.0.0/24".into(), gateway: "10.9".into(), ..form() }, "gateway");
        check(NetworkForm { range: "10.9.0.128/25".into(), ..form() }, "range");
        // A bridge lies on no interface.
        assert!(
            NetworkForm { name: "n".into(), parent: "eth0".into(), ..form() }.preview().problems.is_empty()
        );
    }
}
