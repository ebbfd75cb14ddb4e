//! The tray: the engine's state, the containers that run, open and quit.
use host::ui::Session;
use tauri::AppHandle;

pub(crate) fn start(_app: &AppHandle, _session: Session) {}

pub(crate) fn is_shown(_app: &AppHandle) -> bool {
    false
}
