//! `cargo xtask guest-image`: what a machine boots, in `target/guest/MACHINE-KERNEL` (`vm/image/README.md`).

mod initrd;
mod kernel;
mod manifest;
mod modules;
mod own;
mod programs;
mod recipe;
mod system;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::files;
use crate::shell::root;
use kernel::Kernel;
use programs::Programs;
pub(crate) use recipe::{Machine, Origin};

/// Makes the images that the arguments ask for.
pub(crate) fn guest_image(args: &[String]) -> Result<()> {
    let mut machines = vec![Machine::Uml, Machine::Qemu];
    let mut origin = None;
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"));
        match word {
            "--machine" => machines = vec![Machine::parse(value?)?],
            "--kernel" => origin = Some(Origin::parse(value?)?),
            other => bail!("{other} is unknown: guest-image [--machine uml|qemu] [--kernel debian|own]"),
        }
    }
    let programs = Programs::build()?;
    for machine in machines {
        make(machine, origin, &programs)?;
    }
    Ok(())
}

/// Where an image is, or will be.
pub(crate) fn folder(machine: Machine, origin: Origin) -> PathBuf {
    root().join(format!("target/guest/{}-{}", machine.name(), origin.name()))
}

fn make(machine: Machine, origin: Option<Origin>, programs: &Programs) -> Result<()> {
    let began = Instant::now();
    let cache = files::cache();
    let origin = match origin {
        Some(origin) => origin,
        None if own::is_cached(machine, &cache)? => Origin::Own,
        None => Origin::Debian,
    };
    let kernel = Kernel::prepare(machine, origin, &cache)?;
    let userland = system::userland(&cache)?;
    let modules = kernel.modules()?;
    let dir = folder(machine, origin);
    let new = files::Scratch::new(dir.parent().context("an image is in a folder")?)?;
    let made = new.path().join("image");
    files::make_dir(&made)?;
    files::copy(&kernel.dir.join("kernel"), &made.join("kernel"))?;
    if kernel.dir.join("lib").exists() {
        files::copy_all(&kernel.dir.join("lib"), &made.join("lib"))?;
    }
    let boot = modules.as_ref().map_or(Ok(Vec::new()), modules::Modules::boot)?;
    initrd::make(&programs.agent(), &boot, &made.join("initrd"))?;
    system::make(&userland, modules.as_ref(), &programs.all(), &made.join("system.erofs"))?;
    let digest = manifest::write(&made, machine, &kernel)?;
    replace(&made, &dir)?;
    println!(
        "{}: kernel {}, {digest}, made in {:.1} s",
        dir.display(),
        kernel.version,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// A machine that runs keeps the files it has open.
fn replace(made: &Path, dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("failed to remove {}", dir.display()));
        }
        _ => {}
    }
    std::fs::rename(made, dir).with_context(|| format!("failed to make {}", dir.display()))
}
