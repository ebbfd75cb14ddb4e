//! Our own kernel: Debian's source with the patches and the configuration of `vm/image`, without modules.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe::{self, Machine};
use crate::apt::{Index, Package, Suite};
use crate::architecture::Architecture;
use crate::files;
use crate::packages::{self, Purpose};
use crate::shell::{command, run_command};

/// Changes when this module makes something else of the same source and configuration.
const RECIPE: &str = "1";

/// What is changed of QEMU's: what shares are asked for.
const PATCHES: &[&str] = &["patches/fuse-questions.patch"];

/// What a kernel is for.
#[derive(Debug, Clone, Copy)]
struct Target {
    architecture: Architecture,
    machine: Machine,
}

/// All that the kernel is made of.
struct Source {
    target: Target,
    suite: Suite,
    package: Package,
    /// What is changed of the source, in order, with names.
    patches: Vec<(&'static str, String)>,
    /// The fragments of configuration, in order, with their names.
    fragments: Vec<(&'static str, String)>,
    key: String,
}

impl Source {
    fn find(target: Target, cache: &Path) -> Result<Self> {
        // The long-term kernel for machines. UML's of that version does not get on with devices of rust-vmm's.
        let (suite, package) = match target.machine {
            Machine::Qemu => ("trixie", "linux-source-6.12"),
            Machine::Uml => ("sid", "linux-source-7.2"),
        };
        let (patches, fragments): (&[_], &[_]) = match (target.machine, target.architecture) {
            (Machine::Qemu, Architecture::X86) => {
                (PATCHES, &["kernel.config", "qemu.config", "qemu-x86_64.config"])
            }
            (Machine::Qemu, Architecture::Arm) => {
                (PATCHES, &["kernel.config", "qemu.config", "qemu-aarch64.config"])
            }
            (Machine::Uml, _) => (&[], &["kernel.config", "uml.config"]),
        };
        let suite = Suite::open(suite, Index::Packages(Architecture::X86), cache)?;
        let package = suite.package(package)?;
        let read = |names: &[&'static str]| -> Result<Vec<_>> {
            names.iter().map(|name| Ok((*name, recipe::text(name)?))).collect()
        };
        let (patches, fragments) = (read(patches)?, read(fragments)?);
        let mut parts = vec![RECIPE, target.machine.name(), &package.sha256];
        parts.extend(patches.iter().chain(&fragments).map(|(_, text)| text.as_str()));
        let key = files::key(&parts);
        Ok(Self { target, suite, package, patches, fragments, key })
    }

    fn path(&self, cache: &Path) -> PathBuf {
        cache.join(format!("kernels/own-{}-{}", self.target.machine.name(), self.key))
    }
}

/// Whether it was made before.
pub(super) fn is_cached(architecture: Architecture, machine: Machine, cache: &Path) -> Result<bool> {
    Ok(Source::find(Target { architecture, machine }, cache)?.path(cache).exists())
}

/// Has it from the cache, or builds it, which takes a quarter of an hour on two processors.
pub(super) fn prepare(architecture: Architecture, machine: Machine, cache: &Path) -> Result<PathBuf> {
    let source = Source::find(Target { architecture, machine }, cache)?;
    let path = source.path(cache);
    files::cached(&path, |dir| {
        let is_own = architecture == Architecture::host()?;
        packages::ensure(if is_own { Purpose::Kernel } else { Purpose::ForeignKernel }, false)?;
        build(&source, cache, dir)
    })?;
    Ok(path)
}

fn build(source: &Source, cache: &Path, into: &Path) -> Result<()> {
    let work = files::Scratch::new(&cache.join("work"))?;
    println!("unpacking {} {}", source.package.name, source.package.version);
    source.suite.unpack(&source.package, work.path())?;
    let name = source.package.name.as_str();
    let archive = work.path().join("usr/src").join(format!("{name}.tar.xz"));
    let mut tar = command("tar", &["-xJf"]);
    tar.arg(&archive).arg("-C").arg(work.path());
    files::run_quietly(tar).context("failed to unpack the kernel's source (package xz-utils)")?;
    let tree = work.path().join(name);
    for (name, text) in &source.patches {
        let file = work.path().join("patch");
        files::write(&file, text.as_bytes())?;
        let mut patch = command("patch", &["-p1", "--no-backup-if-mismatch", "-i"]);
        patch.arg(&file).current_dir(&tree);
        files::run_quietly(patch).with_context(|| format!("failed to apply {name}"))?;
    }
    configure(source, &tree)?;
    let (wanted, made) = match (source.target.machine, source.target.architecture) {
        (Machine::Qemu, Architecture::X86) => ("bzImage", "arch/x86/boot/bzImage"),
        (Machine::Qemu, Architecture::Arm) => ("Image", "arch/arm64/boot/Image"),
        (Machine::Uml, _) => ("linux", "linux"),
    };
    let mut make = make(source.target, &tree)?;
    make.args(["-j", &jobs(), wanted]);
    run_command(make)?;
    let kernel = into.join("kernel");
    files::copy(&tree.join(made), &kernel)?;
    let is_program = source.target.machine == Machine::Uml;
    if is_program {
        let mut strip = command("strip", &[]);
        strip.arg(&kernel);
        files::run_quietly(strip)?;
    }
    files::set_mode(&kernel, if is_program { 0o755 } else { 0o644 })?;
    files::copy(&tree.join(".config"), &into.join("config"))?;
    // It is large, and what is cached now is never made again.
    source.suite.forget(&source.package)?;
    let release = files::read_text(&tree.join("include/config/kernel.release"))?;
    files::write(&into.join("version"), release.trim().as_bytes())
}

/// Nothing, then the fragments, then what follows from them; which must be all that was said.
fn configure(source: &Source, tree: &Path) -> Result<()> {
    let quiet = |target: &str| {
        let mut make = make(source.target, tree)?;
        make.arg(target);
        files::run_quietly(make).with_context(|| format!("failed to configure the kernel: make {target}"))
    };
    quiet("allnoconfig")?;
    let path = tree.join(".config");
    let mut text = files::read_text(&path)?;
    for (_, fragment) in &source.fragments {
        text.push_str(fragment);
    }
    files::write(&path, text.as_bytes())?;
    quiet("olddefconfig")?;
    let made = files::read_text(&path)?;
    let mut wrong = Vec::new();
    for (name, fragment) in &source.fragments {
        wrong.extend(unmet(fragment, &made).map(|line| format!("{name}: {line}")));
    }
    ensure!(
        wrong.is_empty(),
        "the kernel's configuration does not have what was asked for; what does each depend on?\n  {}",
        wrong.join("\n  ")
    );
    Ok(())
}

/// The lines of a fragment that are not in a configuration.
fn unmet<'a>(fragment: &'a str, made: &str) -> impl Iterator<Item = &'a str> {
    let made: std::collections::BTreeSet<String> = made.lines().map(str::to_owned).collect();
    let lines = fragment.lines().filter(|line| line.starts_with("CONFIG_"));
    lines.filter(move |line| match line.strip_suffix("=n") {
        Some(symbol) => made.iter().any(|line| line.starts_with(&format!("{symbol}="))),
        None => !made.contains(*line),
    })
}

/// `make` in the kernel's source, which writes nothing of this computer or hour into the kernel.
fn make(target: Target, tree: &Path) -> Result<Command> {
    // Whatever else is done on the computer goes first.
    let mut make = command("nice", &["-n", "19", "make", "-s"]);
    make.arg(match (target.machine, target.architecture) {
        (Machine::Uml, _) => "ARCH=um",
        (Machine::Qemu, Architecture::X86) => "ARCH=x86_64",
        (Machine::Qemu, Architecture::Arm) => "ARCH=arm64",
    });
    if target.architecture != Architecture::host()? {
        // One compiler for all processors.
        make.arg("LLVM=1");
    }
    make.args(["KBUILD_BUILD_TIMESTAMP=@0", "KBUILD_BUILD_USER=cove", "KBUILD_BUILD_HOST=cove"]);
    make.args(["KBUILD_BUILD_VERSION=1", "LOCALVERSION="]);
    make.env("LC_ALL", "C").current_dir(tree);
    Ok(make)
}

fn jobs() -> String {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_and_is_not_there_is_told() {
        let made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_NAME=\"x\"\n";
        let check = |fragment: &str, expected: &[&str]| {
            assert_eq!(unmet(fragment, made).collect::<Vec<_>>(), expected, "{fragment}");
        };
        check("# CONFIG_Z=y\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_NAME=\"x\"\n", &[]);
        check("CONFIG_B=y\nCONFIG_C=n\nCONFIG_A=m\n", &["CONFIG_B=y", "CONFIG_C=n", "CONFIG_A=m"]);
    }
}
