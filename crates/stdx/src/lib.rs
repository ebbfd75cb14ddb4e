//! What the standard library lacks and several packages need: durable file writes, room
//! kept on a disk, who has a port, child processes with an explicit environment, and descriptors sent over sockets.
//!
//! Nothing about containers in here. Start with [`fs`]. What is not declared for all systems is used by Linux's alone.

pub mod fs;
pub mod port;
pub mod process;
#[cfg(target_os = "linux")]
pub mod reserve;
#[cfg(target_os = "linux")]
pub mod socket;
mod sys;
