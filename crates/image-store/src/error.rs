//! How the image store fails. Texts that Docker's clients know are Docker's.

use std::io;
use std::path::PathBuf;

use model::ErrorKind;

/// A failure of the image store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image of this name or id.
    #[error("No such image: {name}")]
    NoSuchImage {
        /// As the caller wrote it.
        name: String,
    },
    /// A prefix that fits several images.
    #[error("multiple images match the id prefix {prefix}")]
    AmbiguousId {
        /// As the caller wrote it.
        prefix: String,
    },
    /// The image is needed.
    #[error("conflict: unable to {what}")]
    InUse {
        /// What can't be done, and who needs the image.
        what: String,
    },
    /// A name or request is malformed.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// The registry has no such image, or hides it.
    #[error("{what}")]
    NotFound {
        /// What is missing where.
        what: String,
    },
    /// The registry refuses these credentials, or wants some.
    #[error("{what}")]
    Denied {
        /// What is refused.
        what: String,
    },
    /// The registry can't be reached, or broke off.
    #[error("{what}")]
    Unavailable {
        /// Who, and how it failed.
        what: String,
    },
    /// An image this program can't run or unpack.
    #[error("{what}")]
    Unsupported {
        /// What about it.
        what: String,
    },
    /// Content that is not what its digest, its length or its format says.
    #[error("{what}")]
    Corrupt {
        /// Which content, and how it differs.
        what: String,
    },
    /// A file operation refused.
    #[error("failed to {doing}: {source}")]
    Os {
        /// The step and its object.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An entry of a layer can't be unpacked.
    #[error("failed to unpack {path:?}: {source}")]
    Unpack {
        /// The entry's name.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The index database.
    #[error("failed to {doing} in the image database: {source}")]
    Database {
        /// The step.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

/// Shorthand for the store's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Sorts the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchImage { .. } | Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AmbiguousId { .. } | Self::Invalid { .. } => ErrorKind::InvalidArgument,
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::Denied { .. } => ErrorKind::Permission,
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Corrupt { .. } | Self::Os { .. } | Self::Unpack { .. } | Self::Database { .. } => {
                ErrorKind::Internal
            }
        }
    }

    /// Whether it is about what was sent or kept, not about this machine.
    pub(crate) fn is_of_content(&self) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        match self {
            Self::Corrupt { .. } => true,
            Self::Unpack { source, .. } | Self::Os { source, .. } => {
                matches!(source.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
            }
            _ => false,
        }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
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
