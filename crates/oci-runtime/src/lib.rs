//! Runs OCI bundles: namespaces, mounts, cgroups, seccomp, capabilities, and the monitor that stays
//! with each container.
//!
//! Linux only, one thread, no tokio: what is here runs between a daemon that must not fork and a
//! program that must not inherit anything. It knows nothing of images, names or Docker. Start
//! with [`launch`], which draws how a container comes to be.

pub mod capabilities;
pub mod cgroup;
mod channel;
pub mod cli;
mod clock;
pub mod container;
mod devices;
pub mod error;
pub mod filesystem;
mod holder;
mod hooks;
pub mod launch;
pub mod monitor;
mod mount_options;
mod namespaces;
mod process;
mod relay;
mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod sys;
pub mod users;

pub use error::{Error, Result};
pub use rootfs::Overlay;
