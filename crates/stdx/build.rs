//! Links the unwinder into our programs instead of loading libgcc_s.so at each of their starts.
//!
//! A container start is two or three program starts, and that library is a tenth of each: it is
//! searched, mapped and relocated, and its constructor asks for the processor's features, which
//! traps in a virtual machine.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, wanted: &str| std::env::var(name).is_ok_and(|value| value == wanted);
    let is_native = std::env::var_os("TARGET") == std::env::var_os("HOST");
    if !is_native || !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    // Where there is no such archive, programs load the library as ever.
    let Some(dir) = archive().and_then(|file| file.parent().map(PathBuf::from)) else { return };
    println!("cargo:rustc-link-search=native={}", dir.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=gcc_eh");
}

/// Where the C compiler, which links, has its `libgcc_eh.a`.
fn archive() -> Option<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "a build runs in the builder's own environment")]
    let said = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let file = PathBuf::from(String::from_utf8(said.stdout).ok()?.trim());
    file.is_absolute().then_some(file).filter(|file| file.exists())
}
