//! Images in tar archives: `save` and `load`, Docker's form and the OCI layout, both in one.
//!
//! An archive may list its parts in any order, so loading goes twice: first every plain part is
//! spread into a directory of its own (blobs by their digest), then the index tells what they mean.

mod layout;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use model::{Digest, Reference};
use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};

use crate::config::{ConfigFile, Descriptor, Manifest, OCI_INDEX};
use crate::database::LayerRow;
use crate::error::{Doing, Error, Result};
use crate::layer::{self, copy_hashed, layer_dir};
use crate::store::{ImageRecord, ImageStore, Origin, parse_config};

pub use layout::SavedForm;

/// A line of Docker's `manifest.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

const NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

impl ImageStore {
    /// Loads every image of an archive. Returns their names, or ids where they have none. Blocking.
    ///
    /// # Errors
    /// Where the archive is malformed or holds no image, or a digest lies; what was complete before
    /// the failure stays.
    pub fn load(&self, from: impl Read, tell: impl Fn(&str)) -> Result<Vec<String>> {
        let dir = self.ingest_path("load");
        std::fs::create_dir(&dir).doing(|| format!("make {}", dir.display()))?;
        let loaded = spread(from, &dir).and_then(|parts| self.load_parts(&parts, &tell));
        // Links and copies of what was kept.
        let _ = std::fs::remove_dir_all(&dir);
        loaded
    }

    fn load_parts(&self, parts: &Parts, tell: &impl Fn(&str)) -> Result<Vec<String>> {
        if let Some(file) = parts.get("index.json") {
            let manifest = Manifest::parse(&read_small(file)?)?;
            let images = self.load_oci(parts, &manifest, tell)?;
            if !images.is_empty() {
                return Ok(images);
            }
        }
        let Some(file) = parts.get("manifest.json") else {
            return Err(Error::invalid(
                "the archive is neither Docker's form nor an OCI layout: it has no manifest.json and no index.json",
            ));
        };
        let entries: Vec<DockerEntry> = serde_json::from_slice(&read_small(file)?)
            .map_err(|error| Error::corrupt(format!("the archive's manifest.json is malformed: {error}")))?;
        let mut loaded = Vec::new();
        for entry in entries {
            let part = |name: &str| {
                parts.get(name).ok_or_else(|| {
                    Error::corrupt(format!("the archive lacks {name:?}, which its manifest names"))
                })
            };
            let raw = read_small(part(&entry.config)?)?;
            let files = entry.layers.iter().map(|name| part(name)).collect::<Result<Vec<_>>>()?;
            let names = parse_names(entry.repo_tags.iter().flatten())?;
            loaded.extend(self.load_image(raw, &files, &names, tell)?);
        }
        Ok(loaded)
    }

    /// Keeps an image's layers, then the image.
    pub(crate) fn load_image(
        &self,
        raw: Vec<u8>,
        files: &[&PathBuf],
        names: &[Reference],
        tell: &impl Fn(&str),
    ) -> Result<Vec<String>> {
        let layers = self.keep_layers(&parse_config(&raw)?, files)?;
        self.add_loaded(raw, layers, names, &Origin::default(), tell)
    }

    /// Keeps the layers of an image, the lowest first.
    pub(crate) fn keep_layers(&self, config: &ConfigFile, files: &[&PathBuf]) -> Result<Vec<LayerRow>> {
        if config.rootfs.diff_ids.len() != files.len() {
            return Err(Error::corrupt(format!(
                "the archive has {} layers of an image, its configuration {}",
                files.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for (diff_id, file) in config.rootfs.diff_ids.iter().zip(files) {
            layers.push(match self.known_layer(diff_id) {
                Some(layer) => layer,
                None => self.keep_layer(file, Some(diff_id))?,
            });
        }
        Ok(layers)
    }

    /// Adds an image whose layers are there, and tells of it.
    fn add_loaded(
        &self,
        raw: Vec<u8>,
        layers: Vec<LayerRow>,
        names: &[Reference],
        origin: &Origin,
        tell: &impl Fn(&str),
    ) -> Result<Vec<String>> {
        let stored = names.iter().map(ToString::to_string).collect();
        let image = self.add_image_from(raw, layers, stored, origin)?;
        if names.is_empty() {
            tell(&format!("Loaded image ID: {}", image.id));
            return Ok(vec![image.id.to_string()]);
        }
        let shown: Vec<String> = names.iter().map(Reference::familiar).collect();
        shown.iter().for_each(|name| tell(&format!("Loaded image: {name}")));
        Ok(shown)
    }

    /// Unpacks a layer's file and keeps the file as its blob. Without an `expected` digest it is what it is.
    pub(crate) fn keep_layer(&self, file: &Path, expected: Option<&Digest>) -> Result<LayerRow> {
        let tree = self.ingest_path("layer");
        std::fs::create_dir(&tree).doing(|| format!("make {}", tree.display()))?;
        let kept = self.try_keep(file, expected, &tree);
        if kept.is_err() {
            let _ = std::fs::remove_dir_all(&tree);
        }
        kept
    }

    fn try_keep(&self, file: &Path, expected: Option<&Digest>, tree: &Path) -> Result<LayerRow> {
        let step = || format!("read {}", file.display());
        let unpacked = layer::unpack(File::open(file).doing(step)?, tree, self.config.is_rootless)?;
        let diff_id = unpacked.diff_id;
        if let Some(expected) = expected.filter(|expected| **expected != diff_id) {
            return Err(Error::corrupt(format!(
                "a layer unpacks to {diff_id}, not to {expected} as its image says"
            )));
        }
        let partial = self.ingest_path("blob");
        let mut copy = File::create(&partial).doing(|| "keep a layer")?;
        let (blob, blob_size) =
            copy_hashed(File::open(file).doing(step)?, &mut copy).doing(|| "keep a layer")?;
        let mut head = [0; 4];
        let _ = File::open(file).and_then(|mut file| file.read(&mut head)).doing(step)?;
        std::fs::rename(&partial, self.blob_path(&blob)).doing(|| "keep a layer")?;
        layer::publish(tree, &layer_dir(&self.config.root, &diff_id))?;
        let media_type = match head {
            [0x1f, 0x8b, ..] => OCI_LAYER_GZIP,
            [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
            _ => OCI_LAYER_TAR,
        };
        Ok(LayerRow {
            diff_id,
            size: unpacked.size,
            blob,
            media_type: media_type.into(),
            blob_size,
            implied: unpacked.implied,
        })
    }

    /// Writes images as one archive that both Docker and OCI tools read. Blocking.
    ///
    /// # Errors
    /// Where there is no such image, or it can't be written.
    pub fn save(&self, names: &[String], form: SavedForm, into: impl Write) -> Result<()> {
        let mut wanted: Vec<(std::sync::Arc<ImageRecord>, Vec<Reference>)> = Vec::new();
        for name in names {
            let image = self.resolve(name)?;
            let reference = name
                .parse::<Reference>()
                .ok()
                .filter(|reference| image.repo_tags.contains(&reference.familiar()));
            match wanted.iter_mut().find(|(known, _)| known.id == image.id) {
                Some((_, references)) => references.extend(reference),
                None => wanted.push((image, reference.into_iter().collect())),
            }
        }
        let mut writer = ArchiveWriter { builder: Builder::new(into), written: Vec::new() };
        let (mut docker, mut manifests) = (Vec::new(), Vec::new());
        for (image, references) in &wanted {
            let (entry, descriptors) = self.save_image(image, references, form, &mut writer)?;
            docker.push(entry);
            manifests.extend(descriptors);
        }
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        writer.add("manifest.json", &serde_json::to_vec(&docker).unwrap_or_default())?;
        writer.add("index.json", index.to_string().as_bytes())?;
        writer.add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        writer.builder.into_inner().and_then(|mut into| into.flush()).doing(|| "write the archive")
    }

    fn save_image(
        &self,
        image: &ImageRecord,
        references: &[Reference],
        form: SavedForm,
        writer: &mut ArchiveWriter<impl Write>,
    ) -> Result<(DockerEntry, Vec<Descriptor>)> {
        let (descriptors, manifest) = self.save_oci(image, references, form, writer)?;
        let entry = DockerEntry {
            config: blob_name(&image.id),
            repo_tags: Some(references.iter().map(Reference::familiar).collect()),
            layers: manifest
                .layers
                .iter()
                .filter_map(|layer| layer.digest.parse::<Digest>().ok())
                .map(|digest| blob_name(&digest))
                .collect(),
        };
        Ok((entry, descriptors))
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct ArchiveWriter<W: Write> {
    builder: Builder<W>,
    /// Parts that several images share are written once.
    written: Vec<String>,
}

impl<W: Write> ArchiveWriter<W> {
    fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.add_from(name, bytes, bytes.len() as u64)
    }

    fn add_file(&mut self, name: &str, path: &Path, size: u64) -> Result<()> {
        let file = File::open(path).doing(|| format!("read {}", path.display()))?;
        self.add_from(name, file, size)
    }

    fn add_from(&mut self, name: &str, from: impl Read, size: u64) -> Result<()> {
        if self.written.iter().any(|known| known == name) {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o444);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        self.builder.append_data(&mut header, name, from).doing(|| "write the archive")?;
        self.written.push(name.to_owned());
        Ok(())
    }
}

/// Parts of an archive by their names in it.
type Parts = HashMap<String, PathBuf>;

/// Writes every plain file of an archive into `dir` under a number; links name what they point to.
fn spread(mut from: impl Read, dir: &Path) -> Result<Parts> {
    let mut head = [0; 4];
    let mut known = 0;
    while known < head.len() {
        match from.read(&mut head[known..]).doing(|| "read the archive")? {
            0 => break,
            length => known += length,
        }
    }
    let whole = io::Cursor::new(head).take(known as u64).chain(from);
    match head {
        [0x1f, 0x8b, ..] => spread_tar(MultiGzDecoder::new(whole), dir),
        [0x28, 0xb5, 0x2f, 0xfd] => spread_tar(zstd::Decoder::new(whole).doing(|| "read the archive")?, dir),
        _ => spread_tar(whole, dir),
    }
}

fn spread_tar(from: impl Read, dir: &Path) -> Result<Parts> {
    let malformed =
        |error: io::Error| Error::corrupt(format!("the archive is malformed or cut off: {error}"));
    let mut parts = Parts::new();
    let mut links = Vec::new();
    let mut archive = Archive::new(from);
    for (number, entry) in archive.entries().map_err(malformed)?.enumerate() {
        let mut entry = entry.map_err(malformed)?;
        let name = plain_name(&entry.path().map_err(malformed)?);
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                let path = dir.join(number.to_string());
                let mut file = File::create(&path).doing(|| "unpack the archive")?;
                io::copy(&mut entry, &mut file).doing(|| "unpack the archive")?;
                parts.insert(name, path);
            }
            // Old Docker archives link a layer that several images share.
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name().map_err(malformed)?.unwrap_or_default().into_owned();
                let base = Path::new(&name).parent().unwrap_or(Path::new(""));
                let is_symlink = entry.header().entry_type() == EntryType::Symlink;
                links.push((name.clone(), plain_name(&if is_symlink { base.join(target) } else { target })));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(path) = parts.get(&target).cloned() {
            parts.insert(name, path);
        }
    }
    Ok(parts)
}

/// A name in the archive without `.` and `..`: it is only ever looked up.
fn plain_name(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    parts.join("/")
}

fn parse_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<Vec<Reference>> {
    names.map(|name| name.parse::<Reference>().map_err(|error| Error::invalid(error.to_string()))).collect()
}

/// Manifests and configurations: larger ones are none.
fn read_small(path: &Path) -> Result<Vec<u8>> {
    const MAX: u64 = 8 << 20;
    let file = File::open(path).doing(|| format!("read {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes).doing(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > MAX {
        return Err(Error::corrupt(format!(
            "a manifest or configuration in the archive is longer than {MAX} bytes"
        )));
    }
    Ok(bytes)
}

/// A manifest or index; registries take none that is larger.
fn read_manifest(path: &Path, digest: &Digest) -> Result<Vec<u8>> {
    const MAX: u64 = 4 << 20;
    let length = std::fs::metadata(path).doing(|| format!("read {}", path.display()))?.len();
    if length > MAX {
        return Err(Error::corrupt(format!(
            "the manifest {digest} in the archive has {length} bytes; {MAX} are allowed"
        )));
    }
    read_checked(path, digest)
}

fn read_checked(path: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = read_small(path)?;
    let found = Digest::sha256(<sha2::Sha256 as sha2::Digest>::digest(&bytes).into());
    if found == *digest {
        Ok(bytes)
    } else {
        Err(Error::corrupt(format!("a part of the archive has the digest {found}, not {digest}")))
    }
}
