//! What can go wrong when a device is made; what goes wrong later concerns one monitor or one stream.

use std::io;
use std::path::PathBuf;

/// The result of making a device.
pub type Result<T> = std::result::Result<T, Error>;

/// A device could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The socket for the monitor could not be made.
    #[error("failed to listen at {}", path.display())]
    Listen {
        /// Where the monitor was to connect to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A resource of the host's kernel was not to be had.
    #[error("failed to {action} for a device")]
    Resource {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The folder to share can't be shared.
    #[error("failed to share {}", root.display())]
    Root {
        /// The folder.
        root: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The guest could not name the share so.
    #[error("the tag {tag:?} of a share must have 1 to 36 bytes")]
    Tag {
        /// The tag asked for.
        tag: String,
    },
}
