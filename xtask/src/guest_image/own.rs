//! Our own kernel: Debian's source with the configuration of `vm/image`, without modules.

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

/// All that the kernel is made of.
struct Source {
    machine: Machine,
    suite: Suite,
    package: Package,
    /// The fragments of configuration, in order, with their names.
    fragments: Vec<(&'static str, String)>,
    key: String,
}

impl Source {
    fn find(machine: Machine, cache: &Path) -> Result<Self> {
        // The long-term kernel for machines. UML's of that version does not get on with devices of rust-vmm's.
        let (suite, package, fragment) = match machine {
            Machine::Qemu => ("trixie", "linux-source-6.12", "qemu.config"),
            Machine::Uml => ("sid", "linux-source-7.2", "uml.config"),
        };
        let suite = Suite::open(suite, Index::Packages(Architecture::X86), cache)?;
        let package = suite.package(package)?;
        let mut fragments = Vec::new();
        for name in ["kernel.config", fragment] {
            fragments.push((name, recipe::text(name)?));
        }
        let mut parts = vec![RECIPE, machine.name(), &package.sha256];
        parts.extend(fragments.iter().map(|(_, text)| text.as_str()));
        let key = files::key(&parts);
        Ok(Self { machine, suite, package, fragments, key })
    }

    fn path(&self, cache: &Path) -> PathBuf {
        cache.join(format!("kernels/own-{}-{}", self.machine.name(), self.key))
    }
}

/// Whether it was made before.
pub(super) fn is_cached(machine: Machine, cache: &Path) -> Result<bool> {
    Ok(Source::find(machine, cache)?.path(cache).exists())
}

/// Has it from the cache, or builds it, which takes a quarter of an hour on two processors.
pub(super) fn prepare(machine: Machine, cache: &Path) -> Result<PathBuf> {
    let source = Source::find(machine, cache)?;
    let path = source.path(cache);
    files::cached(&path, |dir| {
        packages::ensure(Purpose::Kernel, false)?;
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
    configure(source, &tree)?;
    let made = match source.machine {
        Machine::Qemu => "arch/x86/boot/bzImage",
        Machine::Uml => "linux",
    };
    let mut make = make(source.machine, &tree);
    // Whatever else is done on the computer goes first.
    make.args(["-j", &jobs(), if source.machine == Machine::Qemu { "bzImage" } else { "linux" }]);
    run_command(make)?;
    let kernel = into.join("kernel");
    files::copy(&tree.join(made), &kernel)?;
    if source.machine == Machine::Uml {
        let mut strip = command("strip", &[]);
        strip.arg(&kernel);
        files::run_quietly(strip)?;
    }
    files::set_mode(&kernel, if source.machine == Machine::Uml { 0o755 } else { 0o644 })?;
    files::copy(&tree.join(".config"), &into.join("config"))?;
    // It is large, and what is cached now is never made again.
    source.suite.forget(&source.package)?;
    let release = files::read_text(&tree.join("include/config/kernel.release"))?;
    files::write(&into.join("version"), release.trim().as_bytes())
}

/// Nothing, then the fragments, then what follows from them; which must be all that was said.
fn configure(source: &Source, tree: &Path) -> Result<()> {
    let quiet = |target: &str| {
        let mut make = make(source.machine, tree);
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
fn make(machine: Machine, tree: &Path) -> Command {
    let mut make = command("nice", &["-n", "19", "make", "-s"]);
    if machine == Machine::Uml {
        make.arg("ARCH=um");
    }
    make.args(["KBUILD_BUILD_TIMESTAMP=@0", "KBUILD_BUILD_USER=cove", "KBUILD_BUILD_HOST=cove"]);
    make.args(["KBUILD_BUILD_VERSION=1", "LOCALVERSION="]);
    make.env("LC_ALL", "C").current_dir(tree);
    make
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
