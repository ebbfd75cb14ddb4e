//! The data disk: made at the first boot, checked, grown to its device, mounted.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use vm_proto::message::Mode;

use crate::boot;
use crate::children::Children;

/// Where it is mounted; the engine's files are below it.
pub(crate) const DATA: &str = "/var/lib/cove";
/// Where ext4's super block is, and its magic number within it.
const SUPER_BLOCK: u64 = 1024;
const MAGIC: (usize, [u8; 2]) = (56, [0x53, 0xef]);

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
        (Found::Ext4, Mode::Rescue) => "found",
        (Found::Ext4, Mode::Normal) => {
            check(device, children).await?;
            "checked"
        }
        (Found::Other, _) => bail!(
            "the data disk holds no file system of Cove's: it is left as it is; 'cove machine reset' makes a new one"
        ),
    };
    fs::create_dir_all(DATA)?;
    let (flags, data) = match mode {
        Mode::Normal => (MountFlags::NOATIME, c"discard"),
        Mode::Rescue => (MountFlags::RDONLY | MountFlags::NOATIME, c"noload"),
    };
    mount(device, DATA, "ext4", flags, Some(data)).with_context(|| format!("failed to mount {device}"))?;
    if mode == Mode::Normal && is_larger(device)? {
        // Mounted, it needs no check of everything first.
        tool(children, "/usr/sbin/resize2fs", &[device], 0).await?;
    }
    Ok(done)
}

/// Whether the device has room that its file system does not know of.
fn is_larger(device: &str) -> Result<bool> {
    let size = fs::File::open(device)?.seek(SeekFrom::End(0)).context("failed to measure the data disk")?;
    let known = rustix::fs::statvfs(DATA)?;
    // What the file system keeps for itself is below a tenth.
    Ok(known.f_blocks * known.f_frsize < size / 10 * 9)
}

enum Found {
    Empty,
    Ext4,
    Other,
}

fn look(device: &str) -> Result<Found> {
    let mut file = fs::File::open(device).with_context(|| format!("failed to open {device}"))?;
    // A file system, a partition table or a piece of one leaves something in the first megabyte.
    let mut head = vec![0; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head).context("failed to read the data disk")?;
    let (at, magic) = MAGIC;
    let place = usize::try_from(SUPER_BLOCK)? + at;
    if head.get(place..place + 2) == Some(&magic) {
        return Ok(Found::Ext4);
    }
    Ok(if head.iter().all(|byte| *byte == 0) { Found::Empty } else { Found::Other })
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
