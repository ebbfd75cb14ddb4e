//! What is another on each system: this file picks.

use crate::config::Backend;

/// Who can be a machine here.
#[cfg(target_os = "linux")]
pub(crate) const BACKENDS: &[Backend] = &[Backend::Qemu, Backend::Uml];
/// Who can be a machine here. Those of macOS and Windows are packages of their own (`vm/vz`, `vm/hyperv`), to which
/// nothing leads yet.
#[cfg(not(target_os = "linux"))]
pub(crate) const BACKENDS: &[Backend] = &[];

/// Whether a machine's state can be saved here.
#[cfg(target_os = "linux")]
pub(crate) fn saves(backend: Backend) -> bool {
    crate::backend::capabilities(backend).saves
}
/// Whether a machine's state can be saved here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn saves(_: Backend) -> bool {
    false
}
