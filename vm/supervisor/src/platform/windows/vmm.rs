//! The machine itself, of either kind.

use super::{hcs, wsl};

/// A running one.
#[derive(Debug)]
pub(crate) enum Vmm {
    /// WSL's program.
    Wsl(wsl::Vmm),
    /// Hyper-V's.
    Hcs(hcs::Vmm),
}

impl Vmm {
    /// The process here that stands for it.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Wsl(vmm) => vmm.pid(),
            // Its own is Windows', and is told nobody.
            Self::Hcs(_) => std::process::id(),
        }
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        match self {
            Self::Wsl(vmm) => vmm.kill(),
            Self::Hcs(vmm) => vmm.kill(),
        }
    }

    /// Lets it stand still.
    pub(crate) fn stop(&self) {
        match self {
            // A machine that others share can't.
            Self::Wsl(_) => {
                tracing::warn!(
                    "this computer's disk is full, and a machine of WSL's can't be made to wait for room"
                );
            }
            Self::Hcs(vmm) => vmm.stop(),
        }
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        match self {
            Self::Wsl(_) => {}
            Self::Hcs(vmm) => vmm.go_on(),
        }
    }

    /// Whether it stands still: by us, for nobody else can have it do so.
    pub(crate) fn stands_still(&self) -> bool {
        match self {
            Self::Wsl(_) => false,
            Self::Hcs(vmm) => vmm.stands_still(),
        }
    }

    /// Windows does not tell whose is which.
    #[expect(clippy::unused_self, reason = "elsewhere it is known")]
    pub(crate) fn memory(&self) -> Option<u64> {
        None
    }
}
