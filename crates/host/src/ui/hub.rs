//! The one watcher of an engine: it keeps what the lists hold up to date from the engine's events.
//!
//! Its state and its broadcast change under one lock, so that a subscriber's snapshot and the
//! changes after it fit together without a gap.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::client::containers::ListContainers;
use api::client::{Client, Filters, JsonLines};
use api::event::Event;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::UiError;
use super::image::{ImageRow, rows_of};
use super::network::NetworkRow;
use super::row::ContainerRow;
use super::topic::Update;
use super::volume::VolumeRow;
use crate::engine::{self, PING_DEADLINE, Target};

/// How long events are gathered before the lists are read again.
const GATHER: Duration = Duration::from_millis(15);
/// How often a silent engine is asked whether it still lives.
const PING_EVERY: Duration = Duration::from_secs(10);
/// How often a missing engine is looked for.
const RETRY: Duration = Duration::from_secs(1);
/// With more containers than this touched at once, the whole list is read.
const WHOLE_LIST: usize = 12;
/// How many pages are read at once.
const PAGES: usize = 8;
/// How many changes a slow subscriber may lag behind before it gets a snapshot instead.
const BACKLOG: usize = 128;

/// The engine, as the sidebar shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct EngineState {
    /// Whether it answers.
    pub state: Health,
    /// Where it listens.
    pub address: String,
    /// Its version.
    pub version: String,
    /// `Rootless`, or nothing.
    pub mode: String,
    /// What it may use.
    pub cpus: u32,
    /// Bytes it may use.
    pub memory: u64,
    /// Whether containers can have addresses and publish ports.
    pub has_bridge: bool,
    /// Why it doesn't answer.
    pub error: Option<UiError>,
    /// When it last answered, milliseconds since the epoch.
    pub last_answer: Option<u64>,
    /// Whether it is ours to start.
    pub startable: bool,
}

/// Whether an engine answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// It is being started or looked for.
    Starting,
    /// It answers.
    Running,
    /// It doesn't.
    Away,
}

/// What everybody is told.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Engine,
    Images,
    Networks,
    Volumes,
    /// The whole list was read anew.
    Containers,
    Rows {
        rows: Arc<Vec<ContainerRow>>,
        removed: Arc<Vec<String>>,
    },
}

#[derive(Debug)]
struct State {
    engine: EngineState,
    /// `None` until they were read once.
    containers: Option<BTreeMap<String, ContainerRow>>,
    images: Option<Vec<ImageRow>>,
    networks: Option<Vec<NetworkRow>>,
    volumes: Option<Vec<VolumeRow>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    target: Target,
    client: Client,
    state: Mutex<State>,
    changes: broadcast::Sender<Change>,
    /// Asks for another attempt, and for starting the engine.
    pub(crate) wake: Notify,
}

impl Hub {
    pub(crate) fn new(target: Target) -> Self {
        let engine = EngineState {
            state: Health::Starting,
            address: target.endpoint.to_string(),
            version: String::new(),
            mode: String::new(),
            cpus: 0,
            memory: 0,
            has_bridge: false,
            error: None,
            last_answer: None,
            startable: engine::Starter::of(&target).is_some(),
        };
        Self {
            client: Client::new(target.endpoint.clone()),
            target,
            state: Mutex::new(State {
                engine,
                containers: None,
                images: None,
                networks: None,
                volumes: None,
            }),
            changes: broadcast::channel(BACKLOG).0,
            wake: Notify::new(),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is replaced in whole steps, so a panic elsewhere left it sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens from now on, together with a look at what is.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// All containers, `None` before they were read, and what happens after.
    pub(crate) fn containers(&self) -> (Option<Vec<ContainerRow>>, broadcast::Receiver<Change>) {
        let state = self.lock();
        let rows = state.containers.as_ref().map(|rows| rows.values().cloned().collect());
        (rows, self.changes.subscribe())
    }

    pub(crate) fn images(&self) -> Option<Vec<ImageRow>> {
        self.lock().images.clone()
    }

    pub(crate) fn networks(&self) -> Option<Vec<NetworkRow>> {
        self.lock().networks.clone()
    }

    pub(crate) fn volumes(&self) -> Option<Vec<VolumeRow>> {
        self.lock().volumes.clone()
    }

    pub(crate) fn engine(&self) -> EngineState {
        self.lock().engine.clone()
    }

    pub(crate) fn row(&self, id: &str) -> Option<ContainerRow> {
        self.lock().containers.as_ref()?.get(id).cloned()
    }

    fn set_engine(&self, change: impl FnOnce(&mut EngineState)) {
        let mut state = self.lock();
        let before = state.engine.clone();
        change(&mut state.engine);
        if state.engine != before {
            // Nobody listening is no failure.
            let _ = self.changes.send(Change::Engine);
        }
    }

    /// Says why the engine is not there. Not finding it again tells less than how it went, so the
    /// first reason stays until somebody tries something.
    fn away(&self, error: UiError) {
        self.set_engine(|engine| {
            if engine.state != Health::Away {
                engine.error = Some(error);
            }
            engine.state = Health::Away;
        });
    }

    /// Watches until `cancelled`.
    pub(crate) async fn run(&self, cancelled: CancellationToken) {
        // An engine of ours is started when a window opens; after that only when it is asked for.
        let mut start = true;
        loop {
            let attempt = async {
                let error = match self.attach(start).await {
                    Ok(events) => self.follow(events).await,
                    Err(error) => error,
                };
                self.away(error);
                // A wake-up is an order to start; a look from time to time finds one that came back.
                tokio::time::timeout(RETRY, self.wake.notified()).await.is_ok()
            };
            start = tokio::select! {
                () = cancelled.cancelled() => return,
                woken = attempt => woken,
            };
        }
    }

    /// Finds the engine, and reads everything once its events are subscribed.
    async fn attach(&self, start: bool) -> Result<JsonLines<Event>, UiError> {
        if start {
            self.set_engine(|engine| engine.state = Health::Starting);
            engine::ensure(&self.target).await?;
        } else {
            self.client.probe().await?;
            self.set_engine(|engine| engine.state = Health::Starting);
        }
        self.client.ping(PING_DEADLINE).await?;
        let mut filters = Filters::default();
        for kind in ["container", "image", "network", "volume"] {
            filters = filters.with("type", kind);
        }
        let events = self.client.events(None, None, &filters).await?;
        let info = self.client.info().await?;
        let rootless = info.security_options.iter().any(|option| option.contains("rootless"));
        self.read_images().await?;
        self.read_containers().await?;
        self.read_networks(None).await?;
        self.read_volumes().await?;
        self.set_engine(|engine| {
            engine.state = Health::Running;
            engine.error = None;
            engine.version = info.server_version;
            engine.mode = if rootless { "Rootless".to_owned() } else { String::new() };
            engine.cpus = u32::try_from(info.ncpu).unwrap_or(0);
            let networks = info.plugins.get("Network").cloned().flatten().unwrap_or_default();
            engine.has_bridge = networks.iter().any(|driver| driver == "bridge");
            engine.memory = u64::try_from(info.mem_total).unwrap_or(0);
            engine.last_answer = Some(now_millis());
        });
        Ok(events)
    }

    /// Follows events until the engine is gone, and tells why.
    async fn follow(&self, mut events: JsonLines<Event>) -> UiError {
        let mut touched = Touched::default();
        let mut ping = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        // The list comes without exact times: they are read in the background of the first events.
        let mut pages: BTreeSet<String> =
            self.lock().containers.iter().flat_map(BTreeMap::keys).cloned().collect();
        loop {
            let due = touched.due;
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) => touched.add(event),
                    Some(Err(error)) => return lost(Some(error)),
                    None => return lost(None),
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Err(error) = self.refresh(std::mem::take(&mut touched)).await {
                        return error;
                    }
                }
                () = std::future::ready(()), if !pages.is_empty() => {
                    let batch: Vec<_> = (0..PAGES * 4).map_while(|_| pages.pop_first()).collect();
                    let rows = batch.iter().filter_map(|id| self.row(id)).collect();
                    let rows = self.with_pages(rows).await;
                    // A page may be newer than the event that told of it.
                    touched.add_networks(self.networks_of(&rows, &[]));
                    self.publish(rows, Vec::new());
                }
                _ = ping.tick() => match self.client.ping(PING_DEADLINE).await {
                    Ok(()) => self.lock().engine.last_answer = Some(now_millis()),
                    Err(error) => return error.into(),
                },
            }
        }
    }

    async fn refresh(&self, touched: Touched) -> Result<(), UiError> {
        if touched.images {
            self.read_images().await?;
        }
        if touched.volumes {
            self.read_volumes().await?;
        }
        let mut networks = touched.networks;
        networks.extend(self.refresh_containers(touched.containers).await?);
        if !networks.is_empty() {
            self.read_networks(Some(&networks)).await?;
        }
        Ok(())
    }

    /// Reads these containers; the networks that have other members now.
    async fn refresh_containers(&self, touched: BTreeSet<String>) -> Result<BTreeSet<String>, UiError> {
        if touched.is_empty() {
            return Ok(BTreeSet::new());
        }
        let ids: Vec<String> = touched.into_iter().collect();
        let mut list = ListContainers { all: true, ..ListContainers::default() };
        if ids.len() <= WHOLE_LIST {
            for id in &ids {
                list.filters = list.filters.with("id", id);
            }
        }
        let summaries = self.client.list_containers(&list).await?;
        let rows = summaries.into_iter().filter(|summary| ids.contains(&summary.id)).map(ContainerRow::of);
        let rows: Vec<_> = self.with_pages(rows.collect()).await;
        let removed: Vec<_> = ids.into_iter().filter(|id| !rows.iter().any(|row| row.id == *id)).collect();
        let networks = self.networks_of(&rows, &removed);
        self.publish(rows, removed);
        Ok(networks)
    }

    /// The networks of containers that differ in what makes them members. A container is connected
    /// before it runs, and counts as a member only then: the network's own event comes too early.
    fn networks_of(&self, rows: &[ContainerRow], removed: &[String]) -> BTreeSet<String> {
        let state = self.lock();
        let known = |id: &str| state.containers.as_ref().and_then(|rows| rows.get(id));
        let moved: Vec<&ContainerRow> = rows
            .iter()
            .filter(|row| {
                known(&row.id).is_none_or(|known| {
                    (&known.state, &known.name, &known.networks) != (&row.state, &row.name, &row.networks)
                })
            })
            .collect();
        let is_touched = |network: &NetworkRow| {
            moved.iter().any(|row| row.networks.contains(&network.name))
                || network
                    .members
                    .iter()
                    .any(|member| removed.contains(&member.id) || moved.iter().any(|row| row.id == member.id))
        };
        let networks = state.networks.iter().flatten().filter(|network| is_touched(network));
        networks.map(|network| network.id.clone()).collect()
    }

    /// Adds each row's page; a container that has gone meanwhile keeps its row until its own event.
    async fn with_pages(&self, rows: Vec<ContainerRow>) -> Vec<ContainerRow> {
        stream::iter(rows)
            .map(|mut row| async move {
                if let Ok(page) = self.client.inspect_container(&row.id).await {
                    row.enrich(&page);
                }
                row
            })
            .buffered(PAGES)
            .collect()
            .await
    }

    /// Takes rows in and tells about those that differ.
    fn publish(&self, rows: Vec<ContainerRow>, removed: Vec<String>) {
        let mut state = self.lock();
        let known = state.containers.get_or_insert_default();
        let removed: Vec<_> = removed.into_iter().filter(|id| known.remove(id).is_some()).collect();
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|row| known.insert(row.id.clone(), row.clone()).as_ref() != Some(row))
            .collect();
        if !rows.is_empty() || !removed.is_empty() {
            let change = Change::Rows { rows: Arc::new(rows), removed: Arc::new(removed) };
            let _ = self.changes.send(change);
        }
    }

    async fn read_containers(&self) -> Result<(), UiError> {
        let list = ListContainers { all: true, ..ListContainers::default() };
        let rows = self.client.list_containers(&list).await?;
        let rows = rows.into_iter().map(|summary| (summary.id.clone(), ContainerRow::of(summary))).collect();
        let mut state = self.lock();
        state.containers = Some(rows);
        let _ = self.changes.send(Change::Containers);
        Ok(())
    }

    async fn read_images(&self) -> Result<(), UiError> {
        let images = self.client.list_images(false, &Filters::default()).await?;
        let mut state = self.lock();
        state.images = Some(images.iter().flat_map(rows_of).collect());
        let _ = self.changes.send(Change::Images);
        Ok(())
    }

    /// Reads the list, and the pages of those networks that were touched, of all if nothing is said:
    /// a network's members are on its page alone.
    async fn read_networks(&self, touched: Option<&BTreeSet<String>>) -> Result<(), UiError> {
        let list = or_none(self.client.list_networks(&Filters::default()).await)?;
        let known = self.networks().unwrap_or_default();
        let rows = stream::iter(list)
            .map(|network| {
                let kept = known.iter().find(|row| row.id == network.id);
                let kept = kept.filter(|_| touched.is_some_and(|touched| !touched.contains(&network.id)));
                async move {
                    if let Some(row) = kept {
                        return row.clone();
                    }
                    // One that has gone meanwhile keeps its row until its own event.
                    NetworkRow::of(self.client.inspect_network(&network.id).await.unwrap_or(network))
                }
            })
            .buffered(PAGES)
            .collect()
            .await;
        let mut state = self.lock();
        state.networks = Some(rows);
        let _ = self.changes.send(Change::Networks);
        Ok(())
    }

    async fn read_volumes(&self) -> Result<(), UiError> {
        let list = or_none(self.client.list_volumes(&Filters::default()).await)?;
        let mut state = self.lock();
        state.volumes = Some(list.volumes.into_iter().map(VolumeRow::of).collect());
        let _ = self.changes.send(Change::Volumes);
        Ok(())
    }
}

/// An empty list from an engine that has no such objects at all, as one older than its window.
fn or_none<T: Default>(list: Result<T, api::client::Error>) -> Result<T, UiError> {
    match list {
        Err(error) if error.kind() == model::ErrorKind::NotFound => Ok(T::default()),
        other => Ok(other?),
    }
}

/// The stream of events ended: whatever the reason, to a user it is one thing.
fn lost(error: Option<api::client::Error>) -> UiError {
    let detail = error.and_then(|error| UiError::from(error).detail);
    let message = "the engine closed the connection: it was stopped, or has crashed";
    UiError { detail, ..UiError::new(model::ErrorKind::Unavailable, message) }
}

/// What events have touched since the lists were read.
#[derive(Debug, Default)]
struct Touched {
    containers: BTreeSet<String>,
    images: bool,
    networks: BTreeSet<String>,
    volumes: bool,
    due: Option<Instant>,
}

impl Touched {
    fn add(&mut self, event: Event) {
        match event.kind.as_str() {
            // Processes in a container don't change its row, and a health check makes three a round.
            "container" if !event.action.starts_with("exec_") && event.action != "top" => {
                self.containers.insert(event.actor.id);
            }
            "image" => self.images = true,
            "network" => {
                // Whoever joins or leaves has another row, and no event of its own.
                self.containers.extend(event.actor.attributes.get("container").cloned());
                self.networks.insert(event.actor.id);
            }
            // Being mounted changes nothing about a volume; its users are told by their own events.
            "volume" if !matches!(event.action.as_str(), "mount" | "unmount") => self.volumes = true,
            _ => return,
        }
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    fn add_networks(&mut self, ids: BTreeSet<String>) {
        if !ids.is_empty() {
            self.networks.extend(ids);
            self.due.get_or_insert_with(|| Instant::now() + GATHER);
        }
    }
}

pub(crate) fn now_millis() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// A snapshot as an update, an empty one if nothing is known yet.
pub(crate) fn snapshot(rows: Option<Vec<ContainerRow>>) -> Option<Update> {
    rows.map(|rows| Update::Containers { rows })
}
