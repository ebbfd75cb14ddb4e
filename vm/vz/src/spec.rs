//! What a machine is to be.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The longest tag of a share that virtio knows, in bytes (virtio 1.2, section 5.11.4).
const TAG_MAX: usize = 36;
/// Memory comes in pieces of a mebibyte.
const PIECE: u64 = 1 << 20;

/// What a kernel for arm64 that is not compressed has at byte 56 (the kernel's Documentation/arch/arm64/booting.rst).
const ARM64: (std::ops::Range<usize>, &[u8]) = (56..60, b"ARM\x64");

/// A machine as it is to be.
#[derive(Debug)]
pub struct Spec {
    /// Processors.
    pub cpus: usize,
    /// Bytes of memory, whole mebibytes.
    pub memory: u64,
    /// What it boots: on Apple silicon a kernel that is not compressed.
    pub kernel: PathBuf,
    /// What is in memory at first.
    pub initrd: PathBuf,
    /// What the kernel is told.
    pub options: String,
    /// Its disks, in the order in which the guest finds them: raw files, which may be sparse.
    pub disks: Vec<Disk>,
    /// Folders of this computer, each a file system of virtio's.
    pub shares: Vec<Share>,
    /// Who it is to software that ties itself to a computer; the same at each start, and needed to go on from saved
    /// state. Made once by `new_identity`.
    pub identity: Vec<u8>,
    /// Its network card's address, `02:…`, the same at each start.
    pub mac: String,
    /// Where its console is written to.
    pub console: File,
    /// The tag under which the guest finds Rosetta, which runs programs for x86-64 on Apple silicon.
    pub rosetta: Option<String>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its file.
    pub path: PathBuf,
    /// The guest can't write to it.
    pub read_only: bool,
}

/// A folder of this computer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// What the guest mounts it by.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// The guest can't write to it.
    pub read_only: bool,
}

/// What no machine can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongSpec {
    /// No share can be called that.
    #[error("a share can't be tagged {tag:?}: 1 to 36 bytes are")]
    Tag {
        /// What it was to be called.
        tag: String,
    },
    /// Two of the same tag.
    #[error("two shares are tagged {tag:?}")]
    Twice {
        /// Which.
        tag: String,
    },
    /// An amount that is none.
    #[error("{bytes} bytes of memory are no whole mebibytes")]
    Memory {
        /// How much.
        bytes: u64,
    },
    /// A kernel that the framework starts, and that never says a word.
    #[error("the kernel {} is no uncompressed one for arm64, and macOS boots no other", path.display())]
    Kernel {
        /// Its file.
        path: PathBuf,
    },
}

impl Spec {
    /// Refuses what no machine can be, before the framework does in its words.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), WrongSpec> {
        if self.memory == 0 || !self.memory.is_multiple_of(PIECE) {
            return Err(WrongSpec::Memory { bytes: self.memory });
        }
        // One that can't be read is refused by the framework in its words.
        if cfg!(target_arch = "aarch64") && !is_plain_kernel(&self.kernel).unwrap_or(true) {
            return Err(WrongSpec::Kernel { path: self.kernel.clone() });
        }
        let tags: Vec<&str> =
            self.shares.iter().map(|share| share.tag.as_str()).chain(self.rosetta.as_deref()).collect();
        for (at, tag) in tags.iter().enumerate() {
            if tag.is_empty() || tag.len() > TAG_MAX {
                return Err(WrongSpec::Tag { tag: (*tag).to_owned() });
            }
            if tags.iter().take(at).any(|before| before == tag) {
                return Err(WrongSpec::Twice { tag: (*tag).to_owned() });
            }
        }
        Ok(())
    }
}

/// Whether a kernel is one for arm64 that is not compressed.
fn is_plain_kernel(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    let (place, magic) = ARM64;
    File::open(path)?.take(place.end as u64).read_to_end(&mut head)?;
    Ok(head.get(place) == Some(magic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(memory: u64, tags: &[&str], rosetta: Option<&str>) -> Result<(), WrongSpec> {
        let share = |tag: &&str| Share { tag: (*tag).to_owned(), path: "/Users/me".into(), read_only: false };
        let spec = Spec {
            cpus: 2,
            memory,
            kernel: "kernel".into(),
            initrd: "initrd".into(),
            options: String::new(),
            disks: Vec::new(),
            shares: tags.iter().map(share).collect(),
            identity: Vec::new(),
            mac: "02:00:00:00:00:01".to_owned(),
            console: File::open(std::env::current_exe().unwrap()).unwrap(),
            rosetta: rosetta.map(str::to_owned),
        };
        spec.check()
    }

    #[test]
    fn tags_are_told_apart_and_fit() {
        check(1 << 30, &["a", "b"], Some("rosetta")).unwrap();
        check(1 << 30, &["x".repeat(36).as_str()], None).unwrap();
        let tag = |tag: &str| WrongSpec::Tag { tag: tag.to_owned() };
        assert_eq!(check(1 << 30, &[""], None), Err(tag("")));
        assert_eq!(check(1 << 30, &["\u{e9}".repeat(19).as_str()], None), Err(tag(&"\u{e9}".repeat(19))));
        let twice = Err(WrongSpec::Twice { tag: "a".to_owned() });
        assert_eq!(check(1 << 30, &["a", "b", "a"], None), twice);
        assert_eq!(check(1 << 30, &["a"], Some("a")), twice);
    }

    #[test]
    fn a_kernel_that_is_compressed_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let is_plain = |bytes: &[u8]| {
            let path = dir.path().join("kernel");
            std::fs::write(&path, bytes).unwrap();
            is_plain_kernel(&path).unwrap()
        };
        let mut head = vec![0; 64];
        head[56..60].copy_from_slice(b"ARM\x64");
        assert!(is_plain(&head));
        // What gzip makes, and the kernel's own wrapping of it (drivers/firmware/efi/libstub/zboot-header.S).
        assert!(!is_plain(&[&[0x1f, 0x8b, 8][..], &[7; 100]].concat()));
        assert!(!is_plain(&[&b"MZ\0\0zimg"[..], &[0; 100]].concat()));
        assert!(!is_plain(b""));
        assert!(is_plain_kernel(&dir.path().join("none")).is_err());
    }

    #[test]
    fn memory_is_whole_mebibytes() {
        assert!(check(1 << 20, &[], None).is_ok());
        for bytes in [0, (1 << 30) + 1] {
            assert_eq!(check(bytes, &[], None), Err(WrongSpec::Memory { bytes }));
        }
    }
}
