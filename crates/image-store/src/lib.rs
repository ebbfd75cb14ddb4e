//! Images: content from registries and archives, unpacked layers, and the writable snapshots of
//! containers.
//!
//! It knows registries and file systems, not containers: who uses an image, callers tell. Start
//! with [`ImageStore`]; [`Snapshot`] is what a container's root is made of.

mod archive;
mod commit;
mod config;
mod database;
mod error;
mod implied;
mod import;
pub mod instructions;
mod layer;
mod registry;
mod snapshot;
mod store;
mod welcome;

pub use archive::SavedForm;
pub use commit::CommitOptions;
pub use config::{History, ImageConfig};
pub use error::{Error, Result};
pub use import::ImportOptions;
pub use registry::{
    Auth, Described, Login, Progress, ProgressKind, PushOptions, Pushed, Registries, SearchResult,
    docker_config_auth,
};
pub use snapshot::{Change, ChangeKind, Snapshot};
pub use store::{Config, HistoryEntry, ImageRecord, ImageStore, ManifestKind, ManifestSummary, Removed};
