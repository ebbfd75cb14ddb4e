//! Cove's window and tray. Decides nothing: the `host` package knows engines, `ui/` draws.
#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

mod commands;
mod renderer;
mod tray;
mod window;

use anyhow::Context;
use host::engine::{Surroundings, Target};
use host::ui::Session;
use tauri::Manager;

#[expect(clippy::exit, reason = "generate_context! expands to one, for a broken configuration")]
fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("COVE_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .init();
    renderer::choose();
    // Nothing but an address that is none, or no place for one, can go wrong here.
    let target = Target::find(None, &Surroundings::of_this_process())
        .map_err(|error| match error.hint() {
            Some(hint) => anyhow::Error::new(error).context(hint),
            None => error.into(),
        })
        .context("failed to find an engine")?;
    let app = tauri::Builder::default()
        .plugin(tauri_plugin_single_instance::init(|app, _, _| window::show(app)))
        .plugin(tauri_plugin_window_state::Builder::default().build())
        .plugin(tauri_plugin_opener::Builder::new().open_js_links_on_click(false).build())
        .invoke_handler(tauri::generate_handler![
            commands::call,
            commands::open,
            commands::send,
            commands::close,
            commands::open_url
        ])
        .on_window_event(window::on_event)
        .setup(move |app| {
            // The watcher needs the runtime, which Tauri owns.
            let session = tauri::async_runtime::block_on(async { Session::new(target) });
            app.manage(commands::Topics::default());
            app.manage(session.clone());
            window::show(app.handle());
            tray::start(app.handle(), session);
            Ok(())
        })
        .build(tauri::generate_context!())
        .context("failed to start the window")?;
    app.run(|app, event| {
        if let tauri::RunEvent::ExitRequested { code: None, api, .. } = event {
            // The last window was closed: the tray, where there is one, keeps us.
            if tray::is_shown(app) {
                api.prevent_exit();
            }
        }
    });
    Ok(())
}
