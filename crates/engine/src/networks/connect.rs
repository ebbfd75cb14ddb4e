//! Connecting a container to a network and taking it off again, while it runs or not.

use std::io::{Read, Seek, Write};
use std::sync::Arc;

use model::container::ContainerSpec;
use model::network::EndpointSpec;
use network::Namespace;
use network::dns::Sockets;

use super::attach::{Wanted, free_name, needs_resolver, publishes, resolv_conf, view, way_out, write};
use super::endpoint::{check_request, request};
use super::{NetworkRecord, is_predefined, ports};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Doing, Error, Result};
use crate::oci;

impl Engine {
    /// Puts a container on a further network.
    ///
    /// # Errors
    /// It is on it already, shares another's network, or what the network can't give; nothing is changed then.
    pub async fn connect_network(
        &self,
        network: &str,
        container: &str,
        endpoint: EndpointSpec,
    ) -> Result<()> {
        let record = self.networks.find(network)?;
        let container = self.containers.find(container)?;
        let _turn = container.turn.lock().await;
        let before = container.spec();
        refuse_shared(&record, &before)?;
        check_request(&record, &endpoint)?;
        let name = &record.spec.name;
        if before.host.networks.contains_key(name) {
            return Err(Error::Forbidden {
                what: format!("endpoint with name {} already exists in network {name}", container.name()),
            });
        }
        let mut spec = (*before).clone();
        spec.host.networks.insert(name.clone(), endpoint.clone());
        let pid = container.state().run().map(|run| run.pid);
        if let Some(pid) = pid {
            let joined =
                self.join(&container, &spec, &Wanted { record: Arc::clone(&record), endpoint }, pid).await;
            if let Err(error) = joined {
                // All of it or nothing.
                let _ = self.leave(&container, &record, &before, pid).await;
                return Err(error);
            }
        }
        container.set_spec(spec);
        if let Err(error) = self.store.put(container.record()).await {
            container.set_spec((*before).clone());
            if let Some(pid) = pid {
                self.leave(&container, &record, &before, pid).await?;
            }
            return Err(error);
        }
        self.network_event(&record, "connect", Some(&container.id));
        Ok(())
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// It is not on it.
    pub async fn disconnect_network(&self, network: &str, container: &str) -> Result<()> {
        let record = self.networks.find(network)?;
        let container = self.containers.find(container)?;
        let _turn = container.turn.lock().await;
        let before = container.spec();
        refuse_shared(&record, &before)?;
        let name = &record.spec.name;
        let mut spec = (*before).clone();
        if spec.host.networks.remove(name).is_none() {
            return Err(Error::Forbidden {
                what: format!("container {} is not connected to network {name}", container.id),
            });
        }
        container.set_spec(spec.clone());
        if let Err(error) = self.store.put(container.record()).await {
            container.set_spec((*before).clone());
            return Err(error);
        }
        if let Some(run) = container.state().run() {
            self.leave(&container, &record, &spec, run.pid).await?;
        }
        self.network_event(&record, "disconnect", Some(&container.id));
        Ok(())
    }

    /// Gives a running container a place on a network.
    async fn join(
        &self,
        container: &Container,
        spec: &ContainerSpec,
        wanted: &Wanted,
        pid: i32,
    ) -> Result<()> {
        let kernel = self.networks.kernel()?;
        let (key, kept, one) =
            (container.id.clone(), container.dynamic().network.kept.clone(), wanted.clone());
        let needs_dns = kept.dns.is_none() && needs_resolver(std::slice::from_ref(wanted));
        let joined = tokio::task::spawn_blocking(move || -> Result<_> {
            let namespace = Namespace::of_process(pid)?;
            let inner = free_name(&one.record, &kept);
            let endpoint =
                kernel.attach(&one.record.id, &key, &namespace, &request(&one.endpoint, inner)?)?;
            let sockets = if needs_dns { Some(Sockets::make(&namespace)) } else { None };
            match sockets.transpose() {
                Ok(sockets) => Ok((endpoint, sockets)),
                Err(error) => {
                    // The container goes on, without a half made interface.
                    let _ = kernel.disconnect(&one.record.id, &key, &namespace);
                    Err(error.into())
                }
            }
        });
        let (endpoint, sockets) = joined.await.map_err(|_| Error::ShuttingDown)??;
        {
            let mut dynamic = container.dynamic();
            dynamic.network.kept.endpoints.push(endpoint.clone());
            dynamic.network.kept.dns =
                sockets.as_ref().map_or(dynamic.network.kept.dns, |sockets| Some(sockets.ports));
        }
        let all = self.wanted(spec)?;
        if let Some(sockets) = sockets {
            let resolver = self.networks.resolvers.serve(sockets, view(spec, &all));
            container.dynamic().network.resolver = Some(resolver.doing(|| "run the container's resolver")?);
        }
        self.let_find(container, &all);
        self.follow_change(container, spec, &all, pid).await?;
        let hostname = oci::hostname(spec, &container.id);
        let lines: String =
            endpoint.addresses.iter().map(|address| format!("{}\t{hostname}\n", address.address)).collect();
        let dir = self.state_dir(&container.id);
        edit(&dir.join("hosts"), |text| text + &lines)
    }

    /// Takes a running container off a network. `spec` no longer has it.
    async fn leave(
        &self,
        container: &Container,
        record: &NetworkRecord,
        spec: &ContainerSpec,
        pid: i32,
    ) -> Result<()> {
        let had = {
            let mut dynamic = container.dynamic();
            let endpoints = &mut dynamic.network.kept.endpoints;
            let at = endpoints.iter().position(|endpoint| endpoint.network == record.id);
            at.map(|at| endpoints.remove(at))
        };
        let Some(endpoint) = had else { return Ok(()) };
        self.networks.resolvers.names().remove(&record.id, &container.id);
        let (kernel, key, network) = (self.networks.kernel()?, container.id.clone(), record.id.clone());
        let left = tokio::task::spawn_blocking(move || -> Result<()> {
            match Namespace::of_process(pid) {
                Ok(namespace) => Ok(kernel.disconnect(&network, &key, &namespace)?),
                // It has just ended, and takes its interfaces along.
                Err(_) => {
                    kernel.detach(&network, &key);
                    Ok(())
                }
            }
        });
        left.await.map_err(|_| Error::ShuttingDown)??;
        let all = self.wanted(spec)?;
        self.follow_change(container, spec, &all, pid).await?;
        let gone: Vec<String> =
            endpoint.addresses.iter().map(|address| format!("{}\t", address.address)).collect();
        edit(&self.state_dir(&container.id).join("hosts"), |text| {
            text.split_inclusive('\n')
                .filter(|line| !gone.iter().any(|start| line.starts_with(start)))
                .collect()
        })
    }

    /// Brings what depends on all of a running container's networks to what they are now: the way out,
    /// published ports, its resolver, and what is kept on disk.
    async fn follow_change(
        &self,
        container: &Container,
        spec: &ContainerSpec,
        all: &[Wanted],
        pid: i32,
    ) -> Result<()> {
        let kernel = self.networks.kernel()?;
        let (mut kept, key) = (container.dynamic().network.kept.clone(), container.id.clone());
        let gateway = way_out(&kept, all);
        let has_changed = gateway != kept.gateway;
        kept.gateway = gateway;
        if has_changed {
            let (all, spec) = (all.to_vec(), spec.clone());
            let moved = tokio::task::spawn_blocking(move || -> Result<_> {
                let endpoint = kept.way_out();
                kernel.set_gateway(&Namespace::of_process(pid)?, endpoint)?;
                let place = endpoint.and_then(|endpoint| Some((endpoint, publishes(&all, endpoint)?)));
                match place {
                    // The same ports as before, where there were some.
                    Some((endpoint, _)) if !kept.ports.is_empty() => kernel.move_ports(&key, endpoint)?,
                    Some((endpoint, default)) => {
                        kept.ports = kernel.publish(&key, &ports::ports(&spec, default)?, endpoint)?;
                    }
                    None => {
                        kernel.unpublish(&key);
                        kept.ports.clear();
                    }
                }
                Ok(kept)
            });
            kept = moved.await.map_err(|_| Error::ShuttingDown)??;
        }
        let dir = self.state_dir(&container.id);
        let text = {
            let mut dynamic = container.dynamic();
            dynamic.network.kept = kept;
            if let Some(resolver) = &dynamic.network.resolver {
                resolver.set(view(spec, all));
            }
            resolv_conf(spec, &dynamic.network)
        };
        write(container, &dir)?;
        edit(&dir.join("resolv.conf"), |_| text)
    }
}

/// Containers that share another's network can't be put on one.
fn refuse_shared(record: &NetworkRecord, spec: &ContainerSpec) -> Result<()> {
    let mode = spec.host.network_mode.as_str();
    let refused = match (mode, record.spec.name.as_str()) {
        (_, "host") => "container cannot be connected to host network or disconnected from it after creation",
        (_, "none") | ("none", _) => {
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        }
        ("host", _) => "container cannot be disconnected from host network or connected to others beside it",
        (mode, _) if mode.starts_with("container:") => {
            "container sharing network namespace with another container or host cannot be connected to any other network"
        }
        _ => return Ok(()),
    };
    Err(Error::Forbidden { what: refused.into() })
}

/// Changes a file in its place: it is bound over the container's own.
fn edit(path: &std::path::Path, change: impl FnOnce(String) -> String) -> Result<()> {
    // The container may have written anything there.
    const MOST: u64 = 1 << 20;
    let step = || format!("change {path:?}");
    let mut file = std::fs::File::options().read(true).write(true).open(path).doing(step)?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(MOST).read_to_end(&mut bytes).doing(step)?;
    let changed = change(String::from_utf8_lossy(&bytes).into_owned());
    file.rewind().doing(step)?;
    file.set_len(0).doing(step)?;
    file.write_all(changed.as_bytes()).doing(step)
}

impl Engine {
    /// Forgets that a container is linked to another by that name; what it reads of it now, it keeps.
    ///
    /// # Errors
    /// There is no such link.
    pub async fn remove_link(&self, container: &str, alias: &str) -> Result<()> {
        let container = self.containers.find(container)?;
        let _turn = container.turn.lock().await;
        let before = container.spec();
        let mut spec = (*before).clone();
        let mut is_found = false;
        for endpoint in spec.host.networks.values_mut() {
            endpoint.links.retain(|text| {
                let is_it = super::endpoint::link(text).1 == alias;
                is_found |= is_it;
                !is_it
            });
        }
        if !is_found {
            return Err(Error::NoSuchContainer { name: format!("{}/{alias}", container.name()) });
        }
        container.set_spec(spec);
        if let Err(error) = self.store.put(container.record()).await {
            container.set_spec((*before).clone());
            return Err(error);
        }
        Ok(())
    }
}

/// Variables that tell one on the default bridge of the containers it is linked to, as Docker has had them
/// since before there were names.
pub(crate) fn link_environment(
    engine: &Engine,
    container: &Container,
    spec: &ContainerSpec,
) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let legacy = spec.host.networks.iter().filter(|(name, _)| is_predefined(name));
    for text in legacy.flat_map(|(_, endpoint)| endpoint.links.iter()) {
        let (target, alias) = super::endpoint::link(text);
        let other = engine.containers.find(&target)?;
        let address =
            other.dynamic().network.kept.endpoints.iter().find_map(|endpoint| endpoint.v4().copied());
        let Some(address) = address.map(|address| address.address) else { continue };
        let name = alias.to_uppercase().replace(['-', '.'], "_");
        all.push(format!("{name}_NAME=/{}/{alias}", container.name()));
        let other = other.spec();
        let mut ports: Vec<(u16, &str)> = other
            .exposed_ports
            .iter()
            .filter_map(|port| {
                let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                Some((number.parse().ok()?, protocol))
            })
            .collect();
        ports.sort_unstable();
        for (at, (port, protocol)) in ports.into_iter().enumerate() {
            let url = format!("{protocol}://{address}:{port}");
            if at == 0 {
                all.push(format!("{name}_PORT={url}"));
            }
            let of_port = format!("{name}_PORT_{port}_{}", protocol.to_uppercase());
            all.extend([
                format!("{of_port}={url}"),
                format!("{of_port}_ADDR={address}"),
                format!("{of_port}_PORT={port}"),
                format!("{of_port}_PROTO={protocol}"),
            ]);
        }
        let own = other.env.iter().filter(|pair| !pair.starts_with("HOME=") && !pair.starts_with("PATH="));
        all.extend(own.map(|pair| format!("{name}_ENV_{pair}")));
    }
    Ok(all)
}

/// Lines of `/etc/hosts` for the containers that one on the default bridge is linked to.
pub(crate) fn linked(engine: &Engine, container: &Container, spec: &ContainerSpec) -> Result<String> {
    let mut text = String::new();
    let legacy = spec.host.networks.iter().filter(|(name, _)| is_predefined(name));
    for link in legacy.flat_map(|(_, endpoint)| endpoint.links.iter()) {
        let (target, alias) = super::endpoint::link(link);
        let other = engine.containers.find(&target)?;
        let address =
            other.dynamic().network.kept.endpoints.iter().find_map(|endpoint| endpoint.v4().copied());
        let Some(address) = address else {
            return Err(Error::invalid(format!(
                "Cannot link to a non running container: /{} AS /{}/{alias}",
                other.name(),
                container.name()
            )));
        };
        text.push_str(&format!("{}\t{alias} {} {}\n", address.address, other.short_id(), other.name()));
    }
    Ok(text)
}
