//! `cp`: files between a container and this computer, as a tar archive on its way.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use api::client::Client;
use clap::Args;
use futures_util::TryStreamExt;
use tar::{Archive, Builder, Entry, EntryType};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::containers::write_out;
use crate::exit::{Failure, Outcome};
use crate::printer;
use crate::sys;

/// How much of an archive waits between its reader and its writer.
const BUFFER: usize = 256 << 10;

/// Flags of `cp`.
#[derive(Args, Debug)]
#[command(after_help = "One of the two is CONTAINER:PATH, the other a path here, or - for a tar archive.\n\
A directory is copied by its name; with /. behind it, what is in it.\n\n\
Examples:\n  cove cp web:/etc/hosts .\n  cove cp web:/var/log - | tar t\n  tar c src | cove cp - web:/tmp")]
pub(crate) struct CopyArgs {
    /// Copy the files' owners too
    #[arg(short, long)]
    archive: bool,
    source: String,
    target: String,
}

/// A container and a path in it.
fn in_container(text: &str) -> Option<(&str, &str)> {
    if sys::HAS_DRIVES && model::drive::is_on_drive(text) {
        return None;
    }
    text.split_once(':').filter(|(name, _)| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
}

pub(crate) async fn copy(client: &Client, args: CopyArgs) -> Outcome {
    match (in_container(&args.source), in_container(&args.target)) {
        (Some((name, path)), None) => copy_out(client, name, path, &args.target).await,
        (None, Some((name, path))) => copy_in(client, &args.source, name, path, args.archive).await,
        (Some(_), Some(_)) => Err(Failure::new("copying between containers is not supported")),
        (None, None) => Err(Failure::new("one of the two must be CONTAINER:PATH")),
    }
}

async fn copy_out(client: &Client, name: &str, path: &str, target: &str) -> Outcome {
    let body = client.read_archive(name, path).await?.into_body();
    if target == "-" {
        return write_out(body, None).await;
    }
    let to = Place::find(target, is_content(path))?;
    let reader = StreamReader::new(body.map_err(std::io::Error::other));
    let reader = SyncIoBridge::new(reader);
    let unpacked = tokio::task::spawn_blocking(move || to.unpack(reader)).await;
    unpacked.map_err(|_| Failure::new("the copy was called off"))?
}

/// Whether what is in a directory is meant rather than the directory.
fn is_content(path: &str) -> bool {
    path.ends_with("/.") || path == "."
}

/// Where an archive goes.
struct Place {
    /// A directory that is there.
    dir: PathBuf,
    /// What the first part of each name becomes; `None` leaves it.
    rename: Option<PathBuf>,
}

impl Place {
    /// Docker's rules: into a directory that is there, under the last name where that is not there yet.
    fn find(target: &str, is_content: bool) -> Outcome<Self> {
        let to = Path::new(target);
        if to.is_dir() {
            return Ok(Self { dir: to.to_owned(), rename: is_content.then(PathBuf::new) });
        }
        if target.ends_with('/') {
            return Err(Failure::new(format!("no such directory: {target}")));
        }
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !dir.is_dir() {
            return Err(Failure::new(format!("no such directory: {}", dir.display())));
        }
        let name = to.file_name().map(PathBuf::from);
        Ok(Self { dir: dir.to_owned(), rename: Some(name.unwrap_or_default()) })
    }

    fn unpack(&self, reader: impl Read) -> Outcome {
        let root = self.dir.canonicalize()?;
        let mut archive = Archive::new(reader);
        // Modes of directories come last: one may forbid what is still to be written into it.
        let mut modes = Vec::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let shown = entry.path()?.into_owned();
            self.unpack_one(&root, &mut entry, &mut modes)
                .map_err(|failure| Failure::new(format!("{}: {}", shown.display(), failure.message)))?;
        }
        for (path, mode) in modes.into_iter().rev() {
            sys::set_mode(&path, mode)?;
        }
        Ok(0)
    }

    /// What a container sends is not trusted: no name leads out of the target, also not through a
    /// symlink that came before it.
    fn unpack_one(
        &self,
        root: &Path,
        entry: &mut Entry<'_, impl Read>,
        modes: &mut Vec<(PathBuf, u32)>,
    ) -> Outcome<()> {
        let kind = entry.header().entry_type();
        let Some(path) = self.inside(root, &entry.path()?)? else { return Ok(()) };
        match kind {
            EntryType::Directory => {
                match std::fs::create_dir(&path) {
                    Err(_) if path.symlink_metadata().is_ok_and(|found| found.is_dir()) => {}
                    other => other?,
                }
                modes.push((path, entry.header().mode()?));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Symlink => {
                if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    return Err(Failure::new("a directory is in the way"));
                }
                entry.set_preserve_mtime(true);
                entry.unpack(&path)?;
            }
            EntryType::Link => {
                let to = entry.link_name()?.ok_or_else(|| Failure::new("a link without a target"))?;
                let to = self.inside(root, &to)?.ok_or_else(|| Failure::new("a link to nothing"))?;
                if !to.symlink_metadata()?.is_file() {
                    return Err(Failure::new("a hard link to what is no file"));
                }
                let _ = std::fs::remove_file(&path);
                std::fs::hard_link(&to, &path)?;
            }
            _ => printer::note(format_args!("left out, because it is no file: {}", path.display())),
        }
        Ok(())
    }

    /// Where a name of the archive is here; nothing for the target itself.
    fn inside(&self, root: &Path, name: &Path) -> Outcome<Option<PathBuf>> {
        let mut parts = name.components().filter(|part| *part != Component::CurDir);
        let mut relative = PathBuf::new();
        if let Some(rename) = &self.rename {
            relative.push(rename);
            // `dir/.` names its content `./a`; anything else begins with the name that is replaced.
            if !rename.as_os_str().is_empty() && !name.starts_with(".") {
                parts.next();
            }
        }
        for part in parts {
            match part {
                Component::Normal(part) => relative.push(part),
                _ => return Err(Failure::new("the name leads out of the archive")),
            }
        }
        let Some(last) = relative.file_name() else { return Ok(None) };
        let dir = root.join(relative.parent().unwrap_or(Path::new("")));
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        if !dir.starts_with(root) {
            return Err(Failure::new("the name leads out of the target through a symlink"));
        }
        Ok(Some(dir.join(last)))
    }
}

async fn copy_in(client: &Client, source: &str, name: &str, path: &str, keeps_owner: bool) -> Outcome {
    if source == "-" {
        let stream = ReaderStream::new(tokio::io::stdin());
        client.write_archive(name, path, keeps_owner, stream).await?;
        return Ok(0);
    }
    let unreadable = |error: std::io::Error| Failure::new(format!("{source}: {error}"));
    let from = PathBuf::from(source);
    let found = from.symlink_metadata().map_err(unreadable)?;
    let whole = from.canonicalize().map_err(unreadable)?;
    let base = if found.is_symlink() && !source.ends_with('/') {
        from.file_name().map(PathBuf::from)
    } else {
        whole.file_name().map(PathBuf::from)
    };
    // A directory that is there takes it by its own name; else the last part of the path is its name.
    let is_dir = client.stat_archive(name, &format!("{}/.", path.trim_end_matches('/'))).await.is_ok();
    let (into, shown) = if is_dir {
        let shown = if is_content(source) { PathBuf::from(".") } else { base.unwrap_or_default() };
        (path.to_owned(), shown)
    } else {
        if path.ends_with('/') && !whole.is_dir() {
            return Err(Failure::new(format!("no such directory: {path}")));
        }
        let path = path.trim_end_matches('/');
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        (if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, PathBuf::from(last))
    };
    let (reader, writer) = tokio::io::duplex(BUFFER);
    // A symlink is copied as one, unless what it leads to is asked for.
    let from = if found.is_symlink() && !source.ends_with('/') && !is_content(source) { from } else { whole };
    let packing = tokio::task::spawn_blocking(move || pack(&from, &shown, SyncIoBridge::new(writer)));
    let sent = client.write_archive(name, &into, keeps_owner, ReaderStream::with_capacity(reader, 128 << 10));
    let (sent, packed) = tokio::join!(sent, packing);
    // The engine's refusal is why packing broke off, not the other way round.
    sent?;
    packed.map_err(|_| Failure::new("the copy was called off"))?.map_err(unreadable)?;
    Ok(0)
}

/// Writes a file or a directory as an archive, under another name.
fn pack(from: &Path, shown: &Path, writer: impl Write) -> std::io::Result<()> {
    let mut builder = Builder::new(writer);
    builder.follow_symlinks(false);
    if from.symlink_metadata()?.is_dir() {
        builder.append_dir_all(shown, from)?;
    } else {
        builder.append_path_with_name(from, shown)?;
    }
    builder.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use tar::Header;

    use super::*;

    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            header.set_size(if is_link { 0 } else { content.len() as u64 });
            // As hostile as they come: the name is written as it is.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            if is_link {
                header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            let content = if is_link { "" } else { content };
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn names_are_replaced_as_docker_replaces_them() {
        let dir = tempfile::tempdir().unwrap();
        let tree = archive(&[
            ("src", EntryType::Directory, ""),
            ("src/a", EntryType::Regular, "a"),
            ("src/b", EntryType::Symlink, "a"),
            ("src/c", EntryType::Link, "src/a"),
        ]);
        let at = |name: &str| dir.path().join(name).display().to_string();
        Place::find(&at(""), false).unwrap().unpack(tree.as_slice()).unwrap();
        Place::find(&at("new"), false).unwrap().unpack(tree.as_slice()).unwrap();
        for base in ["src", "new"] {
            assert_eq!(std::fs::read_to_string(at(&format!("{base}/a"))).unwrap(), "a");
            assert_eq!(std::fs::read_link(at(&format!("{base}/b"))).unwrap(), Path::new("a"));
            assert_eq!(std::fs::read_to_string(at(&format!("{base}/c"))).unwrap(), "a");
        }
        let content = archive(&[("./", EntryType::Directory, ""), ("./x", EntryType::Regular, "x")]);
        Place::find(&at("new"), true).unwrap().unpack(content.as_slice()).unwrap();
        Place::find(&at("third"), true).unwrap().unpack(content.as_slice()).unwrap();
        for base in ["new", "third"] {
            assert_eq!(std::fs::read_to_string(at(&format!("{base}/x"))).unwrap(), "x");
        }
        assert!(Place::find(&at("missing/"), false).is_err());
        assert!(Place::find(&at("missing/deep"), false).is_err());
    }

    #[test]
    fn nothing_is_written_outside() {
        let outer = tempfile::tempdir().unwrap();
        let outside = outer.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let target = outer.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let to = outside.display().to_string();
        for hostile in [
            archive(&[("../outside/x", EntryType::Regular, "x")]),
            archive(&[("a/../../outside/x", EntryType::Regular, "x")]),
            archive(&[("/etc/x", EntryType::Regular, "x")]),
            archive(&[("link", EntryType::Symlink, &to), ("link/x", EntryType::Regular, "x")]),
            archive(&[("hard", EntryType::Link, "../outside/kept"), ("hard", EntryType::Regular, "x")]),
            archive(&[("link", EntryType::Symlink, &to), ("hard", EntryType::Link, "link/kept")]),
        ] {
            let place = Place::find(&target.display().to_string(), false).unwrap();
            assert!(place.unpack(hostile.as_slice()).is_err());
            assert!(!outside.join("x").exists());
            assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "kept");
            let _ = std::fs::remove_file(target.join("link"));
        }
    }
}
