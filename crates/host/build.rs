//! Embeds the built UI for `cove web`, if there is one: a clean clone builds without Node.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    let ui = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui");
    let dist = ui.join("dist");
    // Watching a folder that is missing would run this at each build. Building the UI touches
    // index.html (vite.config.ts), so that a first build is noticed too.
    println!("cargo::rerun-if-changed={}", ui.join("index.html").display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if dist.join("index.html").is_file() {
        println!("cargo::rerun-if-changed={}", dist.display());
        collect(&dist, &dist, &mut files);
        files.sort();
    }
    let mut code = String::from("pub(super) static FILES: &[(&str, &[u8])] = &[\n");
    for (name, path) in &files {
        // Writing to a string can't fail.
        let _ = writeln!(code, "    ({name:?}, include_bytes!({path:?})),");
    }
    code.push_str("];\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(out.join("ui_files.rs"), code).expect("OUT_DIR can be written");
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) {
    let entries = std::fs::read_dir(dir).expect("ui/dist can be read");
    for entry in entries {
        let path = entry.expect("ui/dist can be read").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if let Ok(name) = path.strip_prefix(root) {
            let path = path.canonicalize().expect("a listed file exists");
            files.push((name.to_string_lossy().replace('\\', "/"), path));
        }
    }
}
