//! `POST /cove/v1/run`, Cove's own: a container is created, attached to, started and waited for by one request
//! in place of four. The body is that of `/containers/create`, `name`, `platform` and `detachKeys` stand in the
//! query, as do `stdin`, `stdout` and `stderr`, and `condition` is what it waits for.
//!
//! The connection becomes Docker's multiplexed stream, with a terminal too; the frames of channel 3 are a
//! [`RunEvent`] each: what was made, that it runs, and how it ended.

use api::container::RunEvent;
use axum::extract::{Extension, RawQuery, Request, State};
use engine::{Engine, Streams};
use http::header;

use super::ApiMinor;
use crate::error::{ApiError, ApiResult};
use crate::hijack::{DetachKeys, Hijack, Run};
use crate::query::Query;

/// Its path.
pub(super) const PATH: &str = "/cove/v1/run";

pub(super) async fn run(
    State(engine): State<Engine>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
    mut request: Request,
) -> ApiResult {
    let query = Query::parse(&raw.0.unwrap_or_default());
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(ApiError::bad(format!("{PATH} needs a connection that is upgraded (Upgrade: tcp)")));
    }
    let keys = DetachKeys::of(&query)?;
    let hijack = Hijack::of(&mut request, false, minor);
    let spec = super::containers::wanted(&engine, &query, minor, request).await?;
    let begun = engine.begin(spec, query.get("name")).await?;
    let made = begun.created.clone();
    let streams =
        Streams { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") };
    let attached = engine.attach(&made.id, streams).await?;
    let ended = engine.wait(&made.id, query.get("condition").unwrap_or(""))?;
    let run = Run {
        head: RunEvent { id: made.id, warnings: made.warnings, ..RunEvent::default() },
        is_terminal: attached.is_raw,
        detach: attached.is_raw.then_some(keys),
        starting: {
            let engine = engine.clone();
            async move { engine.start_begun(begun).await.map_err(ApiError::from) }
        },
        ending: async move { ended.await.code.into() },
    };
    Ok(hijack.run(attached.stream, run))
}
