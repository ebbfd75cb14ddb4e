//! What a machine's process is to be before it is executed.
#![expect(unsafe_code, reason = "pre_exec has no safe form")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::process::{Signal, set_parent_process_death_signal, setpgid};

/// Makes a child lead a process group of its own, gain no privileges, and end with the thread that started it: a
/// machine whose devices are gone can't go on. It inherits `kept` under the same number.
pub(crate) fn tie(command: &mut Command, kept: Option<BorrowedFd<'_>>) {
    let kept = kept.map(|kept| kept.as_raw_fd());
    let tie = move || {
        if let Some(kept) = kept {
            // SAFETY: whoever started this keeps it open until the child is executed, and the child has a copy.
            let kept = unsafe { BorrowedFd::borrow_raw(kept) };
            rustix::io::fcntl_setfd(kept, FdFlags::empty())?;
        }
        setpgid(None, None)?;
        rustix::thread::set_no_new_privs(true)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec only what is async-signal-safe may happen. The closure makes a few system calls
    // and converts their errno, which neither allocates nor locks.
    unsafe { command.pre_exec(tie) };
}
