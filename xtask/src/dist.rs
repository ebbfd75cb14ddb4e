//! `cargo xtask dist`: what is installed, made of our programs and of `packaging/`.

mod deb;
mod keyfile;
mod linux;
mod manifests;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

use crate::guest_image::{self, Machine, Origin};
use crate::shell::{output, root, run};
use manifests::Facts;
pub(crate) use manifests::wrong_in_all;

/// Makes the packages.
pub(crate) fn dist(args: &[String]) -> Result<()> {
    let is_built = args.iter().any(|arg| arg == "--built");
    let unknown = args.iter().find(|arg| !["deb", "--built"].contains(&arg.as_str()));
    if let Some(unknown) = unknown {
        bail!("{unknown} is unknown: dist [deb [--built]]");
    }
    debs(&Facts::read()?, is_built)
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
    let of = |machine| {
        let folders = [Origin::Own, Origin::Debian].map(|origin| guest_image::folder(machine, origin));
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
