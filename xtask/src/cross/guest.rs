//! A machine's guest for aarch64, as Apple silicon has it: its programs are built, its image is made, and one program runs
//! by translation. Built sooner than what ships, so that it can be tried on every change.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::apt::{Index, Suite};
use crate::architecture::Architecture;
use crate::files;
use crate::guest_image::{self, ARM_TARGET, Machine, Profile, Programs};
use crate::shell::{command, root};
use crate::sysroot;

/// Makes it. Where rustup has no network it is told and left out: musl for aarch64 is rustup's alone here.
pub(super) fn run() -> Result<()> {
    if !sysroot::is_installed(ARM_TARGET) {
        println!("cross: the guest for aarch64 is skipped, because rustup can't add {ARM_TARGET} here");
        return Ok(());
    }
    let programs = Programs::build(Architecture::Arm, Profile::Dev)?;
    let mut run = command("timeout", &["60"]);
    run.arg(translator()?).arg(programs.runtime()).arg("--version");
    let said = files::output_of(run).context("failed to run cove-runtime by translation")?;
    let version = concat!("cove-runtime version ", env!("CARGO_PKG_VERSION"));
    ensure!(said.starts_with(version), "cove-runtime --version says {said:?}");
    println!("cross: the guest's programs are linked for aarch64; the runtime runs by translation");
    guest_image::make(Machine::Qemu, None, &programs, &folder())
}

/// Where its image is: beside one that ships, of which it takes no notice.
fn folder() -> PathBuf {
    root().join("target/guest/aarch64-dev")
}

/// QEMU's, unpacked beside the system: installed, it could have the system run programs of other processors by itself.
fn translator() -> Result<PathBuf> {
    let cache = files::cache();
    let suite = Suite::open("trixie", Index::Packages(Architecture::host()?), &cache)?;
    Ok(suite.unpacked("qemu-user", &cache)?.join("usr/bin/qemu-aarch64"))
}
