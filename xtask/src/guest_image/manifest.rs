//! `image.json`: what is in an image's folder, for whoever runs it.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::kernel::Kernel;
use super::recipe::Machine;
use crate::architecture::Architecture;
use crate::files;

/// Writes it, of all files in the folder; returns the digest over them.
pub(super) fn write(
    dir: &Path,
    architecture: Architecture,
    machine: &str,
    kernel: Option<(&Kernel, Machine)>,
) -> Result<String> {
    let mut entries = Map::new();
    let mut lines = String::new();
    for path in files::walk(dir)? {
        let name = path.to_string_lossy().into_owned();
        if name == "image.json" || name.starts_with('.') {
            continue;
        }
        let sha256 = files::sha256(&dir.join(&path))?;
        let size = std::fs::metadata(dir.join(&path))?.len();
        lines.push_str(&format!("{sha256} {size} {name}\n"));
        entries.insert(name, json!({ "sha256": sha256, "size": size }));
    }
    let digest = format!("sha256:{}", files::digest(lines.as_bytes()));
    let manifest = json!({
        "format": 1,
        "machine": machine,
        "kernel": {
            "origin": kernel.map_or("wsl", |(kernel, _)| kernel.origin.name()),
            "version": kernel.map_or("", |(kernel, _)| &kernel.version),
        },
        "architecture": architecture.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "files": Value::Object(entries),
        "command": kernel.map(|(kernel, machine)| kernel.command(machine)).unwrap_or_default(),
        "digest": digest,
    });
    let mut text = serde_json::to_string_pretty(&manifest)?;
    text.push('\n');
    files::write(&dir.join("image.json"), text.as_bytes())?;
    Ok(digest)
}
