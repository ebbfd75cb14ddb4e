//! A new image from what a container changed: its writable layer as an archive, on top of its image.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use model::{Digest, Reference};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::config::{ConfigFile, History, ImageConfig, RootFs};
use crate::error::{Doing, Error, Result};
use crate::snapshot::{Snapshot, attributes, is_mount_point};
use crate::store::{ImageRecord, ImageStore, Origin};

/// What the new image is to be.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// What it says of its containers.
    pub config: ImageConfig,
    /// Its name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Free text.
    pub comment: String,
    /// The image it stands on.
    pub base: Option<Digest>,
}

impl ImageStore {
    /// Makes an image of a snapshot.
    ///
    /// # Errors
    /// Where there is no such snapshot or base, the snapshot is a copy, or the disk refuses.
    pub async fn commit(&self, key: &str, options: CommitOptions) -> Result<Arc<ImageRecord>> {
        let (store, key) = (self.clone(), key.to_owned());
        tokio::task::spawn_blocking(move || store.commit_now(&key, &options))
            .await
            .map_err(|_| Error::Unavailable { what: "the engine is shutting down".into() })?
    }

    fn commit_now(&self, key: &str, options: &CommitOptions) -> Result<Arc<ImageRecord>> {
        let upper = match self.snapshot(key) {
            Some(Snapshot::Overlay { upper, .. }) => upper,
            Some(Snapshot::Copy { .. }) => {
                return Err(Error::Unsupported {
                    what: "commit needs overlay, which is not available here".into(),
                });
            }
            None => return Err(Error::NoSuchImage { name: key.to_owned() }),
        };
        let base = options.base.as_ref().map(|base| self.resolve(&base.to_string())).transpose()?;
        let file = self.ingest_path("commit");
        let packed = pack(&upper, &file);
        let made =
            packed.and_then(|diff_id| self.keep_layer(&file, Some(&diff_id)).map(|layer| (diff_id, layer)));
        let _ = std::fs::remove_file(&file);
        let (diff_id, layer) = made?;
        let mut layers: Vec<_> = base
            .iter()
            .flat_map(|base| base.diff_ids.iter())
            .filter_map(|diff_id| self.known_layer(diff_id))
            .collect();
        layers.push(layer);
        let raw = config_file(base.as_deref(), diff_id, options);
        let names = options.reference.iter().map(ToString::to_string).collect();
        let origin = Origin { parent: base.map(|base| base.id), ..Origin::default() };
        self.add_image_from(serde_json::to_vec(&raw).unwrap_or_default(), layers, names, &origin)
    }
}

pub(crate) fn config_file(
    base: Option<&ImageRecord>,
    diff_id: Digest,
    options: &CommitOptions,
) -> ConfigFile {
    let now = now();
    let host = model::Platform::host();
    let mut diff_ids = base.map(|base| base.diff_ids.clone()).unwrap_or_default();
    diff_ids.push(diff_id);
    let mut history = base.map(|base| base.history.clone()).unwrap_or_default();
    history.push(History {
        created: Some(now.clone()),
        created_by: Some(options.config.cmd.clone().unwrap_or_default().join(" ")),
        author: Some(options.author.clone()).filter(|author| !author.is_empty()),
        comment: Some(options.comment.clone()).filter(|comment| !comment.is_empty()),
        empty_layer: false,
    });
    ConfigFile {
        architecture: base.map_or(host.architecture, |base| base.architecture.clone()),
        variant: base.map(|base| base.variant.clone()).unwrap_or_default(),
        os: "linux".into(),
        created: Some(now),
        author: options.author.clone(),
        comment: options.comment.clone(),
        config: Some(options.config.clone().into()),
        rootfs: RootFs { r#type: "layers".into(), diff_ids },
        history,
        ..ConfigFile::default()
    }
}

/// RFC 3339 in UTC, by way of GNU-free arithmetic: days since the epoch to a civil date.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
    let days = seconds / 86_400 + 719_468;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + days / 146_097 * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Writes a writable layer as a compressed archive; returns its diff id.
fn pack(upper: &Path, file: &Path) -> Result<Digest> {
    let step = || "pack the container's changes";
    let gzip = GzEncoder::new(File::create(file).doing(step)?, Compression::fast());
    let mut packer = Packer {
        builder: Builder::new(Hashing { inner: gzip, hasher: Sha256::new() }),
        seen: HashMap::new(),
    };
    packer.builder.mode(tar::HeaderMode::Complete);
    packer.add_content(upper, Path::new("")).doing(step)?;
    let hashing = packer.builder.into_inner().doing(step)?;
    hashing.inner.finish().doing(step)?;
    Ok(Digest::sha256(hashing.hasher.finalize().into()))
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..length).unwrap_or_default());
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// The first name of each file with several.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn add_content(&mut self, dir: &Path, shown: &Path) -> io::Result<()> {
        let mut entries = std::fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            self.add(&entry.path(), &shown.join(entry.file_name()))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, shown: &Path) -> io::Result<()> {
        let metadata = std::fs::symlink_metadata(path)?;
        if metadata.is_file() && is_mount_point(&Path::new("/").join(shown), &metadata) {
            return Ok(());
        }
        let kind = metadata.file_type();
        let mut header = Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_size(0);
        if kind.is_char_device() && metadata.rdev() == 0 {
            let mut hidden = b".wh.".to_vec();
            hidden.extend_from_slice(shown.file_name().unwrap_or_default().as_bytes());
            header.set_entry_type(EntryType::Regular);
            return self.builder.append_data(
                &mut header,
                shown.with_file_name(OsStr::from_bytes(&hidden)),
                io::empty(),
            );
        }
        let found = attributes(path);
        let kept: Vec<(String, &[u8])> = found
            .iter()
            .filter(|(name, _)| {
                let name = name.as_bytes();
                name == b"security.capability"
                    || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
            })
            .map(|(name, value)| (format!("SCHILY.xattr.{}", name.to_string_lossy()), value.as_slice()))
            .collect();
        if !kept.is_empty() {
            self.builder.append_pax_extensions(kept.iter().map(|(name, value)| (name.as_str(), *value)))?;
        }
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder.append_data(&mut header, shown.join(""), io::empty())?;
            let is_opaque = found.iter().any(|(name, value)| {
                (name == "trusted.overlay.opaque" || name == "user.overlay.opaque") && value == b"y"
            });
            if is_opaque {
                let mut marker = Header::new_gnu();
                marker.set_mode(0o644);
                marker.set_size(0);
                self.builder.append_data(&mut marker, shown.join(".wh..wh..opq"), io::empty())?;
            }
            return self.add_content(path, shown);
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.builder.append_link(&mut header, shown, std::fs::read_link(path)?);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if !kind.is_file() {
            return self.builder.append_data(&mut header, shown, io::empty());
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.seen.get(&(metadata.dev(), metadata.ino())) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, shown, first);
            }
            self.seen.insert((metadata.dev(), metadata.ino()), shown.to_owned());
        }
        header.set_size(metadata.len());
        // A file that a running container changes meanwhile is cut or filled to the size announced.
        let exact = io::Read::take(io::Read::chain(File::open(path)?, io::repeat(0)), metadata.len());
        self.builder.append_data(&mut header, shown, exact)
    }
}
