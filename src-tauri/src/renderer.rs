//! How the webview draws: this file knows where its fast way is none.

/// Starts this program over with WebKit's DMA-BUF renderer off where that one is known to draw
/// nothing or to cost memory for nothing: without a render node, and under NVIDIA's driver. Whoever
/// has set the variable is left alone, and so is a window driven by a test, whose screenshots of an
/// idle page would hang.
///
/// The environment of a running program can't be changed safely, so it takes a second start, before
/// anything has been done.
#[cfg(target_os = "linux")]
pub(crate) fn choose() {
    use std::os::unix::process::CommandExt;
    use std::path::Path;

    const OFF: &str = "WEBKIT_DISABLE_DMABUF_RENDERER";

    let decided = std::env::var_os(OFF).is_some() || std::env::var_os("TAURI_WEBVIEW_AUTOMATION").is_some();
    let node = std::fs::read_dir("/dev/dri").is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
    });
    if decided || (node && !Path::new("/proc/driver/nvidia/version").exists()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    #[expect(clippy::disallowed_methods, reason = "this very program again, with all it was given")]
    let mut command = std::process::Command::new(program);
    // Where it can't be started over, the window may still draw.
    let error = command.args(std::env::args_os().skip(1)).env(OFF, "1").exec();
    tracing::warn!(%error, "failed to turn the DMA-BUF renderer off");
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn choose() {}
