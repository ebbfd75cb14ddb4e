//! From what the host told to what is acted out: looks at what there is, and compares it with what is known.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::PoisonError;

use rustix::fs::{Dir, OFlags};
use vm_changes::{Act, Difference, Event, EventKind, Place, Seen, Shape, Stamp};
use vm_proto::change::{Change, Deed, Hints};

use super::folder::Folder;
use super::told::{State, Waiting};
use crate::trigger;

type Changes = Vec<(Event, Act)>;

impl Folder {
    /// Acts out what this stream tells, for the share whose root is `root`, until it is told by no more.
    ///
    /// Call it on a thread of its own that does nothing else in the share.
    pub(super) fn act_out(&self, stream: u64, root: BorrowedFd<'_>) {
        let _alone = self.acting.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        while let Some(event) = self.next(stream, thread) {
            perform(root, &event);
            // It is over; whatever else this thread did would change nothing.
            self.lock().acting.begin(thread);
        }
        self.lock().acting.clear();
    }

    /// Waits for something that this thread is to act out; `None` when nothing more comes by this stream.
    fn next(&self, stream: u64, thread: i32) -> Option<Event> {
        loop {
            let waited = self.told.wait_while(self.lock(), |state| state.is_idle(stream));
            let state = &mut *waited.unwrap_or_else(PoisonError::into_inner);
            if !state.is_told_by(stream) {
                return None;
            }
            if let Some(event) = state.acting.tell() {
                state.acting.begin(thread);
                return Some(event);
            }
            if let Some(Waiting { change, is_own }) = state.pop() {
                let changes =
                    if is_own { self.look_after(state, &change) } else { self.translate(state, change) };
                changes.into_iter().for_each(|change| state.acting.plan(change));
            }
        }
    }

    fn stamp(&self, place: &Place) -> Option<Stamp> {
        self.below.look_anew(place.0, &place.1).ok().map(|attr| attr.stamp())
    }

    /// Whether what has a name by now is what the guest has made there, or was told of.
    fn is_right(&self, state: &State, place: &Place) -> bool {
        state.known.is_right(place, self.stamp(place))
    }

    /// Whether the guest made what has a name, or was told of it.
    fn is_told(&self, state: &State, place: &Place) -> bool {
        let told = state.known.name(place).filter(|name| name.is_told);
        told.is_some_and(|name| self.stamp(place).is_some_and(|stamp| stamp.inode == name.inode))
    }

    fn translate(&self, state: &mut State, Change { path, deed }: Change) -> Changes {
        if deed == Deed::Lost {
            return self.look_for_changes(state, &path);
        }
        // What the guest does not know is nothing new to it.
        let place = state.known.place(&path);
        if place.is_none() {
            state.note_unknown(path.clone());
        }
        match deed {
            Deed::Appeared { is_folder } => {
                // Not what was found already when it was looked for.
                let is_news = |place: &Place| !self.is_told(state, place);
                let place = place.filter(is_news);
                place.map(|place| self.appeared(state, place, &path, is_folder)).unwrap_or_default()
            }
            Deed::Disappeared { is_folder } => {
                let place = place.filter(|place| !self.is_right(state, place));
                place.into_iter().map(|place| self.disappeared(state, place, &path, is_folder)).collect()
            }
            Deed::Renamed { to } => match (place, state.known.place(&to)) {
                (Some(from), Some(new)) => self.renamed(state, (from, &path), (new, &to)),
                (Some(from), None) if self.is_right(state, &from) => Vec::new(),
                (Some(from), None) => vec![self.disappeared(state, from, &path, false)],
                (None, Some(new)) if self.is_told(state, &new) => Vec::new(),
                (None, Some(new)) => {
                    let is_folder = self.stamp(&new).is_some_and(|stamp| stamp.shape == Shape::Folder);
                    self.appeared(state, new, &to, is_folder)
                }
                (None, None) => Vec::new(),
            },
            Deed::Touched => place.and_then(|place| self.touched(state, &place, &path)).into_iter().collect(),
            Deed::Unclear(hints) => self.found_out(state, &path, hints),
            Deed::Lost => Vec::new(),
        }
    }

    /// Looks after what seems to be the guest's own deed: then all is as the guest knows it.
    fn look_after(&self, state: &mut State, Change { path, deed }: &Change) -> Changes {
        let mut changes = Changes::new();
        let mut paths = vec![path.clone()];
        if let Deed::Renamed { to } = deed {
            paths.extend(state.now_known(path, to));
            paths.push(to.clone());
        }
        for path in paths {
            let Some(place) = state.known.place(&path) else { continue };
            let known = state.known.name(&place).map(|name| name.inode);
            if known != self.stamp(&place).map(|stamp| stamp.inode) {
                let hints = Hints { created: true, ..Hints::default() };
                self.compare(state, &path, hints, &mut changes);
            }
        }
        changes
    }

    fn appeared(&self, state: &mut State, place: Place, path: &[u8], is_folder: bool) -> Changes {
        let stamp = self.stamp(&place);
        let mut changes = Changes::new();
        // What was moved here took the place of what the guest holds.
        let held = state.known.name(&place).filter(|name| name.node.is_some());
        if held.zip(stamp).is_some_and(|(name, stamp)| stamp.inode != name.inode) {
            changes.push(self.disappeared(state, place.clone(), path, is_folder));
        }
        // By now there may be something else, or nothing.
        let stamp = stamp.filter(|stamp| (stamp.shape == Shape::Folder) == is_folder);
        if let Some(stamp) = stamp {
            state.known.appeared(place.clone(), stamp);
        }
        let shape = stamp.map_or(Shape::of(is_folder), |stamp| stamp.shape);
        changes.push((event(path, EventKind::created(shape)), Act::Create { place, shape }));
        changes
    }

    fn renamed(&self, state: &mut State, (from, old): (Place, &[u8]), (to, new): (Place, &[u8])) -> Changes {
        let stamp = self.stamp(&to);
        if let Seen::Apart { is_gone, is_new } =
            state.known.see_rename((&from, self.stamp(&from)), (&to, stamp))
        {
            let is_folder = stamp.is_some_and(|stamp| stamp.shape == Shape::Folder);
            let mut changes = Changes::new();
            if is_gone {
                changes.push(self.disappeared(state, from, old, is_folder));
            }
            if is_new {
                changes.extend(self.appeared(state, to, new, is_folder));
            }
            return changes;
        }
        let (name, replaced) = state.known.renamed(&from, to.clone());
        // The guest may have found it by its new name already.
        let replaced = replaced.filter(|name| stamp.is_none_or(|stamp| stamp.inode != name.inode));
        if let Some(stamp) = stamp {
            state.known.moved(to.clone(), stamp);
        }
        let shape = name.map(|name| name.shape).or(stamp.map(|stamp| stamp.shape));
        let act = Act::Rename {
            from,
            to,
            shape: shape.unwrap_or(Shape::File),
            node: name.and_then(|name| name.node),
            replaced: replaced.and_then(|name| name.node),
        };
        vec![(event(old, EventKind::Renamed { to: path_of(new) }), act)]
    }

    /// It is gone, or lives on at a place that the guest does not know.
    fn disappeared(&self, state: &mut State, place: Place, path: &[u8], is_folder: bool) -> (Event, Act) {
        let name = state.known.removed(&place);
        let node = name.and_then(|name| name.node);
        node.into_iter().for_each(|node| state.unlist(node));
        let shape = name.map_or(Shape::of(is_folder), |name| name.shape);
        let folder = node.filter(|_| shape == Shape::Folder);
        let is_moved =
            folder.is_some_and(|node| self.below.look_at_it_anew(node).is_ok_and(|attr| attr.links > 0));
        (event(path, EventKind::removed(shape, is_moved)), Act::Remove { place, shape, node, is_moved })
    }

    fn touched(&self, state: &mut State, place: &Place, path: &[u8]) -> Option<(Event, Act)> {
        let difference = match self.stamp(place) {
            Some(stamp) if state.was_written(stamp.inode) => {
                state.known.changed(stamp);
                // Had the host changed it too, that is seen, if not told.
                if let Some(node) = state.known.name(place).and_then(|name| name.node) {
                    self.doubt(node);
                }
                return None;
            }
            Some(stamp) => state.known.differs(stamp)?,
            // Its end, of which the guest is told next, does not undo that it changed.
            None => state.known.name(place).map(|_| Difference::Content)?,
        };
        Some((event(path, difference.into()), Act::Modify))
    }

    /// What happened to a name of which it is known only that something did.
    fn found_out(&self, state: &mut State, path: &[u8], hints: Hints) -> Changes {
        let mut changes = Changes::new();
        let Some((other, other_hints)) = state.pop_other_half(&hints) else {
            self.compare(state, path, hints, &mut changes);
            return changes;
        };
        let places = state.known.place(path).zip(state.known.place(&other));
        let stamps = places.as_ref().map(|(one, other)| (self.stamp(one), self.stamp(other)));
        // The name that is gone became the one that is there.
        let moved = match (places, stamps) {
            (Some((one, two)), Some((None, Some(stamp)))) => {
                Some(((one, path, hints), (two, &*other), stamp))
            }
            (Some((one, two)), Some((Some(stamp), None))) => {
                Some(((two, &*other, other_hints), (one, path), stamp))
            }
            _ => None,
        };
        let is_there = |place: &Place, stamp: Stamp| {
            state.known.name(place).is_some_and(|name| name.is_told && name.inode == stamp.inode)
        };
        match moved {
            Some(((from, old, hints), (to, new), stamp)) if !is_there(&to, stamp) => {
                if state.known.name(&from).is_none() && hints.created {
                    let act = Act::Create { place: from.clone(), shape: stamp.shape };
                    changes.push((event(old, EventKind::created(stamp.shape)), act));
                }
                changes.extend(self.renamed(state, (from, old), (to.clone(), new)));
                changes.extend(self.touched(state, &to, new));
            }
            _ => {
                self.compare(state, path, hints, &mut changes);
                self.compare(state, &other, other_hints, &mut changes);
            }
        }
        changes
    }

    /// Compares what is known of a name with what there is.
    fn compare(&self, state: &mut State, path: &[u8], hints: Hints, changes: &mut Changes) {
        let Some(place) = state.known.place(path) else { return };
        let (known, stamp) = (state.known.name(&place), self.stamp(&place));
        match (known, stamp) {
            (Some(name), Some(stamp)) if name.inode == stamp.inode => {
                if !name.is_told && (hints.created || hints.renamed) && state.may_be_new(stamp) {
                    changes.extend(self.appeared(state, place, path, stamp.shape == Shape::Folder));
                } else if stamp.shape == Shape::Folder {
                    // Its times change with what is in it, of which it is told by itself.
                    state.known.changed(stamp);
                    name.node.into_iter().for_each(|node| self.doubt(node));
                } else {
                    changes.extend(self.touched(state, &place, path));
                }
            }
            (Some(name), found) => {
                changes.push(self.disappeared(state, place.clone(), path, name.shape == Shape::Folder));
                if let Some(stamp) = found {
                    changes.extend(self.appeared(state, place, path, stamp.shape == Shape::Folder));
                }
            }
            (None, Some(stamp)) if hints.created || hints.renamed => {
                if state.may_be_new(stamp) {
                    changes.extend(self.appeared(state, place, path, stamp.shape == Shape::Folder));
                }
            }
            (None, Some(_)) => changes.extend(self.touched(state, &place, path)),
            // It came and went.
            (None, None) if hints.created && (hints.removed || hints.renamed) && state.passes(hints.file) => {
                changes.extend(self.appeared(state, place.clone(), path, false));
                changes.push(self.disappeared(state, place, path, false));
            }
            (None, None) => {}
        }
    }

    /// Compares what is known with what there is, in a folder and below, after something was not told.
    fn look_for_changes(&self, state: &mut State, below: &[u8]) -> Changes {
        let is_below = |path: &[u8]| {
            below.is_empty() || path.strip_prefix(below).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        };
        let mut known = state.known.by_folder();
        let mut changes = Changes::new();
        for node in state.known.folders() {
            let Some(folder) = state.known.path(node, None) else { continue };
            if !is_below(folder.as_os_str().as_bytes()) {
                continue;
            }
            let mut names = known.remove(&node).unwrap_or_default();
            let is_known: HashSet<CString> = names.iter().cloned().collect();
            names.extend(self.entries(node).into_iter().filter(|name| !is_known.contains(name)));
            for name in names {
                let path = folder.join(OsStr::from_bytes(name.as_bytes()));
                // What is new among what nobody asked for is found out by its time.
                let hints = Hints { created: !is_known.contains(&name), ..Hints::default() };
                self.compare(state, path.as_os_str().as_bytes(), hints, &mut changes);
            }
        }
        changes
    }

    fn entries(&self, folder: u64) -> Vec<CString> {
        let dir = self.below.open(folder, OFlags::RDONLY | OFlags::DIRECTORY).ok();
        let dir = dir.and_then(|fd| Dir::new(fd).ok());
        let names = dir.into_iter().flatten().flatten().map(|entry| entry.file_name().to_owned());
        names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect()
    }
}

fn perform(root: BorrowedFd<'_>, event: &Event) {
    let target = match &event.kind {
        EventKind::Renamed { to } => to.as_os_str(),
        _ => OsStr::new(""),
    };
    // What can't be acted out has changed again since.
    let _ = trigger::act(root, event.kind.letter(), event.path.as_os_str(), target);
}

fn path_of(path: &[u8]) -> PathBuf {
    OsStr::from_bytes(path).into()
}

fn event(path: &[u8], kind: EventKind) -> Event {
    Event { path: path_of(path), kind }
}
