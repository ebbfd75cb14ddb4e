//! A read-only disk of a file: the form VHD of a fixed size, which is the file's bytes and a footer behind them.
//!
//! Source: Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// How long the footer is.
pub const FOOTER: usize = 512;
/// What a disk's size is a multiple of: not all of Windows' programs take less.
const PIECE: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The most sectors that cylinders, heads and sectors can say.
const SECTORS_MAX: u64 = 65_535 * 16 * 255;
/// A disk of a fixed size.
const FIXED: u32 = 2;

/// The footer of a disk of `size` bytes that is told from others by `id`.
#[must_use]
pub fn footer(size: u64, id: [u8; 16]) -> [u8; FOOTER] {
    let mut footer = [0; FOOTER];
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    // Nothing special, and version 1.0.
    put(8, &2_u32.to_be_bytes());
    put(12, &0x0001_0000_u32.to_be_bytes());
    // There is no header elsewhere.
    put(16, &u64::MAX.to_be_bytes());
    // The time is left at the beginning of its count: the same image makes the same file.
    put(28, b"cove");
    put(32, &0x0001_0000_u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &geometry(size / SECTOR));
    put(60, &FIXED.to_be_bytes());
    put(68, &id);
    let sum = footer.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    footer
}

/// Cylinders, heads and sectors of a track, by the specification's appendix.
fn geometry(sectors: u64) -> [u8; 4] {
    let total = sectors.min(SECTORS_MAX);
    let (per_track, heads, cylinders_times_heads);
    if total >= 65_535 * 16 * 63 {
        (per_track, heads, cylinders_times_heads) = (255, 16, total / 255);
    } else {
        let tracks = total / 17;
        let few = tracks.div_ceil(1024).max(4);
        if tracks < few * 1024 && few <= 16 {
            (per_track, heads, cylinders_times_heads) = (17, few, tracks);
        } else if total / 31 < 16 * 1024 {
            (per_track, heads, cylinders_times_heads) = (31, 16, total / 31);
        } else {
            (per_track, heads, cylinders_times_heads) = (63, 16, total / 63);
        }
    }
    let [.., high, low] = (cylinders_times_heads / heads).to_be_bytes();
    let byte = |number: u64| u8::try_from(number).unwrap_or(u8::MAX);
    [high, low, byte(heads), byte(per_track)]
}

/// Makes `to` a disk of the bytes of `from`. It appears whole or not at all.
///
/// # Errors
/// The disk's.
pub fn make(from: &Path, to: &Path, id: [u8; 16]) -> io::Result<()> {
    let draft = to.with_extension("new");
    let mut file = File::create(&draft)?;
    let length = io::copy(&mut File::open(from)?, &mut file)?;
    let size = length.next_multiple_of(PIECE);
    // Written, not skipped: a file with holes is none that Windows attaches.
    io::copy(&mut io::Read::take(io::repeat(0), size - length), &mut file)?;
    file.write_all(&footer(size, id))?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&draft, to)
}

/// Whether `disk` is what [`make`] makes of a file of `length` bytes, as far as its size and its footer tell.
#[must_use]
pub fn is_made_of(disk: &Path, length: u64, id: [u8; 16]) -> bool {
    let size = length.next_multiple_of(PIECE);
    let read = || -> io::Result<bool> {
        let mut file = File::open(disk)?;
        if file.metadata()?.len() != size + FOOTER as u64 {
            return Ok(false);
        }
        io::Seek::seek(&mut file, io::SeekFrom::Start(size))?;
        let mut bytes = [0; FOOTER];
        io::Read::read_exact(&mut file, &mut bytes)?;
        Ok(bytes == footer(size, id))
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn a_footer_is_what_the_specification_says() {
        let footer = footer(64 << 20, ID);
        let expected: &[(usize, &[u8])] = &[
            (0, b"conectix\0\0\0\x02\0\x01\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0cove\0\x01\0\0Wi2k"),
            (40, &[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]),
            // 963 cylinders, 8 heads, 17 sectors.
            (56, &[0x03, 0xc3, 8, 17, 0, 0, 0, 2]),
            (68, &ID),
        ];
        for (at, bytes) in expected {
            assert_eq!(&footer[*at..at + bytes.len()], *bytes, "at {at}");
        }
        let told = u32::from_be_bytes([footer[64], footer[65], footer[66], footer[67]]);
        let others = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
        let sum: u32 = others.map(|(_, byte)| u32::from(*byte)).sum();
        assert_eq!(told, !sum);
        assert!(footer[84..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn cylinders_heads_and_sectors_are_those_of_the_appendix() {
        for (sectors, expected) in [
            (2048, [0, 30, 4, 17]),
            (1 << 18, [3, 195, 16, 17]),
            (1 << 20, [4, 16, 16, 63]),
            (1 << 40, [0xff, 0xff, 16, 255]),
        ] {
            assert_eq!(geometry(sectors), expected, "{sectors}");
        }
    }

    #[test]
    fn a_disk_is_the_file_zeros_and_the_footer() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("system.erofs"), dir.path().join("system.vhd"));
        std::fs::write(&from, [7; 5000]).unwrap();
        assert!(!is_made_of(&to, 5000, ID));
        make(&from, &to, ID).unwrap();
        let bytes = std::fs::read(&to).unwrap();
        assert_eq!(bytes.len(), (1 << 20) + FOOTER);
        assert!(bytes[..5000].iter().all(|byte| *byte == 7));
        assert!(bytes[5000..1 << 20].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[1 << 20..], footer(1 << 20, ID));
        assert!(is_made_of(&to, 5000, ID));
        assert!(!is_made_of(&to, 5000, [0; 16]) && !is_made_of(&to, 2 << 20, ID));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no draft is left");
    }
}
