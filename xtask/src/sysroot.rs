//! The standard library of another target: the toolchain's own, rustup's, or built from Debian's source of the compiler
//! into a folder of ours that rustc takes for its sysroot. The toolchain stays as it is but for what `rustup target add`
//! does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{Index, Suite};
use crate::files;
use crate::shell::{command, has, output, run_command};

/// Changes when this module makes something else of the same source.
const RECIPE: &str = "2";
/// How long rustup may take, in seconds: without a network it tries for minutes.
const PATIENCE: &str = "60";

/// What programs of a target are linked with beside the standard library: fills the folder `self-contained`. The text
/// changes when it makes something else.
pub(crate) type Extras<'a> = Option<(&'a str, &'a dyn Fn(&Path) -> Result<()>)>;

/// How much of the standard library is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// To check types: a third of the time.
    Types,
    /// To link.
    Code,
}

/// A target whose standard library is there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) triple: &'static str,
    sysroot: Option<PathBuf>,
}

impl Target {
    /// Finds, fetches or builds it.
    pub(crate) fn prepare(triple: &'static str, depth: Depth, extras: Extras<'_>) -> Result<Self> {
        if is_installed(triple) {
            return Ok(Self { triple, sysroot: None });
        }
        let compiler =
            output("rustc", &["-vV"]).context("rustc -vV does not work: install Rust by rustup")?;
        let recipe = extras.map_or("", |(recipe, _)| recipe);
        let key = files::key(&[RECIPE, &compiler, &format!("{depth:?}"), recipe]);
        let path = files::cache().join(format!("sysroot/{triple}-{key}"));
        files::cached(&path, |into| {
            let libraries = into.join("lib/rustlib").join(triple).join("lib");
            files::make_dir(&libraries.join("self-contained"))?;
            if let Some((_, fill)) = extras {
                fill(&libraries.join("self-contained"))?;
            }
            build(triple, depth, &standard_library(&compiler)?, &libraries)
        })?;
        Ok(Self { triple, sysroot: Some(path) })
    }

    /// Has cargo build for it, with more flags of rustc's.
    pub(crate) fn apply(&self, command: &mut Command, flags: &[String]) {
        let sysroot = self.sysroot.as_ref().map(|path| format!("--sysroot={}", path.display()));
        let flags: Vec<&str> = flags.iter().chain(&sysroot).map(String::as_str).collect();
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        command.args(["--target", self.triple]);
        // Nobody steps through these, and without lines of code they are built and linked sooner.
        command.env("CARGO_PROFILE_DEV_DEBUG", "none");
    }
}

/// Asks rustup for what is neither installed nor built yet, all at once, for it may have no network.
pub(crate) fn ask_rustup(triples: &[&str]) {
    let is_built = |triple: &str| {
        let built = files::list(&files::cache().join("sysroot")).unwrap_or_default();
        let prefix = format!("{triple}-");
        built
            .iter()
            .any(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
    };
    let missing: Vec<&str> =
        triples.iter().copied().filter(|triple| !is_installed(triple) && !is_built(triple)).collect();
    if missing.is_empty() || !has("rustup") {
        return;
    }
    println!("adding rustup's targets {}", missing.join(", "));
    let _ = output("timeout", &[&[PATIENCE, "rustup", "target", "add"], missing.as_slice()].concat());
    if !missing.iter().all(|triple| is_installed(triple)) {
        println!("rustup could not: building the same from Debian's source of the compiler");
    }
}

/// The linker that the toolchain brings along, of all formats.
pub(crate) fn lld() -> Result<PathBuf> {
    let sysroot = output("rustc", &["--print", "sysroot"]).context("rustc does not tell its sysroot")?;
    let host = output("rustc", &["-vV"]).unwrap_or_default();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let path = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/rust-lld");
    ensure!(path.exists(), "the toolchain has no rust-lld at {}", path.display());
    Ok(path)
}

/// Whether the toolchain has it.
pub(crate) fn is_installed(triple: &str) -> bool {
    let libraries = output("rustc", &["--print", "target-libdir", "--target", triple]);
    let libraries = libraries.and_then(|dir| files::list(Path::new(&dir)).ok()).unwrap_or_default();
    libraries.iter().any(|path| path.to_string_lossy().contains("/libstd-"))
}

/// The standard library's source: Debian's, of exactly the compiler's version.
fn standard_library(compiler: &str) -> Result<PathBuf> {
    let version = compiler.lines().find_map(|line| line.strip_prefix("release: ")).unwrap_or_default();
    let cache = files::cache();
    let path = cache.join(format!("library/{version}"));
    files::cached(&path, |into| {
        let suite = Suite::open("sid", Index::Sources, &cache)?;
        let archive = suite.fetch_source("rustc", version, ".orig.tar.xz", into).context(
            "run `rustup target add` where there is a network: there is no other source of it here",
        )?;
        let mut tar = command("tar", &["--strip-components=1", "--wildcards", "-xJf"]);
        tar.arg(&archive).arg("-C").arg(into).arg("*/library");
        files::run_quietly(tar).context("failed to unpack the standard library (package xz-utils)")?;
        for left in files::list(into)?.iter().filter(|path| !path.is_dir()) {
            std::fs::remove_file(left).with_context(|| format!("failed to remove {}", left.display()))?;
        }
        Ok(())
    })?;
    Ok(path.join("library"))
}

/// Builds it by cargo's own means, which the stable compiler has when it is told to be like the one it was made from.
fn build(triple: &str, depth: Depth, source: &Path, into: &Path) -> Result<()> {
    let work = files::Scratch::new(&files::cache().join("work"))?;
    let seed = work.path().join("seed");
    files::make_dir(&seed.join("src"))?;
    files::write(&seed.join("src/lib.rs"), b"#![no_std]\n")?;
    let manifest = "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    files::write(&seed.join("Cargo.toml"), manifest.as_bytes())?;
    let (verb, ending) = match depth {
        Depth::Types => ("check", "rmeta"),
        Depth::Code => ("build", "rlib"),
    };
    let mut build = command("cargo", &[verb, "--quiet", "--release", "--target", triple]);
    build.arg("-Zbuild-std=std,core,alloc,panic_unwind,panic_abort,proc_macro,test").current_dir(&seed);
    build.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
    build.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    build.env("CARGO_ENCODED_RUSTFLAGS", "-Cforce-frame-pointers=yes");
    run_command(build).with_context(|| format!("failed to build the standard library of {triple}"))?;
    let built = files::list(&seed.join("target").join(triple).join("release/deps"))?;
    let libraries: Vec<_> = built
        .iter()
        .filter(|path| {
            path.extension().is_some_and(|end| end == ending) && !path.to_string_lossy().contains("/libseed-")
        })
        .collect();
    ensure!(!libraries.is_empty(), "cargo built no standard library");
    for library in libraries {
        let name = library.file_name().context("a library has a name")?;
        files::copy(library, &into.join(name))?;
    }
    Ok(())
}
