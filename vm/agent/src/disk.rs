//! The data disk: made at the first boot, checked, grown to its device, mounted.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use vm_proto::message::Mode;

use crate::boot;
use crate::children::Children;

/// How long it may take until a device's new size is seen.
const GROW_DEADLINE: Duration = Duration::from_secs(5);
/// Where it is mounted; the engine's files are below it.
pub(crate) const DATA: &str = "/var/lib/cove";
/// Where ext4's super block is, and its magic number within it.
const SUPER_BLOCK: usize = 1024;
const MAGIC: (usize, [u8; 2]) = (56, [0x53, 0xef]);
/// Where within it the state is, and what it is without an error.
const STATE: usize = 58;
const VALID: [u8; 2] = [1, 0];
/// Where within it errors are counted.
const ERRORS: usize = 404;

/// Mounts the disk; what was done, in words.
pub(crate) async fn mount_data(device: &str, mode: Mode, children: &Children) -> Result<&'static str> {
    boot::wait_for(device)?;
    let found = look(device)?;
    let done = match (found, mode) {
        (Found::Empty, Mode::Rescue) => bail!("the data disk is empty: there is nothing to rescue"),
        (Found::Empty, Mode::Normal) => {
            make(device, children).await?;
            "made"
        }
        (Found::Ext4 { .. }, Mode::Rescue) | (Found::Ext4 { is_sound: true }, Mode::Normal) => "found",
        (Found::Ext4 { is_sound: false }, Mode::Normal) => {
            check(device, children).await?;
            "checked"
        }
        (Found::Other, _) => bail!(
            "the data disk holds no file system of Cove's: it is left as it is; 'cove machine reset' makes a new one"
        ),
    };
    fs::create_dir_all(DATA)?;
    let (flags, data) = match mode {
        // Tables of inodes that were never used are holes of the host's file, and read as the zeroes that they are to be:
        // written in the background they would take a thirty-second of the disk's size on the host.
        Mode::Normal => (MountFlags::NOATIME, c"discard,noinit_itable"),
        Mode::Rescue => (MountFlags::RDONLY | MountFlags::NOATIME, c"noload"),
    };
    mount(device, DATA, "ext4", flags, Some(data)).with_context(|| format!("failed to mount {device}"))?;
    if mode == Mode::Normal && is_larger(device)? {
        // Mounted, it needs no check of everything first.
        tool(children, "/usr/sbin/resize2fs", &[device], 0).await?;
    }
    Ok(done)
}

/// Uses all of a device that has grown; it may take a moment until that is seen.
pub(crate) async fn grow(children: &Children) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut lines = mounts.lines().map(|line| line.split(' ').take(2));
    let device = lines.find_map(|mut fields| fields.next().filter(|_| fields.next() == Some(DATA)));
    let device = device.context("the data disk is not mounted")?;
    let begin = Instant::now();
    while !is_larger(device)? {
        if begin.elapsed() > GROW_DEADLINE {
            bail!("{device} has not grown");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tool(children, "/usr/sbin/resize2fs", &[device], 0).await
}

/// Whether the device has room that its file system does not know of.
fn is_larger(device: &str) -> Result<bool> {
    let size = fs::File::open(device)?.seek(SeekFrom::End(0)).context("failed to measure the data disk")?;
    let known = rustix::fs::statvfs(DATA)?;
    // What the file system keeps for itself is below a tenth.
    Ok(known.f_blocks * known.f_frsize < size / 10 * 9)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Empty,
    /// A sound one needs no check: after a power cut the kernel replays the journal as it mounts it, and `e2fsck -p`
    /// would do no more.
    Ext4 {
        is_sound: bool,
    },
    Other,
}

fn look(device: &str) -> Result<Found> {
    let mut file = fs::File::open(device).with_context(|| format!("failed to open {device}"))?;
    // What a kernel that goes on from a saved state knows of the disk may be of another start.
    crate::sys::forget_contents(&file).with_context(|| format!("failed to look at {device} anew"))?;
    // A file system, a partition table or a piece of one leaves something in the first megabyte.
    let mut head = vec![0; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head).context("failed to read the data disk")?;
    Ok(recognise(&head))
}

/// What the beginning of a disk shows (ext4's super block: the kernel's Documentation/filesystems/ext4/super.rst).
fn recognise(head: &[u8]) -> Found {
    let field = |at: usize| head.get(SUPER_BLOCK + at..SUPER_BLOCK + at + 4).unwrap_or_default();
    if field(MAGIC.0).get(..2) != Some(&MAGIC.1) {
        return if head.iter().all(|byte| *byte == 0) { Found::Empty } else { Found::Other };
    }
    let is_sound = field(STATE).get(..2) == Some(&VALID) && field(ERRORS) == [0; 4];
    Found::Ext4 { is_sound }
}

async fn make(device: &str, children: &Children) -> Result<()> {
    // Tables are written when they are first used, so that the host's file stays small; trees of many small files
    // need an inode each.
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let arguments =
        ["-q", "-F", "-t", "ext4", "-m", "0", "-i", "8192", "-L", "cove-data", "-E", options, device];
    tool(children, "/usr/sbin/mke2fs", &arguments, 0).await
}

/// Repairs what can be repaired without asking.
async fn check(device: &str, children: &Children) -> Result<()> {
    // 1: errors were corrected.
    tool(children, "/usr/sbin/e2fsck", &["-p", device], 1).await.context(
        "the data disk is damaged beyond what is repaired unasked; 'cove machine rescue' gets files out of it",
    )
}

async fn tool(children: &Children, program: &str, arguments: &[&str], worst: i32) -> Result<()> {
    let mut command = stdx::process::command(program);
    let log = fs::File::create("/run/disk.log").context("failed to keep a program's words")?;
    command.args(arguments).stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = children.run(&mut command).await?;
    if status.code().is_none_or(|code| code > worst) {
        let said = fs::read_to_string("/run/disk.log").unwrap_or_default();
        bail!("{program} ended with {status}: {}", said.trim());
    }
    Ok(())
}

/// Gives the device back what no file uses (FITRIM).
pub(crate) fn trim() -> std::io::Result<()> {
    crate::sys::trim(&fs::File::open(DATA)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a disk whose super block has these fields.
    fn disk(fields: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; 4096];
        for (at, bytes) in fields {
            head[SUPER_BLOCK + at..SUPER_BLOCK + at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn only_a_file_system_with_errors_is_checked() {
        let magic = (MAGIC.0, &MAGIC.1[..]);
        assert_eq!(recognise(&disk(&[magic, (STATE, &VALID)])), Found::Ext4 { is_sound: true });
        for unsound in [(STATE, &[0, 0][..]), (STATE, &[3, 0]), (ERRORS, &[1])] {
            let head = disk(&[magic, (STATE, &VALID), unsound]);
            assert_eq!(recognise(&head), Found::Ext4 { is_sound: false }, "{unsound:?}");
        }
    }

    #[test]
    fn what_is_not_ours_is_told_from_nothing() {
        assert_eq!(recognise(&disk(&[])), Found::Empty);
        assert_eq!(recognise(&disk(&[(0, &[7])])), Found::Other);
        assert_eq!(recognise(&[]), Found::Empty);
    }
}
