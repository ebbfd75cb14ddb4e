//! The table of endpoints, and the server that answers them.
//!
//! A path may begin with `/v1.NN`; versions are those of Docker's API. What Docker has and Cove has not is
//! answered by the table in [`crate::endpoints`] before a handler is looked for.

mod containers;
mod execs;
mod images;
mod networks;
mod progress;
mod registry;
mod run;
mod system;
mod volumes;
mod websocket;

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, head, post};
use engine::Engine;
use http::{HeaderValue, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::ServiceExt;

use crate::endpoints::Endpoint;
use crate::error::{ApiError, ApiResult};
use crate::hijack::ClientSocket;
use crate::versions;

#[cfg(test)]
pub(crate) use {execs::exec_spec, volumes::new_volume};

/// Docker's API at one engine.
#[derive(Debug, Clone)]
pub struct Server {
    router: Router,
    connections: Arc<AtomicUsize>,
}

/// The minor version a request speaks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ApiMinor(pub(crate) u32);

const OLDEST: u32 = 24;
pub(crate) const NEWEST: u32 = 52;

impl Server {
    /// A server for `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { router: router(engine), connections: Arc::default() }
    }

    /// How many clients are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Serves one connection to its end. `socket`: a further descriptor of it, where bytes in it can be counted.
    pub async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        socket: Option<OwnedFd>,
    ) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let socket = socket.map(|fd| ClientSocket(Arc::new(fd)));
        let service = hyper::service::service_fn(|mut request: hyper::Request<Incoming>| {
            let router = self.router.clone();
            if let Some(socket) = socket.clone().filter(|_| request.headers().contains_key(header::UPGRADE)) {
                request.extensions_mut().insert(socket);
            }
            async move { Ok::<_, Infallible>(answer(router, request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(std::time::Duration::from_secs(30))
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended badly");
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers, and says who does.
async fn answer(router: Router, request: hyper::Request<Incoming>) -> Response {
    let mut response = respond(router, request).await.unwrap_or_else(IntoResponse::into_response);
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(api::API_VERSION));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers
        .insert("server", HeaderValue::from_static(concat!("Cove/", env!("CARGO_PKG_VERSION"), " (linux)")));
    response
}

/// Takes the version off the path, looks up what is asked for, and hands on what its handler may read.
async fn respond(router: Router, request: hyper::Request<Incoming>) -> ApiResult {
    let (mut parts, body) = request.into_parts();
    let minor = take_version(&mut parts.uri)?;
    let is_ours = parts.uri.path() == run::PATH;
    // Of a request of ours, the body is that of Docker's.
    let endpoint =
        Endpoint::find(&parts.method, if is_ours { "/containers/create" } else { parts.uri.path() })?;
    if let Some(query) = parts.uri.query().filter(|_| !is_ours) {
        let settled = endpoint.settle_query(query, minor)?;
        if settled != query {
            let path = format!("{}?{settled}", parts.uri.path());
            parts.uri = path.parse().map_err(|_| ApiError::bad("the query is malformed"))?;
        }
    }
    parts.extensions.insert(ApiMinor(minor));
    parts.extensions.insert(endpoint);
    let body = if is_archive(parts.uri.path()) {
        Body::new(body)
    } else {
        // All of it, also where nobody looks at it: a connection whose request is not read to the end is
        // closed under the client's next one.
        match axum::body::to_bytes(Body::new(body), containers::MAX_BODY).await {
            Ok(bytes) => Body::from(bytes),
            Err(error) => {
                return Err(ApiError::bad(format!("failed to read the request's body: {error}")));
            }
        }
    };
    let response = match router.oneshot(Request::from_parts(parts, body)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if response.status().is_client_error() {
        return in_json(response).await;
    }
    if response.status().is_success() && versions::changes_answer(endpoint, minor) {
        return for_version(response, endpoint, minor).await;
    }
    Ok(response)
}

/// A refusal as all others are: the router's own is plain text, such as of a path that is no text.
async fn in_json(response: Response) -> ApiResult {
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json {
        return Ok(response);
    }
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), containers::MAX_BODY).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&bytes).into_owned();
    let unsaid = status.canonical_reason().unwrap_or("the request is malformed").to_owned();
    Err(ApiError { status, message: if said.is_empty() { unsaid } else { said } })
}

/// An answer as clients of a version expect it.
async fn for_version(response: Response, endpoint: &Endpoint, minor: u32) -> ApiResult {
    let failed = |error: &dyn std::fmt::Display| ApiError {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: format!("failed to make an answer for API 1.{minor}: {error}"),
    };
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| failed(&error))?;
    let mut answer: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
    versions::answer(endpoint, minor, &mut answer);
    parts.headers.remove(header::CONTENT_LENGTH);
    let bytes = serde_json::to_vec(&answer).map_err(|error| failed(&error))?;
    Ok(Response::from_parts(parts, Body::from(bytes)))
}

/// Whether what is sent there may be large, and is read as it comes.
fn is_archive(path: &str) -> bool {
    path.ends_with("/archive") || matches!(path, "/images/load" | "/images/create" | "/build")
}

fn take_version(uri: &mut Uri) -> Result<u32, ApiError> {
    let text = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let Some((version, _)) = text.strip_prefix("/v").and_then(|rest| rest.split_once('/')) else {
        return Ok(NEWEST);
    };
    let Some(minor) = version.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok()) else {
        return Ok(NEWEST);
    };
    if minor < OLDEST {
        return Err(ApiError::bad(format!(
            "client version {version} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            api::MIN_API_VERSION
        )));
    }
    if minor > NEWEST {
        return Err(ApiError::bad(format!(
            "client version {version} is too new. Maximum supported API version is {}",
            api::API_VERSION
        )));
    }
    let rest = text.get(2 + version.len()..).unwrap_or("/");
    *uri = rest.parse().map_err(|_| ApiError::bad("the path is malformed"))?;
    Ok(minor)
}

/// Runs what reads much from disk, while this thread's other requests go on on another.
fn beside<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

fn router(engine: Engine) -> Router {
    Router::new()
        .route("/_ping", get(system::ping).head(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(system::events))
        .route("/system/df", get(system::disk_usage))
        .route("/containers/json", get(containers::list))
        .route(run::PATH, post(run::run))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{id}", delete(containers::remove))
        .route("/containers/{id}/{alias}", delete(containers::remove_link))
        .route("/containers/{id}/json", get(containers::inspect))
        .route("/containers/{id}/start", post(containers::start))
        .route("/containers/{id}/stop", post(containers::stop))
        .route("/containers/{id}/restart", post(containers::restart))
        .route("/containers/{id}/kill", post(containers::kill))
        .route("/containers/{id}/pause", post(containers::pause))
        .route("/containers/{id}/unpause", post(containers::unpause))
        .route("/containers/{id}/rename", post(containers::rename))
        .route("/containers/{id}/update", post(containers::update))
        .route("/containers/{id}/wait", post(containers::wait))
        .route("/containers/{id}/resize", post(containers::resize))
        .route("/containers/{id}/attach", post(containers::attach))
        .route("/containers/{id}/attach/ws", get(websocket::attach))
        .route("/containers/{id}/logs", get(containers::logs))
        .route("/containers/{id}/top", get(containers::top))
        .route("/containers/{id}/stats", get(containers::stats))
        .route("/containers/{id}/changes", get(containers::changes))
        .route("/containers/{id}/export", get(containers::export))
        .route("/containers/{id}/exec", post(execs::create))
        .route(
            "/containers/{id}/archive",
            head(containers::stat_archive).get(containers::get_archive).put(containers::put_archive),
        )
        .route("/exec/{id}/start", post(execs::start))
        .route("/exec/{id}/resize", post(execs::resize))
        .route("/exec/{id}/json", get(execs::inspect))
        .route("/commit", post(images::commit))
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/load", post(images::load))
        .route("/images/get", get(images::save_many))
        .route("/images/prune", post(images::prune))
        .route("/images/search", get(registry::search))
        .route("/auth", post(registry::login))
        .route("/distribution/{*rest}", get(registry::describe))
        // Names hold slashes, so the last word of the path tells what is asked.
        .route("/images/{*rest}", get(images::get_by_name).post(images::post_by_name).delete(images::remove))
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{id}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{id}/connect", post(networks::connect))
        .route("/networks/{id}/disconnect", post(networks::disconnect))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route("/volumes/{name}", get(volumes::inspect).delete(volumes::remove))
        .route("/plugins", get(no_plugins))
        .fallback(unknown)
        .with_state(engine)
}

/// Docker's list of plugins, which are none here.
async fn no_plugins() -> Response {
    axum::Json([(); 0]).into_response()
}

/// What the table of endpoints has let through and nobody answers; a test sees to it that there is nothing.
async fn unknown() -> ApiError {
    ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() }
}
