//! The first file system: the agent as `/init`, and the modules without which there is no other.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Writes it: an archive of cpio's form `newc`, which is all that the kernel reads. Not
/// compressed: a kernel under translation takes as long to decompress it as to be given it whole.
pub(super) fn make(agent: &Path, modules: &[PathBuf], to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "run", "sys", "system"] {
        archive.add(dir, DIRECTORY, &[])?;
    }
    archive.add("init", PROGRAM, &read(agent)?)?;
    if !modules.is_empty() {
        archive.add("modules", DIRECTORY, &[])?;
        let mut load = String::new();
        for module in modules {
            let name = module.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
            archive.add(&format!("modules/{name}"), FILE, &read(module)?)?;
            load.push_str("/modules/");
            load.push_str(name);
            load.push('\n');
        }
        archive.add("modules.load", FILE, load.as_bytes())?;
    }
    files::write(to, &archive.finish()?)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// An archive being written; each entry has the next inode, root's ownership and the time 0.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size =
            u32::try_from(content.len()).with_context(|| format!("{name} is too large for an initrd"))?;
        let name_size = u32::try_from(name.len() + 1).context("the name is too long")?;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.inode = 0;
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_header_that_the_kernel_reads_and_ends_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"12345").expect("it is small");
        let bytes = archive.finish().expect("it is small");
        assert!(bytes.starts_with(b"07070100000001000081ED"));
        assert_eq!(bytes.get(54..62), Some(b"00000005".as_slice()));
        assert_eq!(bytes.get(110..115), Some(b"init\0".as_slice()));
        assert_eq!(bytes.get(116..121), Some(b"12345".as_slice()));
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.get(124..130) == Some(b"070701".as_slice()));
    }
}
