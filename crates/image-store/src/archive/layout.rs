//! The OCI layout in an archive: images, and indexes with all that is there of them.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;

use model::{Digest, Platform, Reference};

use super::{
    ArchiveWriter, CONTAINERD_NAME, NAME, Parts, blob_name, parse_names, read_checked, read_manifest,
};
use crate::config::{Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::error::{Error, Result};
use crate::store::{ImageRecord, ImageStore, Kept, Node, Origin, Tree, parse_config};

/// How many images an archive may have.
const MAX_IMAGES: usize = 4096;
/// How long all manifests of an archive may be together, each as often as it is led to.
const MAX_LENGTH: u64 = 128 << 20;

/// What one entry of `index.json` leads to.
struct Entry {
    names: Vec<Reference>,
    tree: Tree,
}

impl ImageStore {
    /// Loads what an `index.json` leads to: of each entry one image, and its index with it. Returns their
    /// names, or ids where they have none.
    pub(super) fn load_oci(
        &self,
        parts: &Parts,
        index: &Manifest,
        tell: &impl Fn(&str),
    ) -> Result<Vec<String>> {
        let find = |digest: &Digest| {
            parts.get(&blob_name(digest)).map(|file| read_manifest(file, digest)).transpose()
        };
        let mut entries: Vec<Entry> = Vec::new();
        let (mut places, mut length) = (HashMap::new(), 0);
        for descriptor in &index.manifests {
            let digest = descriptor.digest()?;
            let names = parse_names(names_of(descriptor).into_iter())?;
            if let Some(known) = places.get(&digest).and_then(|at: &usize| entries.get_mut(*at)) {
                known.names.extend(names);
                continue;
            }
            if entries.len() == MAX_IMAGES {
                return Err(Error::corrupt(format!(
                    "the archive has more than the {MAX_IMAGES} images allowed"
                )));
            }
            places.insert(digest, entries.len());
            let tree = Tree::read(descriptor, &find)?.ok_or_else(|| lacks(&descriptor.digest))?;
            length += tree.length;
            if length > MAX_LENGTH {
                return Err(Error::corrupt(format!(
                    "the manifests in the archive are longer than the {MAX_LENGTH} bytes allowed"
                )));
            }
            entries.push(Entry { names, tree });
        }
        let known: HashSet<Digest> =
            entries.iter().flat_map(|entry| &entry.tree.nodes).map(|node| node.digest).collect();
        let subject = |entry: &Entry| entry.tree.root()?.manifest.subject.as_ref()?.digest().ok();
        let (referring, images): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| subject(entry).is_some_and(|of| known.contains(&of)));
        let mut loaded = Vec::new();
        for entry in &images {
            loaded.extend(self.load_entry(parts, entry, &referring, tell)?);
        }
        Ok(loaded)
    }

    fn load_entry(
        &self,
        parts: &Parts,
        entry: &Entry,
        referring: &[Entry],
        tell: &impl Fn(&str),
    ) -> Result<Vec<String>> {
        let part = |blob: &Descriptor| -> Option<&PathBuf> { parts.get(&blob_name(&blob.digest().ok()?)) };
        let is_here = |node: &Node| node.manifest.blobs().all(|blob| part(blob).is_some());
        let is_linux =
            |node: &&Node| node.descriptor.platform.as_ref().is_none_or(|platform| platform.os == "linux");
        // What this machine runs; else whatever there is.
        let chosen = entry.tree.image_for(&Platform::host(), is_here);
        let chosen = chosen.or_else(|| entry.tree.images().filter(is_linux).find(|node| is_here(node)));
        // An image without its blobs is told of below; what is none is passed over.
        let Some(chosen) = chosen.or_else(|| entry.tree.images().find(is_linux)) else {
            return Ok(Vec::new());
        };
        let file = |blob: &Descriptor| part(blob).ok_or_else(|| lacks(&blob.digest));
        let Some(config) = chosen.image_config() else { return Ok(Vec::new()) };
        let raw = read_checked(file(config)?, &config.digest()?)?;
        let files = chosen.manifest.layers.iter().map(file).collect::<Result<Vec<_>>>()?;
        let layers = self.keep_layers(&parse_config(&raw)?, &files)?;

        let below: HashSet<Digest> = entry.tree.nodes.iter().map(|node| node.digest).collect();
        let referring = referring_to(below, referring);
        let root = entry.tree.root().filter(|root| root.manifest.is_index() || !referring.is_empty());
        let mut origin = Origin { manifest: Some(chosen.bytes.clone()), ..Origin::default() };
        if let Some(root) = root {
            origin.root = Some(root.digest);
            let nodes: Vec<&Node> = entry.tree.nodes.iter().chain(referring).collect();
            origin.contents.extend(nodes.iter().map(|node| (node.digest, node.bytes.clone())));
            let blobs = nodes.iter().flat_map(|node| node.manifest.blobs());
            origin.blobs.extend(blobs.filter(|blob| part(blob).is_some()).cloned());
        }
        let kept = origin
            .blobs
            .iter()
            .try_for_each(|blob| part(blob).map_or(Ok(()), |file| self.keep_blob(file, blob)));
        let added = kept.and_then(|()| self.add_loaded(raw, layers, &entry.names, &origin, tell));
        if added.is_err() {
            self.discard_blobs(&origin.blobs);
        }
        added
    }

    /// Writes an image; what `index.json` is to say of it, and the manifest of the image itself.
    pub(super) fn save_oci(
        &self,
        image: &ImageRecord,
        references: &[Reference],
        form: SavedForm,
        writer: &mut ArchiveWriter<impl Write>,
    ) -> Result<(Vec<Descriptor>, Manifest)> {
        let (plain, manifest, bytes) = self.save_manifest(image, writer)?;
        let mut descriptors = Vec::new();
        let wanted = |name: &str| match form {
            SavedForm::Whole => self.kept_with(name, image),
            SavedForm::OnePlatform => Ok(None),
        };
        if references.is_empty() {
            let mut root = plain.clone();
            if let Some(kept) = wanted(&image.id.to_string())? {
                root = self.save_kept(&kept, writer, &mut descriptors)?.unwrap_or(root);
            }
            descriptors.push(root);
        }
        for reference in references {
            let mut named = plain.clone();
            if let Some(kept) = wanted(&reference.to_string())? {
                named = self.save_kept(&kept, writer, &mut descriptors)?.unwrap_or(named);
            }
            named.annotations.insert(CONTAINERD_NAME.into(), reference.to_string());
            named.annotations.insert(NAME.into(), reference.tag().unwrap_or("latest").to_owned());
            descriptors.push(named);
        }
        if descriptors.iter().any(|descriptor| descriptor.digest == plain.digest) {
            writer.add(&blob_name(&plain.digest()?), &bytes)?;
        }
        Ok((descriptors, manifest))
    }

    /// What a name leads to, where the image can be found in it.
    fn kept_with(&self, name: &str, image: &ImageRecord) -> Result<Option<Kept>> {
        let id = image.id.to_string();
        let kept = self.kept(name)?;
        Ok(kept.filter(|kept| {
            let mut images = kept.tree.images();
            images.any(|node| {
                node.image_config().is_some_and(|config| config.digest == id) && self.has_blobs(node)
            })
        }))
    }

    /// Writes an index with all that is here of it, and tells of what refers to it.
    fn save_kept(
        &self,
        kept: &Kept,
        writer: &mut ArchiveWriter<impl Write>,
        descriptors: &mut Vec<Descriptor>,
    ) -> Result<Option<Descriptor>> {
        for node in kept.tree.nodes.iter().chain(&kept.referrers) {
            for blob in node.manifest.blobs().filter(|blob| self.has_blob(blob)) {
                let digest = blob.digest()?;
                writer.add_file(&blob_name(&digest), &self.blob_path(&digest), blob.size)?;
            }
            writer.add(&blob_name(&node.digest), &node.bytes)?;
        }
        for referrer in &kept.referrers {
            if !descriptors.iter().any(|known| known.digest == referrer.descriptor.digest) {
                descriptors.push(referrer.descriptor.clone());
            }
        }
        let plain = |root: &Node| Descriptor { platform: None, ..root.descriptor.clone() };
        Ok(kept.tree.root().map(plain))
    }

    /// Writes an image's layers as they are kept; a manifest of them.
    fn save_manifest(
        &self,
        image: &ImageRecord,
        writer: &mut ArchiveWriter<impl Write>,
    ) -> Result<(Descriptor, Manifest, Vec<u8>)> {
        let mut layers = Vec::new();
        for diff_id in &image.diff_ids {
            let layer = self.known_layer(diff_id).ok_or_else(|| {
                Error::corrupt(format!("the layer {diff_id} of {} is missing", image.id.short()))
            })?;
            writer.add_file(&blob_name(&layer.blob), &self.blob_path(&layer.blob), layer.blob_size)?;
            layers.push(Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.blob.to_string(),
                size: layer.blob_size,
                ..Descriptor::default()
            });
        }
        writer.add(&blob_name(&image.id), &image.raw_config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.into(),
            config: Some(Descriptor {
                media_type: OCI_CONFIG.into(),
                digest: image.id.to_string(),
                size: image.raw_config.len() as u64,
                ..Descriptor::default()
            }),
            layers,
            ..Manifest::default()
        };
        let bytes = serde_json::to_vec(&manifest).unwrap_or_default();
        let digest = Digest::sha256(<sha2::Sha256 as sha2::Digest>::digest(&bytes).into());
        let plain = Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: digest.to_string(),
            size: bytes.len() as u64,
            ..Descriptor::default()
        };
        Ok((plain, manifest, bytes))
    }
}

/// How much of an image is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedForm {
    /// All platforms that are here, with the index that names them.
    Whole,
    /// What the image itself is, without an index.
    OnePlatform,
}

fn lacks(digest: &str) -> Error {
    Error::corrupt(format!("the archive lacks the blob {digest}, which its index names"))
}

/// How an entry is called: nothing, or one name.
fn names_of(descriptor: &Descriptor) -> Vec<&String> {
    let mut names: Vec<&String> =
        [CONTAINERD_NAME, NAME].iter().filter_map(|key| descriptor.annotations.get(*key)).collect();
    // A bare tag (`1.2`), as skopeo writes it, names no repository.
    names.retain(|name| name.contains(['/', ':']) && name.parse::<Reference>().is_ok());
    names.truncate(1);
    names
}

/// Of these what refers to something below an entry, or to what refers to that.
fn referring_to(mut below: HashSet<Digest>, entries: &[Entry]) -> Vec<&Node> {
    let mut found: Vec<&Node> = Vec::new();
    loop {
        let before = found.len();
        for entry in entries {
            let Some(root) = entry.tree.root().filter(|root| !below.contains(&root.digest)) else { continue };
            let subject = root.manifest.subject.as_ref().and_then(|subject| subject.digest().ok());
            if subject.is_some_and(|subject| below.contains(&subject)) {
                below.extend(entry.tree.nodes.iter().map(|node| node.digest));
                found.extend(&entry.tree.nodes);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}
