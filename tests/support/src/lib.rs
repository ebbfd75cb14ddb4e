//! Fixtures for tests: images made here, registries, and a daemon with directories of its own.

pub mod daemon;
pub mod image;
pub mod registry;
pub mod runtime;

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

/// Whether this is root, which some things are only for.
///
/// # Errors
/// Where /proc is missing.
pub fn is_root() -> std::io::Result<bool> {
    std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}
