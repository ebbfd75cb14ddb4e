//! What a container has on its networks while it runs: made at its start, kept beside its monitor's socket so
//! that the next daemon finds it, and taken back at its end.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use model::container::ContainerSpec;
use model::network::EndpointSpec;
use network::dns::{self, Resolver, Sockets, View};
use network::{Endpoint, Namespace, Networks, Published};
use serde::{Deserialize, Serialize};
use stdx::fs::Durability;

use super::endpoint::{link, request};
use super::{NetworkRecord, driver, is_predefined, ports};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Doing, Error, Result};

/// Where it is kept, in the container's state directory.
const FILE: &str = "network.json";

/// What a running container has of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachments {
    /// Its place on each network.
    pub endpoints: Vec<Endpoint>,
    /// The id of the network whose gateway leads out, and to which published ports lead.
    pub gateway: Option<String>,
    /// Ports that are reached from outside.
    pub ports: Vec<Published>,
    /// Where its resolver listens, if it has one.
    pub dns: Option<dns::Ports>,
}

impl Attachments {
    /// Its place on a network.
    #[must_use]
    pub fn endpoint(&self, network: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.network == network)
    }

    /// Its place on the network that leads out.
    #[must_use]
    pub fn way_out(&self) -> Option<&Endpoint> {
        self.endpoint(self.gateway.as_deref()?)
    }
}

/// The same in memory, with what runs for it.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) kept: Attachments,
    pub(crate) resolver: Option<Resolver>,
}

impl Live {
    pub(crate) fn endpoint(&self, network: &str) -> Option<&Endpoint> {
        self.kept.endpoint(network)
    }
}

/// A network that a container is to be on.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(super) record: Arc<NetworkRecord>,
    pub(super) endpoint: EndpointSpec,
}

impl Engine {
    /// Gives a container its place on each of its networks, noted on disk before anything uses it. A
    /// namespace for it to run in, unless it joins another's, or is on none and has to make its own.
    pub(crate) async fn attach_networks(
        &self,
        container: &Arc<Container>,
        dir: &Path,
    ) -> Result<Option<OwnedFd>> {
        let spec = container.spec();
        let wanted = self.wanted(&spec)?;
        if wanted.is_empty() {
            let has_own = spec.host.network_mode == "none";
            let spare = has_own.then(|| self.networks.kernel().ok()?.spare()).flatten();
            return Ok(spare.map(Namespace::into_fd));
        }
        let kernel = self.networks.kernel()?;
        let made = {
            let (key, wanted, spec) = (container.id.clone(), wanted.clone(), Arc::clone(&spec));
            tokio::task::spawn_blocking(move || make(&kernel, &key, &wanted, &spec)).await
        };
        let Made { kept, sockets, namespace } = made.map_err(|_| Error::ShuttingDown)??;
        container.dynamic().network.kept = kept;
        self.let_find(container, &wanted);
        if let Some(sockets) = sockets {
            let resolver = self.networks.resolvers.serve(sockets, view(&spec, &wanted));
            container.dynamic().network.resolver = Some(resolver.doing(|| "run the container's resolver")?);
        }
        write(container, dir)?;
        for wanted in &wanted {
            self.network_event(&wanted.record, "connect", Some(&container.id));
        }
        Ok(Some(namespace.into_fd()))
    }

    /// The networks that a container is to be on, the one of its mode first.
    pub(crate) fn wanted(&self, spec: &ContainerSpec) -> Result<Vec<Wanted>> {
        let primary = &spec.host.network_mode;
        let mut all = Vec::new();
        for (name, endpoint) in &spec.host.networks {
            all.push(Wanted { record: self.networks.find(name)?, endpoint: endpoint.clone() });
        }
        all.sort_by_key(|wanted| {
            wanted.record.spec.name != *primary && !wanted.record.id.starts_with(primary)
        });
        Ok(all)
    }

    /// Lets others find a container by its names.
    pub(crate) fn let_find(&self, container: &Container, wanted: &[Wanted]) {
        let names = self.networks.resolvers.names();
        let kept = container.dynamic().network.kept.clone();
        for Wanted { record, endpoint } in
            wanted.iter().filter(|wanted| !is_predefined(&wanted.record.spec.name))
        {
            let Some(place) = kept.endpoint(&record.id) else { continue };
            let addresses: Vec<IpAddr> = place.addresses.iter().map(|address| address.address).collect();
            names.insert(
                &record.id,
                &record.spec.name,
                &container.id,
                &dns_names(container, endpoint),
                &addresses,
            );
        }
    }

    /// Takes it all back; waits for that, so that its ports are free for the next.
    pub(crate) async fn detach_networks(&self, container: &Container) {
        let live = std::mem::take(&mut container.dynamic().network);
        let Some(kernel) = self.networks.kernel.clone() else { return };
        if live.kept == Attachments::default() {
            return;
        }
        for endpoint in &live.kept.endpoints {
            self.networks.resolvers.names().remove(&endpoint.network, &container.id);
        }
        let (id, kept) = (container.id.clone(), live.kept);
        let networks: Vec<String> = kept.endpoints.iter().map(|endpoint| endpoint.network.clone()).collect();
        // Only a shutdown ends it early, and the next start sweeps.
        let _ = tokio::task::spawn_blocking(move || take_back(&kernel, &id, &kept)).await;
        for record in networks.iter().filter_map(|id| self.networks.find(id).ok()) {
            self.network_event(&record, "disconnect", Some(&container.id));
        }
    }

    /// Finds what a container that runs has since the daemon before this one.
    pub(crate) async fn adopt_networks(&self, container: &Container, dir: &Path, pid: i32) {
        let Some(kernel) = self.networks.kernel.clone() else { return };
        let text = std::fs::read(dir.join(FILE)).ok();
        let Some(kept) = text.and_then(|bytes| serde_json::from_slice::<Attachments>(&bytes).ok()) else {
            return;
        };
        container.dynamic().network.kept = kept.clone();
        let id = container.id.clone();
        let adopted = tokio::task::spawn_blocking(move || adopt(&kernel, &id, &kept, pid)).await;
        let spec = container.spec();
        let found =
            adopted.map_err(|_| Error::ShuttingDown).and_then(|adopted| adopted).and_then(|sockets| {
                let wanted = self.wanted(&spec)?;
                self.let_find(container, &wanted);
                if let Some(sockets) = sockets {
                    let resolver = self.networks.resolvers.serve(sockets, view(&spec, &wanted));
                    container.dynamic().network.resolver =
                        Some(resolver.doing(|| "run the container's resolver")?);
                }
                Ok(())
            });
        if let Err(error) = found {
            tracing::warn!(
                id = container.id,
                error = error.chain(),
                "failed to find a container's network again"
            );
        }
    }
}

/// Writes what a container has where the next daemon finds it.
pub(super) fn write(container: &Container, dir: &Path) -> Result<()> {
    let text = serde_json::to_vec(&container.dynamic().network.kept).unwrap_or_default();
    stdx::fs::write_atomic(&dir.join(FILE), &text, Durability::Process).doing(|| format!("write {FILE}"))
}

/// What was made for a start.
struct Made {
    kept: Attachments,
    sockets: Option<Sockets>,
    namespace: Namespace,
}

/// All of it or nothing. Blocking.
fn make(kernel: &Arc<Networks>, key: &str, wanted: &[Wanted], spec: &ContainerSpec) -> Result<Made> {
    let namespace = kernel.namespace()?;
    let mut kept = Attachments::default();
    let mut sockets = None;
    let made = (|| -> Result<()> {
        for wanted in wanted {
            let inner = free_name(&wanted.record, &kept);
            let endpoint =
                kernel.attach(&wanted.record.id, key, &namespace, &request(&wanted.endpoint, inner)?)?;
            kept.endpoints.push(endpoint);
        }
        kept.gateway = way_out(&kept, wanted);
        if let Some(endpoint) = kept.way_out() {
            kernel.set_gateway(&namespace, Some(endpoint))?;
            if let Some(default) = publishes(wanted, endpoint) {
                kept.ports = kernel.publish(key, &ports::ports(spec, default)?, endpoint)?;
            }
        }
        if needs_resolver(wanted) {
            sockets = Some(Sockets::make(&namespace)?);
        }
        kept.dns = sockets.as_ref().map(|sockets| sockets.ports);
        Ok(())
    })();
    match made {
        Ok(()) => Ok(Made { kept, sockets, namespace }),
        Err(error) => {
            take_back(kernel, key, &kept);
            Err(error)
        }
    }
}

fn take_back(kernel: &Networks, key: &str, kept: &Attachments) {
    kernel.unpublish(key);
    for endpoint in &kept.endpoints {
        kernel.detach(&endpoint.network, key);
    }
}

fn adopt(kernel: &Arc<Networks>, key: &str, kept: &Attachments, pid: i32) -> Result<Option<Sockets>> {
    for endpoint in &kept.endpoints {
        kernel.adopt(key, endpoint)?;
    }
    if let Some(endpoint) = kept.way_out() {
        kernel.adopt_ports(key, &kept.ports, endpoint)?;
    }
    let Some(ports) = kept.dns else { return Ok(None) };
    Ok(Some(Sockets::again(&Namespace::of_process(pid)?, ports)?))
}

/// A name that no interface of the container has yet.
pub(super) fn free_name(record: &NetworkRecord, kept: &Attachments) -> String {
    let prefix = record.spec.options.get(driver::PREFIX).map_or("eth", String::as_str);
    let is_free = |name: &String| !kept.endpoints.iter().any(|endpoint| endpoint.inner == *name);
    (0..).map(|number| format!("{prefix}{number}")).find(is_free).unwrap_or_default()
}

/// The network whose gateway leads out: the one of the highest priority, then the first by name.
pub(super) fn way_out(kept: &Attachments, wanted: &[Wanted]) -> Option<String> {
    let leading = wanted.iter().filter(|wanted| {
        let endpoint = kept.endpoint(&wanted.record.id);
        endpoint.is_some_and(|endpoint| endpoint.addresses.iter().any(|address| address.gateway.is_some()))
    });
    let first = leading.min_by_key(|wanted| (-wanted.endpoint.priority, wanted.record.spec.name.clone()));
    first.map(|wanted| wanted.record.id.clone())
}

/// Whether ports can be published there; where they are if they name no address.
pub(super) fn publishes(wanted: &[Wanted], endpoint: &Endpoint) -> Option<Option<IpAddr>> {
    let record = &wanted.iter().find(|wanted| wanted.record.id == endpoint.network)?.record;
    if record.spec.driver != "bridge" || record.spec.is_internal {
        return None;
    }
    Some(record.spec.options.get(driver::HOST_BINDING).and_then(|text| text.parse().ok()))
}

/// Networks of one's own have names; the default bridge has none.
pub(super) fn needs_resolver(wanted: &[Wanted]) -> bool {
    wanted.iter().any(|wanted| !is_predefined(&wanted.record.spec.name))
}

/// What its resolver goes by.
pub(super) fn view(spec: &ContainerSpec, wanted: &[Wanted]) -> View {
    let own = wanted.iter().filter(|wanted| !is_predefined(&wanted.record.spec.name));
    View {
        networks: own.clone().map(|wanted| wanted.record.id.clone()).collect(),
        links: own
            .flat_map(|wanted| wanted.endpoint.links.iter())
            .map(|text| {
                let (target, alias) = link(text);
                (alias, target)
            })
            .collect(),
        servers: spec.host.dns.iter().filter_map(|server| server.parse().ok()).collect(),
        // From inside alone nobody is to speak to the outside, by questions neither.
        forwards: wanted.iter().any(|wanted| !wanted.record.spec.is_internal),
    }
}

/// What others on a network find a container by: the first is what its address is called.
pub(crate) fn dns_names(container: &Container, endpoint: &EndpointSpec) -> Vec<String> {
    let spec = container.spec();
    let mut names = vec![container.name()];
    names.extend(endpoint.aliases.iter().cloned());
    names.push(container.short_id().to_owned());
    names.extend((!spec.hostname.is_empty()).then(|| spec.hostname.clone()));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Lines of a container's `/etc/hosts` for its own name.
pub(crate) fn host_names(live: &Live, hostname: &str, domainname: &str) -> String {
    let name = if domainname.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{domainname} {hostname}")
    };
    let addresses = live.kept.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter());
    addresses.map(|address| format!("{}\t{name}\n", address.address)).collect()
}

/// A container's `/etc/resolv.conf`.
pub(crate) fn resolv_conf(spec: &ContainerSpec, live: &Live) -> String {
    let host = &spec.host;
    let shares_host = host.network_mode == "host";
    let hosts_own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let asks_nothing = host.dns.is_empty() && host.dns_search.is_empty() && host.dns_options.is_empty();
    if live.kept.dns.is_none() && asks_nothing {
        // Without a network there is nobody to ask; what programs read is the host's all the same.
        return if shares_host {
            hosts_own
        } else if live.kept.endpoints.is_empty() {
            String::new()
        } else {
            reachable_resolvers()
        };
    }
    let of_host = |word: &str| -> Vec<String> {
        let line = hosts_own.lines().rev().find_map(|line| line.strip_prefix(word));
        line.map(|rest| rest.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    };
    let mut text = String::new();
    if live.kept.dns.is_some() {
        text.push_str(&format!("nameserver {}\n", dns::ADDRESS));
    } else if host.dns.is_empty() {
        let kept = reachable_resolvers();
        text.extend(
            kept.lines().filter(|line| line.starts_with("nameserver ")).map(|line| format!("{line}\n")),
        );
    } else {
        text.extend(host.dns.iter().map(|server| format!("nameserver {server}\n")));
    }
    let search = if host.dns_search.is_empty() { of_host("search") } else { host.dns_search.clone() };
    // Docker's sign for none at all.
    if !search.is_empty() && search != ["."] {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    let mut options = if host.dns_options.is_empty() { of_host("options") } else { host.dns_options.clone() };
    if live.kept.dns.is_some() && !options.iter().any(|option| option.starts_with("ndots:")) {
        // Names of one word are ours: they are asked for as they are.
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// The host's resolvers that can be reached from a bridge. One on the host's loopback can't; systemd's
/// knows those behind it.
fn reachable_resolvers() -> String {
    let is_elsewhere = |line: &str| {
        let server = line.strip_prefix("nameserver ").map(str::trim);
        server.is_none_or(|server| server.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback()))
    };
    for file in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let kept: Vec<&str> = text.lines().filter(|line| is_elsewhere(line)).collect();
        if kept.iter().any(|line| line.starts_with("nameserver ")) {
            return kept.join("\n") + "\n";
        }
    }
    String::new()
}
