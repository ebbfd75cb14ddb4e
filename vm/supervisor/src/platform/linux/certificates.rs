//! Certificates that administrators added on this computer.

use std::path::PathBuf;

use crate::trust::Bundle;

/// Where distributions keep them.
const FOLDERS: &[&str] = &["/usr/local/share/ca-certificates", "/etc/pki/ca-trust/source/anchors"];

/// Adds what is in those folders, in the order of the names.
pub(crate) fn add_certificates(bundle: &mut Bundle) {
    let folders = FOLDERS.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let mut paths: Vec<PathBuf> =
        folders.flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path()))).collect();
    paths.sort();
    // What is no text is no PEM.
    for text in paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()) {
        bundle.add_text(&text);
    }
}
