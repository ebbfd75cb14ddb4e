//! A kernel for aarch64 as an `Image`: not compressed, as QEMU takes it, and as Virtualization.framework must have it.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;

use crate::files;

/// Where an `Image` has its magic number, and the number (`Documentation/arch/arm64/booting.rst`).
const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");
/// What a compressed kernel has behind `MZ` that decompresses itself as an EFI program, and before that the place of what
/// it holds, its size, and how it is compressed (`drivers/firmware/efi/libstub/zboot-header.S`).
const ZBOOT: (usize, &[u8]) = (4, b"zimg");
const ZBOOT_PLACE: usize = 8;
const ZBOOT_SIZE: usize = 12;
const ZBOOT_KIND: usize = 24;
const GZIP: &[u8] = b"\x1f\x8b";

/// Writes a package's kernel as an `Image`.
pub(super) fn write(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    let image =
        image_of(bytes).with_context(|| format!("{} is no kernel that can be booted", from.display()))?;
    files::write(to, &image)
}

fn image_of(kernel: Vec<u8>) -> Result<Vec<u8>> {
    let has = |(at, magic): (usize, &[u8])| kernel.get(at..at + magic.len()) == Some(magic);
    if has(MAGIC) {
        return Ok(kernel);
    }
    if has((0, GZIP)) {
        return image_of(gunzip(&kernel)?);
    }
    if !has(ZBOOT) {
        bail!("it is neither an Image nor a compressed one");
    }
    let number = |at: usize| {
        let bytes = kernel.get(at..).and_then(|rest| rest.first_chunk()).copied();
        bytes.map(|bytes| u32::from_le_bytes(bytes) as usize).context("it is cut off")
    };
    let kind = kernel.get(ZBOOT_KIND..).unwrap_or_default().split(|byte| *byte == 0).next();
    let kind = String::from_utf8_lossy(kind.unwrap_or_default());
    if kind != "gzip" {
        bail!("it is compressed by {kind:?}, and nothing but gzip is known here");
    }
    let place = number(ZBOOT_PLACE)?;
    let held = kernel.get(place..place.saturating_add(number(ZBOOT_SIZE)?)).context("it is cut off")?;
    image_of(gunzip(held)?)
}

fn gunzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut image = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut image).context("failed to decompress it")?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_kernel_becomes_an_image_whatever_it_is_compressed_by_that_is_known() {
        let mut image = vec![0; 64];
        image.splice(MAGIC.0..MAGIC.0 + 4, MAGIC.1.iter().copied());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&image).unwrap();
        let gzip = gzip.finish().unwrap();
        let zboot = |kind: &str| {
            let mut zboot = b"MZ\0\0zimg".to_vec();
            zboot.extend_from_slice(&64_u32.to_le_bytes());
            zboot.extend_from_slice(&u32::try_from(gzip.len()).unwrap().to_le_bytes());
            zboot.resize(ZBOOT_KIND, 0);
            zboot.extend_from_slice(kind.as_bytes());
            zboot.resize(64, 0);
            [zboot, gzip.clone()].concat()
        };
        for kernel in [image.clone(), gzip.clone(), zboot("gzip")] {
            assert_eq!(image_of(kernel).unwrap(), image);
        }
        assert!(image_of(zboot("zstd22")).unwrap_err().to_string().contains("zstd22"));
        assert!(image_of(b"MZ".to_vec()).is_err());
    }
}
