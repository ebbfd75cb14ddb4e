//! The framework's side.

mod channel;
mod configuration;
mod events;
mod failure;
mod machine;
mod queue;
mod rosetta;

pub use configuration::new_identity;
pub use events::Ended;
pub use failure::Failure;
pub use machine::{Machine, is_supported};
pub use rosetta::{install_rosetta, rosetta};
