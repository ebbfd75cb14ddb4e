//! Acts out what changed in a share on the host, so that this guest's kernel sees it and its watchers wake.
//!
//! The host answers this thread's calls without touching a file. It knows the thread by the name it looks up first.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};

/// Acts out the events of a stream until it ends, for the share that is mounted at `root`. `trigger` is the name that
/// the host gave for this. Each event is a letter, a path from the root, and a zero byte.
///
/// Call it on a thread of its own that does nothing else in the share.
///
/// # Errors
///
/// The stream's. An event that can't be acted out is passed over: the file has changed again since.
pub(crate) fn act_out(mut events: impl BufRead, root: &Path, trigger: &str) -> io::Result<()> {
    // There is no such file: the look is what the host waits for.
    let _ = fs::symlink_metadata(root.join(trigger));
    let mut event = Vec::new();
    while events.read_until(0, &mut event)? > 0 {
        if let [kind, path @ .., 0] = event.as_slice() {
            let _ = act(*kind, &root.join(std::ffi::OsStr::from_bytes(path)));
        }
        event.clear();
    }
    Ok(())
}

fn act(kind: u8, path: &Path) -> io::Result<()> {
    let done = match kind {
        // The host opens the file that is there, and for reading only.
        b'c' => OpenOptions::new().write(true).create_new(true).open(path).map(drop),
        b'f' => fs::create_dir(path),
        b'l' => symlink("x", path),
        b'm' => return modify(path),
        b'r' => fs::remove_file(path),
        b'd' => fs::remove_dir(path),
        _ => Ok(()),
    };
    match done {
        // It was seen before its event came; then it is at least not older than what was seen.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => modify(path),
        done => done,
    }
}

/// Sets the time of modification, which the host ignores and this kernel tells its watchers of.
fn modify(path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: unchanged, last_modification: now };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
