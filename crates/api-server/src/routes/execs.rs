//! `/exec`.

use api::exec::{CreateExec, ExecInspect, ExecProcess, IdResponse, StartExec};
use axum::Json;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use engine::{Engine, ExecSpec};
use http::StatusCode;

use super::ApiMinor;
use super::containers::{body, size_of_terminal};
use crate::error::{ApiError, ApiResult};
use crate::hijack::{DetachKeys, Hijack};
use crate::query::Query;

pub(super) async fn create(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let body: CreateExec = body(request).await?;
    let spec = exec_spec(body);
    let id = engine.create_exec(&id, spec)?;
    Ok((StatusCode::CREATED, Json(IdResponse { id })).into_response())
}

/// A process that is to be prepared.
pub(crate) fn exec_spec(body: CreateExec) -> ExecSpec {
    ExecSpec {
        command: body.cmd.unwrap_or_default(),
        user: body.user,
        env: body.env,
        working_dir: body.working_dir,
        tty: body.tty,
        privileged: body.privileged,
        stdin: body.attach_stdin,
        stdout: body.attach_stdout,
        stderr: body.attach_stderr,
        detach_keys: body.detach_keys,
        console_size: body.console_size.map(|[rows, columns]| (rows, columns)),
    }
}

pub(super) async fn start(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
    mut request: Request,
) -> ApiResult<Response> {
    let info = engine.inspect_exec(&id)?;
    let mut hijack = Hijack::of(&mut request, info.spec.tty, minor);
    let options: StartExec = body(request).await?;
    // The start's word, not the creation's, says how output is sent (Docker's way).
    hijack.set_raw(options.tty);
    let keys = DetachKeys::parse(&info.spec.detach_keys)
        .ok_or_else(|| ApiError::bad(format!("invalid detach keys: {:?}", info.spec.detach_keys)))?;
    let size = options.console_size.map(|[rows, columns]| (rows, columns)).or(info.spec.console_size);
    let started = match engine.start_exec(&id, !options.detach, size).await {
        // Clients read why from the stream, and the exit code from `inspect`.
        Err(error @ engine::Error::Start { .. }) if !options.detach => {
            let text = format!("OCI runtime exec failed: {}\r\n", error.chain());
            hijack.set_prelude(if options.tty { text.into_bytes() } else { error_frame(&text) });
            return Ok(hijack.prelude_only());
        }
        other => other?,
    };
    match started {
        Some(streams) => {
            let exited = async move {
                let _code = engine.wait_exec(&id).await;
            };
            Ok(hijack.exec(streams, info.spec.tty.then_some(keys), exited))
        }
        None if options.detach => Ok(StatusCode::OK.into_response()),
        None => {
            hijack.set_prelude(Vec::new());
            Ok(hijack.prelude_only())
        }
    }
}

/// A frame of error output.
fn error_frame(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[2, 0, 0, 0], &length[..], text.as_bytes()].concat()
}

pub(super) async fn resize(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    let (rows, columns) = size_of_terminal(&Query::parse(&raw.0.unwrap_or_default()))?;
    engine.resize_exec(&id, rows, columns)?;
    Ok(StatusCode::OK)
}

pub(super) async fn inspect(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Response> {
    let info = engine.inspect_exec(&id)?;
    let mut command = info.spec.command.into_iter();
    let answer = ExecInspect {
        id: info.id,
        running: info.is_running,
        exit_code: info.exit_code.map(i64::from),
        process_config: ExecProcess {
            tty: info.spec.tty,
            entrypoint: command.next().unwrap_or_default(),
            arguments: command.collect(),
            privileged: info.spec.privileged,
            user: info.spec.user,
        },
        open_stdin: info.spec.stdin,
        open_stderr: info.spec.stderr,
        open_stdout: info.spec.stdout,
        can_remove: false,
        container_id: info.container_id,
        detach_keys: info.spec.detach_keys,
        pid: info.pid.into(),
    };
    Ok(Json(answer).into_response())
}
