//! Pushing: an image's layers side by side, its configuration, and then the manifest that names them.
//!
//! What was pulled goes as it came, byte for byte. A layer that is kept uncompressed is compressed into a
//! file below `ingest/` first, since its digest is asked for before it is sent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;
use model::{Digest, Platform, Reference};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::client::Client;
use super::upload::{Blob, Content, Outcome, Stop, Target, TellSent};
use super::{Auth, Progress, ProgressKind, Pushed, Tell, known_auth};
use crate::config::{DOCKER_CONFIG, DOCKER_MANIFEST, Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::database::LayerRow;
use crate::error::{Doing, Error, Result};
use crate::store::{ImageRecord, ImageStore, Node};

/// How many layers are sent at once.
const PARALLEL: usize = 5;
/// Bytes between two words of progress.
const TELL_EVERY: u64 = 512 * 1024;

/// How something is pushed.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Push what is for this alone; refuse where that is not here.
    pub platform: Option<Platform>,
    /// The login; the one of Docker's configuration where unset.
    pub auth: Option<Auth>,
}

impl ImageStore {
    /// Pushes the image that `repository` names with `tag`, or with each tag there is. Dropping the future
    /// stops it.
    ///
    /// # Errors
    /// Where there is no such image, the registry can't be reached, refuses, breaks off again and again, or
    /// says to have kept something else. Nothing is left here; of what the registry has by then, the next
    /// push makes use.
    pub async fn push(
        &self,
        repository: &Reference,
        tag: Option<&str>,
        options: PushOptions,
        tell: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<()> {
        let full = format!("{}/{}", repository.registry(), repository.repository());
        tell(Progress { id: String::new(), kind: ProgressKind::PushRefers(full.clone()) });
        let tags = self.tags_of(repository)?;
        if tags.is_empty() {
            let name = repository.familiar_name();
            return Err(Error::NotFound {
                what: format!("An image does not exist locally with the tag: {name}"),
            });
        }
        let wanted = match tag {
            None => tags,
            Some(tag) if tags.contains(tag) => BTreeSet::from([tag.to_owned()]),
            Some(tag) => {
                let name = repository.familiar_name();
                return Err(Error::NotFound { what: format!("tag does not exist: {name}:{tag}") });
            }
        };
        let client = self.fetcher.client_of(repository.registry())?;
        let auth = known_auth(repository.registry(), options.auth).await;
        for tag in wanted {
            let named: Reference =
                format!("{full}:{tag}").parse().map_err(|error| Error::invalid(format!("{error}")))?;
            let image = self.resolve(&named.to_string())?;
            let push = Push {
                store: self.clone(),
                client: Arc::clone(&client),
                auth: auth.clone(),
                reference: named,
                image,
                tell: Arc::clone(&tell),
            };
            push.run(&tag, options.platform.as_ref()).await?;
        }
        Ok(())
    }

    /// The tags that images have in a repository.
    fn tags_of(&self, repository: &Reference) -> Result<BTreeSet<String>> {
        let names = self.list()?;
        let names = names.iter().flat_map(|image| &image.repo_tags);
        let references = names.filter_map(|name| name.parse::<Reference>().ok());
        Ok(references
            .filter(|known| is_same(known, repository))
            .filter_map(|known| Some(known.tag()?.to_owned()))
            .collect())
    }

    /// Other repositories of the same registry that have a layer, as the names of images tell.
    fn sources(&self, target: &Reference, diff_id: &Digest) -> Result<Vec<String>> {
        let images = self.list()?;
        let images = images.iter().filter(|image| image.diff_ids.contains(diff_id));
        // A name with a digest is of what was pulled from there or pushed there.
        let names =
            images.flat_map(|image| &image.repo_digests).filter_map(|name| name.parse::<Reference>().ok());
        let others = names.filter(|known| known.registry() == target.registry() && !is_same(known, target));
        let others: BTreeSet<String> = others.map(|known| known.repository().to_owned()).collect();
        Ok(others.into_iter().collect())
    }

    /// Notes where an image, or the index that leads to it, is now, unless it was removed meanwhile.
    fn note_pushed(&self, image: &Digest, name: &Reference, root: Option<Digest>) -> Result<()> {
        let _gc = self.gc.lock().unwrap_or_else(PoisonError::into_inner);
        if self.resolve(&image.to_string()).is_ok() {
            self.name_image(name.to_string(), image, root)?;
        }
        Ok(())
    }
}

pub(super) fn is_same(one: &Reference, other: &Reference) -> bool {
    one.registry() == other.registry() && one.repository() == other.repository()
}

fn check_platform(image: &ImageRecord, name: &Reference, wanted: Option<&Platform>) -> Result<()> {
    let own = image.platform();
    match wanted {
        Some(wanted) if !wanted.accepts(&own) => Err(Error::NotFound {
            what: format!("{} is for {own}: there is no image here for {wanted} to push", name.familiar()),
        }),
        _ => Ok(()),
    }
}

/// One image on its way under one name.
#[derive(Clone)]
pub(super) struct Push {
    pub(super) store: ImageStore,
    client: Arc<Client>,
    auth: Option<Auth>,
    pub(super) reference: Reference,
    pub(super) image: Arc<ImageRecord>,
    tell: Tell,
}

impl Push {
    /// Pushes the index, where all that it names is here; else, or if it is asked for, what is for one
    /// platform.
    async fn run(&self, tag: &str, platform: Option<&Platform>) -> Result<()> {
        let (store, name) = (self.store.clone(), self.reference.to_string());
        let kept = finished(tokio::task::spawn_blocking(move || store.kept(&name))).await?;
        let kept = kept.as_ref();
        let pushed = match (kept, platform) {
            (Some(kept), None) if self.store.is_whole(&kept.tree) => self.push_whole(tag, kept).await?,
            (Some(kept), Some(wanted)) => {
                match kept.tree.image_for(wanted, |node| self.store.has_blobs(node)) {
                    Some(node) => self.push_child(tag, node).await?,
                    None => self.push_image(tag, platform).await?,
                }
            }
            _ => self.push_image(tag, platform).await?,
        };
        let say = |kind| (self.tell)(Progress { id: String::new(), kind });
        let original = kept.filter(|_| platform.is_none()).and_then(|kept| kept.tree.root());
        let original = original.map(pushed_of).filter(|original| original.digest != pushed.digest);
        let (digest, size) = (pushed.digest, pushed.size);
        if let Some(original) = original {
            say(ProgressKind::OnePlatform { original, selected: pushed });
        }
        // Programs take the last record for that of the push.
        say(ProgressKind::PushedTag { tag: tag.to_owned(), digest, size });
        Ok(())
    }

    /// Pushes what is for the image's own platform.
    async fn push_image(&self, tag: &str, platform: Option<&Platform>) -> Result<Pushed> {
        check_platform(&self.image, &self.reference, platform)?;
        let layers = self.send_layers().await?;
        let target = self.target();
        let config = Blob {
            digest: self.image.id,
            size: self.image.raw_config.len() as u64,
            content: Content::Memory(self.image.raw_config.clone().into()),
        };
        let quiet: TellSent = Arc::new(|_| {});
        target.send_blob(&config, "the image's configuration", &[], &Stop::default(), &quiet).await?;
        let kept = self.store.database.manifest(&self.image.id)?;
        let (media_type, bytes) = kept
            .and_then(|raw| kept_manifest(raw, &self.image.id, &layers))
            .unwrap_or_else(|| new_manifest(&self.image, layers));
        let bytes = bytes::Bytes::from(bytes);
        let digest = Digest::sha256(Sha256::digest(&bytes).into());
        target.send_manifest(tag, &media_type, &bytes, &digest).await?;
        self.note(digest, None).await?;
        Ok(Pushed { media_type, digest, size: bytes.len() as u64 })
    }

    /// Notes that the registry has the image under this digest.
    pub(super) async fn note(&self, digest: Digest, root: Option<Digest>) -> Result<()> {
        let (store, image, name) = (self.store.clone(), self.image.id, self.reference.at(digest));
        finished(tokio::task::spawn_blocking(move || store.note_pushed(&image, &name, root))).await
    }

    pub(super) fn target(&self) -> Target<'_> {
        Target { client: &self.client, repository: self.reference.repository(), auth: self.auth.as_ref() }
    }

    /// Sends all of them; what the manifest is to say of each, the lowest first.
    async fn send_layers(&self) -> Result<Vec<Descriptor>> {
        let mut tasks = Vec::new();
        let mut seen = BTreeSet::new();
        let stop = Stop::default();
        // The highest first, as Docker tells of them.
        for diff_id in self.image.diff_ids.iter().rev().filter(|diff_id| seen.insert(**diff_id)) {
            let row = self.store.known_layer(diff_id).ok_or_else(|| {
                Error::corrupt(format!("the layer {diff_id} of {} is missing", self.image.id.short()))
            })?;
            let path = self.store.blob_path(&row.blob);
            let file = File::open(&path).doing(|| {
                format!(
                    "open {}, the blob of the layer {}; pull the image again",
                    path.display(),
                    diff_id.short()
                )
            })?;
            self.tell(diff_id, ProgressKind::Preparing);
            let layer = LayerPush {
                push: self.clone(),
                sources: self.store.sources(&self.reference, diff_id)?,
                row,
                file: Arc::new(file),
                stop: stop.clone(),
            };
            tasks.push(layer.run());
        }
        let sent = side_by_side(tasks, &stop).await?;
        let of =
            |diff_id: &Digest| sent.iter().find(|(known, _)| known == diff_id).map(|(_, sent)| sent.clone());
        Ok(self.image.diff_ids.iter().filter_map(of).collect())
    }

    pub(super) fn tell(&self, id: &Digest, kind: ProgressKind) {
        (self.tell)(Progress { id: id.short(), kind });
    }

    /// Tells now and then how much of something was sent.
    pub(super) fn teller(&self, id: Digest, total: u64) -> TellSent {
        let (push, told) = (self.clone(), Mutex::new(0));
        Arc::new(move |current| {
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            // After a break it may be less than before.
            if current >= *told + TELL_EVERY || current < *told || current == total {
                *told = current;
                push.tell(&id, ProgressKind::Pushing { current, total });
            }
        })
    }

    pub(super) fn tell_outcome(&self, id: &Digest, outcome: Outcome) {
        let kind = match outcome {
            Outcome::Existed => ProgressKind::LayerExists,
            Outcome::Mounted(source) => ProgressKind::Mounted(source),
            Outcome::Uploaded => ProgressKind::Pushed,
        };
        self.tell(id, kind);
    }
}

/// Does all, a few at a time. After a failure the others are asked to end.
pub(super) async fn side_by_side<T: Send + 'static>(
    work: Vec<impl Future<Output = Result<T>> + Send + 'static>,
    stop: &Stop,
) -> Result<Vec<T>> {
    let mut tasks = tokio::task::JoinSet::new();
    let permits = Arc::new(Semaphore::new(PARALLEL));
    for one in work {
        let (permits, stop) = (Arc::clone(&permits), stop.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire().await;
            if stop.is_asked() { Err(Stop::error()) } else { one.await }
        });
    }
    let (mut all, mut failure) = (Vec::new(), None);
    while let Some(done) = tasks.join_next().await {
        let done = done
            .map_err(|error| Error::Unavailable { what: format!("a push was cut off: {error}") })
            .and_then(|done| done);
        match done {
            Ok(done) => all.push(done),
            Err(error) => {
                // The first counts; the others end because of it.
                failure.get_or_insert(error);
                stop.ask();
            }
        }
    }
    failure.map_or(Ok(all), Err)
}

async fn finished<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.map_err(|_| Error::Unavailable { what: "the engine is shutting down".into() })?
}

/// A node as the registry is to have it.
pub(super) fn pushed_of(node: &Node) -> Pushed {
    Pushed { media_type: node.manifest.form().to_owned(), digest: node.digest, size: node.bytes.len() as u64 }
}

/// One layer on its way.
struct LayerPush {
    push: Push,
    row: LayerRow,
    sources: Vec<String>,
    /// Opened before anything else: it can be read to its end, even if the image is removed meanwhile.
    file: Arc<File>,
    stop: Stop,
}

impl LayerPush {
    async fn run(self) -> Result<(Digest, Descriptor)> {
        let diff_id = self.row.diff_id;
        let mut head = [0; 4];
        // One of fewer bytes is no archive of either kind.
        let _ = self.file.read_exact_at(&mut head, 0);
        let described = match head {
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd] => {
                let is_zstd = head[0] == 0x28;
                let content = Content::File(Arc::clone(&self.file));
                let blob = Blob { digest: self.row.blob, size: self.row.blob_size, content };
                self.send(&blob).await?;
                // For now the type it came with: the manifest's form decides.
                let media_type = if is_zstd { ZSTD.to_owned() } else { self.row.media_type.clone() };
                Descriptor { media_type, ..descriptor(&blob.digest, blob.size) }
            }
            _ => self.send_packed().await?,
        };
        Ok((diff_id, described))
    }

    async fn send(&self, blob: &Blob) -> Result<()> {
        let diff_id = self.row.diff_id;
        let tell = self.push.teller(diff_id, blob.size);
        let what = format!("the layer {}", diff_id.short());
        let outcome = self.push.target().send_blob(blob, &what, &self.sources, &self.stop, &tell).await?;
        self.push.tell_outcome(&diff_id, outcome);
        Ok(())
    }

    /// Sends it compressed, which takes no work where the registry has that from an earlier push.
    async fn send_packed(&self) -> Result<Descriptor> {
        let diff_id = self.row.diff_id;
        let database = &self.push.store.database;
        let before = database.packed(&diff_id)?;
        if let Some((digest, size)) = before {
            let what = format!("the layer {}", diff_id.short());
            // What fails now is tried again, and told of, when the layer is sent.
            if let Ok(Some(outcome)) = self.push.target().find_blob(&digest, &what, &self.sources).await {
                self.push.tell_outcome(&diff_id, outcome);
                return Ok(Descriptor { media_type: GZIP.into(), ..descriptor(&digest, size) });
            }
        }
        let given_up = GivenUp::default();
        let (file, flag) = (Arc::clone(&self.file), Arc::clone(&given_up.0));
        let path = Scratch(self.push.store.ingest_path("push"));
        let (push, total) = (self.push.clone(), self.row.blob_size);
        // A client that is gone is noticed when it is told something.
        let (mut told, stop) = (0, self.stop.clone());
        let tell = move |current| {
            if current >= told + TELL_EVERY {
                told = current;
                push.tell(&diff_id, ProgressKind::Compressing { current, total });
            }
            !flag.load(Ordering::Relaxed) && !stop.is_asked()
        };
        let packed = tokio::task::spawn_blocking(move || pack(&file, path, &diff_id, tell));
        let packed = packed
            .await
            .map_err(|error| Error::Unavailable { what: format!("compressing was cut off: {error}") })??;
        if before != Some((packed.digest, packed.size)) {
            database.set_packed(&diff_id, &packed.digest, packed.size)?;
        }
        self.send(&packed).await?;
        Ok(Descriptor { media_type: GZIP.into(), ..descriptor(&packed.digest, packed.size) })
    }
}

/// Has the thread that compresses stop when nobody waits for it any more.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A file that goes with this.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed now is swept at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Compresses a layer into a file, which has no name any more when this returns. `goes_on` is told how much
/// was read.
fn pack(from: &File, into: Scratch, diff_id: &Digest, mut goes_on: impl FnMut(u64) -> bool) -> Result<Blob> {
    let step = || format!("compress the layer {}", diff_id.short());
    let mut options = std::fs::OpenOptions::new();
    let file = Arc::new(options.read(true).write(true).create_new(true).open(&into.0).doing(step)?);
    drop(into);
    let sink = Hashing { inner: BufWriter::new(Arc::clone(&file)), hasher: Sha256::new(), length: 0 };
    let mut gzip = GzEncoder::new(sink, Compression::default());
    let mut unpacked = Sha256::new();
    let (mut buffer, mut at) = (vec![0; 128 * 1024], 0);
    loop {
        let length = from.read_at(&mut buffer, at).doing(step)?;
        if length == 0 {
            break;
        }
        if !goes_on(at) {
            return Err(Stop::error());
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        unpacked.update(bytes);
        gzip.write_all(bytes).doing(step)?;
        at += length as u64;
    }
    let found = Digest::sha256(unpacked.finalize().into());
    if found != *diff_id {
        return Err(Error::corrupt(format!(
            "the layer {diff_id} is damaged on disk (it has the digest {found}): pull or load the image again"
        )));
    }
    let mut sink = gzip.finish().doing(step)?;
    sink.flush().doing(step)?;
    let (digest, size) = (Digest::sha256(sink.hasher.finalize().into()), sink.length);
    Ok(Blob { digest, size, content: Content::File(file) })
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..length).unwrap_or_default());
        self.length += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn descriptor(digest: &Digest, size: u64) -> Descriptor {
    Descriptor { digest: digest.to_string(), size, ..Descriptor::default() }
}

/// The manifest that the image came with, where it names just what was sent.
fn kept_manifest(raw: Vec<u8>, image: &Digest, layers: &[Descriptor]) -> Option<(String, Vec<u8>)> {
    let manifest = Manifest::parse(&raw).ok()?;
    let is_config = manifest.config.as_ref().is_some_and(|config| config.digest == image.to_string());
    let is_same = manifest.layers.len() == layers.len()
        && manifest.layers.iter().zip(layers).all(|(kept, sent)| kept.digest == sent.digest);
    if !is_config || !is_same {
        return None;
    }
    let media_type =
        if manifest.media_type.is_empty() { OCI_MANIFEST.to_owned() } else { manifest.media_type };
    Some((media_type, raw))
}

/// A manifest in the form the image's layers have: Docker's where any came so, which zstd can't.
fn new_manifest(image: &ImageRecord, mut layers: Vec<Descriptor>) -> (String, Vec<u8>) {
    let is_zstd = |layer: &Descriptor| layer.media_type == ZSTD;
    let is_docker =
        layers.iter().any(|layer| layer.media_type.contains("vnd.docker")) && !layers.iter().any(is_zstd);
    let (form, config, gzip) = if is_docker {
        (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_GZIP)
    } else {
        (OCI_MANIFEST, OCI_CONFIG, GZIP)
    };
    for layer in layers.iter_mut().filter(|layer| !is_zstd(layer)) {
        gzip.clone_into(&mut layer.media_type);
    }
    let config =
        Descriptor { media_type: config.into(), ..descriptor(&image.id, image.raw_config.len() as u64) };
    let manifest = Manifest {
        schema_version: 2,
        media_type: form.into(),
        config: Some(config),
        layers,
        ..Manifest::default()
    };
    (form.to_owned(), serde_json::to_vec(&manifest).unwrap_or_default())
}
