//! Calling the service: Windows' alone. This file picks.

#[cfg(not(windows))]
mod elsewhere;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
pub(crate) use elsewhere::look;
#[cfg(not(windows))]
pub use elsewhere::{Identity, Library, free_space};
#[cfg(windows)]
pub use windows::{Identity, Library, Network, disk, free_space, pipe, serve, socket};
#[cfg(windows)]
pub(crate) use windows::{Myself, look};
