//! `GET /containers/{id}/attach/ws`: a container's streams over a websocket, for pages of a browser.
//!
//! Input comes as it is in messages, output goes as it is; standard output and error are not told apart, as in
//! Docker.

use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use engine::{Engine, Streams};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::ApiMinor;
use super::containers::logs_so_far;
use crate::error::{ApiError, ApiResult};
use crate::hijack::DetachKeys;
use crate::query::Query;
use crate::versions;

/// How much output is one message.
const CHUNK: usize = 32 * 1024;

pub(super) async fn attach(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade =
        upgrade.map_err(|refused| ApiError::bad(format!("the request asks for no websocket: {refused}")))?;
    let query = Query::parse(&raw.0.unwrap_or_default());
    let keys = DetachKeys::of(&query)?;
    let all = versions::attaches_all_streams(minor);
    let streams = Streams {
        stdin: all || query.flag("stdin"),
        stdout: all || query.flag("stdout"),
        stderr: all || query.flag("stderr"),
    };
    let has_terminal = engine.has_terminal(&id)?;
    let prelude =
        if query.flag("logs") { logs_so_far(&engine, &id, streams, true).await? } else { Vec::new() };
    let attached = if query.flag("stream") { Some(engine.attach(&id, streams).await?.stream) } else { None };
    let form = Form { is_text: versions::has_text_frames(minor) };
    let frames = if has_terminal { None } else { Some(Frames::default()) };
    let keys = has_terminal.then_some(keys);
    Ok(upgrade.on_upgrade(move |socket| carry(socket, attached, prelude, form, frames, keys)))
}

/// What messages of output are.
#[derive(Debug, Clone, Copy)]
struct Form {
    is_text: bool,
}

impl Form {
    fn message(self, bytes: &[u8]) -> Message {
        if self.is_text {
            Message::Text(String::from_utf8_lossy(bytes).into_owned().into())
        } else {
            Message::Binary(Bytes::copy_from_slice(bytes))
        }
    }
}

async fn carry(
    socket: WebSocket,
    stream: Option<UnixStream>,
    prelude: Vec<u8>,
    form: Form,
    frames: Option<Frames>,
    keys: Option<DetachKeys>,
) {
    let (mut to_client, mut from_client) = socket.split();
    for chunk in prelude.chunks(CHUNK) {
        if to_client.send(form.message(chunk)).await.is_err() {
            return;
        }
    }
    if let Some(stream) = stream {
        let (output, input) = stream.into_split();
        tokio::select! {
            () = carry_in(&mut from_client, input, keys) => {}
            () = carry_out(output, &mut to_client, form, frames) => {}
        }
    }
    // The client may have gone.
    let _ = to_client.send(Message::Close(None)).await;
}

/// Ends when the client goes or lets go.
async fn carry_in(
    from: &mut SplitStream<WebSocket>,
    mut input: OwnedWriteHalf,
    mut keys: Option<DetachKeys>,
) {
    while let Some(Ok(message)) = from.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return,
        };
        let (passed, is_detached) = match &mut keys {
            Some(keys) => keys.filter(&bytes),
            None => (bytes.to_vec(), false),
        };
        if input.write_all(&passed).await.is_err() || is_detached {
            return;
        }
    }
}

async fn carry_out(
    mut output: OwnedReadHalf,
    to: &mut SplitSink<WebSocket, Message>,
    form: Form,
    mut frames: Option<Frames>,
) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length) = output.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        let plain = match &mut frames {
            Some(frames) => frames.open(bytes),
            None => bytes.to_vec(),
        };
        if !plain.is_empty() && to.send(form.message(&plain)).await.is_err() {
            return;
        }
    }
}

/// Takes the headers off a multiplexed stream, however it is cut.
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    /// Bytes of the frame that are still to come.
    left: usize,
}

impl Frames {
    fn open(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len());
        while let Some((byte, rest)) = bytes.split_first() {
            if self.left > 0 {
                let (now, later) = bytes.split_at(self.left.min(bytes.len()));
                plain.extend_from_slice(now);
                self.left -= now.len();
                bytes = later;
                continue;
            }
            self.header.push(*byte);
            bytes = rest;
            if let [_, _, _, _, a, b, c, d] = *self.header.as_slice() {
                self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.header.clear();
            }
        }
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::Frames;

    #[test]
    fn frames_are_opened_however_the_stream_is_cut() {
        let stream = [
            &[1, 0, 0, 0, 0, 0, 0, 3],
            &b"one"[..],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 2],
            b"er",
        ]
        .concat();
        for size in 1..=stream.len() {
            let mut frames = Frames::default();
            let plain: Vec<u8> = stream.chunks(size).flat_map(|chunk| frames.open(chunk)).collect();
            assert_eq!(plain, b"oneer", "cut to {size}");
        }
    }
}
