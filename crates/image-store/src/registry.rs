//! Registries: who is asked how, what is fetched from them and what is sent to them, and how it is told.

mod account;
mod client;
mod fetch;
mod pace;
mod proof;
mod push;
mod referrers;
mod upload;
mod whole;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{Digest, Platform, Reference};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::config::{Descriptor, Manifest};
use crate::database::LayerRow;
use crate::error::{Error, Result};
use crate::store::{ImageRecord, ImageStore, Origin, check_entries, parse_config};
use client::Client;

pub use account::{Described, Found as SearchResult, Login};
pub use credentials::{Auth, docker_config_auth};
pub use push::PushOptions;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Registries {
    /// Hosts without TLS, or with a certificate nobody signed. Loopback always counts as one.
    pub insecure: Vec<String>,
    /// URLs asked before Docker Hub.
    pub mirrors: Vec<String>,
    /// Docker's `certs.d`s: in each, a directory a host with `*.crt`, `*.cert` and `*.key`.
    pub certs_dirs: Vec<PathBuf>,
    /// How long a registry may be silent before it counts as stalled.
    pub stall: Duration,
    /// Bytes a registry must send in a second, on average over `rate_window`; else it counts as broken off.
    pub least_rate: u64,
    /// See `least_rate`.
    pub rate_window: Duration,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certs_dirs: certs_dirs(),
            stall: STALL,
            least_rate: LEAST_RATE,
            rate_window: RATE_WINDOW,
        }
    }
}

/// Docker's places for certificates: the machine's, and the user's.
fn certs_dirs() -> Vec<PathBuf> {
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    let users = config.map(|config| config.join("docker/certs.d"));
    [PathBuf::from("/etc/docker/certs.d")].into_iter().chain(users).collect()
}

/// How a pull or a push goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The layer's short id, or the tag.
    pub id: String,
    /// What happened.
    pub kind: ProgressKind,
}

/// A manifest or index as a registry is to have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What happened to a layer, or to the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressKind {
    /// The pull has begun; the text names the repository.
    Pulling(String),
    /// The layer is known and waits.
    PullingLayer,
    /// Bytes came; the layer is unpacked as they come.
    Downloading {
        /// So far.
        current: u64,
        /// In all.
        total: u64,
    },
    /// The layer is there and verified.
    PullComplete,
    /// The layer was there before.
    AlreadyExists,
    /// The digest of the image.
    Digest(Digest),
    /// The push has begun; the text names the repository in full.
    PushRefers(String),
    /// The layer is known and waits to be pushed.
    Preparing,
    /// The layer is compressed.
    Compressing {
        /// So far.
        current: u64,
        /// In all.
        total: u64,
    },
    /// Bytes were sent.
    Pushing {
        /// So far.
        current: u64,
        /// In all.
        total: u64,
    },
    /// The registry has taken the layer.
    Pushed,
    /// The registry had the layer before.
    LayerExists,
    /// The registry took the layer from this other repository of its own.
    Mounted(String),
    /// Not everything that an index names is here, so only the image for one platform was pushed.
    OnePlatform {
        /// The index.
        original: Pushed,
        /// What was pushed instead.
        selected: Pushed,
    },
    /// The registry has taken the image under a tag.
    PushedTag {
        /// The tag.
        tag: String,
        /// Of the manifest.
        digest: Digest,
        /// Of the manifest, in bytes.
        size: u64,
    },
    /// The end; the text is Docker's.
    Status(String),
}

/// Told of every step.
pub(crate) type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

const STALL: Duration = Duration::from_secs(20);
/// A modem of 1995 sends three times as much.
const LEAST_RATE: u64 = 1024;
const RATE_WINDOW: Duration = Duration::from_secs(30);

/// How many layers are fetched at once.
const PARALLEL: usize = 4;

/// What pulls share: connections, tokens, and the blobs that are on their way.
#[derive(Debug)]
pub(crate) struct Fetcher {
    registries: Registries,
    clients: Mutex<HashMap<String, Arc<Client>>>,
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Fetcher {
    pub(crate) fn new(registries: Registries) -> Self {
        Self { registries, clients: Mutex::default(), flights: Mutex::default() }
    }

    /// The client of a host, made at its first use.
    fn client(&self, base: &str) -> Result<Arc<Client>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(base) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(Client::new(base, &self.registries)?);
        clients.insert(base.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// The client of a registry as references name it.
    fn client_of(&self, registry: &str) -> Result<Arc<Client>> {
        self.client(if registry == "docker.io" { "registry-1.docker.io" } else { registry })
    }

    /// Held by whoever fetches a blob; the others wait and find it there.
    fn flight(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| Arc::strong_count(flight) > 1);
        Arc::clone(flights.entry(*digest).or_default())
    }
}

/// The login given, or the one that Docker's configuration has.
async fn known_auth(registry: &str, given: Option<Auth>) -> Option<Auth> {
    if given.is_some() {
        return given;
    }
    // A helper may ask its user for a password.
    let registry = registry.to_owned();
    tokio::task::spawn_blocking(move || docker_config_auth(&registry)).await.ok().flatten()
}

/// An image at a registry: where it was found and what it consists of.
struct Found {
    client: Arc<Client>,
    repository: String,
    auth: Option<Auth>,
    /// Of what the name leads to: an index, or the manifest itself.
    digest: Digest,
    manifest: Manifest,
    /// The manifest as it came.
    raw: Vec<u8>,
    /// The index that led to it, as it came.
    index: Option<Vec<u8>>,
}

impl Found {
    /// What is kept beside the image.
    fn origin(&self, store: &ImageStore, config: &[u8]) -> Result<Origin> {
        let mut origin = Origin { manifest: Some(self.raw.clone()), ..Origin::default() };
        if let Some(index) = &self.index {
            let descriptor = self.manifest.image_config()?;
            store.keep_blob_from(config, descriptor)?;
            let digest = Digest::sha256(Sha256::digest(&self.raw).into());
            origin.root = Some(self.digest);
            origin.contents = vec![(self.digest, index.clone()), (digest, self.raw.clone())];
            origin.blobs = vec![descriptor.clone()];
        }
        Ok(origin)
    }
}

impl ImageStore {
    /// Pulls an image. Dropping the future stops it; what was fetched is used by the next pull.
    ///
    /// # Errors
    /// Where the registry can't be reached or refuses, has no such image or none for the platform,
    /// sends what its digests deny, or the disk is full. Nothing half made is left.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        auth: Option<Auth>,
        tell: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Arc<ImageRecord>> {
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let tag = reference
            .tag()
            .map_or_else(|| reference.digest().map(|d| d.to_string()).unwrap_or_default(), str::to_owned);
        let found = self.find(reference, &wanted, auth).await?;
        // The first word comes once the image is known to be there: before it, a failure stands alone.
        tell(Progress { id: tag, kind: ProgressKind::Pulling(reference.familiar_name()) });
        let raw = self.fetch_config(&found).await?;
        let config = parse_config(&raw)?;
        if config.rootfs.diff_ids.len() != found.manifest.layers.len() {
            return Err(Error::corrupt(format!(
                "the image's manifest has {} layers, its configuration {}",
                found.manifest.layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let before = self.resolve(&reference.to_string()).ok().map(|image| image.id);
        let layers = self.fetch_layers(&found, &config.rootfs.diff_ids, &tell).await?;
        let mut names = vec![reference.at(found.digest).to_string()];
        if reference.tag().is_some() && reference.digest().is_none() {
            names.push(reference.to_string());
        }
        let (store, digest) = (self.clone(), found.digest);
        let added = move || {
            let origin = found.origin(&store, &raw)?;
            store.add_image_from(raw, layers, names, &origin)
        };
        let image = tokio::task::spawn_blocking(added)
            .await
            .map_err(|_| Error::Unavailable { what: "the engine is shutting down".into() })??;
        tell(Progress { id: String::new(), kind: ProgressKind::Digest(digest) });
        let news =
            if before == Some(image.id) { "Image is up to date for" } else { "Downloaded newer image for" };
        let status = format!("Status: {news} {}", reference.familiar());
        tell(Progress { id: String::new(), kind: ProgressKind::Status(status) });
        Ok(image)
    }

    /// Asks the mirrors, then the registry itself.
    async fn find(&self, reference: &Reference, wanted: &Platform, auth: Option<Auth>) -> Result<Found> {
        let registries = &self.fetcher.registries;
        if reference.registry() == "docker.io" {
            for mirror in &registries.mirrors {
                let asked = self.fetcher.client(mirror);
                let found = match asked {
                    Ok(client) => self.find_at(client, reference, wanted, None).await,
                    Err(error) => Err(error),
                };
                match found {
                    Ok(found) => return Ok(found),
                    // A mirror that fails is passed over; the registry's own answer counts.
                    Err(error) => tracing::info!(mirror, %error, "a mirror does not have the image"),
                }
            }
        }
        let auth = known_auth(reference.registry(), auth).await;
        self.find_at(self.fetcher.client_of(reference.registry())?, reference, wanted, auth).await
    }

    async fn find_at(
        &self,
        client: Arc<Client>,
        reference: &Reference,
        wanted: &Platform,
        auth: Option<Auth>,
    ) -> Result<Found> {
        let repository = reference.repository().to_owned();
        let version = reference
            .digest()
            .map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), |d| d.to_string());
        let (digest, mut bytes) =
            client.manifest(&repository, &version, reference.digest(), auth.as_ref()).await?;
        let mut manifest = Manifest::parse(&bytes)?;
        let mut index = None;
        if manifest.is_index() {
            check_entries(&manifest)?;
            let chosen = manifest.select(wanted).ok_or_else(|| {
                let offered: Vec<String> = manifest
                    .manifests
                    .iter()
                    .filter_map(|d| d.platform.as_ref())
                    .map(|p| p.platform().to_string())
                    .collect();
                Error::NotFound {
                    what: format!(
                        "no matching manifest for {wanted} in the manifest list entries of {} (there is {})",
                        reference.familiar(),
                        offered.join(", ")
                    ),
                }
            })?;
            let inner = chosen.digest()?;
            let (_, child) =
                client.manifest(&repository, &inner.to_string(), Some(inner), auth.as_ref()).await?;
            if child.len() as u64 != chosen.size {
                return Err(Error::corrupt(format!(
                    "the manifest {inner} has {} bytes, not {} as its index says",
                    child.len(),
                    chosen.size
                )));
            }
            index = Some(std::mem::replace(&mut bytes, child));
            manifest = Manifest::parse(&bytes)?;
        }
        manifest.image_config()?;
        Ok(Found { client, repository, auth, digest, manifest, raw: bytes, index })
    }

    async fn fetch_config(&self, found: &Found) -> Result<Vec<u8>> {
        let descriptor = found.manifest.image_config()?;
        found.client.small_blob(&found.repository, descriptor, found.auth.as_ref()).await
    }

    async fn fetch_layers(&self, found: &Found, diff_ids: &[Digest], tell: &Tell) -> Result<Vec<LayerRow>> {
        let permits = Arc::new(Semaphore::new(PARALLEL));
        let mut tasks = tokio::task::JoinSet::new();
        for (at, (descriptor, diff_id)) in found.manifest.layers.iter().zip(diff_ids).enumerate() {
            let id = descriptor.digest()?.short();
            tell(Progress { id: id.clone(), kind: ProgressKind::PullingLayer });
            let task = LayerTask {
                store: self.clone(),
                client: Arc::clone(&found.client),
                repository: found.repository.clone(),
                auth: found.auth.clone(),
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                tell: Arc::clone(tell),
            };
            let permits = Arc::clone(&permits);
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                task.run().await.map(|layer| (at, layer))
            });
        }
        let mut layers: Vec<Option<LayerRow>> = vec![None; diff_ids.len()];
        while let Some(done) = tasks.join_next().await {
            // Dropping the set on the first failure stops the others.
            let (at, layer) = done
                .map_err(|error| Error::Unavailable { what: format!("a download was cut off: {error}") })??;
            if let Some(slot) = layers.get_mut(at) {
                *slot = Some(layer);
            }
        }
        Ok(layers.into_iter().flatten().collect())
    }
}

/// One layer to be had.
struct LayerTask {
    store: ImageStore,
    client: Arc<Client>,
    repository: String,
    auth: Option<Auth>,
    descriptor: Descriptor,
    diff_id: Digest,
    tell: Tell,
}

impl LayerTask {
    async fn run(self) -> Result<LayerRow> {
        let digest = self.descriptor.digest()?;
        let id = digest.short();
        let flight = self.store.fetcher.flight(&self.diff_id);
        let turn = flight.lock_owned().await;
        if let Some(layer) = self.store.known_layer(&self.diff_id) {
            (self.tell)(Progress { id, kind: ProgressKind::AlreadyExists });
            return Ok(layer);
        }
        let layer = fetch::fetch_layer(&self, digest, turn).await?;
        (self.tell)(Progress { id, kind: ProgressKind::PullComplete });
        Ok(layer)
    }
}
