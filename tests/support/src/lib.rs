//! Fixtures for tests: images made here, registries, and a daemon with directories of its own.

pub mod daemon;
pub mod image;
pub mod index;
pub mod machine;
pub mod neighbour;
pub mod registry;
pub mod runtime;
pub mod supervisor;
pub mod user;
pub mod userland;
pub mod wsl;

use std::path::Path;

use anyhow::{Result, ensure};

/// Why a test can't run here.
///
/// # Panics
/// With `CI=true`, where nothing may be missing.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "can't be skipped in CI: {why}");
    tell(&format!("skipped, because {why}"));
}

/// Why a part of a test can't be had here: something that a machine of ours need not have, such as a feature
/// of the kernel, or a program that the system has no package of.
pub fn absent(what: &str) {
    tell(&format!("left out, because {what}"));
}

/// Says something past the harness's capture, so that it is seen.
pub fn tell(what: &str) {
    drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{what}\n")));
}

/// An authority's certificate and key (`NAME.crt`, `NAME.key`), or those of `ip` that it signed.
///
/// # Errors
/// What openssl refuses.
pub fn certificate(dir: &Path, name: &str, signed_by: Option<&str>, ip: &str) -> Result<()> {
    let file = |name: &str, kind: &str| dir.join(format!("{name}.{kind}")).display().to_string();
    let mut command = stdx::process::command("openssl");
    command.args([
        "req",
        "-x509",
        "-nodes",
        "-days",
        "2",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]);
    command.args([
        "-subj",
        &format!("/CN={name}"),
        "-keyout",
        &file(name, "key"),
        "-out",
        &file(name, "crt"),
    ]);
    command.args(["-addext", &format!("subjectAltName=IP:{ip}")]);
    if let Some(authority) = signed_by {
        command.args(["-CA", &file(authority, "crt"), "-CAkey", &file(authority, "key")]);
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "openssl failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Whether this is root, which some things are only for.
///
/// # Errors
/// Where /proc is missing.
pub fn is_root() -> std::io::Result<bool> {
    std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
