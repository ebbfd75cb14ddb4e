//! The image that is always there: a small program of ours that shows a container from inside.

use std::io::Write;

use model::{Digest, Platform, Reference};
use sha2::{Digest as _, Sha256};

use crate::config::{ConfigFile, History, ImageConfig, RootFs};
use crate::error::{Doing, Error, Result};
use crate::store::{ImageRecord, ImageStore};

/// Built by `build.rs` from `welcome/main.rs`.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/welcome"));
const NAME: &str = "cove/welcome:latest";
const LABEL: &str = "dev.cove.welcome";

/// Whether this is the welcome image of this build.
pub(crate) fn is_welcome(image: &ImageRecord) -> bool {
    image.config.labels.contains_key(LABEL) && image.repo_tags.iter().any(|name| name == NAME)
}

/// Puts the image into the store, unless this build's is there.
pub(crate) fn ensure(store: &ImageStore) -> Result<()> {
    let version = Digest::sha256(Sha256::digest(PROGRAM).into()).short();
    if store.resolve(NAME).is_ok_and(|image| image.config.labels.get(LABEL) == Some(&version)) {
        return Ok(());
    }
    let layer = archive().doing(|| "make the welcome image")?;
    let diff_id = Digest::sha256(Sha256::digest(&layer).into());
    let config = ImageConfig {
        entrypoint: Some(vec!["/welcome".into()]),
        exposed_ports: vec!["8480/tcp".into()],
        labels: [
            (LABEL.to_owned(), version),
            ("org.opencontainers.image.title".to_owned(), "Welcome to Cove".to_owned()),
        ]
        .into(),
        ..ImageConfig::default()
    };
    let file = ConfigFile {
        architecture: Platform::host().architecture,
        os: "linux".into(),
        created: Some("2026-01-01T00:00:00Z".into()),
        config: Some(config.into()),
        rootfs: RootFs { r#type: "layers".into(), diff_ids: vec![diff_id] },
        history: vec![History { created_by: Some("cove".into()), ..History::default() }],
        ..ConfigFile::default()
    };
    let path = store.ingest_path("welcome");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(&layer))
        .doing(|| "make the welcome image")?;
    let reference: Reference = NAME.parse().map_err(|_| Error::invalid("the welcome image's name"))?;
    let loaded =
        store.load_image(serde_json::to_vec(&file).unwrap_or_default(), &[&path], &[reference], &|_| {});
    let _ = std::fs::remove_file(&path);
    loaded.map(drop)
}

/// The program as a layer: the same bytes for the same program.
fn archive() -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(PROGRAM.len() as u64);
    header.set_mtime(1_767_225_600);
    builder.append_data(&mut header, "welcome", PROGRAM)?;
    builder.into_inner()
}
