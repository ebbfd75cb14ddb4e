//! Pushing what an index leads to: all blobs side by side, then manifests, children before those that name
//! them, and last what refers to them.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::sync::Arc;

use model::{Digest, Reference};

use super::push::{Push, is_same, pushed_of, side_by_side};
use super::upload::{Blob, Content, Stop, TellSent};
use super::{ProgressKind, Pushed};
use crate::config::Descriptor;
use crate::error::{Doing, Error, Result};
use crate::store::{ImageStore, Kept, Node};

impl Push {
    /// Pushes a tree of which everything is here.
    pub(super) async fn push_whole(&self, tag: &str, kept: &Kept) -> Result<Pushed> {
        let root = kept.tree.root().ok_or_else(|| Error::corrupt("an index is kept without its bytes"))?;
        let all: Vec<&Node> = kept.tree.nodes.iter().chain(&kept.referrers).collect();
        self.send_blobs(&all, root).await?;
        for node in all {
            let digest = node.digest.to_string();
            self.send_node(if node.digest == root.digest { tag } else { &digest }, node).await?;
        }
        self.note(root.digest, Some(root.digest)).await?;
        Ok(pushed_of(root))
    }

    /// Pushes one image of a tree under the tag itself.
    pub(super) async fn push_child(&self, tag: &str, node: &Node) -> Result<Pushed> {
        self.send_blobs(&[node], node).await?;
        self.send_node(tag, node).await?;
        if node.image_config().is_some_and(|config| config.digest == self.image.id.to_string()) {
            self.note(node.digest, None).await?;
        }
        Ok(pushed_of(node))
    }

    async fn send_node(&self, tag: &str, node: &Node) -> Result<()> {
        let bytes = bytes::Bytes::from(node.bytes.clone());
        let target = self.target();
        let is_noted = target.send_manifest(tag, node.manifest.form(), &bytes, &node.digest).await?;
        match &node.manifest.subject {
            Some(subject) if !is_noted => target.note_referrer(&subject.digest()?, node).await,
            _ => Ok(()),
        }
    }

    /// Sends what these name beside manifests.
    async fn send_blobs(&self, nodes: &[&Node], root: &Node) -> Result<()> {
        let sources = self.store.sources_of(&self.reference, &root.digest)?;
        let (mut seen, mut work, stop) = (HashSet::new(), Vec::new(), Stop::default());
        for node in nodes {
            let configs: Vec<&str> =
                node.manifest.config.iter().map(|config| config.digest.as_str()).collect();
            for blob in node.manifest.blobs().filter(|blob| seen.insert(blob.digest.clone())) {
                let is_told = !configs.contains(&blob.digest.as_str());
                let sending = self.blob_push(blob, is_told, sources.clone(), stop.clone())?;
                work.push(sending.run());
            }
        }
        side_by_side(work, &stop).await.map(drop)
    }

    fn blob_push(
        &self,
        named: &Descriptor,
        is_told: bool,
        sources: Vec<String>,
        stop: Stop,
    ) -> Result<BlobPush> {
        let digest = named.digest()?;
        if is_told {
            self.tell(&digest, ProgressKind::Preparing);
        }
        Ok(BlobPush { push: self.clone(), digest, size: named.size, is_told, sources, stop })
    }
}

/// One blob on its way.
struct BlobPush {
    push: Push,
    digest: Digest,
    size: u64,
    /// Configurations are small, and nobody waits for them.
    is_told: bool,
    sources: Vec<String>,
    stop: Stop,
}

impl BlobPush {
    async fn run(self) -> Result<()> {
        let (digest, size) = (self.digest, self.size);
        // Only now: an index may lead to more of them than files may be open.
        let path = self.push.store.blob_path(&digest);
        let file = File::open(&path)
            .doing(|| format!("open {}; the image may have been removed meanwhile", path.display()))?;
        let blob = Blob { digest, size, content: Content::File(Arc::new(file)) };
        let quiet: TellSent = Arc::new(|_| {});
        let tell = if self.is_told { self.push.teller(digest, size) } else { quiet };
        let what = format!("the blob {}", digest.short());
        let target = self.push.target();
        let outcome = target.send_blob(&blob, &what, &self.sources, &self.stop, &tell).await?;
        if self.is_told {
            self.push.tell_outcome(&digest, outcome);
        }
        Ok(())
    }
}

impl ImageStore {
    /// Other repositories of the same registry that have an index or manifest, as the names of images tell.
    fn sources_of(&self, target: &Reference, root: &Digest) -> Result<Vec<String>> {
        let images = self.list()?;
        let names = images.iter().flat_map(|image| &image.repo_digests);
        let names = names.filter_map(|name| name.parse::<Reference>().ok());
        let others = names.filter(|known| {
            known.registry() == target.registry() && known.digest() == Some(*root) && !is_same(known, target)
        });
        let others: BTreeSet<String> = others.map(|known| known.repository().to_owned()).collect();
        Ok(others.into_iter().collect())
    }
}
