//! Files and folders with digests and fixed modes, made whole or not at all; and where they are kept.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::shell::root;

/// A folder that goes when this does.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it beside what will be moved out of it, and removes what processes left that did not end well.
    pub(crate) fn new(beside: &Path) -> Result<Self> {
        for left in list(beside).unwrap_or_default() {
            let name = left.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let process = name.strip_prefix(".new-");
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                let _ = std::fs::remove_dir_all(&left);
            }
        }
        let path = beside.join(format!(".new-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        make_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where what costs time is kept: by content, so that it may be shared and thrown away.
pub(crate) fn cache() -> PathBuf {
    match std::env::var_os("COVE_BUILD_CACHE").filter(|dir| !dir.is_empty()) {
        Some(dir) => root().join(dir),
        None => root().join("target/guest-cache"),
    }
}

/// A folder of the cache under its key, made by `make` unless it is there.
pub(crate) fn cached(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().context("a cached folder has a parent")?;
    make_dir(parent)?;
    let scratch = Scratch::new(parent)?;
    let made = scratch.path().join("made");
    make_dir(&made)?;
    make(&made)?;
    match std::fs::rename(&made, path) {
        // Somebody else made the same meanwhile.
        Err(_) if path.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("failed to make {}", path.display())),
    }
}

pub(crate) fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("failed to make {}", path.display()))
}

/// Writes a file that is whole or not there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = std::fs::File::create(&new).and_then(|mut file| file.write_all(bytes));
    written
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("failed to write {}", path.display()))
}

pub(crate) fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// What is in a folder, in the order of names.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.with_context(|| format!("failed to read {}", dir.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// All files and links below a folder, relative to it, in order.
pub(crate) fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(at) = ahead.pop() {
        for path in list(&at)? {
            if path.is_dir() && !path.is_symlink() {
                ahead.push(path);
            } else {
                found.push(path.strip_prefix(dir).context("a walk stays in its folder")?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a file, or a link as such, and makes the folders above it; modes are 0755 or 0644.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    make_dir(to.parent().context("a file has a parent")?)?;
    let context = || format!("failed to copy {} to {}", from.display(), to.display());
    if from.is_symlink() {
        let target = std::fs::read_link(from).with_context(context)?;
        return std::os::unix::fs::symlink(target, to).with_context(context);
    }
    std::fs::copy(from, to).with_context(context)?;
    let mode = std::fs::metadata(from).with_context(context)?.permissions().mode();
    set_mode(to, if mode & 0o111 == 0 { 0o644 } else { 0o755 })
}

/// Copies all that is in a folder.
pub(crate) fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for path in walk(from)? {
        copy(&from.join(&path), &to.join(&path))?;
    }
    Ok(())
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("failed to set the mode of {}", path.display()))
}

/// The digest of a file, in hexadecimal digits.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let context = || format!("failed to read {}", path.display());
    let mut file = std::fs::File::open(path).with_context(context)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = file.read(&mut buffer).with_context(context)?;
        if read == 0 {
            return Ok(hex(hasher));
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
}

/// The digest of some bytes, in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    hex(hasher)
}

/// The digest of several texts, which can't be moved from one to the next.
pub(crate) fn key(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex(hasher)
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a command, of which is told only where it fails.
pub(crate) fn run_quietly(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_run(&program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    bail!("{program} failed ({}):\n{last}", output.status)
}

/// What a command prints.
pub(crate) fn output_of(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_run(&program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

fn cannot_run(program: &str) -> String {
    let package = match program {
        "mkfs.erofs" => "erofs-utils",
        "depmod" => "kmod",
        "xz" => "xz-utils",
        "readelf" | "strip" | "ar" => "binutils",
        "flex" | "bison" | "bc" | "lz4" | "make" | "gcc" => program,
        _ => return format!("failed to run {program}"),
    };
    format!("failed to run {program}: install {package}")
}
