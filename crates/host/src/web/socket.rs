//! All topics of one browser tab over one WebSocket.
//!
//! The tab sends JSON: `{"open":ID,"topic":{…}}`, `{"to":ID,"input":{…}}`, `{"close":ID}`, with ids of
//! its choice. It gets JSON `{"id":ID,"update":{…}}` and `{"id":ID,"end":true}`, and for bytes a binary
//! message of the id as four bytes, big-endian, and the bytes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::{BufMut, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::Shared;
use crate::ui::{Input, Message, Session, Topic, Update};

/// The largest message from a tab: a long paste.
const INPUT_LIMIT: usize = 4 << 20;
/// How many topics one tab may have open.
const TOPICS: usize = 256;
/// How many messages may wait for the socket.
const QUEUE: usize = 32;

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Request {
    Open { open: u32, topic: Topic },
    Input { to: u32, input: Input },
    Close { close: u32 },
}

pub(super) async fn upgrade(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    let session = shared.session.clone();
    upgrade.max_message_size(INPUT_LIMIT).on_upgrade(move |socket| talk(session, socket))
}

struct OpenTopic {
    input: mpsc::Sender<Input>,
    task: AbortHandle,
}

async fn talk(session: Session, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let (frames, mut queue) = mpsc::channel::<Frame>(QUEUE);
    let mut topics: HashMap<u32, OpenTopic> = HashMap::new();
    // Dropped at the end, and with it every topic.
    let mut tasks = JoinSet::new();
    let write = async {
        while let Some(frame) = queue.recv().await {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        while let Some(Ok(frame)) = stream.next().await {
            let Frame::Text(text) = frame else { continue };
            let request = match serde_json::from_str(&text) {
                Ok(request) => request,
                Err(error) => {
                    tracing::debug!(%error, "a tab sent what is no request");
                    return;
                }
            };
            handle(request, &session, &frames, &mut topics, &mut tasks).await;
            while tasks.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

async fn handle(
    request: Request,
    session: &Session,
    frames: &mpsc::Sender<Frame>,
    topics: &mut HashMap<u32, OpenTopic>,
    tasks: &mut JoinSet<()>,
) {
    match request {
        Request::Open { open: id, topic } => {
            topics.retain(|_, topic| !topic.task.is_finished());
            if topics.len() >= TOPICS || topics.contains_key(&id) {
                return;
            }
            let mut subscription = session.open(topic);
            let input = subscription.input.clone();
            let frames = frames.clone();
            let task = tasks.spawn(async move {
                while let Some(message) = subscription.next().await {
                    if frames.send(frame_of(id, message)).await.is_err() {
                        return;
                    }
                }
                // The socket's end is no failure of the topic's.
                let _ = frames.send(Frame::text(format!(r#"{{"id":{id},"end":true}}"#))).await;
            });
            topics.insert(id, OpenTopic { input, task });
        }
        Request::Input { to, input } => {
            if let Some(topic) = topics.get(&to) {
                // Input for a topic that has ended goes nowhere.
                let _ = topic.input.send(input).await;
            }
        }
        Request::Close { close } => {
            if let Some(topic) = topics.remove(&close) {
                topic.task.abort();
            }
        }
    }
}

fn frame_of(id: u32, message: Message) -> Frame {
    match message {
        Message::Update(update) => Frame::text(json_of(id, &update)),
        Message::Bytes(bytes) => {
            let mut frame = BytesMut::with_capacity(4 + bytes.len());
            frame.put_u32(id);
            frame.put(bytes);
            Frame::Binary(frame.freeze())
        }
    }
}

fn json_of(id: u32, update: &Update) -> String {
    // Updates are strings, numbers and lists of them, which always make JSON.
    let update = serde_json::to_string(update).unwrap_or_default();
    format!(r#"{{"id":{id},"update":{update}}}"#)
}
