//! House rules that a machine can check (ARCHITECTURE.md, "Invariants").

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{output, root};

/// Packages that must not be reached, and from where.
const LAYERS: &[(&str, &[&str])] = &[
    ("model", &["tokio", "hyper", "rusqlite", "stdx"]),
    ("oci-runtime", &["tokio", "hyper", "axum", "rusqlite", "engine", "api"]),
    ("ipc", &["hyper", "model", "stdx", "api", "engine"]),
    ("credentials", &["tokio", "hyper", "model", "engine", "api", "image-store"]),
    ("image-store", &["axum", "engine", "api", "oci-runtime"]),
    ("network", &["axum", "engine", "api", "image-store", "oci-runtime"]),
    ("engine", &["api", "axum", "api-server", "host"]),
    ("host", &["engine", "image-store", "oci-runtime", "vm-devices", "tauri"]),
    ("cli", &["engine", "image-store", "oci-runtime", "vm-devices", "tauri"]),
    ("vm-proto", &["tokio", "stdx", "model"]),
    ("vm-changes", &["tokio", "libc", "rustix", "vm-devices"]),
    ("vm-manager", &["engine", "api", "axum", "hyper", "vm-devices"]),
    ("vm-hyperv", &["tokio", "engine", "api", "vm-devices"]),
    ("vm-vz", &["tokio", "engine", "api", "vm-devices"]),
    ("vm-agent", &["engine", "api", "hyper", "vm-manager", "vm-devices"]),
    ("vm-supervisor", &["engine", "image-store", "oci-runtime", "axum", "tauri"]),
];

/// Where `unsafe` may be, each behind safe functions.
const UNSAFE: &[&str] = &[
    "crates/api-server/src/rootless.rs",
    "crates/api-server/src/sys.rs",
    "crates/engine/src/watch.rs",
    "crates/cli/src/sys/windows.rs",
    "crates/host/src/sys/linux.rs",
    "crates/host/src/sys/macos.rs",
    "crates/host/src/sys/unix.rs",
    "crates/host/src/sys/windows.rs",
    "crates/image-store/welcome/main.rs",
    "crates/ipc/src/sys/windows.rs",
    "crates/ipc/src/sys/windows/security.rs",
    "crates/network/src/sys.rs",
    "crates/oci-runtime/src/sys.rs",
    "vm/agent/src/sys.rs",
    "vm/devices/src/sys.rs",
    "vm/hyperv/src/sys/windows.rs",
    "vm/hyperv/src/sys/windows/caller.rs",
    "vm/hyperv/src/sys/windows/disk.rs",
    "vm/hyperv/src/sys/windows/module.rs",
    "vm/hyperv/src/sys/windows/network.rs",
    "vm/hyperv/src/sys/windows/pipe.rs",
    "vm/hyperv/src/sys/windows/security.rs",
    "vm/hyperv/src/sys/windows/serve.rs",
    "vm/hyperv/src/sys/windows/socket.rs",
    "vm/vz/src/macos/channel.rs",
    "vm/vz/src/macos/configuration.rs",
    "vm/vz/src/macos/events.rs",
    "vm/vz/src/macos/machine.rs",
    "vm/vz/src/macos/queue.rs",
    "vm/vz/src/macos/rosetta.rs",
    "vm/supervisor/src/platform/linux/sys.rs",
    "vm/supervisor/src/platform/macos/tree.rs",
    "vm/supervisor/src/platform/windows/tree.rs",
];

/// Files over the limit, each with its reason.
const LONG: &[(&str, &str)] = &[];
const MAX_LINES: usize = 800;

/// Checks everything; tells all that is wrong.
pub(crate) fn tidy() -> Result<()> {
    let files = source_files()?;
    let mut wrong = Vec::new();
    check_layers(&mut wrong)?;
    for file in &files {
        let bytes =
            std::fs::read(root().join(file)).with_context(|| format!("failed to read {}", file.display()))?;
        // Pictures and the like.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        check_file(file, &text, &mut wrong);
    }
    check_manifests(&files, &mut wrong)?;
    check_architecture(&mut wrong)?;
    wrong.extend(crate::dist::wrong_in_all()?);
    if wrong.is_empty() {
        println!("tidy: {} files are in order", files.len());
        return Ok(());
    }
    bail!("{} things are not in order:\n  {}", wrong.len(), wrong.join("\n  "))
}

/// Files that git knows, or would.
fn source_files() -> Result<Vec<PathBuf>> {
    let list = output("git", &["ls-files", "--cached", "--others", "--exclude-standard"])
        .context("failed to list files by git")?;
    Ok(list.lines().map(PathBuf::from).filter(|path| root().join(path).is_file()).collect())
}

fn check_file(file: &Path, text: &str, wrong: &mut Vec<String>) {
    let name = file.display().to_string();
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if ["utils", "util", "helpers", "common", "misc"].contains(&stem) {
        wrong.push(format!("{name}: a file is named by what it holds"));
    }
    if file.extension().is_none_or(|extension| extension != "rs") || name.starts_with("xtask/src/tidy") {
        return;
    }
    if stem == "mod" {
        wrong.push(format!("{name}: modules are foo.rs beside foo/, not mod.rs"));
    }
    let is_code = !name.ends_with("build.rs");
    if is_code && !text.trim_start_matches("#![").starts_with("//!") && !text.contains("\n//! ") {
        wrong.push(format!("{name}: a module opens with a //! sentence"));
    }
    let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
    if lines > MAX_LINES && !LONG.iter().any(|(known, _)| *known == name) {
        wrong.push(format!("{name}: {lines} lines, {MAX_LINES} are the limit"));
    }
    let has_unsafe = text.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        code.contains("unsafe {") || code.contains("unsafe extern") || code.contains("unsafe fn")
    });
    if has_unsafe && !UNSAFE.contains(&name.as_str()) {
        wrong.push(format!("{name}: unsafe is only in the modules that ARCHITECTURE.md lists"));
    }
    for (number, line) in text.lines().enumerate() {
        let open = ["TO", "FIX"].iter().zip(["DO", "ME"]).any(|(a, b)| line.contains(&format!("{a}{b}")));
        if open && !line.contains('#') {
            wrong.push(format!("{name}:{}: open work without an issue's number", number + 1));
        }
        if line.trim_start().starts_with("#[allow(") {
            wrong.push(format!("{name}:{}: #[expect(…, reason)] instead of #[allow]", number + 1));
        }
    }
}

fn check_manifests(files: &[PathBuf], wrong: &mut Vec<String>) -> Result<()> {
    for file in files.iter().filter(|file| file.ends_with("Cargo.toml") && **file != Path::new("Cargo.toml"))
    {
        let text = std::fs::read_to_string(root().join(file))?;
        if !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: lacks [lints] workspace = true", file.display()));
        }
    }
    Ok(())
}

/// What packages reach through normal dependencies, by `cargo metadata`.
fn check_layers(wrong: &mut Vec<String>) -> Result<()> {
    let text = output("cargo", &["metadata", "--format-version", "1", "--locked"])
        .context("cargo metadata failed; is Cargo.lock current?")?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is no JSON")?;
    let empty = Vec::new();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap_or(&empty);
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let name_of = |id: &str| {
        packages
            .iter()
            .find(|package| package["id"] == id)
            .and_then(|package| package["name"].as_str())
            .unwrap_or_default()
    };
    for (from, forbidden) in LAYERS {
        let Some(start) = nodes.iter().find(|node| name_of(node["id"].as_str().unwrap_or_default()) == *from)
        else {
            continue;
        };
        let mut reached = BTreeSet::new();
        let mut ahead = vec![start["id"].as_str().unwrap_or_default()];
        while let Some(id) = ahead.pop() {
            let Some(node) = nodes.iter().find(|node| node["id"] == id) else { continue };
            for dependency in node["deps"].as_array().unwrap_or(&empty) {
                let kinds = dependency["dep_kinds"].as_array().unwrap_or(&empty);
                let id = dependency["pkg"].as_str().unwrap_or_default();
                if kinds.iter().any(|kind| kind["kind"].is_null()) && reached.insert(id) {
                    ahead.push(id);
                }
            }
        }
        for id in reached {
            let name = name_of(id);
            if forbidden.contains(&name) {
                wrong.push(format!("package {from} reaches {name}, which it must not"));
            }
        }
    }
    Ok(())
}

/// Every path that ARCHITECTURE.md names exists.
fn check_architecture(wrong: &mut Vec<String>) -> Result<()> {
    let text =
        std::fs::read_to_string(root().join("ARCHITECTURE.md")).context("failed to read ARCHITECTURE.md")?;
    for word in text.split('`').skip(1).step_by(2) {
        let is_path = ["crates/", "tests/", "ui/", "src-tauri/", "packaging/", "xtask/", "docs/", ".ci/"]
            .iter()
            .any(|prefix| word.starts_with(prefix));
        let plain = word.split(['#', ' ']).next().unwrap_or_default();
        if is_path && plain != "ui/dist" && !root().join(plain).exists() {
            wrong.push(format!("ARCHITECTURE.md: {plain} does not exist"));
        }
    }
    Ok(())
}
