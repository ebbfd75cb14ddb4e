//! An image for several platforms, made here: an index as BuildKit writes it, with an attestation.

use anyhow::Result;
use serde_json::{Value, json};
use tar::{Builder, EntryType};

use crate::image::{Blobs, Compression, Layer, header, noise, sha256};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The processor of this machine, and one that it is not.
pub const PROCESSORS: [&str; 2] =
    if cfg!(target_arch = "aarch64") { ["arm64", "amd64"] } else { ["amd64", "arm64"] };

/// An index of two platforms and an attestation of the first.
#[derive(Debug, Clone)]
pub struct Index {
    /// For [`PROCESSORS`].
    pub images: Vec<Blobs>,
    /// What says how the first was made.
    pub attestation: Blobs,
    /// What refers to something of it without being in it.
    pub referrers: Vec<Blobs>,
    /// The index.
    pub bytes: Vec<u8>,
}

impl Index {
    /// Images of these archives, one for each of [`PROCESSORS`], which share their second layer.
    ///
    /// # Errors
    /// Where an archive can't be compressed.
    pub fn new(own: [&[u8]; 2]) -> Result<Self> {
        let shared = archive("shared", &noise(21, 50_000))?;
        let mut images = Vec::new();
        for (architecture, own) in PROCESSORS.iter().zip(own) {
            let layers = vec![Layer::pack(own, Compression::Gzip)?, Layer::pack(&shared, Compression::Zstd)?];
            let config = json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
            images.push(Blobs::for_processor(architecture, layers, &config));
        }
        let statement = json!({ "_type": "https://in-toto.io/Statement/v0.1" }).to_string().into_bytes();
        let attestation = attached("application/vnd.in-toto+json", statement, None);
        let mut index = Self { images, attestation, referrers: Vec::new(), bytes: Vec::new() };
        index.write(true);
        Ok(index)
    }

    /// As [`Self::new`], of files with noise.
    ///
    /// # Errors
    /// Where the archives can't be made.
    pub fn of_noise() -> Result<Self> {
        let own = [archive("own", &noise(31, 100_000))?, archive("own", &noise(23, 100_000))?];
        Self::new([&own[0], &own[1]])
    }

    /// Without its attestation.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.write(false);
        self
    }

    /// With a signature of the index.
    #[must_use]
    pub fn signed(mut self) -> Self {
        let subject = named(OCI_INDEX, &self.bytes);
        self.referrers.push(attached("application/vnd.example.signature", b"signed".to_vec(), Some(subject)));
        self
    }

    fn write(&mut self, is_attested: bool) {
        let entry = |image: &Blobs, architecture: &str| {
            let mut entry = named(OCI_MANIFEST, &image.manifest);
            entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
            entry
        };
        let mut entries: Vec<Value> =
            self.images.iter().zip(PROCESSORS).map(|(image, of)| entry(image, of)).collect();
        if is_attested {
            let mut attests = named(OCI_MANIFEST, &self.attestation.manifest);
            attests["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
            attests["annotations"] = json!({
                "vnd.docker.reference.digest": self.images[0].digest(),
                "vnd.docker.reference.type": "attestation-manifest",
            });
            entries.push(attests);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        self.bytes = serde_json::to_vec_pretty(&index).unwrap_or_default();
    }

    /// The digest that names it.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{}", sha256(&self.bytes))
    }

    /// An archive with the OCI layout of it, under a name.
    ///
    /// # Errors
    /// None that memory would make.
    pub fn layout(&self, name: &str) -> Result<Vec<u8>> {
        let mut root = named(OCI_INDEX, &self.bytes);
        root["annotations"] = json!({ "io.containerd.image.name": name });
        let referring = self.referrers.iter().map(|one| named(OCI_MANIFEST, &one.manifest));
        let entries: Vec<Value> = std::iter::once(root).chain(referring).collect();
        let mut blobs = vec![self.bytes.clone()];
        for one in self.images.iter().chain([&self.attestation]).chain(&self.referrers) {
            blobs.extend([one.config.clone(), one.manifest.clone()]);
            blobs.extend(one.layers.iter().map(|layer| layer.bytes.clone()));
        }
        layout(&entries, &blobs)
    }
}

/// An archive with an OCI layout of these entries and blobs.
///
/// # Errors
/// None that memory would make.
pub fn layout(entries: &[Value], blobs: &[Vec<u8>]) -> Result<Vec<u8>> {
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }).to_string();
    let mut into = Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        into.append_data(&mut header(EntryType::Regular, 0o444, bytes.len() as u64), name, bytes)
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index.as_bytes())?;
    for blob in blobs {
        add(&format!("blobs/sha256/{}", sha256(blob)), blob)?;
    }
    Ok(into.into_inner()?)
}

/// What names some bytes.
#[must_use]
pub fn named(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
}

fn archive(name: &str, data: &[u8]) -> Result<Vec<u8>> {
    let mut into = Builder::new(Vec::new());
    into.append_data(&mut header(EntryType::Regular, 0o644, data.len() as u64), name, data)?;
    Ok(into.into_inner()?)
}

/// A manifest that says something, with one blob.
fn attached(kind: &str, content: Vec<u8>, subject: Option<Value>) -> Blobs {
    // As BuildKit does: a configuration of no platform.
    let config = json!({ "architecture": "unknown", "os": "unknown" }).to_string().into_bytes();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": named("application/vnd.oci.image.config.v1+json", &config),
        "layers": [named(kind, &content)],
    });
    if let Some(subject) = subject {
        manifest["artifactType"] = kind.into();
        manifest["subject"] = subject;
        manifest["annotations"] = json!({ "org.example": "kept" });
    }
    let layer = Layer { media_type: "", bytes: content, diff_id: String::new() };
    let manifest = manifest.to_string().into_bytes();
    Blobs { config, layers: vec![layer], manifest, media_type: OCI_MANIFEST.into() }
}
