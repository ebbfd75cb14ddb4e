//! How networking fails: what was being done, on what.

use std::io;

use model::ErrorKind;

/// A failure of a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call or netlink request refused.
    #[error("failed to {doing}: {source}")]
    Os {
        /// The step, as a verb and its object.
        doing: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A request that can't be met as it stands.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// A port somebody else has.
    #[error("{what}")]
    Taken {
        /// Which, and who has it.
        what: String,
    },
    /// Something that can't be had beside what is there.
    #[error("{what}")]
    Conflict {
        /// Both of them.
        what: String,
    },
    /// Something this machine does not have.
    #[error("{what}")]
    Unsupported {
        /// What is missing, and what to do about it.
        what: String,
    },
}

/// Shorthand for this package's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Sorts the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Os { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorKind::Permission
            }
            Self::Os { .. } | Self::Taken { .. } => ErrorKind::Internal,
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
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
