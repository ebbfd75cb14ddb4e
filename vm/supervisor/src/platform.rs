//! What a machine is made with on this system. Each has the same names here, and nobody else asks which it is:
//!
//! ```text
//! make(Beginning, Record) ──> Made { making, devices, … }
//!                                      └──start──> Started { vmm, saving, waking }
//!                                                                           └──wake──> one that was saved goes on
//! ```
//!
//! [`Channel`] reaches the guest, [`Devices`] are the others it has, [`Vmm`] is the machine itself, [`Saving`] is
//! what it takes to save it or change its sizes, and [`tree`] what the system tells of a folder's changes.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(target_os = "macos", windows))]
pub(crate) mod unchanging;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    Channel, Devices, Saving, Vmm, add_certificates, check, make, record, resolver, tree,
};
#[cfg(target_os = "linux")]
use linux::{Making, Waking, share_blocks};
#[cfg(target_os = "macos")]
pub(crate) use macos::{Channel, Devices, Saving, Vmm, add_certificates, check, make, record, tree};
#[cfg(target_os = "macos")]
use macos::{Making, Waking, share_blocks};
#[cfg(unix)]
pub(crate) use stdx::process::raise_open_files;
#[cfg(any(target_os = "macos", windows))]
pub(crate) use unchanging as resolver;
#[cfg(unix)]
pub(crate) use unix::{
    Accepted, HAS_DRIVES, Stream, accepted, attach, disk_taken, endpoint, free, open, prepare_disk,
    prepare_listener,
};
#[cfg(windows)]
pub(crate) use windows::{
    Accepted, Channel, Devices, HAS_DRIVES, Saving, Stream, Vmm, accepted, add_certificates, attach,
    certificates, check, disk_taken, endpoint, free, make, open, prepare_disk, prepare_listener,
    raise_open_files, record, tree,
};
#[cfg(windows)]
use windows::{Making, Waking};

use vm_proto::message::WayOut;

/// A machine that is not started yet, with its devices.
#[derive(Debug)]
pub(crate) struct Made {
    /// What it takes to start it.
    pub(crate) making: Making,
    pub(crate) devices: Devices,
    /// What the guest is told of its way out, if there is one.
    pub(crate) network: Option<WayOut>,
    /// The tag by which the guest finds Rosetta, if it has that.
    pub(crate) rosetta: Option<String>,
    pub(crate) resolver: resolver::Watch,
    pub(crate) warnings: Vec<String>,
}

/// One that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) vmm: Vmm,
    /// What it takes to save it, where that can be done.
    pub(crate) saving: Option<Saving>,
    /// It waits for that.
    pub(crate) waking: Option<Waking>,
}
