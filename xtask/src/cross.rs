//! `cargo xtask cross`: what a user of macOS or Windows runs, from Linux: types and lints checked, programs linked.
//!
//! Nothing here runs a program of macOS's. Which packages there are for which system stands in their `Cargo.toml`
//! ([`platforms`]).

mod platforms;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::packages::{self, Purpose};
use crate::run::build_ui;
use crate::shell::{command, root, run_command};
use crate::sysroot::{self, Target};
use platforms::{Member, Platform};

/// Every step, one after the other.
pub(crate) fn cross() -> Result<()> {
    packages::ensure(Purpose::Cross, false)?;
    let began = Instant::now();
    // The window's program holds its UI.
    if !root().join("ui/dist/index.html").is_file() {
        build_ui()?;
    }
    sysroot::ask_rustup(&[Platform::Macos.triple(), Platform::Windows.triple()]);
    let members = platforms::members()?;
    for platform in [Platform::Macos, Platform::Windows] {
        let target = Target::prepare(platform.triple(), platform.depth(), None)?;
        check(platform, &target, &members)?;
        println!("cross: {} checked after {} s", platform.triple(), began.elapsed().as_secs());
    }
    Ok(())
}

/// Types and lints of all packages there are for a platform. Not their tests: those need packages that are Linux's.
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
