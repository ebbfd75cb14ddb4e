//! The TypeScript of `ui/src/generated` is what these types say. `COVE_GEN_TYPES=1` writes it.

use std::path::{Path, PathBuf};

use ts_rs::{Config, TS};

use super::{Command, Input, Reply, Topic, UiError, Update};

fn generated() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui/src/generated")
}

fn export(dir: &Path) {
    let config = Config::new().with_large_int("number").with_out_dir(dir);
    Command::export_all(&config).unwrap();
    Reply::export_all(&config).unwrap();
    Topic::export_all(&config).unwrap();
    Input::export_all(&config).unwrap();
    Update::export_all(&config).unwrap();
    UiError::export_all(&config).unwrap();
}

fn files(dir: &Path) -> Vec<(String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .map(|entry| entry.unwrap())
                .map(|entry| {
                    (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
                })
                .collect()
        })
        .unwrap_or_default();
    files.sort();
    files
}

#[test]
fn export_types() {
    let fresh = tempfile::tempdir().unwrap();
    export(fresh.path());
    let wanted = files(fresh.path());
    if std::env::var_os("COVE_GEN_TYPES").is_some() {
        std::fs::create_dir_all(generated()).unwrap();
        for (name, _) in files(&generated()) {
            std::fs::remove_file(generated().join(name)).unwrap();
        }
        for (name, text) in &wanted {
            std::fs::write(generated().join(name), text).unwrap();
        }
    }
    assert!(wanted.len() > 10);
    assert!(
        files(&generated()) == wanted,
        "ui/src/generated is out of date: run COVE_GEN_TYPES=1 cargo test -p host export_types"
    );
}
