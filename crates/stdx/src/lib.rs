//! What the standard library lacks and several packages need: durable file writes, room
//! kept on a disk, who has a port, child processes with an explicit environment, and descriptors sent over sockets.
//!
//! Nothing about containers in here. Start with [`fs`].

pub mod fs;
pub mod port;
pub mod process;
pub mod reserve;
pub mod socket;
