//! What the host told of a share, and what the guest did to it itself, which the host tells of too. Knows no files, so it is
//! tested alone.
//!
//! What the guest did comes back later, from a system that knows nothing of guests. So each deed is noted, and left out once
//! when it is told; a note that was not needed is no longer believed after a while. What was written to is found out by how it
//! looks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vm_changes::{Acting, Known, Place, SYNTHETIC, Shape, Stamp};
use vm_proto::change::{Change, Deed, Hints};

/// Changes that wait to be acted out; beyond, they are dropped, and folders are compared with what is known.
const MAX_WAITING: usize = 1 << 17;
/// Deeds of the guest's that were not told yet; beyond, none is.
const MAX_OWN: usize = 1 << 17;
/// Paths that lead nowhere and are remembered.
const MAX_UNKNOWN: usize = 1 << 10;
/// Files whose look at their opening is remembered.
const MAX_OPENED: usize = 1 << 18;
/// How long the host may take to tell of what the guest did.
const ECHO: Duration = Duration::from_secs(10);
/// How much the host's clock and the guest's may differ, in seconds.
const CLOCKS: i64 = 2;
/// How long a name that is new on the host may wait until the guest is told of it, in seconds.
const UNTOLD: i64 = 60;
/// A file that changed so long ago, in seconds, has another time of change if it changes now.
const SETTLED: i64 = 2;

/// What the guest does to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Created,
    Deleted,
    MovedFrom,
    MovedTo,
}

/// The guest's own writing to a file.
#[derive(Debug, Default)]
struct Written {
    /// How many writes are on their way.
    under_way: u32,
    /// When the last one was done that was not told yet.
    done: Option<Instant>,
}

/// A change that the host told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) change: Change,
    /// It looks like what the guest did itself. What the host did to the same name meanwhile may look so, too.
    pub(super) is_own: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) known: Known,
    pub(super) acting: Acting,
    own: HashMap<(Vec<u8>, Kind), (u32, Instant)>,
    written: HashMap<u64, Written>,
    waiting: VecDeque<Waiting>,
    /// Paths with a [`Deed::Touched`] among the waiting.
    touched: HashSet<Vec<u8>>,
    /// Paths that were told of and that the guest did not know by then, the latest last.
    unknown: VecDeque<Vec<u8>>,
    /// Files that came and went between two looks, and were told so.
    passed: HashSet<u64>,
    /// References of the kernel that are not counted below, for names that were gone already.
    borrowed: HashMap<u64, u64>,
    last_synthetic: u64,
    /// How files looked when the guest opened them, if they had looked so for a while.
    opened: HashMap<u64, (Stamp, Instant)>,
    listed: HashMap<u64, Instant>,
    /// Since when the host tells, in seconds since 1970, while it does.
    since: Option<i64>,
    /// It tells of everything.
    is_complete: bool,
    /// How many streams there were so far.
    pub(super) streams: u64,
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(0)
}

impl State {
    /// The host tells from now on; the number of its stream.
    pub(super) fn begin(&mut self, is_complete: bool) -> u64 {
        self.since = Some(now());
        self.is_complete = is_complete;
        self.streams += 1;
        // What happened before was told to nobody.
        self.lose(Vec::new());
        self.streams
    }

    /// It tells no more. Whoever acts out something at this moment is known as that until it has.
    pub(super) fn end(&mut self) {
        self.since = None;
        self.waiting.clear();
        self.touched.clear();
        self.acting.drop_planned();
    }

    /// Whether there is something to act out, or nothing ever again for this stream.
    pub(super) fn is_idle(&self, stream: u64) -> bool {
        self.streams == stream
            && self.since.is_some()
            && !self.acting.has_planned()
            && self.waiting.is_empty()
    }

    /// Whether this stream is what is listened to.
    pub(super) fn is_told_by(&self, stream: u64) -> bool {
        self.streams == stream && self.since.is_some()
    }

    /// Takes in what the host told.
    pub(super) fn take_in(&mut self, change: Change) {
        let Change { path, deed } = change;
        let is_own = match &deed {
            Deed::Appeared { .. } => self.was_own(&path, &[Kind::Created, Kind::MovedTo]),
            Deed::Disappeared { .. } => self.was_own(&path, &[Kind::Deleted, Kind::MovedFrom]),
            Deed::Renamed { to } => {
                let halves = (self.was_own(&path, &[Kind::MovedFrom]), self.was_own(to, &[Kind::MovedTo]));
                halves.0 && halves.1
            }
            Deed::Touched | Deed::Unclear(_) | Deed::Lost => false,
        };
        let deed = match deed {
            Deed::Touched if !self.touched.insert(path.clone()) => return,
            Deed::Unclear(Hints { created, removed, renamed, modified, file }) => Deed::Unclear(Hints {
                created: created && !self.was_own(&path, &[Kind::Created]),
                removed: removed && !self.was_own(&path, &[Kind::Deleted]),
                renamed: renamed && !self.was_own(&path, &[Kind::MovedFrom, Kind::MovedTo]),
                modified,
                file,
            }),
            Deed::Lost => {
                self.lose(path);
                return;
            }
            deed => deed,
        };
        self.waiting.push_back(Waiting { change: Change { path, deed }, is_own });
        if self.waiting.len() > MAX_WAITING {
            self.lose(Vec::new());
        }
    }

    fn lose(&mut self, below: Vec<u8>) {
        if below.is_empty() {
            self.waiting.clear();
            self.touched.clear();
        }
        self.waiting.push_back(Waiting { change: Change { path: below, deed: Deed::Lost }, is_own: false });
    }

    /// Changes in a folder that had lost its name are looked for.
    pub(super) fn look_in(&mut self, folder: u64) {
        if self.since.is_some()
            && let Some(path) = self.known.path(folder, None)
        {
            self.lose(path.into_os_string().into_encoded_bytes());
        }
    }

    /// The oldest that waits.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        if waiting.change.deed == Deed::Touched {
            self.touched.remove(&waiting.change.path);
        }
        Some(waiting)
    }

    /// What was told of this path leads nowhere. Perhaps the guest has renamed a folder in it.
    pub(super) fn note_unknown(&mut self, path: Vec<u8>) {
        if self.unknown.len() >= MAX_UNKNOWN {
            self.unknown.pop_front();
        }
        self.unknown.push_back(path);
    }

    /// The guest gave the folder `from` the name `to`: where what was told of in it is by now.
    pub(super) fn now_known(&mut self, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
        let in_it = |path: &[u8]| {
            path.strip_prefix(from).filter(|rest| rest.first() == Some(&b'/')).map(<[u8]>::to_vec)
        };
        let found =
            self.unknown.iter().filter_map(|path| in_it(path)).map(|rest| [to, &rest].concat()).collect();
        self.unknown.retain(|path| in_it(path).is_none());
        found
    }

    /// The other name of a file that was renamed, if it is told of next.
    pub(super) fn pop_other_half(&mut self, first: &Hints) -> Option<(Vec<u8>, Hints)> {
        let other = &self.waiting.front()?.change;
        let Deed::Unclear(hints) = other.deed else { return None };
        if !(first.renamed && hints.renamed && first.file != 0 && first.file == hints.file) {
            return None;
        }
        Some((self.waiting.pop_front()?.change.path, hints))
    }

    /// The guest did this itself, and the host will tell of it.
    pub(super) fn expect(&mut self, place @ (folder, name): &Place, kind: Kind) {
        self.acting.overtake(place);
        if self.since.is_none() {
            return;
        }
        let Some(path) = self.known.path(*folder, Some(name)) else { return };
        if self.own.len() >= MAX_OWN {
            self.own.retain(|_, (_, when)| when.elapsed() < ECHO);
        }
        if self.own.len() >= MAX_OWN {
            self.own.clear();
        }
        let noted = self.own.entry((path.as_os_str().as_bytes().to_vec(), kind));
        let (count, when) = noted.or_insert((0, Instant::now()));
        *count += 1;
        *when = Instant::now();
    }

    fn was_own(&mut self, path: &[u8], kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| {
            let key = (path.to_vec(), *kind);
            let Some((count, when)) = self.own.get_mut(&key) else { return false };
            let is_fresh = when.elapsed() < ECHO;
            *count -= 1;
            if *count == 0 || !is_fresh {
                self.own.remove(&key);
            }
            is_fresh
        })
    }

    /// The guest begins to change what is in a file, or what is said of it.
    pub(super) fn begin_writing(&mut self, file: u64) {
        self.written.entry(file).or_default().under_way += 1;
    }

    /// It has done so.
    pub(super) fn end_writing(&mut self, file: u64) {
        if self.written.len() > MAX_OWN {
            self.written.retain(|_, written| written.under_way > 0);
        }
        let written = self.written.entry(file).or_default();
        written.under_way = written.under_way.saturating_sub(1);
        written.done = Some(Instant::now());
    }

    /// Whether a change of a file that the host told of is the guest's.
    pub(super) fn was_written(&mut self, file: u64) -> bool {
        let Some(written) = self.written.get_mut(&file) else { return false };
        if written.under_way > 0 {
            return true;
        }
        let is_own = written.done.is_some_and(|when| when.elapsed() < ECHO);
        self.written.remove(&file);
        is_own
    }

    /// Whether a file that came and went was not told of yet.
    pub(super) fn passes(&mut self, file: u64) -> bool {
        if self.passed.len() >= MAX_OPENED {
            self.passed.clear();
        }
        file == 0 || self.passed.insert(file)
    }

    /// The kernel gets a number of what is no more.
    pub(super) fn synthetic(&mut self) -> u64 {
        self.last_synthetic += 1;
        SYNTHETIC + self.last_synthetic
    }

    /// The kernel gets a reference that is not counted below.
    pub(super) fn lend(&mut self, node: u64) {
        *self.borrowed.entry(node).or_default() += 1;
    }

    /// The kernel gives references back; how many of them are counted below.
    pub(super) fn forget(&mut self, node: u64, count: u64) -> u64 {
        let mut own = count;
        if let Some(borrowed) = self.borrowed.get_mut(&node) {
            let given_back = count.min(*borrowed);
            *borrowed -= given_back;
            own -= given_back;
            if *borrowed == 0 {
                self.borrowed.remove(&node);
            }
        }
        if self.known.forgot(node, own) {
            self.listed.remove(&node);
        }
        own
    }

    /// Whether the guest will be told that a name is new, so that it may not rely on what it knows of it.
    pub(super) fn is_untold(&self, place: &Place, stamp: Stamp) -> bool {
        let is_told = self.known.name(place).is_some_and(|name| name.is_told && name.inode == stamp.inode);
        self.acting.is_coming(place) || !is_told && self.may_be_new(stamp)
    }

    /// Whether what looks so may be there only since the host tells.
    pub(super) fn may_be_new(&self, stamp: Stamp) -> bool {
        self.since.is_some_and(|since| stamp.changed.0 >= since - CLOCKS) && now() - stamp.changed.0 < UNTOLD
    }

    /// Whether nobody but the host's own system changes what there is.
    pub(super) fn is_local(&self) -> bool {
        self.since.is_some() && self.is_complete
    }

    /// Whether the guest hears of everything that happens in a folder.
    pub(super) fn is_followed(&self, folder: u64) -> bool {
        self.is_local() && (folder == vm_changes::ROOT || self.known.is_there(folder))
    }

    /// Whether it hears of whatever happens to a file: by another of its names, it may not.
    pub(super) fn is_file_followed(&self, node: u64, stamp: Stamp, links: u32) -> bool {
        self.known.is_there(node)
            && self.known.folder(node).is_some_and(|folder| self.is_followed(folder))
            && (stamp.shape == Shape::Folder || links == 1)
    }

    /// Whether a name that is not there is none that the guest still has to see come or go.
    pub(super) fn is_nothing(&self, place: &Place) -> bool {
        self.is_followed(place.0) && self.known.name(place).is_none() && !self.acting.concerns(place)
    }

    /// The guest lists a folder; whether what it kept of the last time is as good.
    pub(super) fn list(&mut self, folder: u64, freshness: Duration) -> bool {
        if !self.is_followed(folder) {
            return false;
        }
        let is_kept = self.listed.get(&folder).is_some_and(|listed| listed.elapsed() < freshness);
        if !is_kept {
            self.listed.insert(folder, Instant::now());
        }
        is_kept
    }

    /// What the guest kept of a folder's list is not right for longer than it has its name.
    pub(super) fn unlist(&mut self, folder: u64) {
        self.listed.remove(&folder);
    }

    /// The guest opens a file that looks so; whether what it kept of its content is right.
    pub(super) fn open(&mut self, node: u64, stamp: Stamp, links: u32, freshness: Duration) -> bool {
        let known = self.opened.get(&stamp.inode);
        if known.is_some_and(|(known, opened)| *known == stamp && opened.elapsed() < freshness) {
            return self.is_file_followed(node, stamp, links);
        }
        if self.opened.len() >= MAX_OPENED {
            self.opened.clear();
        }
        if stamp.shape == Shape::File && now() - stamp.changed.0.max(stamp.modified.0) > SETTLED {
            self.opened.insert(stamp.inode, (stamp, Instant::now()));
        } else {
            self.opened.remove(&stamp.inode);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, deed: Deed) -> Change {
        Change { path: path.into(), deed }
    }

    fn begun() -> State {
        let mut state = State::default();
        state.begin(true);
        assert_eq!(state.pop().map(|waiting| waiting.change.deed), Some(Deed::Lost));
        state
    }

    /// What waits and is not the guest's own.
    fn all(state: &mut State) -> Vec<Change> {
        let waiting = std::iter::from_fn(|| state.pop());
        waiting.filter(|waiting| !waiting.is_own).map(|waiting| waiting.change).collect()
    }

    #[test]
    fn what_the_guest_did_is_left_out_once() {
        let mut state = begun();
        state.expect(&(vm_changes::ROOT, c"a".into()), Kind::Created);
        let appeared = told("a", Deed::Appeared { is_folder: false });
        state.take_in(appeared.clone());
        state.take_in(told("a", Deed::Disappeared { is_folder: false }));
        state.take_in(appeared.clone());
        assert_eq!(all(&mut state), [told("a", Deed::Disappeared { is_folder: false }), appeared]);
    }

    #[test]
    fn a_rename_is_the_guests_if_both_halves_are() {
        let mut state = begun();
        let (a, b) = ((vm_changes::ROOT, c"a".into()), (vm_changes::ROOT, c"b".into()));
        state.expect(&a, Kind::MovedFrom);
        state.expect(&b, Kind::MovedTo);
        let renamed = told("a", Deed::Renamed { to: b"b".to_vec() });
        state.take_in(renamed.clone());
        state.take_in(renamed.clone());
        assert_eq!(all(&mut state), [renamed]);
    }

    #[test]
    fn a_file_is_the_guests_from_its_write_until_that_is_told() {
        let mut state = begun();
        assert!(!state.was_written(7));
        state.begin_writing(7);
        assert_eq!([state.was_written(7), state.was_written(7)], [true, true]);
        state.end_writing(7);
        assert_eq!([state.was_written(7), state.was_written(7)], [true, false]);
    }

    #[test]
    fn halves_of_a_rename_are_found_by_the_number_of_the_file() {
        let mut state = begun();
        let hints = |file| Hints { renamed: true, file, ..Hints::default() };
        for (path, file) in [("a", 7), ("b", 7), ("c", 8)] {
            state.take_in(told(path, Deed::Unclear(hints(file))));
        }
        state.pop();
        assert_eq!(state.pop_other_half(&hints(7)), Some((b"b".to_vec(), hints(7))));
        assert_eq!(state.pop_other_half(&hints(7)), None);
    }

    #[test]
    fn a_file_that_is_written_all_the_time_waits_once() {
        let mut state = begun();
        for path in ["a", "b", "a"] {
            state.take_in(told(path, Deed::Touched));
        }
        assert_eq!(all(&mut state).len(), 2);
        state.take_in(told("a", Deed::Touched));
        assert_eq!(all(&mut state).len(), 1);
    }

    #[test]
    fn what_was_told_of_a_folder_by_its_old_name_is_found_by_the_new_one() {
        let mut state = begun();
        for path in ["a/x", "ab/x", "a/b/x"] {
            state.note_unknown(path.into());
        }
        assert_eq!(state.now_known(b"a", b"c"), [b"c/x".to_vec(), b"c/b/x".to_vec()]);
        assert_eq!(state.now_known(b"a", b"d"), Vec::<Vec<u8>>::new(), "each once");
        assert_eq!(state.now_known(b"ab", b"e"), [b"e/x".to_vec()]);
    }

    #[test]
    fn references_that_were_lent_are_given_back_first() {
        let mut state = begun();
        state.lend(5);
        assert_eq!([state.forget(5, 1), state.forget(5, 2)], [0, 2]);
    }
}
