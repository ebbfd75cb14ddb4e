//! Where an engine's networks are: in this computer's own network, or, of a user's engine, in one of its own.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::holder::Holder;
use crate::namespace::inside;
use crate::netlink::Netlink;
use crate::nfnetlink::Nftables;
use crate::ports::Protocol;

/// The network namespace of an engine's bridges and rules.
#[derive(Debug)]
pub struct Place {
    /// Whether it is one of the engine's own.
    is_own: bool,
    holder: Holder,
}

impl Place {
    /// This computer's own, which needs root. What rules can't lead on is carried by a process that `runtime`
    /// (`cove-runtime`) starts when there is such a port.
    #[must_use]
    pub fn of_host(state_dir: PathBuf, runtime: PathBuf) -> Self {
        Self { is_own: false, holder: Holder::new(state_dir, runtime, false) }
    }

    /// One of a user's engine, which outlives the daemon: whom `state_dir` belongs to, held by `runtime`
    /// (`cove-runtime`). Nothing is made yet.
    #[must_use]
    pub fn own(state_dir: PathBuf, runtime: PathBuf) -> Self {
        Self { is_own: true, holder: Holder::new(state_dir, runtime, true) }
    }

    /// Who holds it, where it is not this computer's.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.is_own.then_some(&self.holder)
    }

    /// Who carries what arrives at an address of this computer, where rules don't lead it on: everything, to a
    /// network of the engine's own; else what comes from this computer by `::1`, which the kernel does not
    /// route from there.
    pub(crate) fn carrier(&self, at: IpAddr, protocol: Protocol) -> Option<&Holder> {
        let is_local6 = at.is_ipv6() && (at.is_unspecified() || at.is_loopback());
        (protocol != Protocol::Sctp && (self.is_own || is_local6)).then_some(&self.holder)
    }

    /// All that carries anything.
    pub(crate) fn any_carrier(&self) -> &Holder {
        &self.holder
    }

    /// Whether it is there; looks for one that a daemon before this one has made.
    pub(crate) fn is_there(&self) -> bool {
        self.holder().is_none_or(Holder::find)
    }

    /// Runs a function there: here, or on a thread of its own. It is made if need be.
    pub(crate) fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> io::Result<T> {
        match self.holder() {
            None => Ok(function()),
            Some(holder) => inside(holder.namespace()?, || Ok(function())),
        }
    }

    /// A socket there.
    pub(crate) fn netlink(&self) -> io::Result<Netlink> {
        self.run(Netlink::open)?
    }

    /// A socket there.
    pub(crate) fn nftables(&self) -> io::Result<Nftables> {
        self.run(Nftables::open)?
    }
}
