//! Images made without any other tool.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Debian's static busybox (package `busybox-static`).
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// Applets that tests use.
const APPLETS: &[&str] = &[
    "ash", "awk", "cat", "chmod", "chown", "cp", "date", "dd", "echo", "env", "false", "find", "grep",
    "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "ps", "pwd",
    "readlink", "rm", "seq", "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "tar", "test", "touch",
    "tr", "true", "tty", "umount", "uname", "wc", "yes",
];

/// Hexadecimal SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A header with everything set that readers look at.
#[must_use]
pub fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header
}

/// A root file system of busybox, as a layer.
///
/// # Errors
/// Where busybox is not installed.
pub fn busybox_layer() -> Result<Vec<u8>> {
    let program =
        std::fs::read(BUSYBOX).with_context(|| format!("{BUSYBOX} is missing: install busybox-static"))?;
    layer_of_busybox(&program)
}

/// The same of a busybox that was had elsewhere, as for another processor.
///
/// # Errors
/// None but of memory.
pub fn layer_of_busybox(program: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (dir, mode) in
        [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700), ("home/", 0o755)]
    {
        layer.append_data(&mut header(EntryType::Directory, mode, 0), dir, std::io::empty())?;
    }
    layer.append_data(
        &mut header(EntryType::Regular, 0o755, program.len() as u64),
        "bin/busybox",
        program,
    )?;
    for applet in APPLETS {
        layer.append_link(&mut header(EntryType::Symlink, 0o777, 0), format!("bin/{applet}"), "busybox")?;
    }
    for (name, text) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home:/bin/sh\n"),
        ("etc/group", "root:x:0:\nwheel:x:10:app\napp:x:1000:\n"),
    ] {
        layer.append_data(
            &mut header(EntryType::Regular, 0o644, text.len() as u64),
            name,
            text.as_bytes(),
        )?;
    }
    Ok(layer.into_inner()?)
}

/// An archive as `docker save` writes it, of one image with these layers and this `config`.
///
/// # Errors
/// None but of memory.
pub fn docker_archive(name: &str, layers: &[Vec<u8>], config: &serde_json::Value) -> Result<Vec<u8>> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    docker_archive_for(architecture, name, layers, config)
}

/// As [`docker_archive`], for any processor.
///
/// # Errors
/// None but of memory.
pub fn docker_archive_for(
    architecture: &str,
    name: &str,
    layers: &[Vec<u8>],
    config: &serde_json::Value,
) -> Result<Vec<u8>> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let file = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": diff_ids.iter().map(|_| serde_json::json!({ "created_by": "support" })).collect::<Vec<_>>(),
    });
    let config_name = format!("{}.json", sha256(file.to_string().as_bytes()));
    let names: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = serde_json::json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]);
    let mut archive = Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        archive.append_data(&mut header(EntryType::Regular, 0o644, bytes.len() as u64), name, bytes)
    };
    add(&config_name, file.to_string().as_bytes())?;
    for (name, layer) in names.iter().zip(layers) {
        add(name, layer)?;
    }
    add("manifest.json", manifest.to_string().as_bytes())?;
    Ok(archive.into_inner()?)
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `application/vnd.oci.image.layer.v1.tar`
    None,
    /// `…tar+gzip`
    Gzip,
    /// `…tar+zstd`
    Zstd,
}

/// A layer as registries hold it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its media type.
    pub media_type: &'static str,
    /// As sent.
    pub bytes: Vec<u8>,
    /// SHA-256 of the archive inside, in hexadecimal.
    pub diff_id: String,
}

impl Layer {
    /// Packs an archive.
    ///
    /// # Errors
    /// None but of memory.
    pub fn pack(archive: &[u8], compression: Compression) -> Result<Self> {
        use std::io::Write;
        let (media_type, bytes) = match compression {
            Compression::None => ("application/vnd.oci.image.layer.v1.tar", archive.to_vec()),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(archive)?;
                ("application/vnd.oci.image.layer.v1.tar+gzip", encoder.finish()?)
            }
            Compression::Zstd => {
                ("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(archive, 1)?)
            }
        };
        Ok(Self { media_type, bytes, diff_id: sha256(archive) })
    }
}

/// An image as registries hold it.
#[derive(Debug, Clone)]
pub struct Blobs {
    /// The configuration.
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The manifest's media type.
    pub media_type: String,
}

impl Blobs {
    /// An OCI image of these layers with this `config`.
    #[must_use]
    pub fn new(layers: Vec<Layer>, config: &serde_json::Value) -> Self {
        Self::for_processor(if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, layers, config)
    }

    /// As [`Self::new`], for any processor.
    #[must_use]
    pub fn for_processor(architecture: &str, layers: Vec<Layer>, config: &serde_json::Value) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", sha256(&config)),
                "size": config.len(),
            },
            "layers": layers.iter().map(|layer| serde_json::json!({
                "mediaType": layer.media_type,
                "digest": format!("sha256:{}", sha256(&layer.bytes)),
                "size": layer.bytes.len(),
            })).collect::<Vec<_>>(),
        });
        Self { config, layers, manifest: manifest.to_string().into_bytes(), media_type: media_type.into() }
    }

    /// The digest that names the image.
    #[must_use]
    pub fn digest(&self) -> String {
        format!("sha256:{}", sha256(&self.manifest))
    }
}

/// Bytes that don't compress, the same for the same seed (xorshift).
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Writes `busybox:latest` to a file that `docker load` takes.
///
/// # Errors
/// Where busybox is not installed, or the file can't be written.
pub fn write_busybox(path: &Path) -> Result<()> {
    let config = serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
    let archive = docker_archive("busybox:latest", &[busybox_layer()?], &config)?;
    std::fs::write(path, archive).with_context(|| format!("failed to write {}", path.display()))
}
