//! What macOS says of Rosetta, and has it install.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use objc2::available;
use objc2_virtualization::{VZLinuxRosettaAvailability, VZLinuxRosettaDirectoryShare};

use super::failure::Failure;
use super::queue::done;
use crate::rosetta::Rosetta;

/// How long its installation may take: macOS asks the user, and downloads it.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Whether guests can have it.
#[must_use]
#[expect(unsafe_code, reason = "the framework's call has no safe form")]
pub fn rosetta() -> Rosetta {
    if !available!(macos = 13.0) {
        return Rosetta::Unsupported;
    }
    // SAFETY: the class is there since macOS 13, and the call takes nothing.
    let availability = unsafe { VZLinuxRosettaDirectoryShare::availability() };
    match availability {
        VZLinuxRosettaAvailability::Installed => Rosetta::Installed,
        VZLinuxRosettaAvailability::NotInstalled => Rosetta::NotInstalled,
        _ => Rosetta::Unsupported,
    }
}

/// Has macOS install it, which asks the user.
///
/// # Errors
/// It can't be had here, the user said no, or the download failed.
#[expect(unsafe_code, reason = "the framework's call has no safe form")]
pub fn install_rosetta() -> Result<(), Failure> {
    let doing = "install Rosetta";
    if rosetta() == Rosetta::Unsupported {
        return Err(Failure::Lacking { doing, what: "Rosetta" });
    }
    let (tell, told) = sync_channel(1);
    let done = done(doing, tell);
    // SAFETY: the class is there since macOS 13, and the block is copied by the framework.
    unsafe { VZLinuxRosettaDirectoryShare::installRosettaWithCompletionHandler(&done) };
    told.recv_timeout(PATIENCE).map_err(|_| Failure::Silent { doing, after: PATIENCE })?
}
