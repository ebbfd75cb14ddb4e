//! From the kernel's first process to a root file system: what happens before the host is spoken to.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_change,
    mount_move, move_mount, open_tree,
};

use rustix::thread::UnshareFlags;

use crate::channel::Channel;
use crate::shares::Way;
use crate::{disk, resolver, sys, tell};

/// Where Windows' drives are: what is shared of them is mounted from there, and nobody else looks.
pub(crate) const DRIVES: &str = "/run/cove-drives";
/// How long a disk may take to appear.
const DISK_DEADLINE: Duration = Duration::from_secs(10);
/// No set-id programs, no devices, nothing to execute: for what is no file system of programs.
pub(crate) const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What the kernel's command line says, and where the start stands.
#[derive(Debug)]
pub(crate) struct Booted {
    /// `cove.NAME=VALUE` of the kernel's command line.
    options: HashMap<String, String>,
    /// The kernel is not ours alone ([`crate::inside`]).
    is_inside: bool,
}

impl Booted {
    /// How the host is reached.
    pub(crate) fn channel(&self) -> Channel {
        if self.is_inside { Channel::Sockets } else { Channel::Vsock }
    }

    /// Whether the kernel is not ours alone.
    pub(crate) fn is_inside(&self) -> bool {
        self.is_inside
    }

    /// How folders of the host are mounted.
    pub(crate) fn sharing(&self) -> Result<Way> {
        if self.is_inside { Ok(Way::Drives) } else { Way::of(self.option("shares")) }
    }

    /// `cove.NAME=` of the kernel's command line.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

/// Mounts what the kernel offers, loads the modules it came with, and makes the system image the root.
pub(crate) fn boot() -> Result<Booted> {
    kernel_mounts("")?;
    let options = read_options(&fs::read_to_string("/proc/cmdline").context("failed to read /proc/cmdline")?);
    load_modules()?;
    let booted = Booted { options, is_inside: false };
    let system = booted.option("system").context("the kernel's command line names no cove.system")?;
    enter_system(system).with_context(|| format!("failed to enter the system image on {system}"))?;
    late_mounts()?;
    set_kernel();
    sys::set_limits();
    Ok(booted)
}

/// Makes the system image that is unpacked in `folder` the root, in a mount namespace of our own, where the kernel, its
/// devices and its network are another's too.
pub(crate) fn enter(folder: &Path) -> Result<Booted> {
    let reached = resolver::known();
    sys::unshare(UnshareFlags::NEWNS).context("failed to make a mount namespace")?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .context("failed to part from the other mounts")?;
    // Its processes are not those of the namespace that we are the first of.
    mount("proc", "/proc", "proc", PLAIN, None::<&CStr>).context("failed to mount proc")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("failed to read the mounts")?;
    for drive in drives(&mounts) {
        let hidden = format!("{DRIVES}/{drive}");
        fs::create_dir_all(&hidden).with_context(|| format!("failed to make {hidden}"))?;
        mount_move(format!("/{drive}"), &hidden).with_context(|| format!("failed to move /{drive}"))?;
    }
    fs::create_dir_all(disk::DATA).with_context(|| format!("failed to make {}", disk::DATA))?;
    let data = open_tree(CWD, disk::DATA, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .context("failed to take the data along")?;
    enter_layers(|system| {
        mount_bind(folder, system).with_context(|| format!("failed to mount {}", folder.display()))
    })?;
    move_mount(&data, "", CWD, disk::DATA, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .context("failed to mount the data")?;
    late_mounts()?;
    // Each file of a share that the kernel knows is a descriptor of the layer's.
    sys::set_limits();
    resolver::set(&reached)?;
    Ok(Booted { options: HashMap::new(), is_inside: true })
}

/// Windows' drives, as WSL mounts them where its settings say `root = /`: folders of one letter.
fn drives(mountinfo: &str) -> Vec<String> {
    let place = |line: &str| line.split(' ').nth(4)?.strip_prefix('/').map(str::to_owned);
    let is_drive = |name: &String| matches!(name.as_bytes(), [letter] if letter.is_ascii_lowercase());
    mountinfo.lines().filter_map(place).filter(is_drive).collect()
}

fn read_options(line: &str) -> HashMap<String, String> {
    let words = line.split_whitespace().filter_map(|word| word.strip_prefix("cove.")?.split_once('='));
    words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// /proc, /sys, /dev and /run below `root`.
fn kernel_mounts(root: &str) -> Result<()> {
    mount_new("proc", &format!("{root}/proc"), PLAIN, c"")?;
    mount_new("sysfs", &format!("{root}/sys"), PLAIN, c"")?;
    mount_new("devtmpfs", &format!("{root}/dev"), MountFlags::NOSUID, c"mode=0755")?;
    mount_new("tmpfs", &format!("{root}/run"), MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
}

/// Mounts a file system of no device; one that is there already is as good.
pub(crate) fn mount_new(kind: &str, target: &str, flags: MountFlags, data: &CStr) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("failed to make {target}"))?;
    match mount(kind, target, kind, flags, Some(data)) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("failed to mount {kind} on {target}")),
    }
}

/// Loads what the initramfs lists, in that order; a kernel with everything built in has no list.
fn load_modules() -> Result<()> {
    let Ok(list) = fs::read_to_string("/modules.load") else { return Ok(()) };
    for path in list.lines().filter(|line| !line.is_empty()) {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("failed to open {path}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            // The module is for another machine than this; what needs it says so.
            Err(error) => tell(format_args!("cove-agent: failed to load {path}: {error}")),
        }
    }
    Ok(())
}

/// Makes the read-only image on `device`, with a memory file system on top, the root.
fn enter_system(device: &str) -> Result<()> {
    wait_for(device)?;
    enter_layers(|system| {
        mount(device, system, "erofs", MountFlags::RDONLY | MountFlags::NODEV, None::<&CStr>).context("erofs")
    })
}

/// Makes what is mounted by `mount_system`, with a memory file system on top, the root.
fn enter_layers(mount_system: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    fs::create_dir_all("/layers")?;
    mount("tmpfs", "/layers", "tmpfs", MountFlags::NODEV, Some(c"mode=0755"))
        .context("a memory file system")?;
    for dir in ["/layers/system", "/layers/upper", "/layers/work", "/layers/root"] {
        fs::create_dir(dir)?;
    }
    mount_system("/layers/system")?;
    let data = c"lowerdir=/layers/system,upperdir=/layers/upper,workdir=/layers/work";
    mount("overlay", "/layers/root", "overlay", MountFlags::empty(), Some(data)).context("overlay")?;
    for name in ["proc", "sys", "dev", "run"] {
        let target = format!("/layers/root/{name}");
        fs::create_dir_all(&target)?;
        mount_move(format!("/{name}"), &target).with_context(|| format!("failed to move /{name}"))?;
    }
    std::env::set_current_dir("/layers/root")?;
    mount_move("/layers/root", "/").context("failed to make it the root")?;
    rustix::process::chroot(".").context("failed to change the root")?;
    std::env::set_current_dir("/")?;
    // Containers get slaves of this tree, as on any system.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::SHARED)?;
    Ok(())
}

/// Waits until a device is there: a driver may still be looking for it.
pub(crate) fn wait_for(device: &str) -> Result<()> {
    let begin = Instant::now();
    while !Path::new(device).exists() {
        if begin.elapsed() > DISK_DEADLINE {
            bail!("there is no {device} after {} s", DISK_DEADLINE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// What programs expect of a system.
fn late_mounts() -> Result<()> {
    mount_new(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"mode=0620,gid=5,ptmxmode=0666",
    )?;
    mount_new("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")?;
    mount_new("tmpfs", "/tmp", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777")?;
    mount_new("mqueue", "/dev/mqueue", PLAIN, c"")?;
    mount_new("cgroup2", "/sys/fs/cgroup", PLAIN, c"nsdelegate")?;
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let wanted: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", wanted.join(" "))
        .context("failed to hand out the controllers of cgroups")?;
    // With the first group the kernel patches what counts memory into its busiest code: now, as nothing else runs, for that
    // is where an emulated processor may trip.
    let first = "/sys/fs/cgroup/first";
    fs::create_dir(first).and_then(|()| fs::remove_dir(first)).context("failed to make a cgroup")?;
    for (link, to) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0")] {
        let _ = std::os::unix::fs::symlink(to, link);
    }
    for (link, to) in [("/dev/stdout", "/proc/self/fd/1"), ("/dev/stderr", "/proc/self/fd/2")] {
        let _ = std::os::unix::fs::symlink(to, link);
    }
    // As on any system: whoever may open them can do no more than by what he has besides.
    for device in ["/dev/net/tun", "/dev/fuse"] {
        // Of a driver that is a module they appear with it.
        let _ = fs::set_permissions(device, fs::Permissions::from_mode(0o666));
    }
    Ok(())
}

/// Settings of a kernel that is ours alone.
fn set_kernel() {
    for (path, value) in [
        ("/proc/sys/kernel/pid_max", "4194304"),
        ("/proc/sys/fs/inotify/max_user_watches", "1048576"),
        // Nobody is to be woken for these where nothing is going on: memory is put together when the host asks for
        // some, and its statistics are no older than ten seconds.
        ("/proc/sys/vm/compaction_proactiveness", "0"),
        ("/proc/sys/vm/stat_interval", "10"),
    ] {
        // A kernel without such a setting has its own.
        let _ = fs::write(path, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_the_words_with_our_name_in_front() {
        let options = read_options("console=ttyS0 quiet cove.system=/dev/vda cove.data=/dev/vdb cove.odd\n");
        let booted = Booted { options, is_inside: false };
        assert_eq!(booted.option("system"), Some("/dev/vda"));
        assert_eq!(booted.option("data"), Some("/dev/vdb"));
        assert_eq!(booted.option("odd"), None);
    }

    #[test]
    fn drives_are_mounts_of_one_letter() {
        let mounts = "80 79 0:52 / /c rw,noatime - 9p C:\\134 rw,aname=drvfs\n81 79 0:53 / /dev rw - devtmpfs none rw\n\
                      82 80 0:54 / /c/x rw - tmpfs none rw\n83 79 0:55 / /d ro - 9p D: rw\n84 79 0:56 / / rw - ext4 a rw\n";
        assert_eq!(drives(mounts), ["c", "d"]);
    }
}
