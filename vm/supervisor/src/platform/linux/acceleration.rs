//! Whether KVM works here: tried once after each start of the computer, because a device that is there may still hang.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vm_manager::backend::{Acceleration, qemu};
use vm_manager::config::Backend;
use vm_manager::image::Manifest;

/// How long a kernel without a root may take to panic: a tenth of a second is usual.
const DEADLINE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What `backend` runs with; `machines` keeps what was found out, `kernel` is the image's.
///
/// # Errors
/// QEMU is missing, or the kernel is in no image.
pub(crate) fn find(backend: Backend, machines: &Path, kernel: &Path) -> Result<Acceleration> {
    if backend == Backend::Uml {
        return Ok(Acceleration::Native);
    }
    let wanted = std::env::var("COVE_ACCELERATION").unwrap_or_default();
    // KVM runs what is for this computer's architecture.
    let is_own = match kernel.parent() {
        Some(image) => Manifest::read(image)?.architecture == std::env::consts::ARCH,
        None => false,
    };
    let is_there = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if wanted == "tcg" || !is_own || !is_there {
        return Ok(Acceleration::Tcg);
    }
    if wanted == "kvm" {
        return Ok(Acceleration::Kvm);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let record = machines.join(".kvm");
    let known = fs::read_to_string(&record).unwrap_or_default();
    let works = match known.split_once(' ') {
        Some((when, answer)) if when == boot.trim() => answer.trim() == "works",
        _ => {
            let works = try_it(kernel)?;
            let text = format!("{} {}\n", boot.trim(), if works { "works" } else { "hangs" });
            // Found out again next time, if it can't be kept.
            let _ = stdx::fs::write_atomic(&record, text.as_bytes(), stdx::fs::Durability::Process);
            works
        }
    };
    Ok(if works { Acceleration::Kvm } else { Acceleration::Tcg })
}

fn try_it(kernel: &Path) -> Result<bool> {
    let mut command = qemu::probe(kernel)?;
    super::sys::tie(&mut command, None);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("failed to start QEMU")?;
    let begin = Instant::now();
    while begin.elapsed() < DEADLINE {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}
