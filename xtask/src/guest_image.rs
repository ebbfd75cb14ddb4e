//! `cargo xtask guest-image`: what a machine boots, in `target/guest/MACHINE-KERNEL` (`vm/image/README.md`);
//! for another architecture than this computer's, in a folder of its own there.

mod image;
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

use anyhow::{Context, Result, bail, ensure};

use crate::architecture::Architecture;
use crate::files;
use crate::shell::root;
use kernel::Kernel;
pub(crate) use programs::{ARM_TARGET, Profile, Programs};
pub(crate) use recipe::{Machine, Origin};

/// What WSL2 runs, for which there is no kernel to be made: Microsoft's is there.
const WSL: &str = "wsl2";

/// Makes the images that the arguments ask for.
pub(crate) fn guest_image(args: &[String]) -> Result<()> {
    let mut machines = None;
    let mut has_archive = None;
    let mut origin = None;
    let mut architecture = Architecture::host()?;
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"));
        match word {
            "--arch" => architecture = Architecture::parse(value?)?,
            "--machine" => {
                let name = value?;
                has_archive = Some(name == WSL);
                machines = Some(if name == WSL { vec![] } else { vec![Machine::parse(name)?] });
            }
            "--kernel" => origin = Some(Origin::parse(value?)?),
            other => bail!(
                "{other} is unknown: guest-image [--arch x86_64|aarch64] [--machine uml|qemu|wsl2] [--kernel debian|own]"
            ),
        }
    }
    // There is User Mode Linux for one architecture alone.
    let machines = machines.unwrap_or_else(|| match architecture {
        Architecture::X86 => vec![Machine::Uml, Machine::Qemu],
        Architecture::Arm => vec![Machine::Qemu],
    });
    for &machine in &machines {
        recipe::can_be_made(architecture, machine)?;
    }
    let programs = Programs::build(architecture, Profile::Guest)?;
    let images = folder(architecture);
    for machine in machines {
        make(machine, origin, &programs, &images)?;
    }
    if has_archive.unwrap_or(architecture == Architecture::X86) {
        make_archive(&programs, &images)?;
    }
    Ok(())
}

/// Makes this computer's images once more, somewhere else and later, and compares them byte for byte.
pub(crate) fn check_same() -> Result<()> {
    let architecture = Architecture::host()?;
    let (programs, images) = (Programs::build(architecture, Profile::Guest)?, folder(architecture));
    let again = files::Scratch::new(&root().join("target"))?;
    if architecture == Architecture::X86 {
        make(Machine::Uml, None, &programs, again.path())?;
        make_archive(&programs, again.path())?;
    }
    make(Machine::Qemu, None, &programs, again.path())?;
    for image in files::list(again.path())? {
        let name = image.file_name().context("an image has a name")?;
        for file in files::walk(&image)? {
            let (new, old) = (image.join(&file), images.join(name).join(&file));
            let is_same = files::sha256(&new)? == files::sha256(&old)?;
            ensure!(is_same, "made of the same, {} comes out as another file", old.display());
        }
    }
    println!("guest images made twice are the same");
    Ok(())
}

/// Where an architecture's images are: this computer's are where machines look for them.
pub(crate) fn folder(architecture: Architecture) -> PathBuf {
    let images = root().join("target/guest");
    if architecture.name() == std::env::consts::ARCH { images } else { images.join(architecture.name()) }
}

/// What an image's folder is called among those of its architecture.
pub(crate) fn name(machine: Machine, origin: Origin) -> String {
    format!("{}-{}", machine.name(), origin.name())
}

/// Makes an image in a folder of images, of these programs.
pub(crate) fn make(
    machine: Machine,
    origin: Option<Origin>,
    programs: &Programs,
    images: &Path,
) -> Result<()> {
    let began = Instant::now();
    let cache = files::cache();
    let architecture = programs.architecture();
    let origin = match origin {
        Some(origin) => origin,
        None if own::is_cached(architecture, machine, &cache)? => Origin::Own,
        None => Origin::Debian,
    };
    let kernel = Kernel::prepare(architecture, machine, origin, &cache)?;
    let userland = system::userland(architecture, &cache)?;
    // Its own can't be run everywhere; what it is made of is the same.
    let busybox = system::userland(Architecture::host()?, &cache)?.join("usr/bin/busybox");
    let modules = kernel.modules()?;
    let dir = images.join(name(machine, origin));
    let new = files::Scratch::new(dir.parent().context("an image is in a folder")?)?;
    let made = new.path().join("image");
    files::make_dir(&made)?;
    files::copy(&kernel.dir.join("kernel"), &made.join("kernel"))?;
    if kernel.dir.join("lib").exists() {
        files::copy_all(&kernel.dir.join("lib"), &made.join("lib"))?;
    }
    let boot = modules.as_ref().map_or(Ok(Vec::new()), modules::Modules::boot)?;
    initrd::make(&programs.agent(), &boot, &made.join("initrd"))?;
    let parts = system::Parts { userland: &userland, busybox: &busybox, programs: &programs.all() };
    system::make(&parts, modules.as_ref(), &made.join("system.erofs"))?;
    let digest = manifest::write(&made, architecture, machine.name(), Some((&kernel, machine)))?;
    replace(&made, &dir)?;
    println!(
        "{}: kernel {}, {digest}, made in {:.1} s",
        dir.display(),
        kernel.version,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Makes what WSL2 runs: the same system as an archive.
fn make_archive(programs: &Programs, images: &Path) -> Result<()> {
    let began = Instant::now();
    let cache = files::cache();
    let architecture = programs.architecture();
    let userland = system::userland(architecture, &cache)?;
    let busybox = system::userland(Architecture::host()?, &cache)?.join("usr/bin/busybox");
    let dir = images.join(format!("{WSL}-{}", Origin::Debian.name()));
    let new = files::Scratch::new(images)?;
    let made = new.path().join("image");
    files::make_dir(&made)?;
    let parts = system::Parts { userland: &userland, busybox: &busybox, programs: &programs.all() };
    system::make_archive(&parts, &made.join("system.tar"))?;
    let digest = manifest::write(&made, architecture, WSL, None)?;
    replace(&made, &dir)?;
    println!("{}: {digest}, made in {:.1} s", dir.display(), began.elapsed().as_secs_f64());
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
