//! The resolver, where the system follows it as it changes: macOS answers at the way out with whatever is its own at the
//! time, and Windows tells the guest, WSL by a file and Hyper-V by DHCP.

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
