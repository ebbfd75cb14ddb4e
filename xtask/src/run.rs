//! `cargo xtask run`: from a fresh machine to the window, or to the same in a browser.

use anyhow::{Context, Result, bail};

use crate::packages::{self, Purpose};
use crate::shell::{command, has, root, run, run_command};

/// Installs, builds, and opens the window; without a display runs the welcome container on the
/// command line and serves the window's UI to a browser.
pub(crate) fn open(is_agreed: bool, wants_window: bool) -> Result<()> {
    packages::ensure(Purpose::Run, is_agreed)?;
    build_ui()?;
    run_command(command(
        "cargo",
        &[
            "build",
            "--release",
            "-p",
            "cli",
            "-p",
            "api-server",
            "-p",
            "oci-runtime",
            "-p",
            "cove-desktop",
            "-p",
            "vm-supervisor",
        ],
    ))?;
    let program = |name: &str| root().join("target/release").join(name).display().to_string();
    let has_display = std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some();
    if has_display && wants_window {
        println!("\nOpening Cove. The welcome image is there: one click runs it.");
        return run(&program("cove-desktop"), &[]);
    }
    println!("\nNo display: running the welcome container here, and serving the window to a browser.");
    run_cli(&program("cove"))
}

fn run_cli(cove: &str) -> Result<()> {
    let name = "cove-welcome";
    // One of an earlier run is in the way.
    let _ = command(cove, &["rm", "-f", name]).output();
    run(cove, &["run", "-d", "--name", name, "--network", "host", "cove/welcome"])?;
    run(cove, &["logs", name])?;
    run(cove, &["web"])
}

/// Builds the UI into `ui/dist`.
pub(crate) fn build_ui() -> Result<()> {
    if !has("npm") {
        bail!("npm is missing: install Node.js 20.19 or newer (https://nodejs.org)");
    }
    npm(&["ci", "--no-audit", "--no-fund"])?;
    npm(&["run", "build"]).context("failed to build the UI")
}

/// npm in `ui`.
pub(crate) fn npm(args: &[&str]) -> Result<()> {
    let mut command = command("npm", args);
    command.current_dir(root().join("ui"));
    run_command(command)
}
