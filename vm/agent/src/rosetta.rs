//! Programs for x86-64 on a computer of arm64: Rosetta, which the host shares, is what this kernel has run them.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{FsOpenFlags, fsopen};
use vm_proto::message::Share;

use crate::{boot, shares};

/// Where it is mounted.
const FOLDER: &str = "/run/rosetta";
const PROGRAM: &str = "/run/rosetta/rosetta";
/// The kernel's way to say which programs are run by which (Documentation/admin-guide/binfmt-misc.rst).
const KIND: &str = "binfmt_misc";
const FORMATS: &str = "/proc/sys/fs/binfmt_misc";
const NAME: &str = "rosetta";

/// How an ELF file for x86-64 begins, and which bits of that count, as Apple documents them ("Running Intel Binaries in
/// Linux VMs with Rosetta"): 64 bits, little endian, a program that is linked to a fixed address or to none.
const MAGIC: [u8; 20] = *b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00";
const MASK: [u8; 20] = *b"\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
/// It is handed the program as an open file, has the rights of the program and not its own, and is opened now: in a
/// container there is no such path.
const FLAGS: &str = "OCF";

/// Its share, as the guest mounts it.
pub(crate) fn share(tag: &str) -> Share {
    Share { tag: tag.to_owned(), path: FOLDER.to_owned(), read_only: true, is_layered: false }
}

/// Mounts it and has the kernel run programs by it, unless it does.
pub(crate) fn set_up(tag: &str) -> Result<()> {
    shares::mount_share(&share(tag), shares::Way::Devices)?;
    register().context("programs for x86-64 do not run: failed to register Rosetta")
}

/// Has the kernel run no more programs by it. Those that run go on.
pub(crate) fn let_go() -> Result<()> {
    match fs::write(Path::new(FORMATS).join(NAME), "-1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("failed to let go of Rosetta")
        }
        _ => Ok(()),
    }
}

/// The same as before [`let_go`].
pub(crate) fn register() -> Result<()> {
    // The folder to mount it on comes with the module, and the module with its file system.
    drop(fsopen(KIND, FsOpenFlags::FSOPEN_CLOEXEC).with_context(|| format!("the kernel has no {KIND}"))?);
    boot::mount_new(KIND, FORMATS, boot::PLAIN, c"")?;
    let formats = Path::new(FORMATS);
    if formats.join(NAME).exists() {
        return Ok(());
    }
    let line = line(NAME, &MAGIC, &MASK, PROGRAM);
    fs::write(formats.join("register"), line)
        .with_context(|| format!("failed to write to {FORMATS}/register"))
}

/// `:name:type:offset:magic:mask:interpreter:flags`.
fn line(name: &str, magic: &[u8], mask: &[u8], program: &str) -> String {
    format!(":{name}:M::{}:{}:{program}:{FLAGS}", escaped(magic), escaped(mask))
}

/// Bytes as the kernel reads them, whatever they are.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "\\x{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a file that begins so is run by it, as the kernel decides it (fs/binfmt_misc.c).
    fn is_run(head: &[u8]) -> bool {
        head.len() >= MAGIC.len()
            && MAGIC.iter().zip(&MASK).zip(head).all(|((magic, mask), byte)| (magic ^ byte) & mask == 0)
    }

    /// The head of an ELF file (elf(5)): its class, order of bytes, system, kind and processor.
    fn elf(class: u8, order: u8, system: u8, kind: u8, processor: u8) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', class, order, 1, system, 0, 0, 0, 0, 0, 0, 0, 0];
        head.extend([kind, 0, processor, 0, 1, 0, 0, 0]);
        head
    }

    #[test]
    fn the_kernel_is_told_as_it_documents_it() {
        let expected = r":rosetta:M::\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00:\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/run/rosetta/rosetta:OCF";
        assert_eq!(line(NAME, &MAGIC, &MASK, PROGRAM), expected);
        // The separator is in none of the fields, and the whole fits (MAX_REGISTER_LENGTH).
        assert_eq!(expected.matches(':').count(), 7);
        assert!(expected.len() < 1920);
        assert!(PROGRAM.starts_with(FOLDER));
    }

    #[test]
    fn programs_for_this_processor_and_what_are_none_are_left_alone() {
        let (executable, anywhere, relocatable, core) = (2, 3, 1, 4);
        let (x86_64, arm64, x86) = (62, 183, 3);
        for system in [0, 3] {
            assert!(is_run(&elf(2, 1, system, executable, x86_64)));
            assert!(is_run(&elf(2, 1, system, anywhere, x86_64)));
        }
        assert!(!is_run(&elf(2, 1, 0, executable, arm64)));
        assert!(!is_run(&elf(1, 1, 0, executable, x86)), "Rosetta runs none of 32 bits");
        assert!(!is_run(&elf(1, 1, 0, executable, x86_64)), "nor those of x32");
        for kind in [relocatable, core] {
            assert!(!is_run(&elf(2, 1, 0, kind, x86_64)));
        }
        assert!(!is_run(b"#!/bin/sh\n"));
        assert!(!is_run(b"\x7fELF"));
    }
}
