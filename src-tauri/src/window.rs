//! The one window: shown, hidden to the tray, closed.

use tauri::{AppHandle, Manager, WebviewUrl, WebviewWindowBuilder, Window, WindowEvent};

use crate::commands::Topics;
use crate::tray;

const LABEL: &str = "main";

/// Shows the window, and makes it where there is none.
pub(crate) fn show(app: &AppHandle) {
    if let Some(window) = app.get_webview_window(LABEL) {
        // A window manager that refuses any of these leaves the window where the user has put it.
        let _ = window.show();
        let _ = window.unminimize();
        let _ = window.set_focus();
        return;
    }
    let built = WebviewWindowBuilder::new(app, LABEL, WebviewUrl::App("index.html".into()))
        .title("Cove")
        .inner_size(1280.0, 800.0)
        .min_inner_size(760.0, 480.0)
        .build();
    if let Err(error) = built {
        tracing::error!(%error, "failed to open the window");
    }
}

/// Shows a window that was hidden, and leaves others alone.
pub(crate) fn unhide(app: &AppHandle) {
    if let Some(window) = app.get_webview_window(LABEL)
        && !window.is_visible().unwrap_or(true)
    {
        // A window that can't be shown can't be helped either.
        let _ = window.show();
    }
}

/// Closing hides to the tray where there is one, so that coming back is instant; without a tray it
/// ends the program, since nothing could bring the window back.
pub(crate) fn on_event(window: &Window, event: &WindowEvent) {
    match event {
        WindowEvent::CloseRequested { api, .. } if tray::is_shown(window.app_handle()) => {
            api.prevent_close();
            if let Err(error) = window.hide() {
                tracing::warn!(%error, "failed to hide the window");
            }
        }
        WindowEvent::Destroyed => window.state::<Topics>().clear(),
        _ => {}
    }
}
