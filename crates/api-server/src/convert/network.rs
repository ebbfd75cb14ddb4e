//! Networks, and what containers have on them.

use std::collections::BTreeMap;

use api::container::{EndpointIpam, EndpointSettings};
use api::network::{ConfigReference, CreateNetwork, Ipam, IpamConfig, Network, NetworkMember};
use engine::{ContainerInfo, NetworkInfo, endpoint_id};
use model::network::{EndpointSpec, NetworkSpec, RangeSpec};

use super::time_text;
use crate::error::{ApiError, ApiResult};

/// A network as it is shown; `with_members`: whether with its containers.
pub(crate) fn network(info: &NetworkInfo, with_members: bool) -> Network {
    let spec = &info.record.spec;
    let config = if spec.ranges.is_empty() {
        // Of the one that is always there, decided when its first container came.
        info.ranges
            .iter()
            .map(|range| IpamConfig {
                subnet: range.subnet.to_string(),
                gateway: range.gateway.to_string(),
                ..IpamConfig::default()
            })
            .collect()
    } else {
        let of = |range: &RangeSpec| IpamConfig {
            subnet: range.subnet.clone(),
            ip_range: range.range.clone(),
            gateway: range.gateway.clone(),
            auxiliary_addresses: range.auxiliary.clone(),
        };
        spec.ranges.iter().map(of).collect()
    };
    let members = info.members.iter().filter(|_| with_members).map(|(id, name, endpoint)| {
        let text = |address: Option<&engine::Address>| {
            address.map_or_else(String::new, |a| format!("{}/{}", a.address, a.subnet.prefix()))
        };
        let endpoint = endpoint.as_ref();
        let member = NetworkMember {
            name: name.clone(),
            endpoint_id: endpoint_id(id, &info.record.id),
            mac_address: endpoint.map(|endpoint| mac_text(endpoint.mac)).unwrap_or_default(),
            ipv4_address: text(endpoint.and_then(engine::Endpoint::v4)),
            ipv6_address: text(endpoint.and_then(engine::Endpoint::v6)),
        };
        (id.clone(), member)
    });
    Network {
        name: spec.name.clone(),
        id: info.record.id.clone(),
        created: time_text(info.record.created),
        scope: "local".into(),
        driver: spec.driver.clone(),
        enable_ipv4: spec.has_v4,
        enable_ipv6: spec.has_v6,
        ipam: Ipam { driver: "default".into(), options: spec.ipam_options.clone(), config },
        internal: spec.is_internal,
        attachable: spec.is_attachable,
        ingress: false,
        config_from: ConfigReference::default(),
        config_only: false,
        containers: members.collect(),
        options: spec.options.clone(),
        labels: spec.labels.clone(),
    }
}

/// A network that is to be made.
pub(crate) fn network_spec(request: CreateNetwork) -> ApiResult<NetworkSpec> {
    if !matches!(request.ipam.driver.as_str(), "" | "default") {
        return Err(ApiError::bad(format!(
            "could not find IPAM plugin {}: \"default\" is the only one there",
            request.ipam.driver
        )));
    }
    if let Some(name) = request.ipam.options.iter().flatten().map(|(name, _)| name).next() {
        return Err(ApiError::unsupported(format!(
            "option {name:?} of IPAM is not supported: the allocator has none"
        )));
    }
    let range = |config: IpamConfig| RangeSpec {
        subnet: config.subnet,
        range: config.ip_range,
        gateway: config.gateway,
        auxiliary: config.auxiliary_addresses,
    };
    Ok(NetworkSpec {
        name: request.name,
        driver: request.driver,
        has_v4: request.enable_ipv4.unwrap_or(true),
        has_v6: request.enable_ipv6.unwrap_or(false),
        is_internal: request.internal,
        is_attachable: request.attachable,
        ranges: request.ipam.config.into_iter().map(range).collect(),
        ipam_options: request.ipam.options,
        options: request.options,
        labels: request.labels,
    })
}

/// What a container asks of a network.
pub(crate) fn endpoint_spec(settings: EndpointSettings) -> ApiResult<EndpointSpec> {
    let ipam = settings.ipam_config.unwrap_or_default();
    Ok(EndpointSpec {
        aliases: settings.aliases.unwrap_or_default(),
        links: settings.links.unwrap_or_default(),
        v4: ipam.ipv4_address,
        v6: ipam.ipv6_address,
        link_local: ipam.link_local_ips.unwrap_or_default(),
        mac: settings.mac_address,
        priority: settings.gw_priority,
        options: settings.driver_opts.unwrap_or_default(),
    })
}

/// A container's networks, with what it has there while it runs.
pub(super) fn networks(info: &ContainerInfo) -> BTreeMap<String, EndpointSettings> {
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let of = |member: &engine::MemberOf| {
        let asked = &member.endpoint;
        let ipam = EndpointIpam {
            ipv4_address: asked.v4.clone(),
            ipv6_address: asked.v6.clone(),
            link_local_ips: list(&asked.link_local),
        };
        let settings = EndpointSettings {
            ipam_config: (ipam != EndpointIpam::default()).then_some(ipam),
            links: list(&asked.links),
            aliases: list(&asked.aliases),
            mac_address: asked.mac.clone(),
            driver_opts: (!asked.options.is_empty()).then(|| asked.options.clone()),
            gw_priority: asked.priority,
            network_id: member.id.clone(),
            dns_names: list(&member.dns_names),
            ..EndpointSettings::default()
        };
        let is_shared = matches!(member.name.as_str(), "host" | "none") && info.state.run().is_some();
        let Some(endpoint) = info.network.endpoint(&member.id) else {
            let id = if is_shared { endpoint_id(&info.id, &member.id) } else { String::new() };
            return EndpointSettings { endpoint_id: id, ..settings };
        };
        let (v4, v6) = (endpoint.v4(), endpoint.v6());
        let text = |address: Option<std::net::IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        EndpointSettings {
            endpoint_id: endpoint_id(&info.id, &member.id),
            mac_address: mac_text(endpoint.mac),
            gateway: text(v4.and_then(|a| a.gateway)),
            ip_address: text(v4.map(|a| a.address)),
            ip_prefix_len: v4.map_or(0, |a| a.subnet.prefix().into()),
            ipv6_gateway: text(v6.and_then(|a| a.gateway)),
            global_ipv6_address: text(v6.map(|a| a.address)),
            global_ipv6_prefix_len: v6.map_or(0, |a| a.subnet.prefix().into()),
            ..settings
        }
    };
    info.networks.iter().map(|member| (member.name.clone(), of(member))).collect()
}

/// A hardware address as everybody writes it.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(17);
    for (at, byte) in mac.into_iter().enumerate() {
        // Writing to a string can't fail.
        let _ = write!(text, "{}{byte:02x}", if at > 0 { ":" } else { "" });
    }
    text
}
