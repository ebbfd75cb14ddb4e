//! Containers from creation to removal: lifecycle, logs, events, health, restart, and the state
//! that outlives the daemon.
//!
//! It knows Docker's behaviour but not its wire form, and no HTTP. Images come from `image-store`,
//! processes from `oci-runtime`. Start with [`lifecycle`] for the states, then [`Engine`].

mod archive;
mod attach;
mod container;
mod create;
mod delegation;
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
mod mount_points;
mod names;
pub mod networks;
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
mod user_mounts;
mod volumes;
mod watch;

pub use archive::{PathInfo, PathKind, Unpacking};
pub use attach::Attached;
pub use create::{Begun, Created};
pub use delegation::enter_scope;
pub use engine::{Config, Engine};
pub use error::{Error, Result};
pub use events::{Event, Subject};
pub use exec::{ExecInfo, ExecOutput, ExecSpec, ExecStreams};
pub use health::{Health, HealthLog, HealthStatus};
pub use images::{Commit, Import};
pub use info::{ContainerDetails, ContainerInfo, MemberOf, Memo, MountInfo, SystemInfo};
pub use network::{Address, Endpoint, Protocol, Published, Range, Subnet};
pub use networks::{Attachments, NetworkInfo, NetworkRecord, endpoint_id};
pub use oci_runtime::monitor::protocol::Streams;
pub use remove::Removal;
pub use stop::Ended;
pub use top::ProcessTable;
pub use volumes::{ANONYMOUS, NewVolume, VolumeInfo};
