//! What images came by: indexes with all that they name, kept so that they can be pushed and saved whole.
//!
//! An image is for one platform. Where its name leads to an index instead, that index (the root) stays with
//! the name, and whatever of its children is here stays with the index: manifests in the database, their
//! blobs beside those of layers. Only what a container is to be made of is unpacked.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use model::{Digest, Platform, Reference};

use super::{ImageRecord, ImageStore, parse_config};
use crate::config::{Descriptor, Manifest};
use crate::error::{Doing, Error, Result};
use crate::layer::copy_hashed;

/// How deep indexes may lie in indexes.
const MAX_DEPTH: usize = 4;
/// How many entries an index may have, and how many manifests all of one name together.
const MAX_ENTRIES: usize = 1024;
/// How long all manifests of one name may be together.
const MAX_BYTES: u64 = 32 << 20;

/// What an image came with beside its configuration and layers.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// The image it was made from here.
    pub(crate) parent: Option<Digest>,
    /// Its manifest.
    pub(crate) manifest: Option<Vec<u8>>,
    /// The index that its names lead to.
    pub(crate) root: Option<Digest>,
    /// That index, the manifests below it, and what refers to them.
    pub(crate) contents: Vec<(Digest, Vec<u8>)>,
    /// Blobs of these that have been put in their place.
    pub(crate) blobs: Vec<Descriptor>,
}

/// An index or manifest of a tree.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) digest: Digest,
    /// As whatever names it says.
    pub(crate) descriptor: Descriptor,
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
}

impl Node {
    /// Reads one that nothing names.
    pub(crate) fn alone(digest: Digest, bytes: Vec<u8>) -> Result<Self> {
        let manifest = Manifest::parse(&bytes)?;
        let descriptor = Descriptor {
            media_type: manifest.form().to_owned(),
            digest: digest.to_string(),
            size: bytes.len() as u64,
            ..Descriptor::default()
        };
        Ok(Self { digest, descriptor, bytes, manifest })
    }

    /// The configuration of an image that containers could be made of.
    pub(crate) fn image_config(&self) -> Option<&Descriptor> {
        if self.descriptor.is_attestation() { None } else { self.manifest.image_config().ok() }
    }

    fn is_for(&self, wanted: &Platform) -> bool {
        self.descriptor.platform.as_ref().is_none_or(|platform| wanted.accepts(&platform.platform()))
    }
}

/// Everything a name leads to, as far as it is there: children before those that name them, the root last.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    /// Manifests that are named, but not there.
    pub(crate) absent: Vec<Digest>,
    seen: HashSet<Digest>,
    /// Of all its manifests, in bytes.
    pub(crate) length: u64,
}

impl Tree {
    /// Reads what a descriptor leads to; `None` where not even that is there. `find` gives bytes that have
    /// the digest they are asked by.
    pub(crate) fn read(
        root: &Descriptor,
        find: &dyn Fn(&Digest) -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<Self>> {
        let mut tree = Self::default();
        tree.visit(root, 0, find)?;
        Ok(if tree.nodes.is_empty() { None } else { Some(tree) })
    }

    fn visit(
        &mut self,
        descriptor: &Descriptor,
        depth: usize,
        find: &dyn Fn(&Digest) -> Result<Option<Vec<u8>>>,
    ) -> Result<()> {
        let digest = descriptor.digest()?;
        if !self.seen.insert(digest) {
            return Ok(());
        }
        if depth > MAX_DEPTH || self.seen.len() > MAX_ENTRIES + 1 {
            return Err(Error::corrupt(if depth > MAX_DEPTH {
                format!("the index nests others deeper than {MAX_DEPTH} levels")
            } else {
                format!("the index leads to more than the {MAX_ENTRIES} manifests allowed")
            }));
        }
        let Some(bytes) = find(&digest)? else {
            self.absent.push(digest);
            return Ok(());
        };
        check_size("manifest", descriptor, bytes.len() as u64)?;
        self.length += bytes.len() as u64;
        if self.length > MAX_BYTES {
            return Err(Error::corrupt(format!(
                "the manifests of the index are longer than the {MAX_BYTES} bytes allowed"
            )));
        }
        let manifest = Manifest::parse(&bytes)?;
        if manifest.is_index() {
            check_entries(&manifest)?;
            for child in &manifest.manifests {
                self.visit(child, depth + 1, find)?;
            }
        }
        self.nodes.push(Node { digest, descriptor: descriptor.clone(), bytes, manifest });
        Ok(())
    }

    /// Which it leads to.
    pub(crate) fn root(&self) -> Option<&Node> {
        self.nodes.last()
    }

    /// The images in it, in the order of the index.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.image_config().is_some())
    }

    /// The first image for a platform of which `is_here` says yes.
    pub(crate) fn image_for(&self, wanted: &Platform, is_here: impl Fn(&Node) -> bool) -> Option<&Node> {
        self.images().find(|node| node.is_for(wanted) && is_here(node))
    }
}

/// Refuses an index that no honest tool makes.
pub(crate) fn check_entries(index: &Manifest) -> Result<()> {
    let entries = index.manifests.len();
    if entries <= MAX_ENTRIES {
        return Ok(());
    }
    Err(Error::corrupt(format!("the index has {entries} entries; {MAX_ENTRIES} are allowed")))
}

fn check_size(what: &str, descriptor: &Descriptor, found: u64) -> Result<()> {
    if descriptor.size == found {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "the {what} {} has {found} bytes, not {} as is said where it is named",
        descriptor.digest, descriptor.size
    )))
}

/// What a name leads to, as it is kept here.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) tree: Tree,
    /// What says something of it without being named by it: signatures, lists of contents.
    pub(crate) referrers: Vec<Node>,
}

/// What the roots need, by digest.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    manifests: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
    /// What is kept, and read.
    contents: HashMap<Digest, Manifest>,
}

impl ImageStore {
    /// What a name, or an image by its id, leads to, where that is more than one manifest.
    pub(crate) fn tree(&self, name: &str) -> Result<Option<Tree>> {
        let root = self.index.read().unwrap_or_else(PoisonError::into_inner).origin(name);
        let Some(root) = root else { return Ok(None) };
        let Some(bytes) = self.database.content(&root)? else { return Ok(None) };
        let named = Node::alone(root, bytes)?.descriptor;
        Tree::read(&named, &|digest| self.database.content(digest))
    }

    /// As [`Self::tree`], with what refers to it.
    pub(crate) fn kept(&self, name: &str) -> Result<Option<Kept>> {
        let Some(tree) = self.tree(name)? else { return Ok(None) };
        let contents = self.database.contents()?;
        let mut known: HashSet<Digest> = tree.nodes.iter().map(|node| node.digest).collect();
        let mut referrers = Vec::new();
        let others = contents.into_iter().filter(|(digest, _)| !known.contains(digest));
        let mut others: Vec<Node> =
            others.filter_map(|(digest, bytes)| Node::alone(digest, bytes).ok()).collect();
        others.sort_by_key(|node| node.digest);
        // A signature may itself be signed.
        loop {
            let (found, rest): (Vec<Node>, Vec<Node>) =
                others.into_iter().partition(|node| refers_to(&node.manifest, &known));
            if found.is_empty() {
                return Ok(Some(Kept { tree, referrers }));
            }
            known.extend(found.iter().map(|node| node.digest));
            referrers.extend(found.into_iter().filter(|node| self.has_blobs(node)));
            others = rest;
        }
    }

    /// Whether everything that a tree's manifests name is here.
    pub(crate) fn is_whole(&self, tree: &Tree) -> bool {
        tree.absent.is_empty() && tree.nodes.iter().all(|node| self.has_blobs(node))
    }

    pub(crate) fn has_blobs(&self, node: &Node) -> bool {
        node.manifest.blobs().all(|blob| self.has_blob(blob))
    }

    pub(crate) fn has_blob(&self, blob: &Descriptor) -> bool {
        let metadata = blob.digest().map(|digest| std::fs::metadata(self.blob_path(&digest)));
        metadata.is_ok_and(|found| found.is_ok_and(|file| file.is_file() && file.len() == blob.size))
    }

    /// Keeps a blob's file, once it is what it is said to be.
    pub(crate) fn keep_blob(&self, file: &Path, blob: &Descriptor) -> Result<()> {
        let step = || format!("read {}", file.display());
        check_size("blob", blob, std::fs::metadata(file).doing(step)?.len())?;
        if self.has_blob(blob) {
            return Ok(());
        }
        let from = File::open(file).doing(step)?;
        self.keep_blob_from(from, blob)
    }

    /// As [`Self::keep_blob`], from bytes.
    pub(crate) fn keep_blob_from(&self, from: impl std::io::Read, blob: &Descriptor) -> Result<()> {
        if self.has_blob(blob) {
            return Ok(());
        }
        let wanted = blob.digest()?;
        let partial = self.ingest_path("blob");
        let copied = File::create(&partial).and_then(|mut into| {
            let copied = copy_hashed(from, &mut into)?;
            into.sync_data()?;
            Ok(copied)
        });
        let kept = copied.doing(|| "keep a blob").and_then(|(found, _)| {
            if found != wanted {
                return Err(Error::corrupt(format!("a blob has the digest {found}, not {wanted}")));
            }
            let target = self.blob_path(&wanted);
            std::fs::rename(&partial, &target).doing(|| "keep a blob")?;
            stdx::fs::sync_dir(target.parent().unwrap_or(&target)).doing(|| "keep a blob")
        });
        if kept.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        kept
    }

    /// Takes back what was put in its place for an image that then could not be added.
    pub(crate) fn discard_blobs(&self, blobs: &[Descriptor]) {
        let _gc = self.gc.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(needed) = self.needed() else { return };
        for digest in blobs.iter().filter_map(|blob| blob.digest().ok()) {
            if !needed.blobs.contains(&digest) && !self.is_blob_of_layer(&digest) {
                let _ = std::fs::remove_file(self.blob_path(&digest));
            }
        }
    }

    /// The image that a name leads to for a platform, unpacked now where only its blobs are here. The name
    /// then means that image, as after a pull for the platform. `None`: there is none. Blocking.
    ///
    /// # Errors
    /// Where there is no such image at all, what is kept of it is damaged, or the disk refuses.
    pub fn for_platform(&self, name: &str, wanted: &Platform) -> Result<Option<Arc<ImageRecord>>> {
        let image = self.resolve(name)?;
        if wanted.accepts(&image.platform()) {
            return Ok(Some(image));
        }
        let Some(tree) = self.tree(name)? else { return Ok(None) };
        let Some(node) = tree.image_for(wanted, |node| self.has_blobs(node)) else { return Ok(None) };
        let Some(config) = node.image_config() else { return Ok(None) };
        let path = self.blob_path(&config.digest()?);
        let raw = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let files = node.manifest.layers.iter().map(|layer| Ok(self.blob_path(&layer.digest()?)));
        let files = files.collect::<Result<Vec<_>>>()?;
        let layers = self.keep_layers(&parse_config(&raw)?, &files.iter().collect::<Vec<_>>())?;
        let root = tree.root().map(|root| root.digest);
        let names = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let known = index.stored_name(name);
            // The name at the registry's digest is of the index: it goes along.
            let reference = known.as_deref().and_then(|known| known.parse::<Reference>().ok());
            let by_digest = reference.zip(root).map(|(reference, root)| reference.at(root).to_string());
            let by_digest = by_digest.and_then(|name| index.stored_name(&name));
            known.into_iter().chain(by_digest).collect()
        };
        let origin = Origin { manifest: Some(node.bytes.clone()), root, ..Origin::default() };
        self.add_image_from(raw, layers, names, &origin).map(Some)
    }

    /// What the roots need.
    pub(super) fn needed(&self) -> Result<Needed> {
        let contents = self.database.contents()?.into_iter();
        let contents: HashMap<Digest, Manifest> =
            contents.filter_map(|(digest, bytes)| Some((digest, Manifest::parse(&bytes).ok()?))).collect();
        let mut needed = Needed { contents, ..Needed::default() };
        let mut next: Vec<Digest> = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            index.roots().copied().collect()
        };
        while !next.is_empty() {
            while let Some(digest) = next.pop() {
                let Some(manifest) = needed.contents.get(&digest) else { continue };
                if needed.manifests.insert(digest) {
                    next.extend(manifest.manifests.iter().filter_map(|child| child.digest().ok()));
                    needed.blobs.extend(manifest.blobs().filter_map(|blob| blob.digest().ok()));
                }
            }
            let others = needed.contents.iter().filter(|(digest, _)| !needed.manifests.contains(digest));
            let referring = others.filter(|(_, manifest)| refers_to(manifest, &needed.manifests));
            next.extend(referring.map(|(digest, _)| *digest));
        }
        Ok(needed)
    }

    /// Removes what no root needs, and says how many bytes of blobs that were; the caller holds the lock of
    /// collections.
    pub(super) fn collect_contents(&self, needed: &Needed) -> Result<u64> {
        let unneeded = needed.contents.iter().filter(|(digest, _)| !needed.manifests.contains(digest));
        let unneeded: Vec<(&Digest, &Manifest)> = unneeded.collect();
        if unneeded.is_empty() {
            return Ok(0);
        }
        self.database.remove_contents(&unneeded.iter().map(|(digest, _)| **digest).collect::<Vec<_>>())?;
        let mut freed = 0;
        let blobs = unneeded.iter().flat_map(|(_, manifest)| manifest.blobs());
        for digest in blobs.filter_map(|blob| blob.digest().ok()) {
            if needed.blobs.contains(&digest) || self.is_blob_of_layer(&digest) {
                continue;
            }
            let path = self.blob_path(&digest);
            let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if std::fs::remove_file(&path).is_ok() {
                freed += size;
            }
        }
        Ok(freed)
    }
}

fn refers_to(manifest: &Manifest, known: &HashSet<Digest>) -> bool {
    let subject = manifest.subject.as_ref().and_then(|subject| subject.digest().ok());
    subject.is_some_and(|subject| known.contains(&subject))
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    fn named(bytes: &[u8]) -> (Digest, Descriptor) {
        let digest = Digest::sha256(sha2::Sha256::digest(bytes).into());
        let size = bytes.len() as u64;
        (digest, Descriptor { digest: digest.to_string(), size, ..Descriptor::default() })
    }

    fn index_of(children: &[Descriptor]) -> Vec<u8> {
        serde_json::json!({ "schemaVersion": 2, "manifests": children }).to_string().into_bytes()
    }

    /// Reads a tree of these; what went wrong, in words.
    fn read(root: &Descriptor, known: &[Vec<u8>]) -> Result<Tree, String> {
        let known: HashMap<Digest, Vec<u8>> =
            known.iter().map(|bytes| (named(bytes).0, bytes.clone())).collect();
        let tree = Tree::read(root, &|digest| Ok(known.get(digest).cloned()));
        tree.map_err(|error| error.to_string())?.ok_or_else(|| "not there".into())
    }

    #[test]
    fn children_come_before_their_index_and_absent_ones_are_told() {
        let child = br#"{"schemaVersion":2,"config":{}}"#.to_vec();
        let gone = named(b"gone");
        let inner = index_of(&[named(&child).1]);
        let outer = index_of(&[named(&inner).1, named(&child).1, gone.1]);
        let tree = read(&named(&outer).1, &[child.clone(), inner.clone(), outer.clone()]).unwrap();
        let order: Vec<_> = tree.nodes.iter().map(|node| node.digest).collect();
        assert_eq!(order, [named(&child).0, named(&inner).0, named(&outer).0]);
        assert_eq!(tree.absent, [gone.0]);
    }

    #[test]
    fn an_index_that_no_tool_makes_is_refused() {
        let mut known = vec![br#"{"schemaVersion":2,"config":{}}"#.to_vec()];
        for _ in 0..6 {
            known.push(index_of(&[named(known.last().unwrap()).1]));
        }
        let error = read(&named(known.last().unwrap()).1, &known).unwrap_err();
        assert!(error.contains("deeper than 4"), "{error}");

        let many: Vec<_> = (0..5000_u32).map(|number| named(&number.to_le_bytes()).1).collect();
        let many = index_of(&many);
        let error = read(&named(&many).1, std::slice::from_ref(&many)).unwrap_err();
        assert!(error.contains("5000 entries"), "{error}");

        // Several of the allowed size lead to too many all the same.
        let part = |from: u32| (from..from + 800).map(|n| named(&n.to_le_bytes()).1).collect::<Vec<_>>();
        let parts = [index_of(&part(0)), index_of(&part(800))];
        let outer = index_of(&[named(&parts[0]).1, named(&parts[1]).1]);
        let error = read(&named(&outer).1, &[&parts[..], std::slice::from_ref(&outer)].concat()).unwrap_err();
        assert!(error.contains("more than the 1024"), "{error}");

        let lies = Descriptor { size: 7, ..named(&known[0]).1 };
        let error = read(&lies, &known).unwrap_err();
        assert!(error.contains("not 7 as is said"), "{error}");
    }
}
