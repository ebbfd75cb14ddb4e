//! Programs of a machine's guest for aarch64, as Apple silicon has it: linked statically with musl, without a compiler of C,
//! and run once by translation. The engine itself is not among them: it holds C (SQLite, zstd, ring).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::apt::{Index, Suite};
use crate::files;
use crate::shell::{command, root, run_command};
use crate::sysroot::{self, Depth, Target};

pub(super) const TRIPLE: &str = "aarch64-unknown-linux-musl";
/// `EM_AARCH64` (elf.h).
const MACHINE: u16 = 183;

/// Links them and runs one. Where rustup has no network it is told and left out: musl for aarch64 is rustup's alone here.
pub(super) fn run() -> Result<()> {
    if !sysroot::is_installed(TRIPLE) {
        println!("cross: the guest for aarch64 is skipped, because rustup can't add {TRIPLE} here");
        return Ok(());
    }
    let target = Target::prepare(TRIPLE, Depth::Code, None)?;
    let mut build = command("cargo", &["build", "-p", "vm-agent", "-p", "oci-runtime"]);
    let linker = format!("-Clinker={}", sysroot::lld()?.display());
    let flags = [linker.as_str(), "-Clinker-flavor=ld.lld", "-Clink-self-contained=yes"];
    target.apply(&mut build, &flags.map(str::to_owned));
    run_command(build).context("failed to link the guest's programs for aarch64")?;
    let programs = root().join("target").join(TRIPLE).join("debug");
    for name in ["cove-agent", "cove-runtime"] {
        let bytes = std::fs::read(programs.join(name)).with_context(|| format!("there is no {name}"))?;
        let machine =
            bytes.get(18..20).and_then(|field| field.first_chunk()).copied().map(u16::from_le_bytes);
        ensure!(
            bytes.starts_with(b"\x7fELF") && machine == Some(MACHINE),
            "{name} is no program for aarch64"
        );
    }
    let mut run = command("timeout", &["60"]);
    run.arg(translator()?).arg(programs.join("cove-runtime")).arg("--version");
    let said = files::output_of(run).context("failed to run cove-runtime by translation")?;
    let version = concat!("cove-runtime version ", env!("CARGO_PKG_VERSION"));
    ensure!(said.starts_with(version), "cove-runtime --version says {said:?}");
    println!("cross: the guest's agent and runtime are linked for aarch64; the runtime runs by translation");
    Ok(())
}

/// QEMU's, unpacked beside the system: installed, it could have the system run programs of other processors by itself.
fn translator() -> Result<PathBuf> {
    let cache = files::cache();
    let suite = Suite::open("trixie", Index::Packages, &cache)?;
    let package = suite.package("qemu-user")?;
    let path = cache.join(format!("qemu-user/{}", package.sha256));
    files::cached(&path, |into| {
        suite.unpack(&package, into)?;
        suite.forget(&package)
    })?;
    Ok(path.join("usr/bin/qemu-aarch64"))
}
