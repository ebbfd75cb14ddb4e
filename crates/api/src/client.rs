//! The typed client of an engine: one connection a request, streams and hijacked connections
//! included.
//!
//! A connection is driven by whoever waits for its answer or reads its body, so there is no task in
//! the background and dropping a [`Body`] or an [`Upgraded`] closes its socket. Operations are named
//! as Docker names them and live in [`containers`], [`execs`], [`images`], [`system`] and [`volumes`];
//! [`Client::request`] is for anything else.

pub mod body;
pub mod connect;
pub mod containers;
pub mod error;
pub mod execs;
pub mod frames;
pub mod images;
pub mod networks;
pub mod request;
pub mod system;
pub mod upgrade;
pub mod volumes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use http::Method;
pub use model::ErrorKind;

pub use body::{Body, JsonLines};
pub use connect::Endpoint;
pub use error::Error;
pub use frames::{Channel, FrameDecoder, FrameEnd};
pub use request::{Filters, Request, Response};
pub use upgrade::{Reader, Upgraded, Writer};

/// How long a connection may take to be made unless [`Client::with_connect_timeout`] says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Speaks Docker's API to the engine at one [`Endpoint`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    /// `/v1.43`, or nothing for the engine's own version.
    prefix: String,
    connect_timeout: Duration,
    /// What [`Self::connect_ahead`] opened, for the next request.
    ready: Arc<Mutex<Option<(Instant, connect::Socket)>>>,
}

/// How long a connection made ahead may lie before it is used; a server may close it.
const READY_FOR: Duration = Duration::from_secs(1);

impl Client {
    /// A client of the engine at `endpoint`; nothing is connected yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, prefix: String::new(), connect_timeout: CONNECT_TIMEOUT, ready: Arc::default() }
    }

    /// Speaks API version `version` (`1.43`) instead of the engine's newest.
    #[must_use]
    pub fn with_version(mut self, version: &str) -> Self {
        self.prefix = format!("/v{version}");
        self
    }

    /// Gives up connecting after `timeout`.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Where the engine listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether somebody listens there: opens a connection and closes it.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Timeout`].
    pub async fn probe(&self) -> Result<(), Error> {
        self.open("connecting").await.map(drop)
    }

    /// As [`Self::probe`], but keeps the connection for a request that is made at once.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Timeout`].
    pub async fn connect_ahead(&self) -> Result<(), Error> {
        let socket = self.open("connecting").await?;
        *self.ready.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), socket));
        Ok(())
    }

    async fn connect(&self, what: &str) -> Result<connect::Socket, Error> {
        let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((_, socket)) = ready.filter(|(opened, _)| opened.elapsed() < READY_FOR) {
            return Ok(socket);
        }
        self.open(what).await
    }

    async fn open(&self, what: &str) -> Result<connect::Socket, Error> {
        match tokio::time::timeout(self.connect_timeout, self.endpoint.connect()).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(source)) => Err(Error::Connect { endpoint: self.endpoint.clone(), source }),
            Err(_) => Err(Error::Timeout {
                endpoint: self.endpoint.clone(),
                what: what.to_owned(),
                after: self.connect_timeout,
            }),
        }
    }

    /// A request for `path` (`/containers/json`), without version and query.
    pub fn request(&self, method: Method, path: &str) -> Request<'_> {
        Request::new(self, method, path)
    }

    pub(crate) fn get(&self, path: &str) -> Request<'_> {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Request<'_> {
        self.request(Method::POST, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Request<'_> {
        self.request(Method::DELETE, path)
    }
}

#[cfg(test)]
mod tests;
