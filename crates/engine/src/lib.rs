//! Containers from creation to removal: lifecycle, logs, events, health, restart, and the state
//! that outlives the daemon.
//!
//! It knows Docker's behaviour but not its wire form, and no HTTP. Images come from `image-store`,
//! processes from `oci-runtime`. Start with [`lifecycle`] for the states, then [`Engine`].

mod archive;
mod attach;
mod bridge;
mod container;
mod create;
mod engine;
pub mod error;
pub mod events;
mod exec;
mod health;
mod images;
mod info;
pub mod lifecycle;
mod link;
pub mod logs;
mod names;
mod oci;
mod prune;
mod reconcile;
mod registry;
mod remove;
mod start;
pub mod stats;
mod stop;
mod store;
mod top;
mod update;
mod watch;

pub use archive::{PathInfo, PathKind};
pub use attach::Attached;
pub use create::Created;
pub use engine::{Config, Engine};
pub use error::{Error, Result};
pub use events::{Event, Subject};
pub use exec::{ExecInfo, ExecOutput, ExecSpec, ExecStreams};
pub use health::{Health, HealthLog, HealthStatus};
pub use images::{Commit, Import};
pub use info::{ContainerInfo, SystemInfo};
pub use network::{Endpoint, Protocol, Published, Subnet};
pub use oci_runtime::monitor::protocol::Streams;
pub use stop::Ended;
pub use top::ProcessTable;

/// What a user's mount is, as `inspect` shows it.
pub use crate::engine::MountPoint;
