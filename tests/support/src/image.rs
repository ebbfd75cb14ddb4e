//! Images made without any other tool.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Debian's static busybox (package `busybox-static`).
const BUSYBOX: &str = "/bin/busybox";

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
    let mut layer = Builder::new(Vec::new());
    for (dir, mode) in
        [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700), ("home/", 0o755)]
    {
        layer.append_data(&mut header(EntryType::Directory, mode, 0), dir, std::io::empty())?;
    }
    layer.append_data(
        &mut header(EntryType::Regular, 0o755, program.len() as u64),
        "bin/busybox",
        program.as_slice(),
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
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let file = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
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

/// Writes `busybox:latest` to a file that `docker load` takes.
///
/// # Errors
/// Where busybox is not installed, or the file can't be written.
pub fn write_busybox(path: &Path) -> Result<()> {
    let config = serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
    let archive = docker_archive("busybox:latest", &[busybox_layer()?], &config)?;
    std::fs::write(path, archive).with_context(|| format!("failed to write {}", path.display()))
}
