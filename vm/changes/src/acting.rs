//! What the guest's acting thread is told to do, and what it is at: names are shown to it as they were before.
//!
//! The thread begins each event by looking up the trigger's name in the share's root, which makes it known and says that
//! the one before is over, done or not. What it meets on its way that is gone from the host by now is still there for it.

use std::collections::{HashMap, VecDeque};

use crate::known::{Place, Shape};

/// Events that the guest was told of and has not begun; so many are not in a stream at once.
const MAX_TOLD: usize = 1 << 16;

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

/// What is to be acted out, and who does it.
#[derive(Debug, Default)]
pub struct Acting {
    thread: Option<i32>,
    told: VecDeque<(u64, Act)>,
    current: Option<(u64, Act)>,
    count: u64,
    /// Names that are gone from the host and not yet from the guest, and by which act they will be.
    gone: HashMap<Place, (u64, Option<u64>)>,
    /// Names that are on the host and not yet in the guest, and the last act that makes them.
    coming: HashMap<Place, u64>,
}

impl Acting {
    /// The guest is told of it next.
    pub fn tell(&mut self, act: Act) {
        self.count += 1;
        if let Some((place, node)) = act.gone() {
            self.gone.insert(place.clone(), (self.count, node));
        }
        if let Some(place) = act.coming() {
            self.coming.insert(place.clone(), self.count);
        }
        self.told.push_back((self.count, act));
        if self.told.len() > MAX_TOLD {
            self.begin_next();
        }
    }

    /// Nobody is told any more.
    pub fn hang_up(&mut self) {
        *self = Acting { count: self.count, ..Acting::default() };
    }

    /// This thread begins what it was told next.
    pub fn begin(&mut self, thread: i32) {
        self.thread = Some(thread);
        self.begin_next();
    }

    fn begin_next(&mut self) {
        let over = std::mem::replace(&mut self.current, self.told.pop_front());
        let Some((number, act)) = over else { return };
        if let Some((place, _)) = act.gone()
            && self.gone.get(place).is_some_and(|(by, _)| *by == number)
        {
            self.gone.remove(place);
        }
        if let Some(place) = act.coming()
            && self.coming.get(place) == Some(&number)
        {
            self.coming.remove(place);
        }
    }

    /// Whether it is this thread that acts.
    #[must_use]
    pub fn is(&self, thread: i32) -> bool {
        self.thread == Some(thread)
    }

    /// What it is at.
    pub fn current(&self) -> Option<&Act> {
        self.current.as_ref().map(|(_, act)| act)
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
    use super::*;
    use crate::known::ROOT;

    #[test]
    fn what_is_gone_is_there_until_the_guest_has_come_to_it() {
        let place = (ROOT, c"a".to_owned());
        let remove = Act::Remove { place: place.clone(), shape: Shape::File, node: Some(7) };
        let mut acting = Acting::default();
        acting.tell(Act::Modify);
        acting.tell(remove.clone());
        acting.tell(Act::Create { place: place.clone(), shape: Shape::File });
        assert_eq!((acting.is(5), acting.gone(&place)), (false, Some(7)));
        acting.begin(5);
        assert_eq!((acting.is(5), acting.current()), (true, Some(&Act::Modify)));
        acting.begin(5);
        assert_eq!((acting.current(), acting.gone(&place)), (Some(&remove), Some(7)));
        acting.begin(5);
        assert_eq!(acting.gone(&place), None);
        acting.begin(5);
        assert_eq!(acting.current(), None);
    }
}
