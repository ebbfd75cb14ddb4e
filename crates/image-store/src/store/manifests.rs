//! What an index names, told for those who list images by platform.

use model::{Digest, Platform};

use super::{ImageStore, Node};
use crate::config::{Descriptor, Manifest, REFERENCE_DIGEST};
use crate::error::Result;

/// One entry of the index that an image came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestSummary {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What the index says it is for.
    pub platform: Option<Platform>,
    /// What it is good for.
    pub kind: ManifestKind,
    /// Whether all that it names is here.
    pub is_available: bool,
    /// Bytes of what is here of it, as registries hold it.
    pub content_size: u64,
}

/// What an entry of an index is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestKind {
    /// Containers can be made of it.
    Image {
        /// The image here that it would be.
        id: Option<Digest>,
        /// Bytes it takes unpacked; 0 where it is not.
        unpacked: u64,
    },
    /// It says how another was made.
    Attestation {
        /// That other.
        of: Option<Digest>,
    },
    /// It is not here, or something else.
    Unknown,
}

impl ImageStore {
    /// The entries of the index that a name leads to; none where it leads to one manifest.
    ///
    /// # Errors
    /// Where what is kept can't be read.
    pub fn manifests(&self, name: &str) -> Result<Vec<ManifestSummary>> {
        let Some(tree) = self.tree(name)? else { return Ok(Vec::new()) };
        let Some(root) = tree.root() else { return Ok(Vec::new()) };
        let child = |digest: &Digest| tree.nodes.iter().find(|node| node.digest == *digest);
        let entries = root.manifest.manifests.iter();
        entries
            .map(|entry| {
                let digest = entry.digest()?;
                Ok(self.summary(entry, digest, child(&digest)))
            })
            .collect()
    }

    fn summary(&self, entry: &Descriptor, digest: Digest, node: Option<&Node>) -> ManifestSummary {
        let here = |manifest: &Manifest| -> u64 {
            manifest.blobs().filter(|blob| self.has_blob(blob)).map(|blob| blob.size).sum()
        };
        let is_unknown = |platform: &Platform| platform.os == "unknown";
        let platform = entry.platform.as_ref().map(crate::config::RawPlatform::platform);
        let kind = if entry.is_attestation() {
            let of = entry.annotations.get(REFERENCE_DIGEST).and_then(|of| of.parse().ok());
            ManifestKind::Attestation { of }
        } else if let Some(config) = node.and_then(Node::image_config) {
            let image = self.resolve(&config.digest).ok();
            let unpacked = image.as_ref().map_or(0, |image| image.size);
            ManifestKind::Image { id: image.map(|image| image.id), unpacked }
        } else if platform.as_ref().is_some_and(|platform| !is_unknown(platform)) {
            ManifestKind::Image { id: None, unpacked: 0 }
        } else {
            ManifestKind::Unknown
        };
        ManifestSummary {
            media_type: entry.media_type.clone(),
            digest,
            size: entry.size,
            platform,
            kind,
            is_available: node.is_some_and(|node| self.has_blobs(node)),
            content_size: node.map_or(0, |node| here(&node.manifest).saturating_add(entry.size)),
        }
    }
}
