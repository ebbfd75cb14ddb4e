//! Devices of a machine that this process serves itself over vhost-user, without privileges.
//!
//! A machine's monitor (QEMU 7.2 and later, User Mode Linux 7.2) connects to a unix socket for each device and shares
//! the guest's memory; from then on the device's queues are worked off here, on threads of our own:
//!
//! - [`Vsock`]: streams between host and guest, in both directions, handed over as unix sockets;
//! - [`Share`]: a folder of the host as a file system of the guest (virtiofs);
//! - [`Net`]: a network card whose frames a `passt` beside us turns into the user's sockets.
//!
//! It is not the monitor: it starts no programs and knows no command line. It has no event loop of others' making
//! (no tokio) and is for Linux hosts only; on others the package is empty.
//!
//! What a guest says is input from outside: it may hold up or break its own devices, never this process.
//!
//! Start reading at `vsock`'s `muxer.rs` (who decides), then `session.rs` (how a monitor comes and goes).
#![cfg(target_os = "linux")]

mod error;
mod net;
mod queue;
mod session;
mod share;
mod sys;
mod vsock;

pub use error::{Error, Result};
pub use net::Net;
pub use share::{Access, Event, EventKind, Events, Owner, Share, ShareConfig};
pub use vsock::Vsock;
