//! Room on the host's disk: the guest is told how much it may take, and stopped before a write of it could fail.

use vm_manager::places::Places;

/// What the guest's file system may need beside files: its journal, and tables that are written as they are used.
const RESERVE: u64 = 96 << 20;
/// Below, the guest is stopped: what it has promised could no longer be written.
const LOW: u64 = 16 << 20;
/// Steps in which room is told.
const STEP: u64 = 4 << 20;

/// What is to be done about the room there is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    /// What the guest was told that it may take.
    told: Option<u64>,
    is_stopped: bool,
    free: u64,
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The guest is to know that it may take so much.
    Tell(u64),
    /// The guest is to stand still.
    Stop,
    /// It may go on.
    GoOn,
}

impl Room {
    /// Looks at the room that there is; the disk itself has room for `disk` bytes.
    pub(crate) fn look(&mut self, free: u64, disk: u64) -> Vec<Step> {
        self.free = free;
        let mut steps = Vec::new();
        // Some more before it goes on, that it does not stop again at once.
        let is_low = free < if self.is_stopped { 2 * LOW } else { LOW };
        if is_low != self.is_stopped {
            self.is_stopped = is_low;
            steps.push(if is_low { Step::Stop } else { Step::GoOn });
        }
        let room = (free.saturating_sub(RESERVE) / STEP * STEP).min(disk);
        if !self.is_stopped && self.told != Some(room) {
            self.told = Some(room);
            steps.push(Step::Tell(room));
        }
        steps
    }

    /// Whether the guest stands still.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// What a person is to know.
    pub(crate) fn warning(&self, places: &Places) -> Option<String> {
        let path = places.data.display();
        if self.is_stopped {
            return Some(format!(
                "the machine stands still, because the disk that holds {path} is full; it goes on by itself once there is room"
            ));
        }
        let is_short = self.told.is_some_and(|told| told < RESERVE);
        is_short.then(|| {
            let left = (self.free / STEP * STEP) >> 20;
            format!("the disk that holds {path} has only {left} MiB left, of which containers may write little: make room there")
        })
    }
}

/// Bytes that are left where the machine's disk is.
pub(crate) fn free(places: &Places) -> Option<u64> {
    crate::platform::free(&places.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_told_once_of_room_and_stopped_before_there_is_none() {
        let mut room = Room::default();
        let gib = 1 << 30;
        assert_eq!(room.look(100 * gib, 8 * gib), [Step::Tell(8 * gib)]);
        assert_eq!(room.look(50 * gib, 8 * gib), []);
        assert_eq!(room.look(RESERVE + gib, 8 * gib), [Step::Tell(gib)]);
        assert_eq!(room.look(RESERVE / 2, 8 * gib), [Step::Tell(0)]);
        assert_eq!(room.look(LOW - 1, 8 * gib), [Step::Stop]);
        // A little room is no reason yet.
        assert_eq!(room.look(LOW + 1, 8 * gib), []);
        assert_eq!(room.look(RESERVE + gib, 8 * gib), [Step::GoOn, Step::Tell(gib)]);
    }
}
