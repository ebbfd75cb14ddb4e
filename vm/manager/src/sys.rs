//! What is another on each system: this file picks.

use crate::config::Backend;

/// Who can be a machine here.
#[cfg(target_os = "linux")]
pub(crate) const BACKENDS: &[Backend] = &[Backend::Qemu, Backend::Uml];
/// Who can be a machine here.
#[cfg(target_os = "macos")]
pub(crate) const BACKENDS: &[Backend] = &[Backend::Vz];
/// Who can be a machine here.
#[cfg(windows)]
pub(crate) const BACKENDS: &[Backend] = &[Backend::Wsl2, Backend::HyperV];

/// Whether a rename is on disk when its folder was synced: Windows has no call for that.
pub(crate) const SYNCS_FOLDERS: bool = cfg!(unix);

/// Whether files of a file system may be executed.
#[cfg(target_os = "linux")]
pub(crate) fn may_execute_in(folder: &std::path::Path) -> bool {
    let flags = rustix::fs::statvfs(folder).map(|fs| fs.f_flag);
    flags.is_ok_and(|flags| !flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Whether files of a file system may be executed: no machine's are.
#[cfg(not(target_os = "linux"))]
pub(crate) fn may_execute_in(_: &std::path::Path) -> bool {
    false
}
