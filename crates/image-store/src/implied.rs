//! Directories that a layer implies (it holds `a/b/file`, but neither `a` nor `a/b`): what they look like.
//!
//! Overlay shows a directory as the uppermost layer has it, so one that was made up for a file in it
//! would hide mode, owner and attributes that a layer below gives. A layer is unpacked once and used on
//! top of different others, so it can't take theirs over. Instead, each stack of layers for which it
//! matters has one more on top, `implied/HEX32`, with nothing in it but those directories, named by the
//! stack's chain id (OCI image-spec, config.md). containerd, which unpacks each stack by itself, copies
//! what the parents have into the layer; the container sees the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::Digest;
use sha2::{Digest as _, Sha256};

use crate::database::LayerRow;
use crate::error::{Doing, Result};
use crate::layer::{layer_dir, publish};
use crate::snapshot::{attributes, copy_attributes, is_opaque, is_whiteout, set_time, take_over};
use crate::store::ImageStore;

/// Names a stack of layers, the lowest first.
fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let (first, others) = diff_ids.split_first()?;
    Some(
        others.iter().fold(*first, |chain, diff_id| {
            Digest::sha256(Sha256::digest(format!("{chain} {diff_id}")).into())
        }),
    )
}

/// Where the directories for a stack of layers would be.
fn implied_dir(root: &Path, diff_ids: &[Digest]) -> Option<PathBuf> {
    let chain = chain_id(diff_ids)?;
    Some(root.join("implied").join(chain.hex().get(..32).unwrap_or_default()))
}

impl ImageStore {
    /// The read-only directories that show a stack of layers (given lowest first), the uppermost first.
    pub(crate) fn lowers(&self, diff_ids: &[Digest]) -> Vec<PathBuf> {
        let root = &self.config.root;
        let implied = implied_dir(root, diff_ids).filter(|dir| dir.exists());
        implied.into_iter().chain(diff_ids.iter().rev().map(|diff_id| layer_dir(root, diff_id))).collect()
    }

    /// Makes what a stack of layers needs, where it needs something; on disk when this returns. The caller
    /// holds the lock of [`Self::gc`].
    pub(crate) fn make_implied(&self, diff_ids: &[Digest], rows: &[LayerRow]) -> Result<()> {
        let Some(target) = implied_dir(&self.config.root, diff_ids).filter(|dir| !dir.exists()) else {
            return Ok(());
        };
        let rows: HashMap<&Digest, &LayerRow> = rows.iter().map(|row| (&row.diff_id, row)).collect();
        let layers: Vec<Layer<'_>> = diff_ids
            .iter()
            .rev()
            .map(|diff_id| Layer {
                dir: layer_dir(&self.config.root, diff_id),
                implied: rows.get(diff_id).map(|row| row.implied.iter().map(PathBuf::as_path).collect()),
            })
            .collect();
        let step = || "look at the layers' directories";
        let looks = needed(&layers).doing(step)?;
        if looks.is_empty() {
            return Ok(());
        }
        let tree = self.ingest_path("implied");
        let made = make(&looks, &tree).doing(step).and_then(|()| publish(&tree, &target));
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&tree);
        }
        made
    }

    /// Removes what belongs to none of these stacks.
    pub(crate) fn discard_implied<'a>(&self, stacks: impl Iterator<Item = &'a [Digest]>) {
        let kept: HashSet<PathBuf> =
            stacks.filter_map(|diff_ids| implied_dir(&self.config.root, diff_ids)).collect();
        let entries = std::fs::read_dir(self.config.root.join("implied")).into_iter().flatten().flatten();
        for dir in entries.map(|entry| entry.path()).filter(|dir| !kept.contains(dir)) {
            self.discard(&dir);
        }
    }
}

struct Layer<'a> {
    dir: PathBuf,
    implied: Option<HashSet<&'a Path>>,
}

impl Layer<'_> {
    fn implies(&self, path: &Path) -> bool {
        self.implied.as_ref().is_some_and(|implied| implied.contains(path))
    }
}

/// A path in one layer, and whether that layer hides those below it there.
struct Seen {
    directory: Option<PathBuf>,
    hides: bool,
}

fn look(layer: &Path, path: &Path) -> io::Result<Seen> {
    let mut at = layer.to_owned();
    let mut hides = false;
    for (depth, part) in path.iter().enumerate() {
        // An opaque directory hides what lies in it below, not what it looks like there itself.
        hides |= depth > 0 && is_opaque(&at);
        at.push(part);
        let metadata = match std::fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Seen { directory: None, hides });
            }
            other => other?,
        };
        if is_whiteout(&metadata) || !metadata.is_dir() {
            return Ok(Seen { directory: None, hides: true });
        }
    }
    Ok(Seen { directory: Some(at), hides })
}

/// How a directory shows, and how it should.
struct Look {
    shown: PathBuf,
    meant: PathBuf,
}

/// Of a directory in a stack of layers, the uppermost first; none where there is no such directory.
fn look_through(layers: &[Layer<'_>], path: &Path) -> io::Result<Option<Look>> {
    let mut shown = None;
    for layer in layers {
        let seen = look(&layer.dir, path)?;
        if let Some(found) = seen.directory {
            if !layer.implies(path) {
                let shown = shown.unwrap_or_else(|| found.clone());
                return Ok(Some(Look { shown, meant: found }));
            }
            shown.get_or_insert(found);
        }
        if seen.hides {
            break;
        }
    }
    Ok(shown.map(|shown| Look { meant: shown.clone(), shown }))
}

/// The directories that must look otherwise than they would, and those that lead to them, each with the
/// one that it is to look like.
fn needed(layers: &[Layer<'_>]) -> io::Result<BTreeMap<PathBuf, PathBuf>> {
    // What the lowest layer implies has nothing below it.
    let above = layers.split_last().map_or(&[][..], |(_, above)| above);
    let implied: BTreeSet<&Path> =
        above.iter().flat_map(|layer| layer.implied.iter().flatten().copied()).collect();
    let mut looks = BTreeMap::new();
    for path in implied {
        let Some(look) = look_through(layers, path)? else { continue };
        if look.shown == look.meant || is_alike(&look.shown, &look.meant)? {
            continue;
        }
        for part in path.ancestors() {
            if !looks.contains_key(part)
                && let Some(look) = look_through(layers, part)?
            {
                looks.insert(part.to_owned(), look.meant);
            }
        }
    }
    Ok(looks)
}

/// Times differ always, and matter to nobody enough for one more layer.
fn is_alike(one: &Path, other: &Path) -> io::Result<bool> {
    let look = |dir: &Path| -> io::Result<_> {
        let metadata = std::fs::symlink_metadata(dir)?;
        let mut attributes = attributes(dir);
        attributes.retain(|(name, _)| {
            !name.as_bytes().starts_with(b"trusted.overlay.")
                && !name.as_bytes().starts_with(b"user.overlay.")
        });
        attributes.sort();
        Ok((metadata.mode(), metadata.uid(), metadata.gid(), attributes))
    };
    Ok(look(one)? == look(other)?)
}

/// Makes the directories below `tree`; a parent comes before what is in it.
fn make(looks: &BTreeMap<PathBuf, PathBuf>, tree: &Path) -> io::Result<()> {
    let mut made: Vec<(PathBuf, &Path, Metadata)> = Vec::new();
    for (path, meant) in looks {
        let dir = if path.as_os_str().is_empty() { tree.to_owned() } else { tree.join(path) };
        std::fs::create_dir(&dir)?;
        made.push((dir, meant, std::fs::symlink_metadata(meant)?));
    }
    // The inner ones first: making something in a directory changes its time.
    for (dir, meant, metadata) in made.iter().rev() {
        take_over(dir, metadata)?;
        copy_attributes(meant, dir);
        set_time(dir, metadata)?;
    }
    Ok(())
}
