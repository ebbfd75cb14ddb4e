//! What a machine is made with on this system. Each has the same names here, and nobody else asks which it is:
//!
//! ```text
//! make(Beginning, Record) ──> Made { making, devices, … }
//!                                      └──start──> Started { vmm, saving, waking }
//!                                                                           └──wake──> one that was saved goes on
//! ```
//!
//! [`Channel`] reaches the guest, [`Devices`] are the others it has, [`Vmm`] is the machine itself, and [`Saving`] is
//! what it takes to save it or change its sizes.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    Channel, Devices, Made, Saving, Started, Vmm, check, make, record, resolver, share_blocks,
};
#[cfg(target_os = "macos")]
pub(crate) use macos::{
    Channel, Devices, Made, Saving, Started, Vmm, check, make, record, resolver, share_blocks,
};
