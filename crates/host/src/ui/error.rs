//! Errors as a window shows them.

use model::ErrorKind;
use serde::{Deserialize, Serialize};

/// A failure: what failed, what to do, and what folds out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct UiError {
    /// What sort of failure.
    pub kind: Kind,
    /// What failed, on what, and why.
    pub message: String,
    /// What the user can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub hint: Option<String>,
    /// What a developer wants to see: causes, or the end of a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub detail: Option<String>,
}

/// [`ErrorKind`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each is ErrorKind's variant of the same name")]
pub enum Kind {
    InvalidArgument,
    NotFound,
    Conflict,
    InvalidState,
    Unsupported,
    Permission,
    Timeout,
    Cancelled,
    Unavailable,
    Internal,
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidArgument => Self::InvalidArgument,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::InvalidState => Self::InvalidState,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Permission => Self::Permission,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Internal => Self::Internal,
        }
    }
}

impl UiError {
    /// A failure without more to say.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), hint: None, detail: None }
    }

    /// The same with something to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for UiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UiError {}

/// The causes of an error, one a line.
fn causes(error: &dyn std::error::Error) -> Option<String> {
    let causes: Vec<_> =
        std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string).collect();
    (!causes.is_empty()).then(|| causes.join("\n"))
}

impl From<api::client::Error> for UiError {
    fn from(error: api::client::Error) -> Self {
        Self { kind: error.kind().into(), message: error.to_string(), hint: None, detail: causes(&error) }
    }
}

impl From<crate::Error> for UiError {
    fn from(error: crate::Error) -> Self {
        Self {
            kind: error.kind().into(),
            message: error.to_string(),
            hint: error.hint(),
            detail: error.log_tail().map(str::to_owned).or_else(|| causes(&error)),
        }
    }
}
