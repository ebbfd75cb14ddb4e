//! macOS' Virtualization.framework: no program, but a machine in its supervisor's own process (`vm/vz`).

use super::{Capabilities, Wire, kernel_options};
use crate::config::Backend;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    // What is taken back is what we ask the guest for.
    gives_memory_back: false,
    saves: true,
    many_cpus: true,
    is_wall: true,
    has_qmp: false,
    has_disk: true,
    has_rosetta: true,
    tells_changes: false,
    wire: Wire::Own,
    // The same devices of virtio's, found on the same bus.
    images: Backend::Qemu,
};

/// What the guest's kernel is told.
#[must_use]
pub fn options() -> String {
    format!("console=hvc0 {}", kernel_options("/dev/vda", "/dev/vdb"))
}
