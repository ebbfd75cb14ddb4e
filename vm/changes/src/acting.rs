//! What the guest's acting thread is told to do, and what it is at: names are shown to it as they were before.
//!
//! The thread begins each event by looking up the trigger's name in the share's root, which makes it known and says that
//! the one before is over, done or not, and says by another when it ends. What it meets on its way that is gone from the host by now is still there for it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use crate::event::{Event, EventKind};
use crate::known::{Known, Place, Shape};

/// Events that the guest was told of and has not begun; so many are not in a stream at once.
const MAX_TOLD: usize = 1 << 16;
/// Threads that may act at once: one does, but for those that still have what they were told before a connection ended.
const MAX_THREADS: usize = 16;

/// A change that the guest acts out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Of a name.
    Create {
        /// Where.
        place: Place,
        /// What.
        shape: Shape,
    },
    /// Of content or attributes.
    Modify,
    /// Of a name.
    Remove {
        /// Where it was.
        place: Place,
        /// What it was.
        shape: Shape,
        /// The number by which the guest knew it, if it did.
        node: Option<u64>,
        /// It lives on elsewhere, as far as is known.
        is_moved: bool,
    },
    /// Of one name to another.
    Rename {
        /// What it was.
        from: Place,
        /// What it is.
        to: Place,
        /// What has it.
        shape: Shape,
        /// The number by which the guest knew it, if it did.
        node: Option<u64>,
        /// What was in the way, if the guest knew it.
        replaced: Option<u64>,
    },
}

impl Act {
    /// The name that is gone after it.
    fn gone(&self) -> Option<(&Place, Option<u64>)> {
        match self {
            Act::Remove { place, node, .. } | Act::Rename { from: place, node, .. } => Some((place, *node)),
            Act::Create { .. } | Act::Modify => None,
        }
    }

    /// The name that is new after it.
    fn coming(&self) -> Option<&Place> {
        match self {
            Act::Create { place, .. } | Act::Rename { to: place, .. } => Some(place),
            Act::Remove { .. } | Act::Modify => None,
        }
    }
}

/// One that the guest will see, or sees.
#[derive(Clone, Debug)]
struct Step {
    number: u64,
    event: Event,
    act: Act,
}

/// What is to be acted out, and who does it.
///
/// The guest goes on meanwhile. What it does to a name is newer than all that was planned until then: no such step takes
/// from it what it has made, nor brings back what it has taken away.
#[derive(Debug, Default)]
pub struct Acting {
    /// Those that act, or did and have not said that they do no more.
    threads: Vec<i32>,
    /// The one among them that is told.
    thread: Option<i32>,
    planned: VecDeque<Step>,
    told: VecDeque<Step>,
    current: Option<Step>,
    count: u64,
    /// Names that are gone from the host and not yet from the guest, and by which step they will be.
    gone: HashMap<Place, (u64, Option<u64>)>,
    /// Names that are on the host and not yet in the guest, and the last step that makes them.
    coming: HashMap<Place, u64>,
    /// Names among them that the guest itself has changed, and the last step that was planned before.
    overtaken: HashMap<Place, u64>,
}

impl Acting {
    /// The guest is told of it after all others.
    pub fn plan(&mut self, (event, act): (Event, Act)) {
        let step = self.step(event, act);
        self.note(&step);
        self.planned.push_back(step);
    }

    fn step(&mut self, event: Event, act: Act) -> Step {
        self.count += 1;
        Step { number: self.count, event, act }
    }

    fn note(&mut self, Step { number, act, .. }: &Step) {
        if let Some((place, node)) = act.gone() {
            self.gone.insert(place.clone(), (*number, node));
        }
        if let Some(place) = act.coming() {
            self.coming.insert(place.clone(), *number);
        }
    }

    /// Whether the guest is to be told of something.
    #[must_use]
    pub fn has_planned(&self) -> bool {
        !self.planned.is_empty()
    }

    /// What the guest is told now.
    pub fn tell(&mut self) -> Option<Event> {
        let step = self.planned.pop_front()?;
        let event = step.event.clone();
        self.told.push_back(step);
        if self.told.len() > MAX_TOLD {
            self.begin_next();
        }
        Some(event)
    }

    /// Nobody hears any more: what was told and is not over is told again to who comes next.
    pub fn hang_up(&mut self) {
        self.thread = None;
        if let Some(current) = self.current.take() {
            self.told.push_front(current);
        }
        while let Some(step) = self.told.pop_back() {
            self.planned.push_front(step);
        }
    }

    /// All of it is over.
    pub fn clear(&mut self) {
        *self = Acting { count: self.count, ..Acting::default() };
    }

    /// None but what is acted out at this moment is to be.
    pub fn drop_planned(&mut self) {
        self.planned.clear();
        let left: Vec<Step> = self.current.iter().chain(&self.told).cloned().collect();
        self.gone.clear();
        self.coming.clear();
        left.iter().for_each(|step| self.note(step));
    }

    /// This thread begins what it was told next.
    pub fn begin(&mut self, thread: i32) {
        self.know(thread);
        self.thread = Some(thread);
        self.begin_next();
    }

    /// This thread acts, but what it does is of no use any more.
    pub fn know(&mut self, thread: i32) {
        self.threads.retain(|known| *known != thread);
        if self.threads.len() >= MAX_THREADS {
            self.threads.remove(0);
        }
        self.threads.push(thread);
    }

    /// This thread acts no more: whoever has its number next is another.
    pub fn end(&mut self, thread: i32) {
        if self.thread == Some(thread) {
            self.thread = None;
            self.finish();
        }
        self.threads.retain(|known| *known != thread);
    }

    fn begin_next(&mut self) {
        self.finish();
        self.current = self.told.pop_front();
    }

    fn finish(&mut self) {
        let Some(Step { number, act, .. }) = self.current.take() else { return };
        if let Some((place, _)) = act.gone() {
            if self.gone.get(place).is_some_and(|(by, _)| *by == number) {
                self.gone.remove(place);
            }
            self.forget_overtaken(place);
        }
        if let Some(place) = act.coming() {
            if self.coming.get(place) == Some(&number) {
                self.coming.remove(place);
            }
            self.forget_overtaken(place);
        }
    }

    fn forget_overtaken(&mut self, place: &Place) {
        if !self.gone.contains_key(place) && !self.coming.contains_key(place) {
            self.overtaken.remove(place);
        }
    }

    /// The guest itself has made, removed or renamed what has this name.
    pub fn overtake(&mut self, place: &Place) {
        if self.concerns(place) {
            self.overtaken.insert(place.clone(), self.count);
        }
    }

    /// Gives up what is acted out if the guest has been faster; what is right of a rename nonetheless comes next.
    pub fn give_way(&mut self) {
        let Some(Step { number, event, act }) = &self.current else { return };
        let is_overtaken = |place: &Place| self.overtaken.get(place).is_some_and(|until| until >= number);
        let mut instead = Vec::new();
        match (act, &event.kind) {
            (Act::Create { place, .. } | Act::Remove { place, .. }, _) if is_overtaken(place) => {}
            (Act::Rename { from, to, shape, node, replaced }, EventKind::Renamed { to: path }) => {
                let (old, new) = (is_overtaken(from), is_overtaken(to));
                if !old && !new {
                    return;
                }
                let remove = |path: &PathBuf, place: &Place, node: Option<u64>, is_moved: bool| {
                    let is_moved = is_moved && node.is_some();
                    let event = Event { path: path.clone(), kind: EventKind::removed(*shape, is_moved) };
                    (event, Act::Remove { place: place.clone(), shape: *shape, node, is_moved })
                };
                if !old {
                    instead.push(remove(&event.path, from, *node, true));
                }
                if !new {
                    instead.extend(replaced.map(|node| remove(path, to, Some(node), false)));
                    let event = Event { path: path.clone(), kind: EventKind::created(*shape) };
                    instead.push((event, Act::Create { place: to.clone(), shape: *shape }));
                }
            }
            _ => return,
        }
        self.finish();
        for (event, act) in instead.into_iter().rev() {
            let step = self.step(event, act);
            self.note(&step);
            self.planned.push_front(step);
        }
    }

    /// Whether it is this thread that acts.
    #[must_use]
    pub fn is(&self, thread: i32) -> bool {
        self.threads.contains(&thread)
    }

    /// Whether it may take away a name: of a folder that the guest has found elsewhere by now, it may not.
    pub fn may_remove(&self, place: &Place, is_away: bool, known: &Known) -> bool {
        let Some(Act::Remove { place: current, shape, node, is_moved }) = self.current() else {
            return false;
        };
        let is_found = *shape == Shape::Folder && node.is_some_and(|node| known.is_elsewhere(node, current));
        current == place && *is_moved | !is_away && !is_found
    }

    /// What it is at.
    pub fn current(&self) -> Option<&Act> {
        self.current.as_ref().map(|step| &step.act)
    }

    /// The number by which the guest still knows a name that is gone.
    pub fn gone(&self, place: &Place) -> Option<u64> {
        self.gone.get(place).and_then(|(_, node)| *node)
    }

    /// Whether something that the guest has not seen yet happened to a name.
    pub fn concerns(&self, place: &Place) -> bool {
        let is_current = self.current().is_some_and(|act| {
            act.gone().is_some_and(|(gone, _)| gone == place) || act.coming() == Some(place)
        });
        is_current || self.gone.contains_key(place) || self.coming.contains_key(place)
    }

    /// Whether a name will be made.
    pub fn is_coming(&self, place: &Place) -> bool {
        self.coming.contains_key(place)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;
    use crate::known::ROOT;

    fn place(name: &str) -> Place {
        (ROOT, CString::new(name).unwrap())
    }

    fn remove(name: &str, node: Option<u64>) -> (Event, Act) {
        let event = Event { path: name.into(), kind: EventKind::Removed };
        (event, Act::Remove { place: place(name), shape: Shape::File, node, is_moved: false })
    }

    fn create(name: &str) -> (Event, Act) {
        let event = Event { path: name.into(), kind: EventKind::Created };
        (event, Act::Create { place: place(name), shape: Shape::File })
    }

    fn rename(from: &str, to: &str) -> (Event, Act) {
        let event = Event { path: from.into(), kind: EventKind::Renamed { to: to.into() } };
        let (from, to, shape) = (place(from), place(to), Shape::File);
        (event, Act::Rename { from, to, shape, node: Some(7), replaced: Some(8) })
    }

    fn modify(name: &str) -> (Event, Act) {
        (Event { path: name.into(), kind: EventKind::Modified }, Act::Modify)
    }

    fn told(acting: &mut Acting) -> Vec<Event> {
        std::iter::from_fn(|| acting.tell()).collect()
    }

    fn events<const N: usize>(steps: [(Event, Act); N]) -> Vec<Event> {
        steps.map(|(event, _)| event).into()
    }

    #[test]
    fn what_is_gone_is_there_until_the_guest_has_come_to_it() {
        let mut acting = Acting::default();
        for step in [modify("b"), remove("a", Some(7)), create("a")] {
            acting.plan(step);
        }
        told(&mut acting);
        assert_eq!((acting.is(5), acting.gone(&place("a"))), (false, Some(7)));
        acting.begin(5);
        assert_eq!((acting.is(5), acting.current()), (true, Some(&Act::Modify)));
        acting.begin(5);
        assert_eq!((acting.current(), acting.gone(&place("a"))), (Some(&remove("a", Some(7)).1), Some(7)));
        acting.begin(5);
        assert_eq!(acting.gone(&place("a")), None);
        acting.begin(5);
        assert_eq!(acting.current(), None);
        assert!(!acting.concerns(&place("a")));
    }

    #[test]
    fn what_is_not_over_is_told_again() {
        let mut acting = Acting::default();
        for step in [create("a"), create("b"), create("c")] {
            acting.plan(step);
        }
        assert_eq!([acting.tell(), acting.tell()].map(Option::unwrap), [create("a").0, create("b").0]);
        acting.begin(5);
        acting.hang_up();
        assert!(acting.is(5) && acting.current().is_none(), "it must not do in earnest what it is at");
        assert!(acting.is_coming(&place("a")) && acting.is_coming(&place("b")));
        acting.end(5);
        assert!(!acting.is(5));
        assert_eq!(told(&mut acting), events([create("a"), create("b"), create("c")]));
    }

    #[test]
    fn a_thread_that_acts_is_known_until_it_says_that_it_does_no_more() {
        let mut acting = Acting::default();
        for step in [create("a"), create("b")] {
            acting.plan(step);
        }
        told(&mut acting);
        acting.begin(5);
        acting.end(5);
        acting.hang_up();
        assert_eq!(told(&mut acting), events([create("b")]), "the first is over");
        acting.plan(create("c"));
        acting.tell();
        acting.begin(6);
        acting.know(7);
        acting.end(7);
        assert_eq!([5, 6, 7].map(|thread| acting.is(thread)), [false, true, false]);
        assert_eq!(acting.current(), Some(&create("b").1), "one that is late ends nothing of another's");
    }

    #[test]
    fn what_the_guest_did_meanwhile_is_left_as_it_is() {
        for step in [create("a"), remove("a", Some(7))] {
            let mut acting = Acting::default();
            acting.plan(step);
            acting.overtake(&place("a"));
            acting.plan(modify("a"));
            assert_eq!(told(&mut acting).len(), 2);
            acting.begin(5);
            acting.give_way();
            assert_eq!((acting.current(), acting.has_planned()), (None, false));
            acting.begin(5);
            acting.give_way();
            assert_eq!(acting.current(), Some(&Act::Modify));
        }
    }

    #[test]
    fn what_is_planned_later_is_not_overtaken() {
        let mut acting = Acting::default();
        acting.plan(remove("a", Some(7)));
        acting.overtake(&place("a"));
        acting.plan(remove("a", Some(9)));
        told(&mut acting);
        acting.begin(5);
        acting.give_way();
        assert_eq!(acting.current(), None);
        acting.begin(5);
        acting.give_way();
        assert_eq!(acting.current(), Some(&remove("a", Some(9)).1));
        acting.begin(5);
        assert!(acting.overtaken.is_empty());
    }

    #[test]
    fn of_a_rename_that_the_guest_overtook_the_other_end_is_seen_to() {
        let instead_of = |overtaken: &[&str]| {
            let mut acting = Acting::default();
            acting.plan(rename("a", "b"));
            acting.plan(modify("c"));
            acting.tell();
            acting.begin(5);
            overtaken.iter().for_each(|name| acting.overtake(&place(name)));
            acting.give_way();
            let is_given_up = acting.current().is_none();
            (is_given_up, told(&mut acting))
        };
        assert_eq!(instead_of(&["c"]), (false, events([modify("c")])));
        assert_eq!(
            instead_of(&["a"]),
            (true, events([remove("b", None), create("b"), modify("c")])),
            "the guest made another a"
        );
        assert_eq!(instead_of(&["b"]), (true, events([remove("a", None), modify("c")])));
        assert_eq!(instead_of(&["a", "b"]), (true, events([modify("c")])));
    }
}
