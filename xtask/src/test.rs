//! `cargo xtask test` and `ci`: every test there is.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::files;
use crate::packages::{self, Purpose};
use crate::run::{build_ui, npm};
use crate::shell::{command, output, root, run, run_command};
use crate::tidy;

/// The UI's own checks, the house rules, and every Rust test: unit, daemon, window.
pub(crate) fn test() -> Result<()> {
    packages::ensure(Purpose::Test, false)?;
    tidy::tidy()?;
    build_ui()?;
    npm(&["run", "check"])?;
    npm(&["run", "canary"])?;
    npm(&["test"])?;
    // Clients of others; what their packages would run at their installation is not needed.
    let clients = root().join("tests/e2e/node");
    let folder = clients.display().to_string();
    run("npm", &["ci", "--prefix", &folder, "--ignore-scripts", "--no-audit", "--no-fund"])?;
    let python = python_clients()?;
    let image = build()?;
    // A guest that one of the tests boots.
    crate::cross::cross(&["guest"])?;
    let mut tests = command("cargo", &["test", "--workspace", "--no-fail-fast"]);
    tests.env("COVE_TEST_IMAGE_TAR", &image).env("NODE_PATH", clients.join("node_modules"));
    tests.env("COVE_GUEST_IMAGES", root().join("target/guest")).env("COVE_TEST_PYTHON", &python);
    run_command(tests)?;
    crate::machine_suite::run(&image)?;
    crate::cross::cross(&["macos", "windows", "wine"])
}

/// Where the clients are that come by PyPI, cached by their list and the Python they are for.
fn python_clients() -> Result<PathBuf> {
    let list = root().join("tests/e2e/python/requirements.txt");
    let version = output("python3", &["--version"]).context("python3 is missing: install it")?;
    let place = files::cache().join("python").join(files::key(&[&version, &files::read_text(&list)?]));
    files::cached(&place, |into| {
        println!("fetching clients of others from PyPI");
        let mut install = command("python3", &["-m", "pip", "install", "--quiet", "--no-deps"]);
        install.args(["--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check"]);
        install.arg("--target").arg(into).arg("--requirement").arg(&list);
        files::run_quietly(install).context("failed to fetch packages from PyPI: is there a network?")
    })?;
    Ok(place)
}

/// What tests start: programs of the workspace, what machines boot, and the tests' image, whose file this is.
fn build() -> Result<PathBuf> {
    run("cargo", &["build", "--workspace"])?;
    // Kernels of our own where they are at hand, else Debian's.
    crate::guest_image::guest_image(&[])?;
    crate::guest_image::check_same()?;
    let image = root().join("target/test-busybox.tar");
    support::image::write_busybox(&image).context("failed to make the tests' image")?;
    Ok(image)
}

/// The engine's tests against a machine alone.
pub(crate) fn test_machine() -> Result<()> {
    packages::ensure(Purpose::Test, false)?;
    build_ui()?;
    crate::machine_suite::run(&build()?)
}

/// [`test`], and what else a change must pass.
pub(crate) fn ci() -> Result<()> {
    test()?;
    run("cargo", &["fmt", "--all", "--check"])?;
    let mut clippy = command("cargo", &["clippy", "--workspace", "--all-targets"]);
    clippy.args(["--", "-D", "warnings"]);
    run_command(clippy)?;
    // Comments of programs are their help, where brackets are no links.
    let mut doc = command("cargo", &["doc", "--workspace", "--no-deps", "--lib"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run_command(doc)?;
    if crate::shell::has("cargo-deny") {
        return run("cargo", &["deny", "check", "licenses", "bans", "sources"]);
    }
    println!("skipped, because cargo-deny is not installed: licences and bans");
    Ok(())
}

/// Writes `ui/src/generated` anew.
pub(crate) fn gen_types() -> Result<()> {
    let mut generate = command("cargo", &["test", "-p", "host", "export_types"]);
    generate.env("COVE_GEN_TYPES", "1");
    run_command(generate)?;
    let mut generate =
        command("cargo", &["test", "-p", "api-server", "--lib", "the_document_of_what_there_is"]);
    generate.env("COVE_GEN_TYPES", "1");
    run_command(generate)
}
