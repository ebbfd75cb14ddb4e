//! `cargo xtask musl`: the programs that ship for Linux, those that start often linked with musl.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::{Index, Suite};
use crate::architecture::Architecture;
use crate::files;
use crate::shell::{command, output, root, run, run_command};
use crate::sysroot::{self, Depth, Target};

const TARGET: &str = "x86_64-unknown-linux-musl";
/// Changes when this module makes something else of the same packages.
const RECIPE: &str = "1";
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
/// and in a virtual machine each question is answered by the hypervisor, which takes half a millisecond in all; httparse
/// would ask too, for a way to read headers that gains nothing on one answer. At fixed addresses nothing is relocated, so
/// that pages stay shared.
pub(crate) fn release_programs() -> Result<PathBuf> {
    sysroot::ask_rustup(&[TARGET]);
    let target = Target::prepare(TARGET, Depth::Code, Some((RECIPE, &take_libc)))?;
    let mut build = command("cargo", &["build", "--release", "-p", "cli", "-p", "oci-runtime"]);
    let flags = ["-Crelocation-model=static", "--cfg=httparse_disable_simd=\"1\""];
    target.apply(&mut build, &flags.map(str::to_owned));
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

/// What every program is linked with: musl, and LLVM's unwinder, for gcc's is made for glibc.
fn take_libc(into: &Path) -> Result<()> {
    let cache = files::cache();
    let suite = Suite::open("trixie", Index::Packages(Architecture::X86), &cache)?;
    let names = ["musl-dev", "libunwind-22-dev"];
    let packages = suite.packages(&names)?;
    let scratch = files::Scratch::new(&cache)?;
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
