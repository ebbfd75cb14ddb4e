//! Stays with a foreground process: passes signals on and carries bytes between two terminals.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};

use crate::error::{Doing, Result};
use crate::sys;

/// Signals that are passed on to the container's process.
const FORWARDED: [i32; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// Signals of this process, caught from now on.
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Blocks what is forwarded, and SIGCHLD, and collects them.
    pub(crate) fn catch() -> Result<Self> {
        let mut all = FORWARDED.to_vec();
        all.push(libc::SIGCHLD);
        sys::signal_fd(&all).map(Self).doing(|| "catch signals")
    }

    fn next(&self) -> Option<i32> {
        // struct signalfd_siginfo is 128 bytes and starts with the number.
        let mut info = [0_u8; 128];
        match rustix::io::read(&self.0, &mut info) {
            Ok(128) => i32::try_from(u32::from_ne_bytes([info[0], info[1], info[2], info[3]])).ok(),
            _ => None,
        }
    }
}

/// Waits for `pid`; returns its exit code.
pub(crate) fn until_exit(pid: i32, terminal: Option<&OwnedFd>, signals: &Signals) -> Result<i32> {
    let _raw = terminal.and_then(|_| RawMode::enter());
    if let Some(terminal) = terminal {
        copy_size(terminal);
    }
    let mut stdin_is_open = terminal.is_some();
    loop {
        let mut fds = vec![PollFd::new(&signals.0, PollFlags::IN)];
        let stdin = rustix::stdio::stdin();
        if let Some(terminal) = terminal {
            fds.push(PollFd::new(terminal, PollFlags::IN));
        }
        if stdin_is_open {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).doing(|| "wait for the container"),
        }
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (from_terminal, from_stdin) = (is_ready(1), is_ready(2));
        if let Some(terminal) = terminal {
            if from_terminal {
                copy_some(terminal.as_fd(), rustix::stdio::stdout());
            }
            if from_stdin {
                stdin_is_open = copy_some(stdin, terminal.as_fd());
            }
        }
        while let Some(signal) = signals.next() {
            match signal {
                libc::SIGCHLD => {}
                libc::SIGWINCH if terminal.is_some() => terminal.into_iter().for_each(copy_size),
                // It may be gone already, which the next wait tells.
                signal => drop(sys::kill(pid, signal)),
            }
        }
        // As the parent, and as subreaper of daemons a container leaves, reap whatever ended.
        if let Some(reaped) = sys::wait(pid, false).doing(|| "wait for the container")? {
            if let Some(terminal) = terminal {
                drain(terminal);
            }
            return Ok(reaped.code);
        }
    }
}

/// Copies what is there; `false` at the end of the stream.
fn copy_some(from: std::os::fd::BorrowedFd<'_>, to: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let Ok(length) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = buffer.get(..length).unwrap_or_default();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    length > 0
}

/// What the process wrote before it ended.
fn drain(terminal: &OwnedFd) {
    let mut fds = [PollFd::new(terminal, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    while poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
        if !copy_some(terminal.as_fd(), rustix::stdio::stdout()) {
            return;
        }
    }
}

fn copy_size(terminal: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        // A terminal that is gone needs no size.
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

/// The caller's terminal in raw mode, put back at the end.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Option<Self> {
        let saved = rustix::termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = saved.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(saved))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that refuses.
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}
