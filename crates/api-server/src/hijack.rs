//! Connections that stop being HTTP: attach and exec. Each direction ends by itself, as clients
//! that close their stdin still want the output.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::container::RunEvent;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use engine::{ExecOutput, ExecStreams};
use http::{HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};
use tokio::net::UnixStream;

use crate::error::{ApiError, ApiResult};
use crate::query::Query;

use crate::versions;

/// How much is carried at once.
const CHUNK: usize = 64 * 1024;

/// The connection as it will be, and the answer that makes it so.
pub(crate) struct Hijack {
    on_upgrade: Option<OnUpgrade>,
    socket: Option<ClientSocket>,
    is_raw: bool,
    wants_multiplexed_type: bool,
    /// Sent before anything else.
    prelude: Vec<u8>,
}

impl Hijack {
    /// Takes the connection of a request that asks for an upgrade; one that doesn't gets the output
    /// as its body, and gives no input.
    pub(crate) fn of(request: &mut Request, is_raw: bool, api_minor: u32) -> Self {
        let asks = request.headers().contains_key(header::UPGRADE);
        Self {
            on_upgrade: asks.then(|| hyper::upgrade::on(&mut *request)),
            socket: request.extensions().get::<ClientSocket>().cloned(),
            is_raw,
            wants_multiplexed_type: versions::names_multiplexed_streams(api_minor),
            prelude: Vec::new(),
        }
    }

    /// Whether output goes as it is, or in frames that tell its streams apart.
    pub(crate) fn set_raw(&mut self, is_raw: bool) {
        self.is_raw = is_raw;
    }

    /// Output of before, to be sent first.
    pub(crate) fn set_prelude(&mut self, bytes: Vec<u8>) {
        self.prelude = bytes;
    }

    /// Sends the prelude and ends.
    pub(crate) fn prelude_only(self) -> Response {
        let kind = self.content_type();
        let Some(on_upgrade) = self.on_upgrade else { return body_response(kind, Body::from(self.prelude)) };
        let (prelude, socket) = (self.prelude, self.socket);
        upgrade_response(kind, async move {
            if let Ok(upgraded) = on_upgrade.await {
                headers_are_read(socket).await;
                let mut stream = TokioIo::new(upgraded);
                // The client may have gone.
                let _ = stream.write_all(&prelude).await;
                let _ = stream.shutdown().await;
            }
        })
    }

    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(if self.is_raw || !self.wants_multiplexed_type {
            "application/vnd.docker.raw-stream"
        } else {
            "application/vnd.docker.multiplexed-stream"
        })
    }

    /// Carries a container's own streams; `detach`: the keys that let go of a terminal.
    pub(crate) fn attach(self, stream: UnixStream, detach: Option<DetachKeys>) -> Response {
        let kind = self.content_type();
        let (prelude, socket) = (self.prelude, self.socket);
        let Some(on_upgrade) = self.on_upgrade else {
            let (read, write) = stream.into_split();
            drop(write);
            return body_response(
                kind,
                Body::from_stream(tokio_util::io::ReaderStream::with_capacity(read, CHUNK)),
            );
        };
        let task = async move {
            let Ok(upgraded) = on_upgrade.await else { return };
            let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
            let (mut output, mut input) = stream.into_split();
            let carry_in = carry_input(&mut from_client, &mut input, detach);
            let carry_out = async {
                headers_are_read(socket).await;
                to_client.write_all(&prelude).await?;
                copy(&mut output, &mut to_client).await
            };
            until_output_ends(carry_in, carry_out).await;
            let _ = to_client.shutdown().await;
        };
        upgrade_response(kind, task)
    }

    /// Starts a container and carries its streams, with what becomes of it between them.
    pub(crate) fn run<S, E>(self, stream: UnixStream, run: Run<S, E>) -> Response
    where
        S: Future<Output = ApiResult<bool>> + Send + 'static,
        E: Future<Output = i64> + Send + 'static,
    {
        let kind = self.content_type();
        let Some(on_upgrade) = self.on_upgrade else { return body_response(kind, Body::empty()) };
        let Run { mut head, is_terminal, detach, starting, ending } = run;
        let task = async move {
            // It starts while the answer is on its way.
            let (upgraded, started) = tokio::join!(on_upgrade, starting);
            let Ok(upgraded) = upgraded else { return };
            let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
            head.error = started.err().map(|error| error.message);
            let has_started = head.error.is_none();
            // Each write fails where the client has gone, and the next one tells.
            let _ = to_client.write_all(&event_frame(&head)).await;
            if has_started {
                let (mut output, mut input) = stream.into_split();
                let carry_in = carry_input(&mut from_client, &mut input, detach);
                let carry_out = async {
                    if !is_terminal {
                        return copy(&mut output, &mut to_client).await;
                    }
                    let mut buffer = vec![0; CHUNK];
                    loop {
                        let length = output.read(buffer.get_mut(8..).unwrap_or_default()).await?;
                        if length == 0 {
                            return Ok(());
                        }
                        frame(1, &mut buffer, length, &mut to_client).await?;
                    }
                };
                if until_output_ends(carry_in, carry_out).await {
                    let end = RunEvent { status_code: Some(ending.await), ..RunEvent::default() };
                    let _ = to_client.write_all(&event_frame(&end)).await;
                }
            }
            let _ = to_client.shutdown().await;
        };
        upgrade_response(kind, task)
    }

    /// Carries a process's streams. The connection ends after `exited`: clients ask for the exit code
    /// as soon as it does.
    pub(crate) fn exec(
        self,
        streams: ExecStreams,
        detach: Option<DetachKeys>,
        exited: impl Future<Output = ()> + Send + 'static,
    ) -> Response {
        let kind = self.content_type();
        let (is_raw, socket) = (self.is_raw, self.socket);
        let Some(on_upgrade) = self.on_upgrade else {
            let (sender, receiver) = tokio::io::duplex(CHUNK);
            let task = async move {
                let mut to_client = sender;
                // The client may go at any time.
                let _ = exec_output(&streams.output, is_raw, &mut to_client).await;
                exited.await;
            };
            routes_spawn(task);
            return body_response(
                kind,
                Body::from_stream(tokio_util::io::ReaderStream::with_capacity(receiver, CHUNK)),
            );
        };
        let task = async move {
            let Ok(upgraded) = on_upgrade.await else { return };
            let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(upgraded));
            let ExecStreams { stdin, output } = streams;
            let carry_out = async {
                headers_are_read(socket).await;
                exec_output(&output, is_raw, &mut to_client).await?;
                exited.await;
                Ok(())
            };
            match (stdin, &output) {
                (Some(stdin), _) => {
                    let carry_in = async {
                        let detached = exec_input(&mut from_client, &stdin, detach).await;
                        // Closed, it is the end of the process's input.
                        drop(stdin);
                        detached
                    };
                    until_output_ends(carry_in, carry_out).await;
                }
                (None, ExecOutput::Terminal(terminal)) => {
                    let carry_in = exec_input(&mut from_client, terminal, detach);
                    until_output_ends(carry_in, carry_out).await;
                }
                (None, ExecOutput::Pipes { .. }) => {
                    // Without input, what comes from the client only tells whether it is still there.
                    let carry_in = async { is_gone(&mut from_client).await };
                    until_output_ends(carry_in, carry_out).await;
                }
            }
            let _ = to_client.shutdown().await;
        };
        upgrade_response(kind, task)
    }
}

/// What becomes of a container that is run: see [`Hijack::run`].
pub(crate) struct Run<S, E> {
    /// What is told first, with the reason where it does not start.
    pub(crate) head: RunEvent,
    /// Whether its output comes as it is, of a terminal. Not asked of `detach`: an emulated processor gets that wrong
    /// (docs/decisions/0008).
    pub(crate) is_terminal: bool,
    /// The keys that let go of a terminal, where it has one.
    pub(crate) detach: Option<DetachKeys>,
    pub(crate) starting: S,
    /// Ends with the container, with its exit code.
    pub(crate) ending: E,
}

/// A frame of Docker's third channel, with an event in it.
fn event_frame(event: &RunEvent) -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0, 0, 0, 0, 0];
    // Into memory, with names for keys: that can't fail.
    let _ = serde_json::to_writer(&mut bytes, event);
    let size = u32::try_from(bytes.len() - 8).unwrap_or(u32::MAX).to_be_bytes();
    bytes.iter_mut().skip(4).zip(size).for_each(|(slot, byte)| *slot = byte);
    bytes
}

/// The socket of the client that a request came from.
#[derive(Debug, Clone)]
pub(crate) struct ClientSocket(pub(crate) Arc<OwnedFd>);

/// Waits until the client has taken the answer's headers out of its socket: some clients (docker-py among
/// them) lose output that comes in the same read. A client that does not read is not waited for.
async fn headers_are_read(socket: Option<ClientSocket>) {
    const PATIENCE: Duration = Duration::from_millis(100);
    let Some(ClientSocket(socket)) = socket else { return };
    let begun = Instant::now();
    // The answer itself may still be on its way into the socket.
    tokio::task::yield_now().await;
    let mut tries = 0_u32;
    while begun.elapsed() < PATIENCE && crate::sys::unread_by_peer(&*socket).is_ok_and(|unread| unread > 0) {
        tries += 1;
        if tries < 64 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Why input ended.
#[derive(PartialEq, Eq)]
enum Input {
    /// The client closed it.
    Ended,
    /// The user pressed the detach keys: everything ends.
    Detached,
}

/// Runs both directions; output decides when it is over, unless the user detaches.
/// Whether the output ended.
async fn until_output_ends(
    input: impl Future<Output = Input>,
    output: impl Future<Output = io::Result<()>>,
) -> bool {
    tokio::pin!(input, output);
    let ended = tokio::select! {
        ended = &mut input => Some(ended),
        _ = &mut output => None,
    };
    if ended == Some(Input::Ended) {
        // A client that went makes the next write fail.
        let _ = output.await;
    }
    ended != Some(Input::Detached)
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
    }
}

/// Half closes at the end: the container sees the end of its input, the client still its output.
async fn carry_input(
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    to: &mut (impl AsyncWriteExt + Unpin),
    detach: Option<DetachKeys>,
) -> Input {
    let ended = copy_input(from, to, detach).await;
    let _ = to.shutdown().await;
    ended
}

async fn copy_input(
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    to: &mut (impl AsyncWriteExt + Unpin),
    mut detach: Option<DetachKeys>,
) -> Input {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return Input::Ended };
        if length == 0 {
            return Input::Ended;
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let (passed, is_detached) = match &mut detach {
            Some(keys) => keys.filter(bytes),
            None => (bytes.to_vec(), false),
        };
        if to.write_all(&passed).await.is_err() {
            return Input::Ended;
        }
        if is_detached {
            return Input::Detached;
        }
    }
}

async fn exec_input(
    from: &mut ReadHalf<TokioIo<Upgraded>>,
    to: &tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    mut detach: Option<DetachKeys>,
) -> Input {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(length) = from.read(&mut buffer).await else { return Input::Ended };
        if length == 0 {
            return Input::Ended;
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        let (passed, is_detached) = match &mut detach {
            Some(keys) => keys.filter(bytes),
            None => (bytes.to_vec(), false),
        };
        let mut rest = passed.as_slice();
        while !rest.is_empty() {
            match ExecStreams::write(to, rest).await {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(_) => return Input::Ended,
            }
        }
        if is_detached {
            return Input::Detached;
        }
    }
}

async fn is_gone(from: &mut ReadHalf<TokioIo<Upgraded>>) -> Input {
    let mut buffer = [0; 1024];
    while from.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    Input::Ended
}

async fn exec_output(
    output: &ExecOutput,
    is_raw: bool,
    to: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    match output {
        ExecOutput::Terminal(terminal) => {
            let mut buffer = vec![0; CHUNK];
            loop {
                // The first eight bytes are the frame's header, where there are frames.
                let length = ExecStreams::read(terminal, buffer.get_mut(8..).unwrap_or_default()).await?;
                if length == 0 {
                    return Ok(());
                }
                if is_raw {
                    to.write_all(buffer.get(8..8 + length).unwrap_or_default()).await?;
                } else {
                    frame(1, &mut buffer, length, to).await?;
                }
            }
        }
        ExecOutput::Pipes { stdout, stderr } if is_raw => {
            let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
            let (mut has_out, mut has_err) = (true, true);
            while has_out || has_err {
                tokio::select! {
                    read = ExecStreams::read(stdout, &mut out), if has_out => {
                        let length = read?;
                        has_out = length > 0;
                        to.write_all(out.get(..length).unwrap_or_default()).await?;
                    }
                    read = ExecStreams::read(stderr, &mut err), if has_err => {
                        let length = read?;
                        has_err = length > 0;
                        to.write_all(err.get(..length).unwrap_or_default()).await?;
                    }
                }
            }
            Ok(())
        }
        ExecOutput::Pipes { stdout, stderr } => {
            // The first eight bytes of each buffer are the frame's header.
            let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
            let (mut has_out, mut has_err) = (true, true);
            while has_out || has_err {
                tokio::select! {
                    read = ExecStreams::read(stdout, out.get_mut(8..).unwrap_or_default()), if has_out => {
                        let length = read?;
                        has_out = length > 0;
                        frame(1, &mut out, length, to).await?;
                    }
                    read = ExecStreams::read(stderr, err.get_mut(8..).unwrap_or_default()), if has_err => {
                        let length = read?;
                        has_err = length > 0;
                        frame(2, &mut err, length, to).await?;
                    }
                }
            }
            Ok(())
        }
    }
}

async fn frame(
    stream: u8,
    buffer: &mut [u8],
    length: usize,
    to: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let size = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    for (slot, byte) in buffer.iter_mut().zip([stream, 0, 0, 0, size[0], size[1], size[2], size[3]]) {
        *slot = byte;
    }
    to.write_all(buffer.get(..8 + length).unwrap_or_default()).await
}

fn upgrade_response(kind: HeaderValue, task: impl Future<Output = ()> + Send + 'static) -> Response {
    routes_spawn(task);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
    response
}

fn body_response(kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A task that belongs to one connection and ends with it.
pub(crate) fn routes_spawn(task: impl Future<Output = ()> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "it ends with its connection, which shutdown closes")]
    tokio::spawn(task);
}

/// The keys that let go of a terminal, watched for in the input (`ctrl-p,ctrl-q`).
#[derive(Debug, Clone)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// What a query says of them.
    pub(crate) fn of(query: &Query) -> ApiResult<Self> {
        let keys = query.get("detachKeys").unwrap_or("");
        Self::parse(keys).ok_or_else(|| ApiError::bad(format!("invalid detach keys: {keys:?}")))
    }

    /// Reads Docker's form: letters, or `ctrl-` and one of `a-z@[\]^_`, by commas. Empty is the default.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
        let keys = text
            .split(',')
            .map(|key| {
                let lower = key.to_ascii_lowercase();
                match lower.strip_prefix("ctrl-") {
                    Some(rest) => match rest.as_bytes() {
                        [c @ b'a'..=b'z'] => Some(c - b'a' + 1),
                        [c @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(c & 0x1f),
                        _ => None,
                    },
                    None => match key.as_bytes() {
                        [c] => Some(*c),
                        _ => None,
                    },
                }
            })
            .collect::<Option<Vec<u8>>>()?;
        Some(Self { keys, matched: 0 })
    }

    /// What of the input goes on, and whether the keys were pressed.
    pub(crate) fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            // What looked like the keys was input after all.
            passed.extend(self.keys.iter().take(self.matched));
            self.matched = usize::from(self.keys.first() == Some(byte));
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_taken_out_and_nothing_else() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"d\x10\x11e"), (b"d".to_vec(), true));
        assert_eq!(DetachKeys::parse("ctrl-a,x").unwrap().keys, [1, b'x']);
        assert!(DetachKeys::parse("ctrl-!").is_none());
    }
}
