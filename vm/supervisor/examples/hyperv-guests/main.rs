//! `hyperv-guests FOLDER DRIVE`: serves guests of a Hyper-V that is made up, with their files in a folder, says at which port,
//! and ends with its input; `DRIVE` is the folder that is Windows' drive C. `cargo xtask cross wine` runs it.

/// QEMU's devices are served on Linux.
#[cfg(target_os = "linux")]
mod guests;

fn main() -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    return guests::run();
    #[cfg(not(target_os = "linux"))]
    anyhow::bail!("guests are served on Linux alone")
}
