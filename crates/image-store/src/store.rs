//! The store: what images there are, by which names, and what is kept for them.
//!
//! The index lives in memory and is written through to `images.db`. Files: `blobs/sha256/HEX` as
//! registries sent them, `layers/HEX` unpacked, `implied/HEX` what stacks of them need, `snapshots/ID`
//! of containers, `ingest/` what is under way, `trash/` what is being deleted.

mod index;
mod manifests;
mod origin;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use model::{Digest, Platform, Reference};

use crate::config::{ConfigFile, History, ImageConfig};
use crate::database::{Database, LayerRow, NewImage};
use crate::error::{Doing, Error, Result};
use crate::layer::layer_dir;
use crate::registry::{Fetcher, Registries};
use index::Index;

pub use manifests::{ManifestKind, ManifestSummary};
pub(crate) use origin::{Kept, Node, Origin, Tree, check_entries};

/// Where a store is and how it behaves.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The directory everything is in.
    pub root: PathBuf,
    /// How registries are reached.
    pub registries: Registries,
    /// Whether overlay is mounted without the machine's root.
    pub is_rootless: bool,
    /// Whether snapshots are plain copies even where overlay would do.
    pub forces_copy: bool,
}

/// The image store. Copies are handles to the same one.
#[derive(Debug, Clone)]
pub struct ImageStore(Arc<Inner>);

#[derive(Debug)]
/// What all handles share; its parts are private.
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) database: Database,
    pub(crate) index: RwLock<Index>,
    pub(crate) fetcher: Fetcher,
    /// Found out beside the start, which does not wait for it.
    pub(crate) uses_overlay: Arc<OnceLock<bool>>,
    /// Held while what nobody needs is removed, and by those who are about to need something.
    pub(crate) gc: Mutex<()>,
}

/// An image.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// The digest of its configuration.
    pub id: Digest,
    /// The image it was made from here, as long as that is there.
    pub parent: Option<Digest>,
    /// Names, short: `alpine:latest`.
    pub repo_tags: Vec<String>,
    /// Names at a registry's digest: `alpine@sha256:…`.
    pub repo_digests: Vec<String>,
    /// RFC 3339; empty where it does not say.
    pub created: String,
    /// Bytes of file content of all layers.
    pub size: u64,
    /// What it says of its containers.
    pub config: ImageConfig,
    /// For which processor.
    pub architecture: String,
    /// For which operating system.
    pub os: String,
    /// For which variant of the processor.
    pub variant: String,
    /// Who made it.
    pub author: String,
    /// Free text.
    pub comment: String,
    /// What made it.
    pub docker_version: String,
    /// Its layers, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// How it was made, the oldest step first.
    pub history: Vec<History>,
    /// The configuration as it came, byte for byte.
    pub raw_config: Vec<u8>,
}

impl ImageRecord {
    /// What it is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// What a removal took away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// An image or a layer.
    Deleted(Digest),
}

/// One step of an image's making.
#[derive(Debug, Clone)]
pub struct HistoryEntry {
    /// The image's id on the newest step, else none.
    pub id: Option<Digest>,
    /// RFC 3339.
    pub created: String,
    /// The command.
    pub created_by: String,
    /// Names, on the newest step.
    pub tags: Vec<String>,
    /// Bytes it added.
    pub size: u64,
    /// Free text.
    pub comment: String,
}

impl std::ops::Deref for ImageStore {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl ImageStore {
    /// Opens the store, sweeps what a crash left, and makes sure of the welcome image.
    ///
    /// # Errors
    /// Where the directory can't be used, or was written by a newer version.
    pub fn open(config: Config) -> Result<Self> {
        for dir in ["blobs/sha256", "layers", "implied", "snapshots", "ingest", "trash"] {
            let path = config.root.join(dir);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&path)
                .doing(|| format!("make {}", path.display()))?;
        }
        spread_children(&config.root.join("ingest"));
        let database = Database::open(&config.root.join("images.db"))?;
        let index = Index::load(&database)?;
        let store = Self(Arc::new(Inner {
            fetcher: Fetcher::new(config.registries.clone()),
            config,
            database,
            index: RwLock::new(index),
            uses_overlay: Arc::default(),
            gc: Mutex::new(()),
        }));
        store.sweep();
        store.try_overlay()?;
        crate::welcome::ensure(&store)?;
        Ok(store)
    }

    /// Tries a mount in a thread of its own: taking it away again waits for the kernel, up to a tenth of a second.
    fn try_overlay(&self) -> Result<()> {
        let (config, found) = (self.config.clone(), Arc::clone(&self.uses_overlay));
        let work = move || {
            found.get_or_init(|| crate::snapshot::overlay_is_to_be_used(&config));
        };
        std::thread::Builder::new().name("overlay".into()).spawn(work).map(drop).doing(|| "start a thread")
    }

    /// Finds an image by name, id, or the beginning of its id.
    ///
    /// # Errors
    /// Where there is none, or several ids begin so.
    pub fn resolve(&self, name: &str) -> Result<Arc<ImageRecord>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).resolve(name)
    }

    /// Every image, the newest first.
    ///
    /// # Errors
    /// None at present.
    pub fn list(&self) -> Result<Vec<Arc<ImageRecord>>> {
        let mut all: Vec<_> =
            self.index.read().unwrap_or_else(PoisonError::into_inner).images.values().cloned().collect();
        all.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(all)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// Where there is no such image.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        let image = self.resolve(source)?;
        if target.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let root = self.index.read().unwrap_or_else(PoisonError::into_inner).origin(source);
        self.name_image(target.to_string(), &image.id, root)
    }

    /// Gives a name, with a tag or a digest, to an image and the index that it leads to.
    pub(crate) fn name_image(&self, name: String, image: &Digest, root: Option<Digest>) -> Result<()> {
        self.database.set_name(&name, image, root.as_ref())?;
        self.index.write().unwrap_or_else(PoisonError::into_inner).set_name(name, *image, root);
        Ok(())
    }

    /// Takes a name away, and the image with its last one. `in_use`: containers with their image,
    /// and whether they run.
    ///
    /// # Errors
    /// Where a container needs it.
    pub fn remove(
        &self,
        name: &str,
        is_forced: bool,
        in_use: &[(String, Digest, bool)],
    ) -> Result<Vec<Removed>> {
        let _gc = self.gc.lock().unwrap_or_else(PoisonError::into_inner);
        let image = self.resolve(name)?;
        let names = self.index.read().unwrap_or_else(PoisonError::into_inner).names_of(&image.id);
        let by_name = name
            .parse::<Reference>()
            .ok()
            .map(|reference| reference.to_string())
            .filter(|n| names.contains(n));
        let user =
            in_use.iter().filter(|(_, id, _)| *id == image.id).max_by_key(|(_, _, is_running)| *is_running);
        let tags = names.iter().filter(|name| !name.contains('@')).count();
        if let Some(one) = by_name.as_ref().filter(|one| tags > 1 && !one.contains('@')) {
            self.forget_names(std::slice::from_ref(one))?;
            return Ok(vec![Removed::Untagged(familiar(one))]);
        }
        if by_name.is_none() && tags > 1 && !is_forced {
            return Err(Error::InUse {
                what: format!(
                    "delete {} (must be forced) - image is referenced in multiple repositories",
                    image.id.short()
                ),
            });
        }
        if let Some((container, _, is_running)) = user {
            let short = container.get(..12).unwrap_or(container);
            if *is_running && !(is_forced && by_name.is_some()) {
                return Err(Error::InUse {
                    what: format!(
                        "remove repository reference \"{name}\" (cannot be forced) - container {short} is using its referenced image {}",
                        image.id.short()
                    ),
                });
            }
            if !is_forced {
                return Err(Error::InUse {
                    what: format!(
                        "remove repository reference \"{name}\" (must force) - container {short} is using its referenced image {}",
                        image.id.short()
                    ),
                });
            }
        }
        let mut removed: Vec<Removed> = names.iter().map(|name| Removed::Untagged(familiar(name))).collect();
        self.pin_snapshots_of(&image.id, &image.diff_ids)?;
        self.database.remove(&names, Some(&image.id))?;
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove_image(&image.id);
        removed.push(Removed::Deleted(image.id));
        self.collect()?;
        Ok(removed)
    }

    fn forget_names(&self, names: &[String]) -> Result<()> {
        self.database.remove(names, None)?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        names.iter().for_each(|name| index.remove_name(name));
        Ok(())
    }

    /// How an image was made, the newest step first.
    ///
    /// # Errors
    /// Where there is no such image.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let image = self.resolve(name)?;
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut layers = image.diff_ids.iter();
        let mut entries: Vec<HistoryEntry> = image
            .history
            .iter()
            .map(|step| {
                let layer = if step.empty_layer { None } else { layers.next() };
                HistoryEntry {
                    id: None,
                    created: step.created.clone().unwrap_or_default(),
                    created_by: step.created_by.clone().unwrap_or_default(),
                    tags: Vec::new(),
                    size: layer.and_then(|diff_id| index.layers.get(diff_id)).map_or(0, |layer| layer.size),
                    comment: step.comment.clone().unwrap_or_default(),
                }
            })
            .collect();
        entries.reverse();
        // Its own steps come first, then those of the image it was made from, as far as that is known.
        let made_from = |image: &Arc<ImageRecord>| index.images.get(&image.parent?).cloned();
        for image in std::iter::successors(Some(image), made_from) {
            let at = entries.len().checked_sub(image.history.len());
            if let Some(entry) = at.and_then(|at| entries.get_mut(at)) {
                entry.id = Some(image.id);
                entry.tags.clone_from(&image.repo_tags);
            }
        }
        Ok(entries)
    }

    /// Removes images without a name, or with `is_all` every image that is not in use; of both only
    /// what `matches` says yes to.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn prune(
        &self,
        is_all: bool,
        in_use: &[Digest],
        matches: impl Fn(&ImageRecord) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        let _gc = self.gc.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = Vec::new();
        for image in self.list()? {
            let is_wanted = in_use.contains(&image.id) || (!is_all && !image.repo_tags.is_empty());
            // The welcome image is part of the program: it would be back at the next start.
            if is_wanted || crate::welcome::is_welcome(&image) || !matches(&image) {
                continue;
            }
            let names = self.index.read().unwrap_or_else(PoisonError::into_inner).names_of(&image.id);
            self.database.remove(&names, Some(&image.id))?;
            self.index.write().unwrap_or_else(PoisonError::into_inner).remove_image(&image.id);
            removed.extend(names.iter().map(|name| Removed::Untagged(familiar(name))));
            removed.push(Removed::Deleted(image.id));
        }
        let bytes = self.collect()?;
        Ok((removed, bytes))
    }

    /// Bytes of each image, and of them those it shares with others.
    #[must_use]
    pub fn disk_usage(&self) -> Vec<(Digest, u64, u64)> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut users: HashMap<Digest, u32> = HashMap::new();
        for image in index.images.values() {
            for diff_id in image.diff_ids.iter().collect::<HashSet<_>>() {
                *users.entry(*diff_id).or_default() += 1;
            }
        }
        let size = |diff_id: &Digest| index.layers.get(diff_id).map_or(0, |layer| layer.size);
        index
            .images
            .values()
            .map(|image| {
                let shared =
                    image.diff_ids.iter().filter(|id| users.get(id).is_some_and(|n| *n > 1)).map(size).sum();
                (image.id, image.size, shared)
            })
            .collect()
    }

    /// Bytes of all layers, each counted once.
    #[must_use]
    pub fn layers_size(&self) -> u64 {
        self.index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .layers
            .values()
            .map(|layer| layer.size)
            .sum()
    }

    /// Removes layers and blobs that no image and no snapshot needs. Returns the bytes freed.
    ///
    /// # Errors
    /// Where the database refuses.
    pub fn gc(&self) -> Result<u64> {
        let _gc = self.gc.lock().unwrap_or_else(PoisonError::into_inner);
        self.collect()
    }

    /// The work of [`Self::gc`]; the caller holds its lock.
    fn collect(&self) -> Result<u64> {
        let pinned = self.pinned_stacks();
        self.discard_unneeded_implied(&pinned);
        let unneeded: Vec<LayerRow> = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let needed: HashSet<Digest> = index
                .images
                .values()
                .flat_map(|image| image.diff_ids.iter().copied())
                .chain(pinned.into_iter().flatten())
                .collect();
            index.layers.values().filter(|layer| !needed.contains(&layer.diff_id)).cloned().collect()
        };
        let kept = self.needed()?;
        let mut freed = 0;
        for layer in unneeded {
            // The record goes first: a layer without one is swept, one without its tree would be an error.
            self.database.remove_layer(&layer.diff_id)?;
            let is_blob_needed = {
                let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                index.layers.remove(&layer.diff_id);
                index.layers.values().any(|other| other.blob == layer.blob)
            } || kept.blobs.contains(&layer.blob);
            self.discard(&layer_dir(&self.config.root, &layer.diff_id));
            if !is_blob_needed {
                let _ = std::fs::remove_file(self.blob_path(&layer.blob));
                freed += layer.blob_size;
            }
            freed += layer.size;
        }
        Ok(freed + self.collect_contents(&kept)?)
    }

    fn discard_unneeded_implied(&self, pinned: &[Vec<Digest>]) {
        let images: Vec<Arc<ImageRecord>> =
            self.index.read().unwrap_or_else(PoisonError::into_inner).images.values().cloned().collect();
        let stacks = images.iter().map(|image| &image.diff_ids).chain(pinned);
        self.discard_implied(stacks.map(Vec::as_slice));
    }

    /// Where a blob is kept.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.config.root.join("blobs/sha256").join(digest.hex())
    }

    /// Moves a tree out of the way at once and deletes it in the background.
    pub fn discard(&self, path: &Path) {
        let name = format!("{:016x}", rand_u64());
        let target = self.config.root.join("trash").join(name);
        if std::fs::rename(path, &target).is_ok() {
            // Its own thread: deleting a large tree takes seconds, and nobody waits for it. What is
            // left at a crash is swept at the next start.
            let _ =
                std::thread::Builder::new().name("trash".into()).stack_size(256 * 1024).spawn(move || {
                    let _ = std::fs::remove_dir_all(&target);
                });
        }
    }

    /// Removes what a crash left half made or half deleted.
    fn sweep(&self) {
        let names = |dir: &str| {
            let entries = std::fs::read_dir(self.config.root.join(dir)).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for path in names("trash") {
            self.discard(&path);
        }
        for path in names("ingest") {
            // Blobs half fetched are gone on with; trees half unpacked are not.
            if path.is_dir() {
                self.discard(&path);
            } else if path.extension().is_none_or(|extension| extension != "partial") || is_stale(&path) {
                let _ = std::fs::remove_file(&path);
            }
        }
        // Where what is needed can't be read, nothing is taken for unneeded.
        let kept = self.needed().inspect_err(|error| tracing::warn!(%error, "blobs are not swept"));
        let blobs: HashSet<String> = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let layers = index.layers.values().map(|layer| &layer.blob);
            layers.chain(kept.iter().flat_map(|kept| &kept.blobs)).map(Digest::hex).collect()
        };
        let swept = if kept.is_ok() { names("blobs/sha256") } else { Vec::new() };
        for path in swept {
            // Of an image that was not finished: whoever pulls it again goes on from there.
            if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && !blobs.contains(name)
            {
                let partial = self.config.root.join("ingest").join(format!("{name}.partial"));
                let _ = std::fs::rename(&path, partial);
            }
        }
        self.discard_unneeded_implied(&self.pinned_stacks());
        let known: HashSet<PathBuf> = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            index.layers.keys().map(|diff_id| layer_dir(&self.config.root, diff_id)).collect()
        };
        for path in names("layers") {
            if !known.contains(&path) {
                self.discard(&path);
            }
        }
    }

    /// Takes an image whose layers are all there into the index; on disk when this returns.
    pub(crate) fn add_image(
        &self,
        raw: Vec<u8>,
        layers: Vec<LayerRow>,
        names: Vec<String>,
    ) -> Result<Arc<ImageRecord>> {
        self.add_image_from(raw, layers, names, &Origin::default())
    }

    /// As [`Self::add_image`], with what else it came with.
    pub(crate) fn add_image_from(
        &self,
        raw: Vec<u8>,
        layers: Vec<LayerRow>,
        names: Vec<String>,
        origin: &Origin,
    ) -> Result<Arc<ImageRecord>> {
        let id = Digest::sha256(<sha2::Sha256 as sha2::Digest>::digest(&raw).into());
        let diff_ids = parse_config(&raw)?.rootfs.diff_ids;
        let _gc = self.gc.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was there when it was looked for may have gone with another image since.
        if let Some(gone) = diff_ids.iter().find(|id| !layer_dir(&self.config.root, id).exists()) {
            return Err(Error::Unavailable {
                what: format!("the layer {} was removed meanwhile: try again", gone.short()),
            });
        }
        let of_layers = layers.iter().filter(|layer| self.known_layer(&layer.diff_id).is_none());
        let of_layers = of_layers.filter(|layer| !self.blob_path(&layer.blob).exists());
        let others = origin.blobs.iter().filter(|blob| !self.has_blob(blob));
        let gone =
            of_layers.map(|layer| layer.blob.to_string()).chain(others.map(|blob| blob.digest.clone()));
        if let Some(gone) = gone.into_iter().next() {
            return Err(Error::Unavailable {
                what: format!("the blob {gone} was removed meanwhile: try again"),
            });
        }
        self.make_implied(&diff_ids, &layers)?;
        let row = NewImage {
            config: &raw,
            layers: &layers,
            names: &names,
            parent: origin.parent,
            manifest: origin.manifest.as_deref(),
            root: origin.root,
            contents: &origin.contents,
        };
        self.database.add_image(&id, &row)?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        for layer in layers {
            index.layers.entry(layer.diff_id).or_insert(layer);
        }
        index.add(id, raw, origin.parent)?;
        for name in names {
            index.set_name(name, id, origin.root);
        }
        if let Some(root) = origin.root {
            index.set_origin(&id, root);
        }
        index.images.get(&id).cloned().ok_or_else(|| Error::NoSuchImage { name: id.to_string() })
    }

    /// A layer that is there already.
    pub(crate) fn known_layer(&self, diff_id: &Digest) -> Option<LayerRow> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).layers.get(diff_id).cloned()
    }

    /// Whether a layer here came from this blob, or an index leads to it.
    pub(crate) fn needs_blob(&self, blob: &Digest) -> bool {
        self.is_blob_of_layer(blob) || self.needed().is_ok_and(|needed| needed.blobs.contains(blob))
    }

    fn is_blob_of_layer(&self, blob: &Digest) -> bool {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.layers.values().any(|layer| layer.blob == *blob)
    }

    /// A fresh path below `ingest/`.
    pub(crate) fn ingest_path(&self, kind: &str) -> PathBuf {
        self.config.root.join("ingest").join(format!("{kind}-{:016x}", rand_u64()))
    }
}

/// Whether a blob half fetched has waited so long that nobody will go on with it.
fn is_stale(partial: &Path) -> bool {
    const KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);
    let modified = std::fs::metadata(partial).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT))
}

/// Enough to name files apart.
pub(crate) fn rand_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// A stored name in the form people write.
pub(crate) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}

/// Reads a configuration and refuses what no container can be made of.
pub(crate) fn parse_config(raw: &[u8]) -> Result<ConfigFile> {
    let config: ConfigFile = serde_json::from_slice(raw)
        .map_err(|error| Error::corrupt(format!("the image's configuration is malformed: {error}")))?;
    if !config.os.is_empty() && config.os != "linux" {
        return Err(Error::Unsupported { what: format!("the image is for {}, not for Linux", config.os) });
    }
    Ok(config)
}

/// Names by image.
pub(crate) type Names = BTreeMap<String, Digest>;

/// Has ext4 lay the trees made below far from each other (its Orlov allocator, `FS_TOPDIR_FL`): layers
/// that are unpacked side by side then don't crowd one block group, nor search one that is full of
/// inodes just deleted, which ext4 leaves alone for minutes. A pull after a removal took three times as
/// long without.
fn spread_children(dir: &Path) {
    use rustix::fs::{IFlags, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Other file systems have no such flag, and no such need.
    let _ = rustix::fs::open(dir, flags, Mode::empty()).and_then(|dir| {
        let flags = rustix::fs::ioctl_getflags(&dir)?;
        rustix::fs::ioctl_setflags(&dir, flags | IFlags::TOPDIR)
    });
}
