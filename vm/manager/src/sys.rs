//! What is another on each system: this file picks.

use crate::config::Backend;

/// Who can be a machine here.
#[cfg(target_os = "linux")]
pub(crate) const BACKENDS: &[Backend] = &[Backend::Qemu, Backend::Uml];
/// Who can be a machine here. Those of macOS and Windows are packages of their own (`vm/vz`, `vm/hyperv`), to which
/// nothing leads yet.
#[cfg(not(target_os = "linux"))]
pub(crate) const BACKENDS: &[Backend] = &[];
