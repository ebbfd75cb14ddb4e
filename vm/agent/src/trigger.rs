//! Acts out what changed in a share on the host, so that this guest's kernel sees it and its watchers wake.
//!
//! The host answers this thread's calls without touching a file. It knows the thread by the name it looks up before each.

use std::ffi::OsStr;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    chmodat, mkdirat, openat, openat2, renameat, statat, statx, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use vm_changes::AWAY;

/// Acts out the events of a stream until it ends, for the share whose root is `root`. `trigger` is the name that
/// the host gave for this. Each event is a letter, a path from the root, and a zero byte; a rename has one more path.
///
/// Call it on a thread of its own that does nothing else in the share.
///
/// # Errors
///
/// The stream's. An event that can't be acted out is passed over: the file has changed
/// again since.
pub(crate) fn act_out(mut events: impl BufRead, root: BorrowedFd<'_>, trigger: &str) -> io::Result<()> {
    // There is no such file: by the look the host hears that the next event is at work, or that this was the last.
    let say = |name: &str| {
        let _ = statat(root, name, AtFlags::SYMLINK_NOFOLLOW);
    };
    let (mut event, mut target) = (Vec::new(), Vec::new());
    let outcome = loop {
        match read(&mut events, &mut event, &mut target) {
            Ok(true) => {}
            ended => break ended.map(drop),
        }
        let [kind, path @ .., 0] = event.as_slice() else { continue };
        say(trigger);
        let target = target.strip_suffix(&[0]).unwrap_or_default();
        let _ = act(root, *kind, OsStr::from_bytes(path), OsStr::from_bytes(target));
    };
    say(&format!("{trigger}-over"));
    outcome
}

/// Reads one event, and whether there was one.
fn read(events: &mut impl BufRead, event: &mut Vec<u8>, target: &mut Vec<u8>) -> io::Result<bool> {
    event.clear();
    target.clear();
    let is_one = events.read_until(0, event)? > 0;
    if event.first() == Some(&b'n') {
        events.read_until(0, target)?;
    }
    Ok(is_one)
}

/// A folder of the share and a name in it: whoever makes a link of a folder meanwhile leads this thread nowhere.
struct Spot<'a> {
    folder: OwnedFd,
    name: &'a OsStr,
}

impl<'a> Spot<'a> {
    fn find(root: BorrowedFd<'_>, path: &'a OsStr) -> rustix::io::Result<Self> {
        let path = Path::new(path);
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = openat2(root, folder.unwrap_or(Path::new(".")), flags, Mode::empty(), how)?;
        Ok(Self { folder, name })
    }
}

/// Acts out one event: its letter, its path from the root, of a rename the other one.
pub(crate) fn act(share: BorrowedFd<'_>, kind: u8, path: &OsStr, target: &OsStr) -> rustix::io::Result<()> {
    let Spot { folder, name: path } = &Spot::find(share, path)?;
    let (root, path) = (folder.as_fd(), *path);
    let done = match kind {
        // The host gives what is there, and does not open it.
        b'c' => openat(
            root,
            path,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )
        .map(drop),
        b'f' => mkdirat(root, path, Mode::from_raw_mode(0o755)),
        b'l' => symlinkat("x", root, path),
        b'm' => return modify(root, path),
        b'a' => return change_attributes(root, path),
        b'r' => looking_again(root, path, || unlinkat(root, path, AtFlags::empty())),
        b'd' => looking_again(root, path, || unlinkat(root, path, AtFlags::REMOVEDIR)),
        b'o' => {
            static COUNT: AtomicU64 = AtomicU64::new(0);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let away = openat(share, AWAY, flags, Mode::empty())?;
            let name = COUNT.fetch_add(1, Ordering::Relaxed).to_string();
            looking_again(root, path, || renameat(root, path, &away, &*name))
        }
        b'n' => {
            let Spot { folder, name } = &Spot::find(share, target)?;
            // What it has in it is as it was when it got its new name, which others open at once.
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
            let _ = statx(root, path, flags, StatxFlags::BASIC_STATS);
            looking_again(root, path, || renameat(root, path, folder, *name))
        }
        _ => Ok(()),
    };
    match done {
        // It was seen before its event came; then it is at least not older than what was seen.
        Err(Errno::EXIST) => modify(root, path),
        done => done,
    }
}

/// Does what needs a name. This kernel may have been told that there is none by somebody who looked after the host's
/// change: then it is made to ask once more, by a folder that can't be made because the name is there.
fn looking_again(
    root: BorrowedFd<'_>,
    path: &OsStr,
    deed: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match deed() {
        Err(Errno::NOENT) => {
            // The host makes nothing for this thread that it does not expect.
            let _ = mkdirat(root, path, Mode::from_raw_mode(0o755));
            deed()
        }
        done => done,
    }
}

/// Sets the time of modification, which the host ignores and this kernel tells its watchers of, and ends as a program does
/// that has written.
fn modify(root: BorrowedFd<'_>, path: &OsStr) -> rustix::io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: unchanged, last_modification: now };
    utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(root, path, flags, Mode::empty()).map(drop)
}

/// Sets the permissions that are there, of which the server is asked: our kernel does not tell it of what changes nothing.
fn change_attributes(root: BorrowedFd<'_>, path: &OsStr) -> rustix::io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
    let mode = u32::from(statx(root, path, flags, StatxFlags::BASIC_STATS)?.stx_mode);
    if FileType::from_raw_mode(mode) == FileType::Symlink {
        // A link has none, and nobody waits for a change of it.
        return Ok(());
    }
    chmodat(root, path, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())
}
