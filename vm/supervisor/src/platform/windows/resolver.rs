//! The resolver: Windows tells the guest of it, WSL by a file and Hyper-V by DHCP, and follows it as it changes.

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
