//! Notices that this guest's clock was set, by whomever: the host's is the right one, and is told.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer that never ends, but is cancelled when the clock is set (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// Watches from now on.
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?;
        let never = Timespec { tv_sec: i64::from(i32::MAX) * 4, tv_nsec: 0 };
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&timer, flags, &Itimerspec { it_interval: none, it_value: never })?;
        Ok(Self(timer))
    }

    /// Returns when the clock has been set since this last returned. Blocks.
    pub(crate) fn wait(&self) -> io::Result<()> {
        loop {
            match rustix::io::read(&self.0, &mut [0; 8]) {
                Err(Errno::CANCELED) => return Ok(()),
                Err(Errno::INTR) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
