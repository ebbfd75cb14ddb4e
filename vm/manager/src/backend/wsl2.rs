//! WSL2: our system as a distribution in Microsoft's machine (`vm/hyperv`). Its kernel, processors, memory and network are
//! shared with the user's other distributions, and are Windows' to set.

use super::{Capabilities, Wire};
use crate::config::Backend;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    // To Windows, by WSL itself.
    gives_memory_back: true,
    saves: false,
    many_cpus: true,
    // Whoever is root in one distribution is it in all.
    is_wall: false,
    has_qmp: false,
    has_disk: false,
    has_rosetta: false,
    tells_changes: false,
    wire: Wire::Own,
    images: Backend::Wsl2,
};

/// Whose word on sizes counts.
pub(super) const SIZES: &str = "WSL gives its processors and memory to all distributions alike, and each a disk that grows: \
                                what is said of these changes nothing, and .wslconfig does";
