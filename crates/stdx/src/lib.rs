//! What the standard library lacks and several packages need: durable file writes and child
//! processes with an explicit environment.
//!
//! Nothing about containers in here. Start with [`fs`].

pub mod fs;
pub mod process;
