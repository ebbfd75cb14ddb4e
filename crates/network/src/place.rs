//! Where an engine's networks are: in this computer's own network, or, of a user's engine, in one of its own.

use std::io;
use std::path::PathBuf;

use crate::holder::Holder;
use crate::namespace::inside;
use crate::netlink::Netlink;
use crate::nfnetlink::Nftables;

/// The network namespace of an engine's bridges and rules.
#[derive(Debug)]
pub struct Place(Option<Holder>);

impl Place {
    /// This computer's own, which needs root.
    #[must_use]
    pub fn of_host() -> Self {
        Self(None)
    }

    /// One of a user's engine, which outlives the daemon: whom `state_dir` belongs to, held by `runtime`
    /// (`cove-runtime`). Nothing is made yet.
    #[must_use]
    pub fn own(state_dir: PathBuf, runtime: PathBuf) -> Self {
        Self(Some(Holder::new(state_dir, runtime)))
    }

    /// Who holds it, where it is not this computer's.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.0.as_ref()
    }

    /// Whether it is there; looks for one that a daemon before this one has made.
    pub(crate) fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(Holder::find)
    }

    /// Runs a function there: here, or on a thread of its own. It is made if need be.
    pub(crate) fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.0 {
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
