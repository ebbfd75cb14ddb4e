//! How many files a process may have open, on Unix.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files this process could have open when it began: the soft and the hard limit.
static OPEN_FILES: OnceLock<(Option<u64>, Option<u64>)> = OnceLock::new();

/// Lets this process have as many files open as it may (getrlimit(2)): the usual soft limit of 1024 is meant
/// for programs that use select(2). What it starts has the raised one too, unless told [`open_files`].
///
/// # Errors
/// setrlimit(2)'s.
pub fn raise_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    OPEN_FILES.get_or_init(|| (limit.current, limit.maximum));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// The limits of before, soft and hard; a missing one is none. None at all where they were not raised.
#[must_use]
pub fn open_files() -> Option<(Option<u64>, Option<u64>)> {
    OPEN_FILES.get().copied()
}
