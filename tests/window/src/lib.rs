//! A desktop to test in: a display, a session bus, an engine and WebDriver, each private and gone
//! with the test.
//!
//! Which engine: `COVE_TEST_HOST` names one that runs (any that speaks Docker's API), otherwise the
//! `coved` beside the tests is started with folders of its own. `COVE_TEST_IMAGE` names an image with
//! a shell (`busybox:latest`), which `COVE_TEST_IMAGE_TAR` brings along if it is not there. The
//! programs are looked for beside the tests, or in `COVE_TEST_BIN`.

pub mod desktop;
pub mod engine;
pub mod machines;
pub mod process;
pub mod sight;
pub mod story;
pub mod tray;
pub mod windows;

use std::path::PathBuf;

/// Why a test can't run here. In CI that is a failure.
#[derive(Debug)]
pub struct Missing(pub String);

/// Passes what is there on; reports what is missing, and panics in CI, where nothing may be.
///
/// # Panics
/// With `CI=true`.
pub fn or_skip<T>(found: Result<T, Missing>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(Missing(what)) => {
            let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!in_ci, "can't be skipped in CI: {what}");
            let line = format!("skipped, because {what}\n");
            // Past the harness's capture, so that it is seen.
            drop(std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()));
            None
        }
    }
}

/// A program of the workspace.
///
/// # Errors
/// It was not built.
pub fn program(name: &str) -> Result<PathBuf, Missing> {
    let dir = match std::env::var_os("COVE_TEST_BIN") {
        Some(dir) => PathBuf::from(dir),
        None => {
            // target/debug/deps/window-0123 → target/debug
            let exe = std::env::current_exe().map_err(|error| Missing(error.to_string()))?;
            exe.ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
        }
    };
    let path = dir.join(name);
    if path.is_file() { Ok(path) } else { Err(Missing(format!("{} was not built", path.display()))) }
}

/// A program of the system.
///
/// # Errors
/// It is not installed.
pub fn installed(name: &str, package: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| Missing(format!("{name} is not installed (package {package})")))
}

/// Tries `probe` until it gives something, for at most `seconds`.
///
/// # Errors
/// It gave nothing; `what` was waited for.
pub async fn wait_for<T>(
    what: &str,
    seconds: u64,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        let last = match probe().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "nothing yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        anyhow::ensure!(std::time::Instant::now() < end, "waited {seconds} s for {what}: {last}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
