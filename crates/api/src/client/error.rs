//! What can go wrong between a client and its engine.

use std::io;
use std::time::Duration;

use http::StatusCode;
use model::ErrorKind;

use super::connect::Endpoint;

/// A request that brought no answer, or an answer that was an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that is no address.
    #[error("{address:?} is not an engine's address: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Nobody listens there, or we may not go in.
    #[error("failed to connect to the engine at {endpoint}")]
    Connect {
        /// Where.
        endpoint: Endpoint,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The deadline of connecting or of the answer passed.
    #[error("the engine at {endpoint} did not answer {what} within {} s", after.as_secs_f32())]
    Timeout {
        /// Where.
        endpoint: Endpoint,
        /// Method and path.
        what: String,
        /// The deadline.
        after: Duration,
    },
    /// The request could not be put together.
    #[error("failed to build the request {what}")]
    Request {
        /// Method and path.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke, or what came back was not HTTP.
    #[error("failed to talk to the engine during {what}")]
    Transport {
        /// Method and path.
        what: String,
        /// hyper's reason.
        #[source]
        source: hyper::Error,
    },
    /// The engine refused.
    #[error("{message}")]
    Status {
        /// HTTP's status.
        status: StatusCode,
        /// The engine's sentence.
        message: String,
    },
    /// The engine answered with something else than what this call returns.
    #[error("failed to read the answer to {what}")]
    Decode {
        /// Method and path.
        what: String,
        /// Where the JSON went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A hijack was asked for and the engine answered with an ordinary answer.
    #[error("the engine did not hand over the connection for {what} (status {status})")]
    NotUpgraded {
        /// Method and path.
        what: String,
        /// What it answered.
        status: StatusCode,
    },
    /// An answer that must be held in memory grew beyond what can be meant.
    #[error("the answer to {what} is larger than {limit} bytes")]
    TooLarge {
        /// Method and path.
        what: String,
        /// The bound.
        limit: usize,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Address { .. } | Self::Request { .. } => ErrorKind::InvalidArgument,
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::Permission
            }
            Self::Connect { .. } | Self::Transport { .. } => ErrorKind::Unavailable,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::Status { status, .. } => kind_of(*status),
            Self::Decode { .. } | Self::TooLarge { .. } => ErrorKind::Internal,
            Self::NotUpgraded { .. } => ErrorKind::Unsupported,
        }
    }
}

/// The reverse of the engine's one table from kinds to HTTP.
fn kind_of(status: StatusCode) -> ErrorKind {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::NOT_ACCEPTABLE => ErrorKind::InvalidArgument,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Permission,
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::CONFLICT => ErrorKind::Conflict,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => ErrorKind::Timeout,
        StatusCode::NOT_IMPLEMENTED => ErrorKind::Unsupported,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}
