//! Calling the service: Windows' alone. This file picks.

#[cfg(not(windows))]
mod elsewhere;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
pub use elsewhere::{Identity, Library, free_space, look};
#[cfg(windows)]
pub use windows::{Identity, Library, disk, free_space, look, pipe, serve, socket};
