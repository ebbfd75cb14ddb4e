//! The small init of `--init`: the container's first process stays itself, runs the program as its
//! child, passes signals on, and reaps what is left to it.
//!
//! It executes nothing, so it needs no file in the image; and it can't be looked into from there,
//! because it still shows the runtime's own program as its executable.

use rustix::event::{PollFd, PollFlags, poll};

use crate::error::{Doing, Result};
use crate::process;
use crate::spec::Process;
use crate::sys;

/// `PR_SET_DUMPABLE`: without it `/proc/1/exe` and `/proc/1/mem` are closed to the container.
const PR_SET_DUMPABLE: libc::c_int = 4;

/// Signals that are the process's own, or can't be caught.
const KEPT: [i32; 9] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGILL,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Goes on as the init of `program`; ends with its exit code.
///
/// # Errors
/// Where the process can't be made harmless before.
pub(super) fn run(program: i32, process: &Process) -> Result<std::convert::Infallible> {
    // The pipe to the parent must end with the program's execve.
    sys::close_from(3).doing(|| "close what the init does not need")?;
    let caught: Vec<i32> =
        (1..=64).filter(|signal| !KEPT.contains(signal) && !(32..34).contains(signal)).collect();
    let signals = sys::signal_fd(&caught).doing(|| "catch signals")?;
    // No more than the program may; its own user, so that it may send it signals.
    process::drop_privileges(process, None, |_| Ok(()))?;
    sys::prctl(PR_SET_DUMPABLE, 0, 0).doing(|| "close the init to its container")?;
    loop {
        while let Ok(Some(reaped)) = sys::wait(-1, false) {
            if reaped.pid == program {
                sys::exit_now(reaped.code);
            }
        }
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        // Interrupted or not, what has come is looked at.
        let _ = poll(&mut fds, None);
        let mut info = [0_u8; 128];
        while rustix::io::read(&signals, &mut info).is_ok_and(|length| length == info.len()) {
            let [a, b, c, d, ..] = info;
            let signal = i32::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(0);
            if signal != libc::SIGCHLD {
                // It may have ended; the next turn sees to that.
                let _ = sys::kill(program, signal);
            }
        }
    }
}
