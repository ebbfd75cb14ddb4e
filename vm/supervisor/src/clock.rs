//! The guest's clock: told again when it differs, as after the computer has slept.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the host's own clock is looked at for a jump.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A jump that is no drift.
const JUMP: Duration = Duration::from_millis(40);

/// A guest's clock that differs by more is set.
pub(crate) const DRIFT: Duration = Duration::from_millis(50);

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Notices that the clock moved otherwise than time passed for the guest: it was set, or the computer or the machine slept.
#[derive(Debug)]
pub(crate) struct Watch {
    wall: u64,
    steady: std::time::Instant,
    stood_still: bool,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { wall: now(), steady: std::time::Instant::now(), stood_still: false }
    }

    /// Whether it jumped since the last look; a guest that stands still can't be told yet.
    pub(crate) fn has_jumped(&mut self, stands_still: bool) -> bool {
        let new = Self { stood_still: stands_still, ..Self::new() };
        let before = std::mem::replace(self, new);
        if before.stood_still || stands_still {
            return !stands_still;
        }
        // Instant does not count what the computer sleeps; the wall clock does.
        let passed = u64::try_from((self.steady - before.steady).as_nanos()).unwrap_or(u64::MAX);
        let moved = self.wall.abs_diff(before.wall.saturating_add(passed));
        Duration::from_nanos(moved) > JUMP
    }
}
