//! What the host tells the guest to be: its name, its clock, whom it trusts.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::time::{ClockId, Timespec, clock_settime};

/// Certificates that come with the image, and those with the host's added.
const IMAGE_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Sets the clock.
pub(crate) fn set_time(nanoseconds: u64) -> Result<()> {
    let time = Duration::from_nanos(nanoseconds);
    let time = Timespec { tv_sec: i64::try_from(time.as_secs())?, tv_nsec: time.subsec_nanos().into() };
    clock_settime(ClockId::Realtime, time).context("failed to set the clock")
}

/// Has random numbers come from what only this start knows too: a guest that begins from a saved state has the
/// generator of every other that did.
pub(crate) fn add_entropy(bytes: &[u8]) -> Result<()> {
    ensure!(!bytes.is_empty(), "the host has no entropy");
    crate::sys::add_entropy(bytes).context("failed to add to the kernel's entropy")
}

/// Sets the guest's name.
pub(crate) fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).context("failed to set the host name")
}

/// Adds the host's certificates to the image's.
pub(crate) fn trust(certificates: &str) -> Result<()> {
    if certificates.is_empty() {
        return Ok(());
    }
    let mut file = fs::OpenOptions::new().append(true).create(true).open(IMAGE_CERTIFICATES)?;
    file.write_all(certificates.as_bytes()).context("failed to write the host's certificates")
}

/// Lets go of what is only cached, so that the host gets its memory back.
pub(crate) fn drop_caches() {
    rustix::fs::sync();
    // A kernel without one of them has nothing to let go of.
    for (path, value) in [("/proc/sys/vm/drop_caches", "3"), ("/proc/sys/vm/compact_memory", "1")] {
        let _ = fs::write(path, value);
    }
}
