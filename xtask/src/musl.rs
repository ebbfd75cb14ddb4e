//! `cargo xtask musl`: the programs that ship for Linux, those that start often linked with musl.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{Index, Suite};
use crate::files;
use crate::shell::{command, has, output, root, run, run_command};

const TARGET: &str = "x86_64-unknown-linux-musl";
/// Changes when this module makes something else of the same packages.
const RECIPE: &str = "1";
/// How long rustup may take, in seconds: without a network it tries for minutes.
const PATIENCE: &str = "60";
/// What programs of this target begin and end with: musl's, then gcc's.
const MUSL: &[&str] = &[
    "crt1.o",
    "rcrt1.o",
    "Scrt1.o",
    "crti.o",
    "crtn.o",
    "libc.a",
    "libdl.a",
    "libm.a",
    "libpthread.a",
    "librt.a",
    "libutil.a",
];
const GCC: &[&str] = &["crtbegin.o", "crtbeginS.o", "crtbeginT.o", "crtend.o", "crtendS.o"];

/// Builds what ships and says where it is.
pub(crate) fn musl() -> Result<()> {
    let dir = release_programs()?;
    println!("{}", dir.display());
    Ok(())
}

/// Builds `cove`, `cove-runtime` and `coved` as they ship for Linux; returns [`folder`]. The first two are started for
/// each command and container, so they are linked with musl: at its start glibc asks the processor what it can do,
/// and in a virtual machine each question is answered by the hypervisor, which takes half a millisecond in all. At fixed addresses nothing is relocated, so that pages stay shared.
pub(crate) fn release_programs() -> Result<PathBuf> {
    let target = Target::prepare()?;
    let mut build =
        command("cargo", &["build", "--release", "--target", TARGET, "-p", "cli", "-p", "oci-runtime"]);
    target.apply(&mut build);
    run_command(build).context("failed to build the programs that ship for Linux")?;
    // Of the same packages as always, or features would differ and all be built again.
    run("cargo", &["build", "--release", "-p", "cli", "-p", "api-server", "-p", "oci-runtime"])?;
    let built = root().join("target");
    let musl = built.join(TARGET).join("release");
    for program in [musl.join("cove"), musl.join("cove-runtime"), built.join("release/coved")] {
        let to = folder().join(program.file_name().context("a program has a name")?);
        // One that runs keeps the file it was started from.
        let new = to.with_extension("new");
        files::copy(&program, &new)?;
        std::fs::rename(&new, &to).with_context(|| format!("failed to make {}", to.display()))?;
    }
    Ok(folder())
}

/// Where the programs are that ship for Linux.
pub(crate) fn folder() -> PathBuf {
    root().join("target/ship")
}

/// musl's target: the toolchain's own, or in a folder of ours.
struct Target {
    sysroot: Option<PathBuf>,
}

impl Target {
    /// Asks rustup for it; where that has no network, builds it from Debian's packages, into the cache. The toolchain
    /// stays as it is but for what `rustup target add` does.
    fn prepare() -> Result<Self> {
        if is_installed() {
            return Ok(Self { sysroot: None });
        }
        let path = sysroot_of_our_own();
        if let Some(path) = path.as_ref().filter(|path| path.exists()) {
            return Ok(Self { sysroot: Some(path.clone()) });
        }
        if has("rustup") {
            println!("adding rustup's target {TARGET}");
            let _ = output("timeout", &[PATIENCE, "rustup", "target", "add", TARGET]);
            if is_installed() {
                return Ok(Self { sysroot: None });
            }
            println!("rustup could not: building the same from Debian's packages");
        }
        let path = path.context("rustc -vV does not work: install Rust by rustup")?;
        files::cached(&path, build)?;
        Ok(Self { sysroot: Some(path) })
    }

    /// Has cargo build for it.
    fn apply(&self, command: &mut Command) {
        let mut flags = vec!["-Crelocation-model=static".to_owned()];
        if let Some(sysroot) = &self.sysroot {
            flags.push(format!("--sysroot={}", sysroot.display()));
        }
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    }
}

fn is_installed() -> bool {
    let libraries = output("rustc", &["--print", "target-libdir", "--target", TARGET]);
    let libraries = libraries.and_then(|dir| files::list(Path::new(&dir)).ok()).unwrap_or_default();
    libraries.iter().any(|path| path.to_string_lossy().contains("/libstd-"))
}

/// Where it is, or will be: one of each compiler.
fn sysroot_of_our_own() -> Option<PathBuf> {
    let compiler = output("rustc", &["-vV"])?;
    Some(files::cache().join(format!("musl/{}", files::key(&[RECIPE, &compiler]))))
}

/// Makes the folder that rustc knows as a sysroot.
fn build(into: &Path) -> Result<()> {
    let cache = files::cache();
    let libraries = into.join("lib/rustlib").join(TARGET).join("lib");
    files::make_dir(&libraries.join("self-contained"))?;
    take_libc(&cache, &libraries.join("self-contained"))?;
    let work = files::Scratch::new(&cache.join("work"))?;
    let source = standard_library(&cache, work.path())?;
    build_standard_library(&source, work.path(), &libraries)
}

/// What every program is linked with: musl, and LLVM's unwinder, for gcc's is made for glibc.
fn take_libc(cache: &Path, into: &Path) -> Result<()> {
    let suite = Suite::open("trixie", Index::Packages, cache)?;
    let names = ["musl-dev", "libunwind-22-dev"];
    let packages = suite.packages(&names)?;
    let scratch = files::Scratch::new(cache)?;
    for package in &packages {
        suite.unpack(package, scratch.path())?;
    }
    for name in MUSL {
        files::copy(&scratch.path().join("usr/lib/x86_64-linux-musl").join(name), &into.join(name))?;
    }
    for name in GCC {
        let path = output("gcc", &[&format!("-print-file-name={name}")]);
        let path = path.with_context(|| format!("gcc does not tell where its {name} is: install gcc"))?;
        files::copy(Path::new(&path), &into.join(name))?;
    }
    let found = files::walk(scratch.path())?;
    let unwind =
        found.iter().find(|path| path.ends_with("libunwind.a") && !scratch.path().join(path).is_symlink());
    let unwind = unwind.with_context(|| format!("package {} has no libunwind.a", names[1]))?;
    let archive = into.join("libunwind.a");
    files::copy(&scratch.path().join(unwind), &archive)?;
    // It was compiled with glibc's headers; this is of what it would say before it gives up.
    let text = scratch.path().join("checked.c");
    files::write(&text, b"int __fprintf_chk(void) { return 0; }\n")?;
    let object = scratch.path().join("checked.o");
    let mut compile = command("gcc", &["-c", "-O2", "-fno-stack-protector", "-fno-builtin", "-o"]);
    compile.arg(&object).arg(&text);
    files::run_quietly(compile)?;
    let mut archive_it = command("ar", &["qsD"]);
    archive_it.arg(&archive).arg(&object);
    files::run_quietly(archive_it)
}

/// The standard library's source: Debian's, of exactly the compiler's version.
fn standard_library(cache: &Path, work: &Path) -> Result<PathBuf> {
    let text = output("rustc", &["-vV"]).context("rustc -vV does not work")?;
    let version = text.lines().find_map(|line| line.strip_prefix("release: ")).unwrap_or_default();
    let suite = Suite::open("sid", Index::Sources, cache)?;
    let archive = suite.fetch_source("rustc", version, ".orig.tar.xz", work).with_context(|| {
        format!(
            "run `rustup target add {TARGET}` where there is a network: there is no other source of it here"
        )
    })?;
    let mut tar = command("tar", &["--strip-components=1", "--wildcards", "-xJf"]);
    tar.arg(&archive).arg("-C").arg(work).arg("*/library");
    files::run_quietly(tar).context("failed to unpack the standard library (package xz-utils)")?;
    std::fs::remove_file(&archive).context("failed to remove the archive")?;
    Ok(work.join("library"))
}

/// Builds it by cargo's own means, which the stable compiler has when it is told to be like the one it was made from.
fn build_standard_library(source: &Path, work: &Path, into: &Path) -> Result<()> {
    let seed = work.join("seed");
    files::make_dir(&seed.join("src"))?;
    files::write(&seed.join("src/lib.rs"), b"#![no_std]\n")?;
    let manifest = "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    files::write(&seed.join("Cargo.toml"), manifest.as_bytes())?;
    let mut build = command("cargo", &["build", "--quiet", "--release", "--target", TARGET]);
    build.arg("-Zbuild-std=std,core,alloc,panic_unwind,panic_abort").current_dir(&seed);
    build.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
    build.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    build.env("CARGO_ENCODED_RUSTFLAGS", "-Cforce-frame-pointers=yes");
    run_command(build).context("failed to build the standard library")?;
    let built = files::list(&seed.join("target").join(TARGET).join("release/deps"))?;
    let libraries: Vec<_> = built
        .iter()
        .filter(|path| {
            path.extension().is_some_and(|end| end == "rlib") && !path.to_string_lossy().contains("/libseed-")
        })
        .collect();
    ensure!(!libraries.is_empty(), "cargo built no standard library");
    for library in libraries {
        let name = library.file_name().context("a library has a name")?;
        files::copy(library, &into.join(name))?;
    }
    Ok(())
}
