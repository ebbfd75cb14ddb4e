//! Ports that a container publishes, as the kernel's side of networks understands them.

use std::net::IpAddr;

use model::container::{ContainerSpec, PortSpec};
use network::{Port, Protocol};

use crate::error::{Error, Result};

/// The ports a container wants, checked. `default`: the address of those that name none.
///
/// # Errors
/// Where one is malformed or asks for what is not there.
pub(crate) fn ports(spec: &ContainerSpec, default: Option<IpAddr>) -> Result<Vec<Port>> {
    let mut ports = spec.host.ports.iter().map(|port| one(port, default)).collect::<Result<Vec<_>>>()?;
    if spec.host.publishes_all {
        for inner in &spec.exposed_ports {
            let any = one(&PortSpec { inner: inner.clone(), ..PortSpec::default() }, default)?;
            if !ports.iter().any(|port| (port.inner, port.protocol) == (any.inner, any.protocol)) {
                ports.push(any);
            }
        }
    }
    Ok(ports)
}

fn one(spec: &PortSpec, default: Option<IpAddr>) -> Result<Port> {
    let (number, protocol) = spec.inner.split_once('/').unwrap_or((&spec.inner, "tcp"));
    let bad = || Error::invalid(format!("invalid port specification: {:?}", spec.inner));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => {
            return Err(Error::invalid(format!("invalid protocol: {other}; tcp, udp and sctp are there")));
        }
    };
    let inner: u16 = number.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
    let address = match spec.address.as_str() {
        "" => default,
        text => {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            Some(bare.parse().map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?)
        }
    };
    let outer = if spec.outer.is_empty() {
        (0, 0)
    } else {
        let (from, to) = spec.outer.split_once('-').unwrap_or((&spec.outer, &spec.outer));
        let number = |text: &str| text.parse::<u16>();
        let range = number(from).and_then(|from| Ok((from, number(to)?)));
        let range = range.map_err(|_| Error::invalid(format!("invalid host port: {:?}", spec.outer)))?;
        if range.1 < range.0 {
            return Err(Error::invalid(format!("invalid range of host ports: {:?}", spec.outer)));
        }
        range
    };
    Ok(Port { inner, protocol, address, outer })
}
