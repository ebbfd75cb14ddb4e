//! What Linux and macOS have in common.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{Backend, Choice, Error};

/// Makes `command` start in a session of its own, so that closing our terminal or pressing Ctrl-C in
/// it does not reach the child.
#[expect(unsafe_code, reason = "setsid has no safe form on std's Command")]
pub(crate) fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let new_session = || {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: pre_exec demands that the closure does only what is allowed between fork and exec in a
    // process that may have had threads. It makes one system call; it neither allocates nor takes a
    // lock, and the conversion of its errno into io::Error does neither.
    unsafe { command.pre_exec(new_session) };
}

/// Whether we are the computer's administrator, whose engine serves all of it.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user's number.
pub(crate) fn user_id() -> String {
    rustix::process::geteuid().as_raw().to_string()
}

/// The engine's address in the folder of its socket and its log.
pub(crate) fn engine(state_dir: &Path) -> PathBuf {
    state_dir.join("cove.sock")
}

/// Ends a process, as `kill -9` does, if its program is of that name.
pub(crate) fn end(pid: u32, program: &str) -> io::Result<()> {
    super::refuse_others(&super::program_of(pid)?, program)?;
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    Ok(rustix::process::kill_process(pid.ok_or(io::ErrorKind::NotFound)?, rustix::process::Signal::KILL)?)
}

/// Bytes that a file takes on its disk.
pub(crate) fn bytes_taken(_: &Path, metadata: &Metadata) -> u64 {
    metadata.blocks() * 512
}

/// The kind of machine that is taken unless somebody says otherwise: the first there is.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there may be none")]
pub(crate) fn choose_backend() -> Result<Choice, Error> {
    Ok(Choice { backend: Backend::default(), reason: None })
}

/// Takes away what a machine has outside of its folders: nothing.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere that may fail")]
pub(crate) fn forget_machine(_: &str) -> io::Result<()> {
    Ok(())
}
