//! Machines: what they are, where their files are, which states they go through, and how each backend is started.
//!
//! Nothing runs in here but what QEMU is told by its own protocol ([`qmp`]): `cove-machine` (vm/supervisor) owns a
//! running machine and acts on what [`lifecycle`] decides. Start with [`config`] for what a machine is, [`lifecycle`]
//! for its states, [`backend`] for the programs that can be one, and [`control`] for what `cove` and a window ask.

pub mod acceleration;
pub mod backend;
pub mod config;
pub mod control;
mod error;
pub mod identity;
pub mod image;
pub mod lifecycle;
pub mod places;
pub mod qmp;
pub mod saved;
pub mod size;
pub mod stage;
pub mod status;
mod sys;

pub use error::Error;
