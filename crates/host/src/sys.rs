//! Starting a process that outlives us, who we are, and what happens in folders: this file picks what the platform offers.

pub(crate) mod watch;

use std::fs::DirBuilder;
use std::process::Command;

/// Makes `command` start in a session of its own, so that closing our terminal or pressing Ctrl-C in
/// it does not reach the child.
#[cfg(unix)]
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

#[cfg(not(unix))]
pub(crate) fn detach(command: &mut Command) {
    let _ = command;
}

/// A descriptor, which does not block, in tokio's event loop.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "tokio asks its callers to vouch for the descriptor")]
fn in_event_loop(
    fd: std::os::fd::OwnedFd,
) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor until the AsyncFd that owns it is dropped.
    Ok(unsafe { tokio::io::unix::AsyncFd::register(fd) }?)
}

/// Whether we are the machine's administrator, whose engine serves all of it.
#[cfg(unix)]
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
pub(crate) fn is_root() -> bool {
    false
}

/// Makes folders that nobody else can look into.
#[cfg(unix)]
pub(crate) fn only_ours(builder: &mut DirBuilder) {
    std::os::unix::fs::DirBuilderExt::mode(builder, 0o700);
}

#[cfg(not(unix))]
pub(crate) fn only_ours(builder: &mut DirBuilder) {
    let _ = builder;
}
