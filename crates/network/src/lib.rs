//! Networks of containers on one machine: a bridge, addresses, published ports, and the firewall
//! between them and the rest.
//!
//! Linux, root, synchronous: callers run it beside their event loop. A container's network namespace is
//! made here and handed over as a descriptor; nothing is mounted, so that it goes with the container's
//! last process, and its end of the bridge with it. Start with [`Bridge`].

mod bridge;
pub mod error;
mod firewall;
mod ipam;
mod namespace;
mod netlink;
mod ports;
mod sys;

pub use bridge::{Attachment, Bridge, Config, Endpoint};
pub use error::{Error, Result};
pub use ipam::Subnet;
pub use ports::{Port, Protocol, Published};
