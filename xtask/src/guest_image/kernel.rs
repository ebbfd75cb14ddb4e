//! The kernel of an image: Debian's, with modules and what else it needs to run, or our own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::image;
use super::modules::{Modules, Wanted};
use super::own;
use super::recipe::{self, Machine, Origin};
use crate::apt::{Index, Suite};
use crate::architecture::Architecture;
use crate::files;

/// Changes when this module makes something else of the same packages.
const RECIPE: &str = "1";
/// UML's program names its loader by an absolute path. One relative to the working directory leads to the
/// image's own, which is newer than the computer's may be. Nothing but the same length will do, and starting the
/// loader with the program as its argument will not: UML finds its memory by where its heap is.
const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
const OWN_LOADER: &[u8] = b"lib/ld-linux-x86-64.so.2\0\0\0\0";

/// A kernel in the cache: `kernel`, and where it has them `lib/` and `modules/`.
pub(super) struct Kernel {
    pub(super) dir: PathBuf,
    pub(super) origin: Origin,
    /// As `uname -r` tells.
    pub(super) version: String,
}

impl Kernel {
    /// Has it from the cache, or makes it.
    pub(super) fn prepare(
        architecture: Architecture,
        machine: Machine,
        origin: Origin,
        cache: &Path,
    ) -> Result<Self> {
        let dir = match (origin, machine) {
            (Origin::Own, _) => own::prepare(architecture, machine, cache)?,
            (Origin::Debian, Machine::Qemu) => debian_qemu(architecture, cache)?,
            (Origin::Debian, Machine::Uml) => debian_uml(cache)?,
        };
        let version = files::read_text(&dir.join("version"))?;
        Ok(Self { dir, origin, version })
    }

    pub(super) fn modules(&self) -> Result<Option<Modules>> {
        Modules::open(&self.dir)
    }

    /// How it is executed in the image's folder, which must be the working directory if there is a `lib`.
    pub(super) fn command(&self, machine: Machine) -> Vec<&'static str> {
        match machine {
            Machine::Qemu => Vec::new(),
            Machine::Uml if self.dir.join("lib").exists() => vec!["env", "LD_LIBRARY_PATH=lib", "./kernel"],
            Machine::Uml => vec!["./kernel"],
        }
    }
}

/// trixie's kernel for clouds.
fn debian_qemu(architecture: Architecture, cache: &Path) -> Result<PathBuf> {
    let suite = Suite::open("trixie", Index::Packages(architecture), cache)?;
    let meta = suite.package(&format!("linux-image-cloud-{}", architecture.debian()))?;
    let package = suite.package(meta.dependency("linux-image-")?)?;
    let list = recipe::text("modules")?;
    let key = files::key(&[RECIPE, "qemu", &package.sha256, &list]);
    let path = cache.join(format!("kernels/{key}"));
    files::cached(&path, |dir| {
        let unpacked = dir.join("unpacked");
        suite.unpack(&package, &unpacked)?;
        let kernel = files::list(&unpacked.join("boot"))?
            .into_iter()
            .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
            .with_context(|| format!("package {} has no kernel", package.name))?;
        match architecture {
            Architecture::X86 => files::copy(&kernel, &dir.join("kernel"))?,
            Architecture::Arm => image::write(&kernel, &dir.join("kernel"))?,
        }
        files::set_mode(&dir.join("kernel"), 0o644)?;
        let from = only(&unpacked.join("usr/lib/modules"))?;
        take_modules(&from, &Wanted::parse(&list, Machine::Qemu)?, dir)?;
        std::fs::remove_dir_all(&unpacked).context("failed to remove the unpacked package")
    })?;
    Ok(path)
}

/// sid's UML, for trixie's (6.12) does not get on with devices that rust-vmm's programs provide; with sid's libc.
fn debian_uml(cache: &Path) -> Result<PathBuf> {
    let suite = Suite::open("sid", Index::Packages(Architecture::X86), cache)?;
    let packages = suite.packages(&["user-mode-linux", "libc6"])?;
    let [uml, libc] = packages.as_slice() else { unreachable!("two were asked for") };
    let list = recipe::text("modules")?;
    let key = files::key(&[RECIPE, "uml", &uml.sha256, &libc.sha256, &list]);
    let path = cache.join(format!("kernels/{key}"));
    files::cached(&path, |dir| {
        let unpacked = dir.join("unpacked");
        suite.unpack(uml, &unpacked)?;
        suite.unpack(libc, &unpacked)?;
        let program = unpacked.join("usr/bin/linux.uml");
        let bytes =
            std::fs::read(&program).with_context(|| format!("failed to read {}", program.display()))?;
        files::write(&dir.join("kernel"), &with_own_loader(bytes)?)?;
        files::set_mode(&dir.join("kernel"), 0o755)?;
        for name in ["ld-linux-x86-64.so.2", "libc.so.6"] {
            files::copy(&unpacked.join("usr/lib/x86_64-linux-gnu").join(name), &dir.join("lib").join(name))?;
        }
        let from = only(&unpacked.join("usr/lib/uml/modules"))?;
        take_modules(&from, &Wanted::parse(&list, Machine::Uml)?, dir)?;
        std::fs::remove_dir_all(&unpacked).context("failed to remove the unpacked packages")
    })?;
    Ok(path)
}

fn take_modules(from: &Path, wanted: &Wanted, dir: &Path) -> Result<()> {
    Modules::take(from, wanted, dir)?;
    files::copy(&dir.join("modules/version"), &dir.join("version"))
}

/// The only thing in a folder.
fn only(dir: &Path) -> Result<PathBuf> {
    let mut paths = files::list(dir)?;
    ensure!(paths.len() == 1, "{} holds {} things, not one", dir.display(), paths.len());
    paths.pop().context("one is there")
}

fn with_own_loader(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let places: Vec<usize> = program
        .windows(LOADER.len())
        .enumerate()
        .filter(|(_, bytes)| *bytes == LOADER)
        .map(|(at, _)| at)
        .collect();
    let [at] = places.as_slice() else {
        anyhow::bail!("UML's program names its loader {} times, not once", places.len());
    };
    let place = program.get_mut(*at..at + LOADER.len()).context("the place was just found")?;
    place.copy_from_slice(OWN_LOADER);
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_replaced_by_one_of_the_same_length() {
        let program = [b"ELF".as_slice(), LOADER, b"rest"].concat();
        let patched = with_own_loader(program.clone()).expect("it is there once");
        assert_eq!(patched.len(), program.len());
        assert!(patched.ends_with(b"rest") && patched.starts_with(b"ELFlib/ld-"));
        assert!(with_own_loader(patched).is_err());
    }
}
