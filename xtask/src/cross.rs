//! `cargo xtask cross`: what a user of macOS or Windows runs, from Linux: types and lints are checked for both, programs are
//! linked for both, and under Wine `cove` and machines run, and so do tests; a guest's image is made for aarch64.
//!
//! Nothing here runs a program of macOS'. Which packages there are for which system stands in their `Cargo.toml`
//! ([`platforms`]).

mod darwin;
mod frameworks;
mod guest;
mod hyperv;
mod platforms;
mod windows;
mod wine;
mod wsl;

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::packages::{self, Purpose};
use crate::run::build_ui;
use crate::shell::{command, root, run_command};
use crate::sysroot::{self, Depth, Target};
use platforms::{Member, Platform};

/// Every part, or those that are named.
pub(crate) fn cross(parts: &[&str]) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|part| !["macos", "windows", "wine", "guest"].contains(part)) {
        bail!("{unknown} is unknown: cross [macos] [windows] [wine] [guest]");
    }
    let is_wanted = |name: &str| parts.is_empty() || parts.contains(&name);
    packages::ensure(Purpose::Cross, false)?;
    // The window's program holds its UI; the guest has none.
    if parts != ["guest"] && !root().join("ui/dist/index.html").is_file() {
        build_ui()?;
    }
    sysroot::ask_rustup(&[
        Platform::Macos.triple(),
        Platform::Windows.triple(),
        windows::TRIPLE,
        crate::guest_image::ARM_TARGET,
    ]);
    let members = platforms::members()?;
    let began = Instant::now();
    let told = |what: &str| println!("cross: {what} after {} s", began.elapsed().as_secs());
    if is_wanted("macos") {
        let target = Target::prepare(Platform::Macos.triple(), Depth::Code, None)?;
        check(Platform::Macos, &target, &members)?;
        told("checked for macOS");
        darwin::Linker::prepare()?.link(&target)?;
        told("linked for macOS");
    }
    if is_wanted("windows") {
        // To link for Microsoft's own target takes Microsoft's linker and libraries.
        let target = Target::prepare(Platform::Windows.triple(), Depth::Types, None)?;
        check(Platform::Windows, &target, &members)?;
        told("checked for Windows");
    }
    if is_wanted("wine") {
        let target = Target::prepare(windows::TRIPLE, Depth::Code, None)?;
        windows::run(&target, &members)?;
        told("linked for Windows and run under Wine");
        windows::run_machine(&target)?;
        told("machines of WSL's and of Hyper-V's under Wine");
    }
    if is_wanted("guest") {
        guest::run()?;
        told("the guest for aarch64");
    }
    Ok(())
}

/// Types and lints of all packages there are for a platform. Not their tests: those of some need packages that are
/// Linux's.
fn check(platform: Platform, target: &Target, members: &[Member]) -> Result<()> {
    let mut clippy = command("cargo", &["clippy", "--lib", "--bins"]);
    for member in members.iter().filter(|member| member.is_for(platform)) {
        clippy.args(["-p", &member.name]);
    }
    target.apply(&mut clippy, &[]);
    platform.apply(&mut clippy);
    clippy.args(["--", "-D", "warnings"]);
    run_command(clippy).with_context(|| format!("what is not right on {}", platform.name()))
}
