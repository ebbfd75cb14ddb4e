//! Directories that a layer implies look as the layers below have them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image_store::{Config, ImageStore, Snapshot};
use model::Reference;
use support::image::{docker_archive, header};
use tar::{Builder, EntryType};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn base() -> Outcome<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (name, value) in [("a/", "kept"), ("a/same/", "kept")] {
        layer.append_pax_extensions([("SCHILY.xattr.user.of", value.as_bytes())])?;
        let mode = if name == "a/" { 0o2711 } else { 0o755 };
        layer.append_data(&mut header(EntryType::Directory, mode, 0), name, std::io::empty())?;
    }
    layer.append_data(&mut header(EntryType::Directory, 0o755, 0), "plain/", std::io::empty())?;
    Ok(layer.into_inner()?)
}

fn files(names: &[&str]) -> Outcome<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for name in names {
        layer.append_data(&mut header(EntryType::Regular, 0o644, 1), name, b"x".as_slice())?;
    }
    Ok(layer.into_inner()?)
}

fn load(store: &ImageStore, name: &str, layers: &[Vec<u8>]) -> Outcome<model::Digest> {
    let archive = docker_archive(name, layers, &serde_json::json!({}))?;
    store.load(archive.as_slice(), |_| {})?;
    Ok(store.resolve(name)?.id)
}

fn uppermost(store: &ImageStore, key: &str, image: &model::Digest) -> Outcome<std::path::PathBuf> {
    match store.prepare_snapshot(key, image)? {
        Snapshot::Overlay { lowers, .. } => Ok(lowers.first().cloned().ok_or("no lowers")?),
        Snapshot::Copy { rootfs } => Ok(rootfs),
    }
}

fn attribute(path: &Path) -> Option<String> {
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(path, "user.of", &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

#[test]
fn mode_and_attributes_are_those_of_the_layer_below() -> Outcome {
    for forces_copy in [false, true] {
        let dir = tempfile::tempdir()?;
        let config = Config { root: dir.path().to_owned(), forces_copy, ..Config::default() };
        let store = ImageStore::open(config.clone())?;
        let image = load(&store, "app:1", &[base()?, files(&["a/same/deep/file", "plain/file"])?])?;
        let root = uppermost(&store, "one", &image)?;
        assert_eq!(std::fs::metadata(root.join("a"))?.mode() & 0o7777, 0o2711, "copies: {forces_copy}");
        for path in ["a", "a/same"] {
            assert_eq!(attribute(&root.join(path)).as_deref(), Some("kept"), "{path}, copies: {forces_copy}");
        }
        if !forces_copy {
            assert_eq!(std::fs::metadata(root.join("a"))?.mtime(), 1_700_000_000);
            let made: Vec<_> = std::fs::read_dir(&root)?.collect::<Result<_, _>>()?;
            assert_eq!(made.len(), 1, "only what needs it: {made:?}");
        }
        // Another store of the same files knows it from the disk.
        drop(store);
        let store = ImageStore::open(config)?;
        let more: Reference = "app:2".parse()?;
        store.tag("app:1", &more)?;
        let root = uppermost(&store, "two", &image)?;
        assert_eq!(attribute(&root.join("a/same")).as_deref(), Some("kept"));
        // So does an image that is made of layers known from before.
        let again = load(
            &store,
            "more:1",
            &[base()?, files(&["other"])?, files(&["a/same/deep/file", "plain/file"])?],
        )?;
        let root = uppermost(&store, "three", &again)?;
        assert_eq!(attribute(&root.join("a/same")).as_deref(), Some("kept"));
    }
    Ok(())
}

#[test]
fn a_stack_that_looks_right_has_no_layer_more() -> Outcome {
    let dir = tempfile::tempdir()?;
    let store = ImageStore::open(Config { root: dir.path().to_owned(), ..Config::default() })?;
    load(&store, "app:1", &[base()?, files(&["plain/file", "new/file"])?])?;
    assert_eq!(std::fs::read_dir(dir.path().join("implied"))?.count(), 0);
    load(&store, "app:2", &[base()?, files(&["a/file"])?])?;
    assert_eq!(std::fs::read_dir(dir.path().join("implied"))?.count(), 1);
    store.remove("app:2", false, &[])?;
    assert_eq!(std::fs::read_dir(dir.path().join("implied"))?.count(), 0);
    Ok(())
}
