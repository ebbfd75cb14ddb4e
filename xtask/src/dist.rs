//! `cargo xtask dist`: what is installed. On Debian and Ubuntu packages are built; of macOS and Windows, whose tools are on
//! those systems alone, the manifests are checked here (`packaging/`).

mod deb;
mod keyfile;
mod linux;
mod macos;
mod manifests;
mod windows;
mod xml;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::architecture::Architecture;
use crate::files;
use crate::guest_image::{self, Machine, Origin};
use crate::shell::{output, root, run};
use manifests::Facts;
pub(crate) use manifests::wrong_in_all;

/// Makes packages of one system, or what can be made of all.
pub(crate) fn dist(args: &[String]) -> Result<()> {
    let is_built = args.iter().any(|arg| arg == "--built");
    let mut systems: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "--built").collect();
    if systems.is_empty() {
        systems = vec!["deb", "macos", "windows"];
    }
    if let Some(unknown) = systems.iter().find(|system| !["deb", "macos", "windows"].contains(*system)) {
        bail!("{unknown} is unknown: dist [deb [--built]] [macos] [windows]");
    }
    ensure!(
        !is_built || systems.contains(&"deb"),
        "--built is deb's: it packs the programs that are there, and builds none"
    );
    let facts = Facts::read()?;
    for system in systems {
        match system {
            "deb" => debs(&facts, is_built)?,
            "macos" => macos(&facts)?,
            _ => windows(&facts)?,
        }
    }
    Ok(())
}

/// Where packages go.
fn folder() -> PathBuf {
    root().join("target/dist")
}

/// Where manifests are.
fn packaging() -> PathBuf {
    root().join("packaging")
}

fn in_order(wrong: &[String]) -> Result<()> {
    ensure!(wrong.is_empty(), "{} things are not in order:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn debs(facts: &Facts, is_built: bool) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "packages are made on and for x86_64 so far, and this is {}",
        std::env::consts::ARCH
    );
    in_order(&linux::wrong(facts))?;
    if !is_built {
        crate::run::build_ui()?;
        crate::musl::release_programs()?;
        run("cargo", &["build", "--release", "-p", "cove-desktop", "-p", "vm-supervisor"])?;
    }
    let mut programs = Vec::new();
    for program in deb::PROGRAMS {
        let dir = if program.is_shipped { crate::musl::folder() } else { root().join("target/release") };
        let path = dir.join(program.name);
        if path.is_file() {
            programs.push(path);
        } else if program.is_shipped {
            bail!("{} is missing: cargo xtask musl builds it", path.display());
        } else {
            println!("dist: without {}, which is not built", program.name);
        }
    }
    let origin = deb::Origin { version: facts.version.clone(), epoch: epoch()?, out: folder() };
    println!("{}", deb::cove(&origin, &programs)?.display());
    let images = guest_images();
    if images.is_empty() {
        println!("dist: without cove-guest, for no image is built: cargo xtask guest-image");
    } else {
        println!("{}", deb::guest(&origin, &images)?.display());
    }
    Ok(())
}

/// Of each machine one image: that with our own kernel where it is built.
fn guest_images() -> Vec<PathBuf> {
    // Packages are for x86-64.
    let images = guest_image::folder(Architecture::X86);
    let of = |machine| {
        let name = |origin| guest_image::name(machine, origin);
        let folders = [Origin::Own, Origin::Debian].map(|origin| images.join(name(origin)));
        folders.into_iter().find(|folder| folder.join("image.json").is_file())
    };
    [Machine::Qemu, Machine::Uml].into_iter().filter_map(of).collect()
}

/// The time that all of a package has, so that the same inputs give the same bytes: that of the last commit, unless
/// `SOURCE_DATE_EPOCH` says another.
fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output("git", &["log", "-1", "--format=%ct"])
            .context("set SOURCE_DATE_EPOCH: git tells no time of a commit")?,
    };
    text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not seconds since 1970"))
}

fn macos(facts: &Facts) -> Result<()> {
    in_order(&macos::wrong(facts))?;
    if std::env::consts::OS != "macos" {
        println!(
            "dist: macOS' manifests are in order. To build, sign and notarize the installer takes a Mac: run \
             packaging/macos/package.sh there"
        );
        return Ok(());
    }
    let script = packaging().join("macos/package.sh");
    let text = |path: &Path| path.display().to_string();
    let (programs, out) = (text(&root().join("target/release")), text(&folder()));
    files::make_dir(&folder())?;
    run(&text(&script), &[&programs, &out, &facts.version])
}

fn windows(facts: &Facts) -> Result<()> {
    in_order(&windows::wrong(facts))?;
    println!(
        "dist: Windows' manifests are in order. To build the installer takes WiX on Windows: \
         packaging/windows/cove.wxs says how"
    );
    Ok(())
}
