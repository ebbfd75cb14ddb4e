//! Linking for Windows with Debian's MinGW, and what then runs under Wine.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::hyperv;
use super::platforms::Member;
use super::wine::{self, Wine};
use crate::files;
use crate::shell::{command, root, run_command};
use crate::sysroot::Target;

pub(super) const TRIPLE: &str = "x86_64-pc-windows-gnu";
/// Tests that Wine can't pass, and why.
const NOT_UNDER_WINE: &[(&str, &str)] =
    &[("names_are_replaced_as_docker_replaces_them", "Debian's Wine has no symbolic links")];

/// Links `cove`, and runs it and the tests of the packages that ask for it under Wine.
pub(super) fn run(target: &Target, members: &[Member]) -> Result<()> {
    let wine = Wine::prepare()?;
    let mut tests = command("cargo", &["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    for member in members.iter().filter(|member| member.runs_under_wine) {
        tests.args(["-p", &member.name]);
    }
    target.apply(&mut tests, &[]);
    wine.run_by(&mut tests);
    stand_ins(&mut tests)?;
    tests.arg("--");
    for (test, reason) in NOT_UNDER_WINE {
        println!("cross: {test} is skipped, because {reason}");
        tests.args(["--skip", test]);
    }
    run_command(tests).context("what is not right under Wine")?;
    let cove = root().join("target").join(TRIPLE).join("debug/cove.exe");
    let version = wine.output(&cove, &["--version"])?;
    ensure!(version.trim() == concat!("cove ", env!("CARGO_PKG_VERSION")), "cove --version says {version:?}");
    let help = wine.output(&cove, &["--help"])?;
    ensure!(help.contains("Usage: cove"), "cove --help says {help:?}");
    println!("cross: {} runs under Wine, and says it is {}", cove.display(), version.trim());
    Ok(())
}

/// Links all programs, and has `cove` and `cove-machine` make a machine of each kind. The window needs what Wine has not,
/// WebView2, and is not run.
pub(super) fn run_machine(target: &Target) -> Result<()> {
    let wine = Wine::prepare()?;
    let mut build =
        command("cargo", &["build", "--bins", "-p", "cli", "-p", "vm-supervisor", "-p", "cove-desktop"]);
    target.apply(&mut build, &[]);
    run_command(build).context("what can't be linked for Windows")?;
    let programs = root().join("target").join(TRIPLE).join("debug");
    super::wsl::run(&wine, &programs)?;
    super::hyperv::run(&wine, target, &programs)
}

/// What `vm/hyperv` calls of Windows, made up: Wine has neither the service nor WSL.
fn stand_ins(tests: &mut Command) -> Result<()> {
    let sources = root().join("vm/hyperv/tests/stand_in");
    let into = root().join("target/wine/stand-ins");
    files::make_dir(&into)?;
    let program = into.join("wsl.exe");
    wine::compile(&sources.join("wsl.c"), &program, &["-municode", "-lws2_32"])?;
    for (name, variable) in [
        ("computecore", "COVE_HCS_STAND_IN"),
        ("computenetwork", "COVE_HCN_STAND_IN"),
        ("virtdisk", "COVE_VIRTDISK_STAND_IN"),
    ] {
        let library = into.join(name).with_extension("dll");
        hyperv::compile(name, &library)?;
        tests.env(variable, Wine::path(&library));
    }
    tests.env("COVE_HCS_LOG", Wine::path(&into.join("calls.log")));
    tests.env("COVE_WSL_STAND_IN_PROGRAM", Wine::path(&program));
    Ok(())
}
