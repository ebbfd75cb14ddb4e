//! What the host's kernel told of watched folders, in its order and without what the guest did itself. Knows no files, so
//! it is tested alone.
//!
//! A guest's deed is noted while nobody else may look, and the kernel tells of it before the deed returns. So when all that
//! was told has been read, what is still noted will never be told: nothing is ever taken for the guest's that is not.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;

/// Changes that wait for a guest that is slow; beyond, they are dropped, and folders are compared with what is known.
pub(super) const MAX_WAITING: usize = 1 << 17;

/// A name in a folder, by the folder's watch.
pub(super) type Spot = (i32, CString);

/// What the kernel says happens to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Created,
    Deleted,
    /// Away from here; the other half has the same cookie.
    MovedFrom,
    MovedTo,
    /// Its content or attributes changed.
    Touched,
}

/// One event as the kernel tells it.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) spot: Spot,
    pub(super) kind: Kind,
    pub(super) cookie: u32,
    pub(super) is_folder: bool,
    /// It is no more than that what is said of a file has changed.
    pub(super) is_of_attributes: bool,
}

/// What the host did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Appeared { spot: Spot, is_folder: bool },
    Disappeared { spot: Spot, is_folder: bool, is_moved: bool },
    Renamed { from: Spot, to: Spot, is_folder: bool },
    Touched { spot: Spot },
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Told>,
    /// Names with a [`Told::Touched`] among the waiting; how they look is found out when their turn comes.
    touched: HashSet<Spot>,
    /// The guest's own.
    expected: HashMap<(Spot, Kind), u32>,
    has_lost: bool,
}

impl Queue {
    /// The guest did this, and the kernel will tell of it.
    pub(super) fn expect(&mut self, spot: Spot, kind: Kind) {
        *self.expected.entry((spot, kind)).or_default() += 1;
    }

    /// Takes in what was read, while no deed of the guest may happen; `is_all` that there is to be read.
    pub(super) fn gather(&mut self, events: impl IntoIterator<Item = Raw>, is_all: bool) {
        // The halves of a rename follow each other, but for what others do at the same moment.
        let mut halves: HashMap<u32, usize> = HashMap::new();
        let mut told: Vec<Option<Told>> = Vec::new();
        for Raw { spot, kind, cookie, is_folder, .. } in events {
            if self.is_own(&spot, kind) {
                continue;
            }
            let entry = match kind {
                Kind::Created => Told::Appeared { spot, is_folder },
                Kind::Deleted => Told::Disappeared { spot, is_folder, is_moved: false },
                Kind::MovedFrom => {
                    halves.insert(cookie, told.len());
                    Told::Disappeared { spot, is_folder, is_moved: true }
                }
                Kind::MovedTo => match halves.remove(&cookie).and_then(|at| told[at].take()) {
                    Some(Told::Disappeared { spot: from, .. }) => Told::Renamed { from, to: spot, is_folder },
                    _ => Told::Appeared { spot, is_folder },
                },
                Kind::Touched if self.touched.insert(spot.clone()) => Told::Touched { spot },
                Kind::Touched => continue,
            };
            told.push(Some(entry));
        }
        if is_all {
            self.expected.clear();
        }
        self.waiting.extend(told.into_iter().flatten());
        if self.waiting.len() > MAX_WAITING {
            self.lose();
        }
    }

    /// Whether the guest is yet to be told of a change of what is by this name.
    pub(super) fn will_tell(&self, spot: &Spot) -> bool {
        self.touched.contains(spot)
    }

    fn is_own(&mut self, spot: &Spot, kind: Kind) -> bool {
        if self.expected.is_empty() {
            return false;
        }
        let key = (spot.clone(), kind);
        let Some(count) = self.expected.get_mut(&key) else { return false };
        *count -= 1;
        if *count == 0 {
            self.expected.remove(&key);
        }
        true
    }

    /// The kernel, or we, could not keep all that happened.
    pub(super) fn lose(&mut self) {
        self.waiting.clear();
        self.touched.clear();
        self.has_lost = true;
    }

    /// Whether something was lost since this was last asked.
    pub(super) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.has_lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.has_lost
    }

    /// The oldest that waits.
    pub(super) fn next(&mut self) -> Option<Told> {
        let told = self.waiting.pop_front()?;
        if let Told::Touched { spot } = &told {
            self.touched.remove(spot);
        }
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(name: &str) -> Spot {
        (1, CString::new(name).unwrap())
    }

    fn raw(kind: Kind, name: &str, cookie: u32) -> Raw {
        Raw { spot: spot(name), kind, cookie, is_folder: false, is_of_attributes: false }
    }

    fn all(queue: &mut Queue) -> Vec<Told> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn what_the_guest_did_is_left_out_once() {
        let mut queue = Queue::default();
        queue.expect(spot("a"), Kind::Created);
        queue.gather(
            [raw(Kind::Created, "a", 0), raw(Kind::Deleted, "a", 0), raw(Kind::Created, "a", 0)],
            true,
        );
        let told = all(&mut queue);
        assert_eq!(
            told,
            [
                Told::Disappeared { spot: spot("a"), is_folder: false, is_moved: false },
                Told::Appeared { spot: spot("a"), is_folder: false }
            ]
        );
    }

    #[test]
    fn what_the_kernel_never_told_of_the_guest_hides_nothing_later() {
        let mut queue = Queue::default();
        queue.expect(spot("a"), Kind::Created);
        queue.gather([], true);
        queue.gather([raw(Kind::Created, "a", 0)], true);
        assert_eq!(all(&mut queue).len(), 1);
    }

    #[test]
    fn halves_of_a_rename_are_one_and_a_half_alone_is_what_it_looks_like() {
        let mut queue = Queue::default();
        queue.gather(
            [
                raw(Kind::MovedFrom, "a", 7),
                raw(Kind::MovedFrom, "away", 8),
                raw(Kind::MovedTo, "b", 7),
                raw(Kind::MovedTo, "here", 9),
            ],
            true,
        );
        let told = all(&mut queue);
        assert_eq!(
            told,
            [
                Told::Disappeared { spot: spot("away"), is_folder: false, is_moved: true },
                Told::Renamed { from: spot("a"), to: spot("b"), is_folder: false },
                Told::Appeared { spot: spot("here"), is_folder: false }
            ]
        );
    }

    #[test]
    fn a_file_that_is_written_all_the_time_waits_once() {
        let mut queue = Queue::default();
        queue.gather(
            [raw(Kind::Touched, "a", 0), raw(Kind::Touched, "b", 0), raw(Kind::Touched, "a", 0)],
            true,
        );
        assert_eq!(all(&mut queue).len(), 2);
        queue.gather([raw(Kind::Touched, "a", 0)], true);
        assert_eq!(all(&mut queue).len(), 1);
    }

    #[test]
    fn too_many_that_wait_are_lost_together_and_that_is_known() {
        let mut queue = Queue::default();
        queue.gather((0..=MAX_WAITING).map(|at| raw(Kind::Created, &at.to_string(), 0)), true);
        assert!(!queue.is_empty() && queue.next().is_none());
        assert!(queue.take_lost() && !queue.take_lost());
    }
}
