//! Linux machines on macOS, by Apple's Virtualization.framework: boot, disks, shares, vsock, the way out, memory that is
//! given back, Rosetta, and saved state.
//!
//! What a machine is and when it starts is decided elsewhere (`vm/manager`). All calls and callbacks of the framework are
//! made on one serial queue a machine, which is hidden in here, as is all `unsafe`. A program that uses it must be signed
//! with the entitlement `com.apple.security.virtualization`, if only ad hoc. Start with [`Spec`], then `Machine`.
//!
//! Nothing of it has been run so far: it is type-checked.

#[cfg(target_os = "macos")]
mod macos;
mod rosetta;
mod spec;

#[cfg(target_os = "macos")]
pub use macos::{Ended, Failure, Machine, install_rosetta, is_supported, new_identity, rosetta};
pub use rosetta::Rosetta;
pub use spec::{Disk, Share, Spec, WrongSpec};
