//! What the window may ask for: [`host::ui`] over Tauri's IPC.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use host::ui::{Command, Input, Message, Reply, Session, Topic, UiError};
use model::ErrorKind;
use tauri::ipc::{Channel, InvokeResponseBody};
use tauri::{AppHandle, State};
use tauri_plugin_opener::OpenerExt;
use tokio::sync::mpsc;

/// The topics a window has open, by the id it chose.
#[derive(Debug, Default)]
pub(crate) struct Topics(Mutex<HashMap<u32, OpenTopic>>);

#[derive(Debug)]
struct OpenTopic {
    input: mpsc::Sender<Input>,
    task: tauri::async_runtime::JoinHandle<()>,
}

impl Topics {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, OpenTopic>> {
        // Each change is one step, so a panic elsewhere left the map sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes everything, for a window that is gone or was loaded anew.
    pub(crate) fn clear(&self) {
        for (_, topic) in self.lock().drain() {
            topic.task.abort();
        }
    }
}

/// Answers a command.
#[tauri::command]
pub(crate) async fn call(session: State<'_, Session>, command: Command) -> Result<Reply, UiError> {
    session.call(command).await
}

/// Opens a topic under an id of the window's choice.
#[tauri::command]
pub(crate) async fn open(
    session: State<'_, Session>,
    topics: State<'_, Topics>,
    id: u32,
    topic: Topic,
    channel: Channel<InvokeResponseBody>,
) -> Result<(), UiError> {
    let mut subscription = session.open(topic);
    let input = subscription.input.clone();
    let task = tauri::async_runtime::spawn(async move {
        while let Some(message) = subscription.next().await {
            if channel.send(body_of(message)).is_err() {
                return;
            }
        }
        // A window that is gone needs no end.
        let _ = channel.send(InvokeResponseBody::Json("null".to_owned()));
    });
    let mut open = topics.lock();
    open.retain(|_, topic| !topic.task.inner().is_finished());
    if let Some(before) = open.insert(id, OpenTopic { input, task }) {
        before.task.abort();
    }
    Ok(())
}

/// Sends to a topic.
#[tauri::command]
pub(crate) async fn send(topics: State<'_, Topics>, id: u32, input: Input) -> Result<(), UiError> {
    let sender = topics.lock().get(&id).map(|topic| topic.input.clone());
    if let Some(sender) = sender {
        // Input for a topic that has ended goes nowhere.
        let _ = sender.send(input).await;
    }
    Ok(())
}

/// Closes a topic.
#[tauri::command]
#[expect(clippy::needless_pass_by_value, reason = "Tauri hands a command's arguments over by value")]
pub(crate) fn close(topics: State<'_, Topics>, id: u32) {
    if let Some(topic) = topics.lock().remove(&id) {
        topic.task.abort();
    }
}

/// Opens a container's port in the user's browser; nothing else can be opened.
#[tauri::command]
#[expect(clippy::needless_pass_by_value, reason = "Tauri hands a command's arguments over by value")]
pub(crate) fn open_url(app: AppHandle, url: String) -> Result<(), UiError> {
    let local = ["http://localhost:", "https://localhost:"]
        .iter()
        .any(|start| url.strip_prefix(start).is_some_and(|port| port.parse::<u16>().is_ok()));
    if !local {
        return Err(UiError::new(ErrorKind::InvalidArgument, format!("{url} is no container's port")));
    }
    app.opener().open_url(&url, None::<&str>).map_err(|error| {
        UiError::new(ErrorKind::Unsupported, format!("failed to open a browser: {error}"))
            .with_hint(format!("open {url} yourself"))
    })
}

fn body_of(message: Message) -> InvokeResponseBody {
    match message.json() {
        Some(json) => InvokeResponseBody::Json(json),
        None => match message {
            Message::Bytes(bytes) => InvokeResponseBody::Raw(bytes.to_vec()),
            Message::Update(_) => InvokeResponseBody::Json("null".to_owned()),
        },
    }
}
