//! The window in a browser: its files, its commands and its topics on a loopback address.
//!
//! Whoever can reach this can do what the engine can, so it asks for three things: the right `Host`
//! (a foreign name that resolves to this address is no way in), the right `Origin` for everything
//! that acts, and a cookie that is handed out once, for a token only the printed address holds.

mod access;
mod assets;
mod socket;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use crate::ui::{Command, Session, UiError};
use access::Access;
pub use assets::Assets;

/// The largest command.
const BODY_LIMIT: usize = 1 << 20;

/// A UI that could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program was built without `ui/dist`.
    #[error("failed to serve the window: this program was built without it")]
    NotBuilt,
    /// The folder given holds no UI.
    #[error("failed to serve the window: {path} has no index.html", path = path.display())]
    NoIndex {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// The address can't be had.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An address others can reach.
    #[error("failed to listen on {address}: it can be reached from other computers")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// No randomness, so no token.
    #[error("failed to make a token")]
    Token {
        /// Why.
        #[source]
        source: rand::rand_core::OsError,
    },
    /// Serving ended.
    #[error("failed to go on serving the window")]
    Serve {
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> model::ErrorKind {
        match self {
            Self::NotBuilt | Self::NoIndex { .. } => model::ErrorKind::Unsupported,
            Self::NotLoopback { .. } => model::ErrorKind::InvalidArgument,
            Self::Listen { .. } => model::ErrorKind::Conflict,
            Self::Token { .. } | Self::Serve { .. } => model::ErrorKind::Internal,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotBuilt => {
                Some("in a clone: npm --prefix ui ci && npm --prefix ui run build && cargo build --release")
            }
            Self::NoIndex { .. } => Some("build it with: npm --prefix ui run build"),
            Self::NotLoopback { .. } => Some("use 127.0.0.1, and ssh -L to reach it from elsewhere"),
            Self::Listen { .. } => Some("choose another port, or none to get a free one"),
            Self::Token { .. } | Self::Serve { .. } => None,
        }
    }
}

/// A UI about to be served.
#[derive(Debug)]
pub struct Web {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    access: Access,
    assets: Assets,
}

impl Web {
    /// Listens on `address`, port 0 for any free one.
    ///
    /// # Errors
    /// There is no UI, the address can't be had or is none of this computer's own.
    pub async fn bind(address: SocketAddr, assets: Assets, session: Session) -> Result<Self, Error> {
        if !address.ip().is_loopback() {
            return Err(Error::NotLoopback { address });
        }
        let listen = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let access = Access::new(address).map_err(|source| Error::Token { source })?;
        Ok(Self { listener, address, shared: Arc::new(Shared { session, access, assets }) })
    }

    /// The address to open, once: it holds the token. The part after `#` stays in the browser and is
    /// in no log.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/#token={}", self.address, self.shared.access.token())
    }

    /// Serves until `shutdown`, then waits for answers under way.
    ///
    /// # Errors
    /// The listener breaks.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let open = Router::new().route("/session", post(access::exchange)).fallback(get(assets::file));
        let closed = Router::new()
            .route("/rpc", post(rpc))
            .route("/ws", get(socket::upgrade))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.shared), access::require_cookie));
        let app = open
            .merge(closed)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.shared), access::require_origin))
            .layer(middleware::from_fn_with_state(self.address, secure))
            .with_state(self.shared);
        let serve = axum::serve(self.listener, app).with_graceful_shutdown(shutdown);
        serve.await.map_err(|source| Error::Serve { source })
    }
}

async fn rpc(State(shared): State<Arc<Shared>>, body: axum::body::Bytes) -> Response {
    let command = match serde_json::from_slice::<Command>(&body) {
        Ok(command) => command,
        Err(error) => {
            let error = UiError::new(model::ErrorKind::InvalidArgument, format!("no such command: {error}"));
            return failure(StatusCode::BAD_REQUEST, &error);
        }
    };
    match shared.session.call(command).await {
        Ok(reply) => axum::Json(reply).into_response(),
        Err(error) => failure(StatusCode::UNPROCESSABLE_ENTITY, &error),
    }
}

fn failure(status: StatusCode, error: &UiError) -> Response {
    (status, axum::Json(error)).into_response()
}

/// The headers every answer has.
async fn secure(State(address): State<SocketAddr>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let port = address.port();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         font-src 'self'; connect-src 'self' ws://127.0.0.1:{port} ws://localhost:{port}; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
