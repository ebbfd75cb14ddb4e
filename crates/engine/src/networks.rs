//! The networks of an engine: those that are always there, and the user's own.
//!
//! A user's network is a record; what the kernel holds for it is made with its first container.

mod attach;
mod connect;
mod driver;
mod endpoint;
mod ports;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use model::network::NetworkSpec;
use network::dns::Resolvers;
use network::{Config, Kind, Networks, Place, Range};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, now};
use crate::error::{Error, Result};
use crate::events::{Event, Subject};

pub use attach::Attachments;
pub(crate) use attach::{Live, dns_names, host_names, resolv_conf};
pub(crate) use connect::{link_environment, linked};
pub use endpoint::endpoint_id;
pub(crate) use endpoint::normalize;
pub(crate) use ports::ports;

/// A network as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecord {
    /// Sixty-four hexadecimal digits.
    pub id: String,
    /// Nanoseconds since the epoch; 0 for those that are always there.
    pub created: u64,
    /// What it was asked to be, with what was left to the engine.
    pub spec: NetworkSpec,
}

/// A network and its members.
#[derive(Debug, Clone)]
pub struct NetworkInfo {
    /// What is kept of it.
    pub record: NetworkRecord,
    /// What it spans now.
    pub ranges: Vec<Range>,
    /// Running containers on it: id, name, and what they have there (none on those that are no network).
    pub members: Vec<(String, String, Option<network::Endpoint>)>,
}

impl NetworkInfo {
    /// Whether it is always there.
    #[must_use]
    pub fn is_predefined(&self) -> bool {
        is_predefined(&self.record.spec.name)
    }
}

/// Whether a network is one of those that are always there.
pub(crate) fn is_predefined(name: &str) -> bool {
    matches!(name, "bridge" | "host" | "none")
}

/// What an engine has of networks.
#[derive(Debug)]
pub(crate) struct EngineNetworks {
    /// None where there is no nft.
    pub(crate) kernel: Option<Arc<Networks>>,
    pub(crate) resolvers: Arc<Resolvers>,
    is_rootless: bool,
    /// By id; those that are always there too.
    known: RwLock<BTreeMap<String, Arc<NetworkRecord>>>,
    /// Counts changes of it.
    version: AtomicU64,
    /// Held by whoever makes or removes one.
    turn: tokio::sync::Mutex<()>,
}

impl EngineNetworks {
    /// Takes in what the database has.
    ///
    /// # Errors
    /// A record that can't be what was once accepted.
    pub(crate) fn open(engine: &crate::engine::Config, records: Vec<NetworkRecord>) -> Result<Self> {
        let root = &engine.root;
        let has_nft = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
        let has_bridges = has_nft.iter().any(|path| Path::new(path).exists());
        // Engines side by side must not share a bridge: all but the machine's own have a name from their place.
        let (interface, table) = match crate::names::of_place(root) {
            None => ("cove0".to_owned(), "cove".to_owned()),
            Some(place) => (format!("cv{place}"), format!("cove_{place}")),
        };
        let place = || {
            let place = if engine.is_rootless { Place::own } else { Place::of_host };
            place(engine.state_dir.clone(), engine.runtime.clone())
        };
        let kernel = has_bridges.then(|| Networks::new(table, place(), !engine.host_gateways.is_empty()));
        let mut known = BTreeMap::new();
        for record in predefined(has_bridges, &interface) {
            known.insert(record.id.clone(), Arc::new(record));
        }
        if let Some(kernel) = &kernel {
            kernel.add(Config {
                id: predefined_id("bridge"),
                kind: Kind::Bridge { interface, masquerades: true, isolates: false },
                ranges: Vec::new(),
                is_internal: false,
                mtu: None,
            })?;
        }
        for record in records {
            if let Some(kernel) = &kernel {
                kernel.add(driver::config(&record)?)?;
            }
            known.insert(record.id.clone(), Arc::new(record));
        }
        Ok(Self {
            kernel,
            resolvers: Arc::default(),
            is_rootless: engine.is_rootless,
            known: RwLock::new(known),
            version: AtomicU64::new(0),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn kernel(&self) -> Result<Arc<Networks>> {
        self.kernel.clone().ok_or_else(|| {
            Error::unsupported(
                "networks need the program nft (package nftables); host and none are there without it",
            )
        })
    }

    pub(crate) fn has_bridge(&self) -> bool {
        self.kernel.is_some()
    }

    /// What networks lack here.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        (self.is_rootless && self.has_bridge() && !network::has_pasta()).then_some(
            "Containers reach each other, but nothing outside of their networks: \
             an engine without root needs the program pasta for that (package passt).",
        )
    }

    /// All, those that are always there first, then by name.
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<NetworkRecord>>) -> T) -> T {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut known);
        self.version.fetch_add(1, Ordering::Release);
        changed
    }

    /// Grows with every network that comes or goes.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn all(&self) -> Vec<Arc<NetworkRecord>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known.values().cloned().collect();
        all.sort_by_key(|record| (!is_predefined(&record.spec.name), record.spec.name.clone()));
        all
    }

    /// Finds by full id, by name, then by a prefix of the id, as Docker does.
    pub(crate) fn find(&self, wanted: &str) -> Result<Arc<NetworkRecord>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = known.get(wanted) {
            return Ok(Arc::clone(record));
        }
        if let Some(record) = known.values().find(|record| record.spec.name == wanted) {
            return Ok(Arc::clone(record));
        }
        let mut fitting = known.values().filter(|record| !wanted.is_empty() && record.id.starts_with(wanted));
        match (fitting.next(), fitting.next()) {
            (Some(record), None) => Ok(Arc::clone(record)),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("network {wanted} is ambiguous ({wanted}… fits several)")))
            }
            (None, _) => Err(Error::NoSuchNetwork { name: wanted.to_owned() }),
        }
    }
}

/// The id of a network that is always there: its name, as hexadecimal digits of Docker's length.
fn predefined_id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

fn predefined(has_bridge: bool, interface: &str) -> Vec<NetworkRecord> {
    let record = |name: &str, driver: &str, options: BTreeMap<String, String>| NetworkRecord {
        id: predefined_id(name),
        created: 0,
        spec: NetworkSpec {
            name: name.into(),
            driver: driver.into(),
            has_v4: true,
            options,
            ..NetworkSpec::default()
        },
    };
    let options = BTreeMap::from([
        ("com.docker.network.bridge.default_bridge".to_owned(), "true".to_owned()),
        ("com.docker.network.bridge.name".to_owned(), interface.to_owned()),
    ]);
    let mut all = vec![record("host", "host", BTreeMap::new()), record("none", "null", BTreeMap::new())];
    if has_bridge {
        all.push(record("bridge", "bridge", options));
    }
    all
}

impl Engine {
    /// Makes a network; it is on disk when this returns. Its id.
    ///
    /// # Errors
    /// A name that is taken, a range that is used, or what this engine does not have; nothing is left then.
    pub async fn create_network(&self, spec: NetworkSpec) -> Result<String> {
        let networks = &self.networks;
        let _turn = networks.turn.lock().await;
        driver::check_name(&spec.name)?;
        if is_predefined(&spec.name) || networks.all().iter().any(|record| record.spec.name == spec.name) {
            return Err(Error::Conflict { what: format!("network with name {} already exists", spec.name) });
        }
        let kernel = networks.kernel()?;
        let mut record = NetworkRecord { id: crate::create::new_id(), created: now(), spec };
        driver::complete(&mut record, &kernel)?;
        kernel.add(driver::config(&record)?)?;
        if let Err(error) = self.store.put_network(record.clone()).await {
            // Nothing is on it that could keep it from going.
            let _ = kernel.remove(&record.id);
            return Err(error);
        }
        let record = Arc::new(record);
        networks.change(|known| known.insert(record.id.clone(), Arc::clone(&record)));
        self.network_event(&record, "create", None);
        Ok(record.id.clone())
    }

    /// Removes a network.
    ///
    /// # Errors
    /// It is always there, or has running members.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let networks = &self.networks;
        let _turn = networks.turn.lock().await;
        let record = networks.find(name)?;
        let name = &record.spec.name;
        if is_predefined(name) {
            return Err(Error::Forbidden {
                what: format!("{name} is a pre-defined network and cannot be removed"),
            });
        }
        let members = self.members_of(&record);
        if !members.is_empty() {
            let list: Vec<String> = members
                .iter()
                .map(|(id, name, _)| format!("name:{name:?} id:{:?}", id.get(..12).unwrap_or(id)))
                .collect();
            return Err(Error::Forbidden {
                what: format!(
                    "error while removing network: network {name} has active endpoints ({})",
                    list.join(", ")
                ),
            });
        }
        // In the kernel first, which knows of a container that is just being started, too.
        let (kernel, id) = (networks.kernel()?, record.id.clone());
        let removed = tokio::task::spawn_blocking(move || kernel.remove(&id)).await;
        match removed.map_err(|_| Error::ShuttingDown)? {
            Err(network::Error::Conflict { what }) => return Err(Error::Forbidden { what }),
            other => other?,
        }
        if let Err(error) = self.store.remove_network(&record.id).await {
            networks.kernel()?.add(driver::config(&record)?)?;
            return Err(error);
        }
        networks.change(|known| known.remove(&record.id));
        self.network_event(&record, "destroy", None);
        Ok(())
    }

    /// Removes the user's networks that no container has and that `matches` says yes to. Their names.
    ///
    /// # Errors
    /// The first failure; what was removed before it stays removed.
    pub async fn prune_networks(&self, matches: impl Fn(&NetworkRecord) -> bool) -> Result<Vec<String>> {
        let used: Vec<String> = self
            .containers
            .all()
            .iter()
            .flat_map(|container| container.spec().host.networks.keys().cloned().collect::<Vec<_>>())
            .collect();
        let mut removed = Vec::new();
        for record in self.networks.all() {
            let name = &record.spec.name;
            if is_predefined(name) || used.contains(name) || !matches(&record) {
                continue;
            }
            match self.remove_network(&record.id).await {
                Ok(()) => removed.push(name.clone()),
                // Removed or joined by somebody else meanwhile.
                Err(Error::NoSuchNetwork { .. } | Error::Forbidden { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Every network, those that are always there first.
    #[must_use]
    pub fn networks(&self) -> Vec<NetworkInfo> {
        self.networks.all().iter().map(|record| self.network_info(record)).collect()
    }

    /// One network.
    ///
    /// # Errors
    /// Where there is none of this name or id.
    pub fn network(&self, name: &str) -> Result<NetworkInfo> {
        Ok(self.network_info(&*self.networks.find(name)?))
    }

    /// Whether there are networks but the host's and none.
    #[must_use]
    pub fn has_bridge(&self) -> bool {
        self.networks.has_bridge()
    }

    fn network_info(&self, record: &NetworkRecord) -> NetworkInfo {
        let ranges =
            self.networks.kernel.as_ref().map(|kernel| kernel.ranges(&record.id)).unwrap_or_default();
        NetworkInfo { record: record.clone(), ranges, members: self.members_of(record) }
    }

    fn members_of(&self, record: &NetworkRecord) -> Vec<(String, String, Option<network::Endpoint>)> {
        let is_shared = matches!(record.spec.name.as_str(), "host" | "none");
        let members = self.containers.all().into_iter().filter_map(|container| {
            let endpoint = {
                let dynamic = container.dynamic();
                dynamic.state.run()?;
                dynamic.network.endpoint(&record.id).cloned()
            };
            let is_member = if is_shared {
                container.spec().host.network_mode == record.spec.name
            } else {
                endpoint.is_some()
            };
            is_member.then(|| (container.id.clone(), container.name(), endpoint))
        });
        let mut members: Vec<_> = members.collect();
        members.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
        members
    }

    /// Tells that something happened to a network.
    pub(crate) fn network_event(&self, record: &NetworkRecord, action: &str, container: Option<&str>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), record.spec.name.clone()),
            ("type".to_owned(), record.spec.driver.clone()),
        ]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.events.send(Event {
            subject: Subject::Network,
            action: action.to_owned(),
            id: record.id.clone(),
            attributes,
            at: now(),
        });
    }

    /// Tells who holds a user's network that the engine ends.
    pub(crate) async fn leave_networks(&self) {
        if let Some(kernel) = self.networks.kernel.clone() {
            let _ = tokio::task::spawn_blocking(move || kernel.leave()).await;
        }
    }

    /// Removes what a daemon before this one left behind.
    pub(crate) async fn sweep_networks(&self) {
        if let Some(kernel) = self.networks.kernel.clone() {
            let _ = tokio::task::spawn_blocking(move || kernel.sweep()).await;
        }
    }
}
