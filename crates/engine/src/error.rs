//! How the engine fails. Texts that Docker's clients know are Docker's.

use std::io;

use model::ErrorKind;

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container of this name or id.
    #[error("No such container: {name}")]
    NoSuchContainer {
        /// As the caller wrote it.
        name: String,
    },
    /// A prefix that fits several.
    #[error("Multiple IDs found with provided prefix: {prefix}")]
    AmbiguousId {
        /// As the caller wrote it.
        prefix: String,
    },
    /// No network of this name or id.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// As the caller wrote it.
        name: String,
    },
    /// What is never done.
    #[error("{what}")]
    Forbidden {
        /// What, and why not.
        what: String,
    },
    /// The name belongs to another container.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{by}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name asked for.
        name: String,
        /// The id of its owner.
        by: String,
    },
    /// No process of this id.
    #[error("No such exec instance: {id}")]
    NoSuchExec {
        /// As the caller wrote it.
        id: String,
    },
    /// No volume of this name, or no driver.
    #[error("{what}")]
    NoSuchVolume {
        /// What is missing, and for what.
        what: String,
    },
    /// The request is malformed or contradicts itself.
    #[error("{what}")]
    Invalid {
        /// What is wrong with which field.
        what: String,
    },
    /// The container's state does not allow it.
    #[error("{what}")]
    State {
        /// Which state forbids what.
        what: String,
    },
    /// Not offered by this build or host.
    #[error("{what}")]
    Unsupported {
        /// What is not offered, and for whom.
        what: String,
    },
    /// Something else is in the way.
    #[error("{what}")]
    Conflict {
        /// What is in the way.
        what: String,
    },
    /// A path in a container is missing.
    #[error("Could not find the file {path} in container {container}")]
    NoSuchPath {
        /// As the caller wrote it.
        path: String,
        /// As the caller wrote it.
        container: String,
    },
    /// The container's process could not be started.
    #[error("failed to start container {id}: {message}")]
    Start {
        /// The short id.
        id: String,
        /// The runtime's chain of causes.
        message: String,
        /// 126, 127 or 128, as a shell has it.
        exit_code: i32,
    },
    /// Images and layers.
    #[error(transparent)]
    Image(#[from] image_store::Error),
    /// The state database.
    #[error("failed to {doing} in the state database")]
    Store {
        /// The step.
        doing: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// A system call refused.
    #[error("failed to {doing}")]
    Os {
        /// The step and its object.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The runtime's own failure.
    #[error(transparent)]
    Runtime(#[from] oci_runtime::Error),
    /// A container's network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// Shorthand for the engine's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Sorts the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer { .. }
            | Self::NoSuchExec { .. }
            | Self::NoSuchPath { .. }
            | Self::NoSuchVolume { .. }
            | Self::NoSuchNetwork { .. } => ErrorKind::NotFound,
            Self::Forbidden { .. } => ErrorKind::Permission,
            Self::AmbiguousId { .. } | Self::Invalid { .. } | Self::Start { exit_code: 126 | 127, .. } => {
                ErrorKind::InvalidArgument
            }
            Self::NameTaken { .. } | Self::Conflict { .. } | Self::State { .. } => ErrorKind::Conflict,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Image(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Os { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::Permission
            }
            Self::Start { .. } | Self::Store { .. } | Self::Os { .. } => ErrorKind::Internal,
            Self::ShuttingDown => ErrorKind::Unavailable,
        }
    }

    /// The message with its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let cause = error.to_string();
            // The image store's messages end with their cause.
            if !text.ends_with(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            source = error.source();
        }
        text
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    pub(crate) fn state(what: impl Into<String>) -> Self {
        Self::State { what: what.into() }
    }
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
