//! A machine's two disks: its system, which is the image with a footer, and its data.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_hyperv::disk::Disks;
use vm_hyperv::vhd;
use vm_manager::config::Config;
use vm_manager::image::Image;
use vm_manager::places::Places;

/// The file of an image that is the system, and what is made of it.
const SYSTEM: &str = "system.erofs";
const DISK: &str = "system.vhd";
/// How long Windows may take to let go of a disk whose machine has ended.
const GONE_DEADLINE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(100);

/// The disk that is an image's system.
pub(super) fn system(image: &Image) -> std::path::PathBuf {
    image.file(DISK)
}

/// Makes both, and lets the second grow. Blocks.
pub(crate) fn prepare(config: &Config, places: &Places, image: &Image) -> Result<()> {
    let (from, to, id) = (image.file(SYSTEM), system(image), id(&image.manifest.digest));
    let length =
        std::fs::metadata(&from).with_context(|| format!("failed to look at {}", from.display()))?.len();
    if !vhd::is_made_of(&to, length, id) {
        vhd::make(&from, &to, id).with_context(|| format!("failed to make {}", to.display()))?;
    }
    let free = super::super::free(&places.data).context("failed to look at the disk")?;
    let path = places.vhdx();
    ensure!(free > 16 << 20, "the disk that holds {} has only {} KiB left", path.display(), free >> 10);
    let disks = Disks::load()?;
    let prepared = match path.exists() {
        true => disks.grow(&path, config.disk),
        false => disks.create(&path, config.disk),
    };
    prepared.with_context(|| format!("failed to prepare {}", path.display()))
}

/// Gives back what a guest has deleted from its disk, once its machine has ended. That takes the longer the more it is. Blocks.
pub(super) fn give_back(places: &Places) {
    let path = places.vhdx();
    if !path.exists() {
        return;
    }
    let begin = Instant::now();
    let outcome = Disks::load().and_then(|disks| {
        loop {
            match disks.compact(&path) {
                Err(_) if begin.elapsed() < GONE_DEADLINE => std::thread::sleep(AGAIN),
                other => break other,
            }
        }
    });
    match outcome {
        Ok(()) => tracing::info!(took = ?begin.elapsed(), "what was deleted from the disk is given back"),
        Err(error) => tracing::warn!(%error, "what was deleted from the disk is not given back"),
    }
}

/// Has all that a guest takes for written be on disk, once its machine has ended. Blocks.
pub(super) fn sync(places: &Places) {
    let path = places.vhdx();
    let begin = Instant::now();
    let outcome = loop {
        match std::fs::File::options().write(true).open(&path).and_then(|file| file.sync_all()) {
            Err(_) if begin.elapsed() < GONE_DEADLINE => std::thread::sleep(AGAIN),
            other => break other,
        }
    };
    if let Err(error) = outcome {
        tracing::warn!(%error, "whether all of its disk is written is not known");
    }
}

/// What tells an image's disk from others': the beginning of its digest.
fn id(digest: &str) -> [u8; 16] {
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    let first = digits.get(..32).and_then(|digits| u128::from_str_radix(digits, 16).ok());
    first.unwrap_or(1).to_be_bytes()
}
