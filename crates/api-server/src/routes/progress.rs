//! What a pull or a push has to say, line by line, in Docker's words.

use std::sync::Arc;

use api::image::{
    Descriptor, ErrorDetail, ManifestPushedInsteadOfIndex, Progress, ProgressDetail, PushAux, PushResult,
};
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use image_store::ProgressKind;
use tokio::sync::mpsc;

use super::containers::async_stream;
use crate::error::ApiResult;

/// How many lines wait for a client that reads slowly.
pub(super) const LINES: usize = 256;
/// From here on figures are left out, so that there is room for words.
const FEW: usize = 64;

/// What a pull or a push has to say.
pub(super) enum Line {
    Progress(Progress),
    Failed(image_store::Error),
}

/// Writes down what the store tells.
pub(super) fn teller(sender: &mpsc::Sender<Line>) -> Arc<dyn Fn(image_store::Progress) + Send + Sync> {
    let sender = sender.clone();
    Arc::new(move |progress: image_store::Progress| {
        // A client that reads slowly misses figures, which the next ones make up for.
        let is_figure = matches!(
            progress.kind,
            ProgressKind::Downloading { .. }
                | ProgressKind::Compressing { .. }
                | ProgressKind::Pushing { .. }
        );
        if is_figure && sender.capacity() < FEW {
            return;
        }
        for line in progress_lines(progress) {
            let _ = sender.try_send(Line::Progress(line));
        }
    })
}

/// Answers with the lines. Until the first, a failure can still be a status.
pub(super) async fn told(mut lines: mpsc::Receiver<Line>) -> ApiResult<Response> {
    let first = match lines.recv().await {
        Some(Line::Failed(error)) => return Err(error.into()),
        Some(Line::Progress(first)) => Some(first),
        None => None,
    };
    let stream = async_stream(move |into| async move {
        if let Some(first) = first
            && into.send(Ok(json_line(&first))).await.is_err()
        {
            return;
        }
        loop {
            let line = tokio::select! {
                line = lines.recv() => line,
                // Also where there is nothing to tell for long, as while a layer is compressed.
                () = into.closed() => return,
            };
            let line = match line {
                None => return,
                Some(Line::Progress(line)) => line,
                Some(Line::Failed(error)) => failure(&error.to_string()),
            };
            if into.send(Ok(json_line(&line))).await.is_err() {
                return;
            }
        }
    });
    Ok(json_stream(stream))
}

pub(super) fn json_line(line: &Progress) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

pub(super) fn failure(message: &str) -> Progress {
    Progress {
        error: Some(message.to_owned()),
        error_detail: Some(ErrorDetail { code: None, message: message.to_owned() }),
        ..Progress::default()
    }
}

pub(super) fn json_stream(
    stream: impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Docker's words for each step.
fn progress_lines(progress: image_store::Progress) -> Vec<Progress> {
    let id = (!progress.id.is_empty()).then_some(progress.id);
    let said = |status: &str, id: Option<String>| Progress {
        status: Some(status.to_owned()),
        id,
        ..Progress::default()
    };
    let bare =
        |status: &str, id| Progress { progress_detail: Some(ProgressDetail::default()), ..said(status, id) };
    let figures = |status: &str, current, total, id| Progress {
        progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
        progress: Some(bar(current, total)),
        ..said(status, id)
    };
    let line = match progress.kind {
        ProgressKind::Pulling(name) => said(&format!("Pulling from {name}"), id),
        ProgressKind::PullingLayer => bare("Pulling fs layer", id),
        ProgressKind::Downloading { current, total } => figures("Downloading", current, total, id),
        ProgressKind::PullComplete => bare("Pull complete", id),
        ProgressKind::AlreadyExists => bare("Already exists", id),
        ProgressKind::Digest(digest) => said(&format!("Digest: {digest}"), None),
        ProgressKind::PushRefers(name) => said(&format!("The push refers to repository [{name}]"), None),
        ProgressKind::Preparing => bare("Preparing", id),
        // Docker has no word of its own for that.
        ProgressKind::Compressing { current, total } => figures("Preparing", current, total, id),
        ProgressKind::Pushing { current, total } => figures("Pushing", current, total, id),
        ProgressKind::Pushed => bare("Pushed", id),
        ProgressKind::LayerExists => bare("Layer already exists", id),
        ProgressKind::Mounted(from) => bare(&format!("Mounted from {from}"), id),
        ProgressKind::PushedTag { tag, digest, size } => {
            let aux = PushResult { tag: tag.clone(), digest: digest.to_string(), size };
            let line = said(&format!("{tag}: digest: {digest} size: {size}"), None);
            return vec![line, aux_line(PushAux::Pushed(aux))];
        }
        // Clients have the words for it.
        ProgressKind::OnePlatform { original, selected } => {
            let descriptor = |pushed: image_store::Pushed| Descriptor {
                media_type: pushed.media_type,
                digest: pushed.digest.to_string(),
                size: pushed.size,
            };
            aux_line(PushAux::Instead(Box::new(ManifestPushedInsteadOfIndex {
                manifest_pushed_instead_of_index: true,
                original_index: descriptor(original),
                selected_manifest: descriptor(selected),
            })))
        }
        ProgressKind::Status(text) => said(&text, None),
    };
    vec![line]
}

fn aux_line(aux: PushAux) -> Progress {
    Progress { progress_detail: Some(ProgressDetail::default()), aux: Some(aux), ..Progress::default() }
}

/// `[=====>     ]  1.2MB/3.4MB`, for clients that print it as it comes.
fn bar(current: u64, total: u64) -> String {
    let filled = usize::try_from(current.saturating_mul(50) / total.max(1)).unwrap_or(50).min(50);
    let megabytes = |bytes: u64| format!("{}.{}MB", bytes / 1_000_000, bytes / 100_000 % 10);
    let head = if filled < 50 { ">" } else { "" };
    let space = " ".repeat(50_usize.saturating_sub(filled + head.len()));
    format!("[{}{head}{space}]  {}/{}", "=".repeat(filled), megabytes(current), megabytes(total))
}
