//! Containers on the bridge: what they ask of it, and what is kept of that while they run.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use model::container::{ContainerSpec, PortSpec};
use network::{Bridge, Config, Endpoint, Port, Protocol};
use stdx::fs::Durability;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Doing, Error, Result};

/// What is kept of an endpoint in the container's state directory: the next daemon finds it there.
const FILE: &str = "network.json";

/// The bridge of an engine; none for a user's, or where there is no nft.
pub(crate) fn open(root: &Path, is_rootless: bool) -> Option<Arc<Bridge>> {
    let has_nft = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
    if is_rootless || !has_nft.iter().any(|path| Path::new(path).exists()) {
        return None;
    }
    // Engines side by side must not share a bridge: all but the machine's own have a name from their place.
    let (interface, table) = if root == Path::new("/var/lib/cove") {
        ("cove0".to_owned(), "cove".to_owned())
    } else {
        let hash =
            root.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                // FNV-1a, which is enough to tell a few paths apart.
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        (format!("cv{:010x}", hash & 0xff_ffff_ffff), format!("cove_{:010x}", hash & 0xff_ffff_ffff))
    };
    Some(Arc::new(Bridge::new(Config { interface, table })))
}

/// Whether a container is on the bridge.
pub(crate) fn is_bridged(spec: &ContainerSpec) -> bool {
    spec.host.network_mode == "bridge"
}

/// The ports a container wants, checked.
///
/// # Errors
/// Where one is malformed or asks for what is not there.
pub(crate) fn ports(spec: &ContainerSpec) -> Result<Vec<Port>> {
    let mut ports = spec.host.ports.iter().map(port).collect::<Result<Vec<_>>>()?;
    if spec.host.publishes_all {
        for inner in &spec.exposed_ports {
            let any = port(&PortSpec { inner: inner.clone(), ..PortSpec::default() })?;
            if !ports.iter().any(|port| (port.inner, port.protocol) == (any.inner, any.protocol)) {
                ports.push(any);
            }
        }
    }
    Ok(ports)
}

fn port(spec: &PortSpec) -> Result<Port> {
    let (number, protocol) = spec.inner.split_once('/').unwrap_or((&spec.inner, "tcp"));
    let bad = || Error::invalid(format!("invalid port specification: {:?}", spec.inner));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(Error::unsupported(format!("ports of protocol {other} are not supported yet"))),
    };
    let inner: u16 = number.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
    let address = match spec.address.as_str() {
        "" => Ipv4Addr::UNSPECIFIED,
        text => text.parse().map_err(|_| match text.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Error::unsupported(format!("ports at IPv6 addresses are not supported yet: {text}")),
            Err(_) => Error::invalid(format!("invalid IP address: {text}")),
        })?,
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

impl Engine {
    /// Gives a container its place on the bridge, noted on disk before anything uses it.
    pub(crate) async fn attach_network(
        &self,
        container: &Arc<Container>,
        dir: &Path,
    ) -> Result<Option<OwnedFd>> {
        let spec = container.spec();
        if !is_bridged(&spec) {
            return Ok(None);
        }
        let bridge = self.bridge.clone().ok_or_else(|| {
            Error::unsupported("bridge networks need root and the program nft (package nftables)")
        })?;
        let ports = ports(&spec)?;
        let id = container.id.clone();
        let attached = tokio::task::spawn_blocking(move || bridge.attach(&id, &ports)).await;
        let attached = attached.map_err(|_| Error::ShuttingDown)??;
        let text = serde_json::to_vec(&attached.endpoint).unwrap_or_default();
        container.dynamic().endpoint = Some(attached.endpoint);
        stdx::fs::write_atomic(&dir.join(FILE), &text, Durability::Process)
            .doing(|| format!("write {FILE}"))?;
        Ok(Some(attached.namespace))
    }

    /// Takes it away again; waits for that, so that its ports are free for the next.
    pub(crate) async fn detach_network(&self, container: &Container) {
        let had = container.dynamic().endpoint.take();
        let (Some(bridge), Some(_)) = (self.bridge.clone(), had) else { return };
        let id = container.id.clone();
        // Only a shutdown ends it early, and the next start sweeps.
        let _ = tokio::task::spawn_blocking(move || bridge.detach(&id)).await;
    }

    /// Finds what a container that runs has since the daemon before this one.
    pub(crate) async fn adopt_network(&self, container: &Container, dir: &Path) {
        let Some(bridge) = self.bridge.clone() else { return };
        let kept = std::fs::read(dir.join(FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Endpoint>(&bytes).ok());
        let Some(endpoint) = kept else { return };
        container.dynamic().endpoint = Some(endpoint.clone());
        let id = container.id.clone();
        let adopted = tokio::task::spawn_blocking(move || bridge.adopt(&id, &endpoint)).await;
        if let Ok(Err(error)) = adopted {
            tracing::warn!(id = container.id, %error, "failed to find a container's network again");
        }
    }

    /// Removes what a daemon before this one left behind.
    pub(crate) async fn sweep_network(&self) {
        if let Some(bridge) = self.bridge.clone() {
            let _ = tokio::task::spawn_blocking(move || bridge.sweep()).await;
        }
    }
}
