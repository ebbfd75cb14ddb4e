//! Hyper-V: a machine of our own, which Windows' Host Compute Service runs (`vm/hyperv`).

use super::{Capabilities, Wire, kernel_options};
use crate::config::Backend;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    // The guest's driver says what is free, and the document that it may.
    gives_memory_back: true,
    saves: true,
    many_cpus: true,
    is_wall: true,
    has_qmp: false,
    has_disk: true,
    has_rosetta: false,
    tells_changes: false,
    wire: Wire::Own,
    // Its kernels have the drivers of both.
    images: Backend::Qemu,
};

/// The port of the host's at which shared folders are served.
pub const SHARES_PORT: u32 = 564;

/// Whose kernels have all drivers in them: with others the first process would have none for its disk.
pub const KERNEL: &str = "own";

/// What the guest's kernel is told. Of two kinds of vsock(7) that are built in, the one that is begun first takes the place of
/// the other, whether it has a device or not (`vsock_core_register`).
#[must_use]
pub fn options() -> String {
    format!(
        "{} initcall_blacklist=virtio_vsock_init cove.shares=9p:{SHARES_PORT}",
        kernel_options("/dev/sda", "/dev/sdb")
    )
}
