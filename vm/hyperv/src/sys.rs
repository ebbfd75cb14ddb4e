//! Calling the service: Windows' alone. This file picks.

#[cfg(not(windows))]
mod elsewhere;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
pub use elsewhere::{Library, free_space};
#[cfg(windows)]
pub use windows::{Library, free_space};
