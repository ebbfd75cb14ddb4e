//! The tray: the menu that [`host::ui::tray`] makes, in whatever tray the desktop has.

mod presence;

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use host::ui::tray::{Action, Line, action_of, menu};
use host::ui::{Session, Topic, UiError};
use tauri::image::Image;
use tauri::menu::{IsMenuItem, Menu, MenuItem, PredefinedMenuItem, Submenu};
use tauri::tray::{MouseButton, MouseButtonState, TrayIconBuilder, TrayIconEvent};
use tauri::{AppHandle, Emitter, Manager, Wry};

use crate::{commands, window};

const ID: &str = "cove";
/// Changes within this time become one change of the menu.
const GATHER: Duration = Duration::from_millis(150);
/// How often an icon that could not be shown is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of the tray.
#[derive(Debug, Default)]
struct State {
    shown: AtomicBool,
    /// The menu as it was built last.
    lines: Mutex<Vec<Line>>,
}

/// Whether the desktop shows our icon now, so that a hidden window can be had back.
pub(crate) fn is_shown(app: &AppHandle) -> bool {
    app.try_state::<State>().is_some_and(|state| state.shown.load(Ordering::Relaxed))
}

/// Shows the icon wherever and whenever there is a tray, and keeps its menu current.
pub(crate) fn start(app: &AppHandle, session: Session) {
    app.manage(State::default());
    let app = app.clone();
    tauri::async_runtime::spawn(async move {
        loop {
            if presence::appear().await {
                // Noted first: a window that is closed the moment the icon is there hides already.
                set_shown(&app, true);
                if show(&app, &session) {
                    tokio::select! {
                        () = presence::disappear() => {}
                        () = follow(&app, &session) => {}
                    }
                }
                set_shown(&app, false);
                // Dropping the last handle takes the icon away; it is made anew with the next tray.
                drop(app.remove_tray_by_id(ID));
            }
            tokio::time::sleep(RETRY).await;
        }
    });
}

fn set_shown(app: &AppHandle, shown: bool) {
    app.state::<State>().shown.store(shown, Ordering::Relaxed);
    if !shown {
        // Without a tray a hidden window could not be had back.
        window::unhide(app);
    }
}

fn show(app: &AppHandle, session: &Session) -> bool {
    let lines = menu(&session.engine(), &session.containers(), &session.machines());
    let build = || -> tauri::Result<()> {
        TrayIconBuilder::with_id(ID)
            .icon(Image::from_bytes(include_bytes!("../icons/tray.png"))?)
            .title("Cove")
            .tooltip("Cove")
            .menu(&build(app, &lines)?)
            .show_menu_on_left_click(false)
            .on_menu_event(|app, event| act(app, event.id().as_ref()))
            .on_tray_icon_event(|tray, event| {
                let TrayIconEvent::Click { button, button_state: MouseButtonState::Up, .. } = event else {
                    return;
                };
                if button == MouseButton::Left {
                    window::show(tray.app_handle());
                }
            })
            .build(app)?;
        Ok(())
    };
    match build() {
        Ok(()) => {
            *app.state::<State>().lines.lock().unwrap_or_else(PoisonError::into_inner) = lines;
            true
        }
        Err(error) => {
            tracing::info!(%error, "no tray for the icon");
            false
        }
    }
}

/// Rebuilds the menu when what it shows has changed.
async fn follow(app: &AppHandle, session: &Session) {
    let mut engine = session.open(Topic::Engine);
    let mut containers = session.open(Topic::Containers);
    let mut machines = session.open(Topic::Machines);
    loop {
        let more = tokio::select! {
            message = engine.next() => message.is_some(),
            message = containers.next() => message.is_some(),
            message = machines.next() => message.is_some(),
        };
        if !more {
            return;
        }
        tokio::time::sleep(GATHER).await;
        let lines = menu(&session.engine(), &session.containers(), &session.machines());
        let state = app.state::<State>();
        if *state.lines.lock().unwrap_or_else(PoisonError::into_inner) == lines {
            continue;
        }
        let replaced = build(app, &lines).and_then(|menu| match app.tray_by_id(ID) {
            Some(tray) => tray.set_menu(Some(menu)),
            None => Ok(()),
        });
        match replaced {
            Ok(()) => *state.lines.lock().unwrap_or_else(PoisonError::into_inner) = lines,
            Err(error) => tracing::warn!(%error, "failed to change the tray's menu"),
        }
    }
}

fn build(app: &AppHandle, lines: &[Line]) -> tauri::Result<Menu<Wry>> {
    let items = items(app, lines)?;
    let items: Vec<_> = items.iter().map(AsRef::as_ref).collect();
    Menu::with_items(app, &items)
}

fn items(app: &AppHandle, lines: &[Line]) -> tauri::Result<Vec<Box<dyn IsMenuItem<Wry>>>> {
    lines
        .iter()
        .map(|line| -> tauri::Result<Box<dyn IsMenuItem<Wry>>> {
            Ok(match line {
                Line::Label(text) => Box::new(MenuItem::new(app, literal(text), false, None::<&str>)?),
                Line::Action(id, text) => {
                    Box::new(MenuItem::with_id(app, id, literal(text), true, None::<&str>)?)
                }
                Line::Submenu(text, lines) => {
                    let items = items(app, lines)?;
                    let items: Vec<_> = items.iter().map(AsRef::as_ref).collect();
                    Box::new(Submenu::with_items(app, literal(text), true, &items)?)
                }
                Line::Rule => Box::new(PredefinedMenuItem::separator(app)?),
            })
        })
        .collect()
}

/// A name is no place for a mnemonic.
fn literal(text: &str) -> String {
    text.replace('&', "&&")
}

fn act(app: &AppHandle, id: &str) {
    match action_of(id) {
        None => {}
        Some(Action::Open) => window::show(app),
        Some(Action::Run) => {
            window::show(app);
            if let Err(error) = app.emit("run", ()) {
                tracing::warn!(%error, "failed to open the run dialog");
            }
        }
        Some(Action::Quit) => app.exit(0),
        Some(Action::OpenUrl(url)) => {
            if let Err(error) = commands::open_url(app.clone(), url) {
                failed(app, &error);
            }
        }
        Some(Action::Call(command)) => {
            let (app, session) = (app.clone(), app.state::<Session>().inner().clone());
            tauri::async_runtime::spawn(async move {
                if let Err(error) = session.call(command).await {
                    failed(&app, &error);
                }
            });
        }
    }
}

/// The tray has no room for an error, so the window shows it.
fn failed(app: &AppHandle, error: &UiError) {
    tracing::warn!(%error, "an action of the tray failed");
    window::show(app);
    if let Err(error) = app.emit("failed", error) {
        tracing::warn!(%error, "failed to show an error");
    }
}
