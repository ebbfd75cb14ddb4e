//! The resolver: the guest asks the way out for it, and macOS answers there with whatever is its own at the time.

use vm_proto::message::Resolver;

/// Whether the guest is to ask another.
#[derive(Debug)]
pub(crate) struct Watch;

impl Watch {
    /// It never is.
    #[expect(clippy::unused_self, reason = "elsewhere there is something to look at")]
    pub(crate) fn look(&mut self) -> Option<Resolver> {
        None
    }
}
