//! What a window needs of an engine, prepared so that it only has to be drawn.
//!
//! A window has two verbs: [`Session::call`] for a [`Command`] that is answered once, and
//! [`Session::open`] for a [`Topic`] that goes on. Both are closed sets whose types are written to
//! `ui/src/generated` by `cargo test -p host` with `COVE_GEN_TYPES=1`, and checked without it. How
//! they travel, over Tauri's IPC or a WebSocket, is the transport's business.

pub mod command;
pub mod connect;
pub mod error;
pub mod form;
mod hub;
pub mod image;
mod live;
mod logs;
pub mod machine;
pub mod network;
pub mod progress;
pub mod row;
pub mod run;
mod session;
mod stats;
mod terminal;
pub mod topic;
pub mod tray;
pub mod volume;

pub use command::{Command, Reply};
pub use error::UiError;
pub use hub::EngineState;
pub use session::Session;
pub use topic::{Input, Message, Subscription, Topic, Update};

#[cfg(test)]
mod types_tests;
