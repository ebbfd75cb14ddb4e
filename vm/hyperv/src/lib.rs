//! Linux machines on Windows, by either of its two ways: the Host Compute Service ([`hcs`]), which runs a machine of our
//! own, and WSL2 ([`wsl`]), which runs our files in Microsoft's.
//!
//! What a machine is and when it starts is decided elsewhere (`vm/manager`). Start with [`choice`] for which of the two
//! is taken and why, then [`hcs::Machine`] and [`wsl::Wsl`].

pub mod choice;
pub mod hcs;
mod sys;
pub mod wsl;

pub use sys::free_space;
