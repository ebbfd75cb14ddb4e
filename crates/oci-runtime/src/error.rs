//! How the runtime fails: what it was doing, on what, and which kind of failure that is.

use std::io;

use model::ErrorKind;

/// A failure of the runtime. Its text names the step and the object; the cause is its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call refused.
    #[error("failed to {doing}")]
    Os {
        /// The step, as a verb and its object: `mount proc on /proc`.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The bundle or a request is malformed or contradicts itself.
    #[error("{what}")]
    Invalid {
        /// The field and what is wrong with it.
        what: String,
    },
    /// Asked for something this kernel or build does not offer.
    #[error("{what}")]
    Unsupported {
        /// What is missing, and for whom.
        what: String,
    },
    /// No container of this id.
    #[error("container {id} does not exist")]
    NotFound {
        /// The id asked for.
        id: String,
    },
    /// The container is not in a state that allows the operation.
    #[error("{what}")]
    State {
        /// Which state, and what it forbids.
        what: String,
    },
    /// The program to run is missing or can't be executed.
    #[error("exec: {path:?}")]
    Exec {
        /// `args[0]`.
        path: String,
        /// What execve said.
        #[source]
        source: io::Error,
    },
    /// A failure that the container's first process reported before its program ran.
    #[error("{message}")]
    Child {
        /// The whole chain, as text.
        message: String,
        /// Its errno, or 0.
        errno: i32,
        /// Whether it was the execve of the program itself that failed.
        is_exec: bool,
    },
}

/// Shorthand for the runtime's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Sorts the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Os { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Internal,
            },
            Self::Invalid { .. } | Self::Exec { .. } | Self::Child { is_exec: true, .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::State { .. } => ErrorKind::InvalidState,
            Self::Child { .. } => ErrorKind::Internal,
        }
    }

    /// The message with its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&describe(error));
            source = error.source();
        }
        text
    }

    /// A malformed input.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }
}

/// The kernel's words without Rust's `(os error N)`, as other runtimes print them.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = plain.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Says what was being done when an I/O error came.
pub(crate) trait Doing<T> {
    /// Names the step; evaluated only on failure.
    fn doing<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, step: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::Os { doing: step().into(), source: error.into() })
    }
}
