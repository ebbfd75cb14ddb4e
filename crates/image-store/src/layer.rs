//! Layers: unpacked once per diff id, shared by every image and container that has them.
//!
//! `layers/<32 hex digits of the diff id>/` holds the tree, in overlay's own form: a whiteout is a
//! character device 0:0, an opaque directory carries overlay's attribute. It appears by rename, once
//! it is whole and on disk.

mod apply;
mod tar_stream;

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use model::Digest;
use sha2::{Digest as _, Sha256};

use crate::error::{Doing, Error, Result};

pub(crate) use apply::Unpacker;

/// A layer unpacks to at most this many times its compressed size, once it is large: what beats that
/// is made to fill disks.
const MAX_RATIO: u64 = 200;
const RATIO_COUNTS_FROM: u64 = 1 << 30;

/// What unpacking found.
#[derive(Debug, Clone)]
pub(crate) struct Unpacked {
    /// Of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Bytes of file content.
    pub(crate) size: u64,
    /// Directories the archive has something in, but no entry of; the root is the empty path.
    pub(crate) implied: Arc<[PathBuf]>,
}

/// Unpacks a layer, compressed in any way, into the empty directory `dir`, hashing on the way.
pub(crate) fn unpack(mut from: impl Read, dir: &Path, is_userxattr: bool) -> Result<Unpacked> {
    let mut head = [0; 10];
    let known = read_up_to(&mut from, &mut head).doing(|| "read the layer")?;
    let packed = Rc::new(Cell::new(0));
    let counted =
        Counted { inner: io::Cursor::new(head).take(known as u64).chain(from), bytes: Rc::clone(&packed) };
    match head {
        [0x1f, 0x8b, ..] if known >= 2 => unpack_tar(MultiGzDecoder::new(counted), dir, is_userxattr, packed),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::new(counted).doing(|| "read the zstd layer")?;
            unpack_tar(decoder, dir, is_userxattr, packed)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(not_supported("xz")),
        [b'B', b'Z', b'h', _, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59] => Err(not_supported("bzip2")),
        _ => unpack_tar(counted, dir, is_userxattr, packed),
    }
}

fn not_supported(compression: &str) -> Error {
    Error::Unsupported {
        what: format!(
            "the archive is compressed with {compression}; it may be with gzip or zstd, or not at all"
        ),
    }
}

fn unpack_tar(from: impl Read, dir: &Path, is_userxattr: bool, packed: Rc<Cell<u64>>) -> Result<Unpacked> {
    let mut hashed = Hashed { inner: from, hasher: Sha256::new(), bytes: 0, packed };
    let mut unpacker = Unpacker::new(dir, is_userxattr)?;
    unpacker.unpack(&mut hashed)?;
    // Padding and whatever follows the archive's end count for the digest.
    let mut rest = vec![0; 64 * 1024];
    while hashed.read(&mut rest).doing(|| "read the layer to its end")? > 0 {}
    let diff_id = Digest::sha256(hashed.hasher.finalize().into());
    Ok(Unpacked { diff_id, size: unpacker.size(), implied: unpacker.into_implied().collect() })
}

/// Hashes what passes and stops a bomb.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    bytes: u64,
    /// How much was read to get there.
    packed: Rc<Cell<u64>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.bytes += length as u64;
        let packed = self.packed.get();
        if self.bytes > RATIO_COUNTS_FROM && self.bytes / packed.max(1) > MAX_RATIO {
            return Err(io::Error::other(format!(
                "{packed} bytes unpack to over {}: refused as a decompression bomb",
                self.bytes
            )));
        }
        Ok(length)
    }
}

struct Counted<R> {
    inner: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes.set(self.bytes.get() + length as u64);
        Ok(length)
    }
}

fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut known = 0;
    while known < buffer.len() {
        match from.read(buffer.get_mut(known..).unwrap_or_default())? {
            0 => break,
            length => known += length,
        }
    }
    Ok(known)
}

/// The directory of a layer.
pub(crate) fn layer_dir(root: &Path, diff_id: &Digest) -> PathBuf {
    root.join("layers").join(diff_id.hex().get(..32).unwrap_or_default())
}

/// Puts an unpacked tree in its place, on disk. Another that came first is as good.
pub(crate) fn publish(ingest: &Path, target: &Path) -> Result<()> {
    let step = || format!("keep the layer {}", target.display());
    let handle = std::fs::File::open(ingest).doing(step)?;
    rustix::fs::syncfs(&handle).doing(step)?;
    match std::fs::rename(ingest, target) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty) =>
        {
            std::fs::remove_dir_all(ingest).doing(step)
        }
        other => other.doing(step),
    }?;
    stdx::fs::sync_dir(target.parent().unwrap_or(target)).doing(step)
}

/// Copies a stream to a file and hashes it.
pub(crate) fn copy_hashed(mut from: impl Read, into: &mut impl Write) -> io::Result<(Digest, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut size = 0;
    loop {
        let length = from.read(&mut buffer)?;
        if length == 0 {
            return Ok((Digest::sha256(hasher.finalize().into()), size));
        }
        let bytes = buffer.get(..length).unwrap_or_default();
        hasher.update(bytes);
        into.write_all(bytes)?;
        size += length as u64;
    }
}
