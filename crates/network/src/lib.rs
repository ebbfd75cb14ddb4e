//! Networks of containers on one machine: bridges and interfaces of the host, addresses, published ports,
//! the firewall between them and the rest, and the resolver that knows their names.
//!
//! Linux, synchronous but for the resolver: callers run it beside their event loop. Root's networks are this
//! computer's; a user's are in a namespace that a small process holds for them ([`Place`]). A container's
//! network namespace is made here and handed over as a descriptor; nothing is mounted, so that it goes with
//! the container's last process, and its end of the bridge with it. Start with [`Networks`].

mod conntrack;
pub mod dns;
pub mod error;
mod firewall;
pub mod holder;
mod ipam;
mod namespace;
mod netlink;
mod network;
mod networks;
mod nfnetlink;
mod outside;
mod place;
mod ports;
mod sys;

pub use error::{Error, Result};
pub use ipam::{Range, Subnet};
pub use namespace::Namespace;
pub use network::{Address, Config, Endpoint, IpvlanMode, Kind, MacvlanMode, Request};
pub use networks::Networks;
pub use outside::has_pasta;
pub use place::Place;
pub use ports::{Port, Protocol, Published};
