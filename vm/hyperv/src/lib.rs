//! Linux machines on Windows, by either of its two ways: the Host Compute Service ([`hcs`]), which runs a machine of our
//! own, and WSL2 ([`wsl`]), which runs our files in Microsoft's.
//!
//! What a machine is and when it starts is decided elsewhere (`vm/manager`). Start with [`choice`] for which of the two
//! is taken and why, then [`session`] for who gets a machine of our own and of what, [`hcs::Machine`] and [`wsl::Wsl`]. A user
//! who may make no machines asks the small service, the program `cove-service`, for the same sessions.

pub mod choice;
#[cfg(windows)]
pub mod connection;
pub mod guid;
pub mod hcn;
pub mod hcs;
pub mod hvsocket;
pub mod request;
pub mod session;
mod sys;
pub mod vhd;
pub mod wsl;

pub use sys::free_space;
#[cfg(windows)]
pub use sys::{Network, disk, pipe, serve, socket};
