//! Tells a guest of what changes in a share on the host: watches the folders that the guest knows, and lets a thread in
//! the guest act out each change, so that the guest's kernel sees it and its own watchers wake.
//!
//! One thread takes in what the host's kernel tells, fast, so that its queue does not overflow (`told.rs`). Another has
//! the guest act it out as fast as the guest can (`acting.rs`); meanwhile the rest waits. The acting thread makes itself
//! known by looking up `.cove-trigger-<token>-<number>` in the share's root. What it does is answered as its kernel expects and
//! leaves the host's files alone.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, fstatfs, openat, openat2, statat};
use vm_changes::{Act, Difference, Event, EventKind, Place, ROOT, Seen, Shape, Stamp};

use super::state::{COARSE, State, Time, UNTOLD, Watched, earlier, now, stamp_of_stat};
use super::told::{Kind, Raw, Spot, Told};

/// Events of one deed, such as the making and the writing of a file, come together.
const GATHER: Duration = Duration::from_millis(3);
/// How long after the one half of a rename the other may come.
const HALF: Duration = Duration::from_micros(300);
/// Events that are read in a row, while the guest's requests wait.
const MAX_READ: usize = 1 << 16;
/// How the name ends that an acting thread looks up last.
const OVER: &str = "-over";
const MAX_WATCHES: usize = 65_536;
/// File systems whose changes all go by this kernel, so that it tells of each (statfs(2)). Others' may be made elsewhere.
const LOCAL: [rustix::fs::FsWord; 10] = [
    0xef53,      // ext2, 3 and 4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x2fc1_2fc1, // ZFS
    0x3153_464a, // JFS
    0x5265_4973, // ReiserFS
    0x794c_7630, // overlay
];

pub(super) type Sink = Arc<dyn Fn(Event) -> bool + Send + Sync>;

/// A share's watcher: off until somebody listens.
pub(crate) struct Watch {
    root: PathBuf,
    /// What the names begin with that the guest's acting threads look up; nobody else knows it.
    trigger: String,
    inotify: OwnedFd,
    is_on: AtomicBool,
    state: Mutex<State>,
    /// Something was told.
    told: Condvar,
    /// Held while the guest is told something, so that nobody begins to listen meanwhile. Before the state.
    telling: Mutex<()>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Watch {
    pub(crate) fn new(root: &Path) -> io::Result<Arc<Watch>> {
        let mut random = [MaybeUninit::uninit(); 16];
        let (random, _) = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Arc::new(Watch {
            root: root.to_owned(),
            trigger: format!(".cove-trigger-{token}-"),
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            is_on: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            told: Condvar::new(),
            telling: Mutex::new(()),
        }))
    }

    /// The name that the acting thread of who begins to listen next looks up.
    pub(crate) fn next_trigger(&self) -> (u64, String) {
        let mut state = self.lock();
        state.listeners += 1;
        (state.listeners, format!("{}{}", self.trigger, state.listeners))
    }

    /// What a thread says by looking up a name in the share's root, if it is an acting one.
    fn said(&self, state: &State, (parent, name): (u64, &CStr)) -> Option<Said> {
        let name = name.to_str().ok().filter(|_| parent == ROOT)?;
        let number = name.strip_prefix(&self.trigger)?;
        if let Some(number) = number.strip_suffix(OVER) {
            return number.parse::<u64>().ok().map(|_| Said::Over);
        }
        let number: u64 = number.parse().ok()?;
        Some(if state.listener == number { Said::Next } else { Said::Late })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// No state is left half changed by a panic, so a poisoned lock is as good as any.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listen(self: &Arc<Self>, sink: Sink) -> io::Result<()> {
        self.lock().sink = Some(sink);
        if !self.is_on.swap(true, Ordering::AcqRel) {
            let watch = Arc::downgrade(self);
            thread::Builder::new().name("share-watch".to_owned()).spawn(move || take_in(&watch))?;
            let watch = Arc::downgrade(self);
            thread::Builder::new().name("share-tell".to_owned()).spawn(move || pass_on(&watch))?;
        }
        let mut state = self.lock();
        (state.complete_until, state.taken_until) = (now(), now());
        self.watch_folder(&mut state, ROOT);
        Ok(())
    }

    /// A new guest knows of nothing.
    pub(crate) fn forget_all(&self) {
        let mut state = self.lock();
        for (_, folder) in state.folders.drain() {
            let _ = inotify::remove_watch(&self.inotify, folder.watch);
        }
        *state = state.anew();
        if self.is_on() {
            self.watch_folder(&mut state, ROOT);
        }
    }

    /// Whether it is the acting thread that asks; looking up its name makes it that, at what it was told next.
    pub(crate) fn is_acting(&self, state: &mut State, thread: i32, looked_up: Option<(u64, &CStr)>) -> bool {
        match looked_up.and_then(|looked_up| self.said(state, looked_up)) {
            Some(Said::Next) => state.acting.begin(thread),
            Some(Said::Late) => state.acting.know(thread),
            Some(Said::Over) => {
                state.acting.end(thread);
                return true;
            }
            None => {}
        }
        if !state.acting.is(thread) {
            return false;
        }
        state.acting.give_way();
        if state.acting.has_planned() {
            self.told.notify_one();
        }
        true
    }

    /// From now on changes in the folder are noticed. Called before anything happens in it that the guest hears of.
    pub(crate) fn watch_folder(&self, state: &mut State, folder: u64) {
        if state.folders.contains_key(&folder) || state.folders.len() >= MAX_WATCHES {
            return;
        }
        let Some(fd) = state.known.path(folder, None).and_then(|path| self.open(&path)) else { return };
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        let since = now();
        // Where there are no more watches to be had, the guest sees changes as late as without.
        if let Ok(watch) =
            inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags)
        {
            let is_local = fstatfs(&fd).is_ok_and(|found| LOCAL.contains(&found.f_type));
            let other = state.by_watch.insert(watch, folder).and_then(|other| state.folders.get_mut(&other));
            // A folder that is at two places of the share has one watch, and is told of at one of them.
            let is_told = other.is_none();
            other.into_iter().for_each(|other| other.is_told = false);
            let watched = Watched { watch, since, is_local, is_told, listed: None };
            state.folders.insert(folder, watched);
        }
    }

    /// The guest was given a number for a name.
    pub(crate) fn looked_up(&self, state: &mut State, place: Place, node: u64, stamp: Stamp) {
        if state.known.looked_up(place, node, stamp) {
            state.unlist(node);
            state.found_again.insert(node);
            self.told.notify_one();
        }
    }

    /// The guest knows the folder no longer.
    pub(crate) fn unwatch_folder(&self, state: &mut State, folder: u64) {
        let Some(Watched { watch, .. }) = state.folders.remove(&folder) else { return };
        // The same folder may be known by another number again.
        if state.by_watch.get(&watch) == Some(&folder) {
            state.by_watch.remove(&watch);
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    fn open(&self, path: &Path) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &self.root, flags, Mode::empty()).ok()?;
        if path.as_os_str().is_empty() {
            return Some(root);
        }
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        openat2(root, path, flags, Mode::empty(), beneath).ok()
    }

    fn stamp(&self, folder: &Path, name: &CStr) -> Option<Stamp> {
        statat(self.open(folder)?, name, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stamp_of_stat(&stat))
    }

    /// Takes in what the kernel told, while the guest does nothing.
    fn gather(&self) {
        let mut state = self.lock();
        if state.queue.is_empty() {
            state.complete_until = state.taken_until;
        }
        let begin = now();
        let (mut all, mut outcome) = (Vec::new(), Read::default());
        self.read(&mut all, &mut outcome);
        let halves = |all: &[Raw], kind| all.iter().filter(|raw| raw.kind == kind).count();
        if halves(&all, Kind::MovedFrom) > halves(&all, Kind::MovedTo) {
            thread::sleep(HALF);
            self.read(&mut all, &mut outcome);
        }
        let state = &mut *state;
        // Of files about which nothing else is told, and whose content has been as it is for a while.
        let others: HashSet<&Spot> =
            all.iter().filter(|raw| !raw.is_of_attributes).map(|raw| &raw.spot).collect();
        let of_attributes = all.iter().filter(|raw| raw.is_of_attributes && !others.contains(&raw.spot));
        for spot in of_attributes.map(|raw| &raw.spot) {
            let located = self.locate(state, spot.clone()).filter(|_| !state.queue.will_tell(spot));
            let stamp = located.and_then(|(place, folder)| self.stamp(&folder, &place.1));
            if let Some(stamp) = stamp.filter(|stamp| stamp.modified < earlier(stamp.changed, COARSE)) {
                state.known.was_so(stamp);
            }
        }
        for watch in outcome.ended {
            let folder = state.by_watch.get(&watch).and_then(|folder| state.folders.get_mut(folder));
            // What is known of it by then is still to be told.
            folder.into_iter().for_each(|folder| folder.is_told = false);
        }
        all.retain(|raw| state.by_watch.contains_key(&raw.spot.0));
        state.queue.gather(all, outcome.is_all);
        if outcome.has_lost {
            state.queue.lose();
        } else if outcome.is_all {
            state.taken_until = begin;
        }
        self.told.notify_one();
    }

    fn read(&self, all: &mut Vec<Raw>, outcome: &mut Read) {
        let mut space = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        outcome.is_all = false;
        while all.len() < MAX_READ {
            let Ok(event) = reader.next() else {
                outcome.is_all = true;
                return;
            };
            let flags = event.events();
            outcome.has_lost |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            if flags.contains(ReadFlags::IGNORED) {
                outcome.ended.push(event.wd());
            }
            let Some(name) = event.file_name() else { continue };
            let kind = [
                (ReadFlags::CREATE, Kind::Created),
                (ReadFlags::DELETE, Kind::Deleted),
                (ReadFlags::MOVED_FROM, Kind::MovedFrom),
                (ReadFlags::MOVED_TO, Kind::MovedTo),
            ];
            let kind = kind
                .into_iter()
                .find(|(flag, _)| flags.contains(*flag))
                .map_or(Kind::Touched, |(_, kind)| kind);
            all.push(Raw {
                spot: (event.wd(), name.to_owned()),
                kind,
                cookie: event.cookie(),
                is_folder: flags.contains(ReadFlags::ISDIR),
                is_of_attributes: flags.contains(ReadFlags::ATTRIB),
            });
        }
    }

    /// Waits a while for something that the guest is to hear of and can.
    fn wait(&self) {
        let second = Duration::from_secs(1);
        drop(self.told.wait_timeout_while(self.lock(), second, |state| !state.has_news()));
    }

    fn take(&self) -> Option<Event> {
        let mut state = self.lock();
        if !state.has_news() {
            return None;
        }
        if !state.acting.has_planned() {
            let changes = if state.queue.take_lost() {
                tracing::debug!(root = %self.root.display(), "changes were lost, and are looked for");
                self.look_for_changes(&mut state)
            } else if let Some(folder) = state.found_again.pop_first() {
                let names = state.known.names_in(folder);
                self.look_in(&mut state, folder, names, (now().0 - UNTOLD, 0))
            } else {
                let told = state.queue.next()?;
                self.translate(&mut state, told)
            };
            changes.into_iter().for_each(|change| state.acting.plan(change));
        }
        state.acting.tell()
    }

    fn tell_next(&self) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(event) = self.take() else { return };
        let Some(sink) = self.lock().sink.clone() else { return };
        // The guest needs answers of ours before it takes the next event, so the state is not held.
        if !sink(event) {
            let mut state = self.lock();
            state.acting.hang_up();
            state.is_unheard = true;
        }
    }

    /// Somebody listens again, from `begin` on, and is told what whoever did before has not done.
    pub(crate) fn resume(&self, listener: u64, begin: impl FnOnce()) {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        begin();
        let mut state = self.lock();
        state.acting.hang_up();
        state.listener = listener;
        state.is_unheard = false;
        self.told.notify_one();
    }

    /// The place of a spot, and the path of its folder; none when the guest has forgotten it.
    #[expect(clippy::unused_self, reason = "it is about this share's state")]
    fn locate(&self, state: &State, (watch, name): Spot) -> Option<(Place, PathBuf)> {
        let folder = *state.by_watch.get(&watch)?;
        Some(((folder, name), state.known.path(folder, None)?))
    }

    fn translate(&self, state: &mut State, told: Told) -> Vec<(Event, Act)> {
        match told {
            Told::Appeared { spot, is_folder } => {
                let located = self.locate(state, spot);
                located.map(|located| self.appeared(state, located, is_folder)).unwrap_or_default()
            }
            Told::Disappeared { spot, is_folder, is_moved } => {
                let located = self.locate(state, spot);
                let seen = located.and_then(|(place, folder)| {
                    // Then it is another by now, which the guest has made, or there again.
                    if state.known.is_right(&place, self.stamp(&folder, &place.1)) {
                        return self.touched(state, (place, folder));
                    }
                    Some(disappeared(state, place, &folder, is_folder, is_moved))
                });
                seen.into_iter().collect()
            }
            Told::Renamed { from, to, is_folder } => {
                match (self.locate(state, from.clone()), self.locate(state, to.clone())) {
                    (Some(from), Some(to)) => self.renamed(state, from, to, is_folder),
                    (Some(_), None) => {
                        self.translate(state, Told::Disappeared { spot: from, is_folder, is_moved: true })
                    }
                    (None, _) => self.translate(state, Told::Appeared { spot: to, is_folder }),
                }
            }
            Told::Touched { spot } => {
                let located = self.locate(state, spot);
                located.and_then(|located| self.touched(state, located)).into_iter().collect()
            }
        }
    }

    fn appeared(
        &self,
        state: &mut State,
        (place, folder): (Place, PathBuf),
        is_folder: bool,
    ) -> Vec<(Event, Act)> {
        let stamp = self.stamp(&folder, &place.1);
        if state.known.is_right(&place, stamp) {
            // If it was away in between, it may have changed there.
            return self.touched(state, (place, folder)).into_iter().collect();
        }
        let mut changes = Vec::new();
        // What was moved here took the place of what the guest holds.
        let held = state.known.name(&place).filter(|name| name.node.is_some());
        if let Some(name) = held.filter(|name| stamp.is_some_and(|stamp| stamp.inode != name.inode)) {
            changes.push(disappeared(state, place.clone(), &folder, name.shape == Shape::Folder, true));
        }
        // By now there may be something else, or nothing.
        let stamp = stamp.filter(|stamp| (stamp.shape == Shape::Folder) == is_folder);
        if let Some(stamp) = stamp {
            state.known.appeared(place.clone(), stamp);
        }
        let shape = stamp.map_or(Shape::of(is_folder), |stamp| stamp.shape);
        let kind = EventKind::created(shape);
        changes.push((Event { path: joined(&folder, &place), kind }, Act::Create { place, shape }));
        changes
    }

    fn renamed(
        &self,
        state: &mut State,
        (from, from_folder): (Place, PathBuf),
        (to, to_folder): (Place, PathBuf),
        is_folder: bool,
    ) -> Vec<(Event, Act)> {
        let (was, is) = (self.stamp(&from_folder, &from.1), self.stamp(&to_folder, &to.1));
        if let Seen::Apart { is_gone, is_new } = state.known.see_rename((&from, was), (&to, is)) {
            let mut changes = Vec::new();
            if is_gone {
                changes.push(disappeared(state, from, &from_folder, is_folder, true));
            }
            if is_new {
                changes.extend(self.appeared(state, (to, to_folder), is_folder));
            } else {
                changes.extend(self.touched(state, (to, to_folder)));
            }
            return changes;
        }
        let (name, replaced) = state.known.renamed(&from, to.clone());
        if let Some(stamp) = is {
            state.known.moved(to.clone(), stamp);
        }
        // The guest may have found it by its new name already.
        let replaced = replaced.filter(|name| is.is_none_or(|is| is.inode != name.inode));
        let path = joined(&from_folder, &from);
        let kind = EventKind::Renamed { to: joined(&to_folder, &to) };
        let act = Act::Rename {
            from,
            to,
            shape: name.map_or(Shape::of(is_folder), |name| name.shape),
            node: name.and_then(|name| name.node),
            replaced: replaced.and_then(|name| name.node),
        };
        vec![(Event { path, kind }, act)]
    }

    fn touched(&self, state: &mut State, (place, folder): (Place, PathBuf)) -> Option<(Event, Act)> {
        let difference = match self.stamp(&folder, &place.1) {
            Some(stamp) => state.known.differs(stamp)?,
            // Its end, of which the guest is told next, does not undo that it changed.
            None => state.known.name(&place).map(|_| Difference::Content)?,
        };
        Some((Event { path: joined(&folder, &place), kind: difference.into() }, Act::Modify))
    }

    /// Compares what is known with what there is, after something was not told.
    fn look_for_changes(&self, state: &mut State) -> Vec<(Event, Act)> {
        let since = earlier(state.complete_until, COARSE);
        state.complete_until = now();
        state.taken_until = state.complete_until;
        let mut known = state.known.by_folder();
        let folders: Vec<u64> = state.folders.keys().copied().collect();
        let looks = folders.into_iter().map(|folder| (folder, known.remove(&folder).unwrap_or_default()));
        looks.flat_map(|(folder, names)| self.look_in(state, folder, names, since)).collect()
    }

    /// The same in one folder, whose names in it are known; others are new if they have changed since then.
    fn look_in(
        &self,
        state: &mut State,
        folder: u64,
        mut names: Vec<CString>,
        since: Time,
    ) -> Vec<(Event, Act)> {
        let Some(path) = state.known.path(folder, None) else { return Vec::new() };
        let is_known: HashSet<CString> = names.iter().cloned().collect();
        names.extend(self.entries(&path).into_iter().filter(|name| !is_known.contains(name)));
        let mut changes = Vec::new();
        for name in names {
            let stamp = self.stamp(&path, &name);
            let place = (folder, name);
            let before = state.known.name(&place);
            let is_same = before.zip(stamp).is_some_and(|(name, stamp)| name.inode == stamp.inode);
            if let Some(name) = before.filter(|_| !is_same) {
                changes.push(disappeared(state, place.clone(), &path, name.shape == Shape::Folder, true));
            }
            match stamp {
                Some(_) if is_same => changes.extend(self.touched(state, (place, path.clone()))),
                Some(stamp) if before.is_some() || stamp.changed >= since => {
                    let is_folder = stamp.shape == Shape::Folder;
                    changes.extend(self.appeared(state, (place, path.clone()), is_folder));
                }
                _ => {}
            }
        }
        changes
    }

    fn entries(&self, folder: &Path) -> Vec<CString> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = self.open(folder).and_then(|fd| openat(fd, c".", flags, Mode::empty()).ok());
        let dir = dir.and_then(|fd| Dir::read_from(fd).ok());
        let names = dir.into_iter().flatten().flatten().map(|entry| entry.file_name().to_owned());
        names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect()
    }
}

/// What the guest's acting thread says.
enum Said {
    /// It begins what it was told next.
    Next,
    /// It begins what one was told that nobody listens by any more.
    Late,
    /// It acts no more.
    Over,
}

/// How a reading ended.
#[derive(Default)]
struct Read {
    /// There was no more.
    is_all: bool,
    /// The kernel could not keep all.
    has_lost: bool,
    /// Watches of folders that are gone.
    ended: Vec<i32>,
}

fn joined(folder: &Path, place: &Place) -> PathBuf {
    folder.join(OsStr::from_bytes(place.1.as_bytes()))
}

/// It is gone, or has been moved to where nobody tells of it; what is not known may be either.
fn disappeared(
    state: &mut State,
    place: Place,
    folder: &Path,
    is_folder: bool,
    is_moved: bool,
) -> (Event, Act) {
    let name = state.known.removed(&place);
    let is_moved = is_moved && name.is_some_and(|name| name.node.is_some());
    if let Some(node) = name.and_then(|name| name.node) {
        state.unlist(node);
    }
    let kind = EventKind::removed(Shape::of(is_folder), is_moved);
    let event = Event { path: joined(folder, &place), kind };
    let shape = name.map(|name| name.shape).filter(|shape| (*shape == Shape::Folder) == is_folder);
    let node = name.and_then(|name| name.node);
    (event, Act::Remove { place, shape: shape.unwrap_or(Shape::of(is_folder)), node, is_moved })
}

/// Until the share is gone.
fn take_in(watch: &Weak<Watch>) {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    while let Some(watch) = watch.upgrade() {
        let mut ready = [PollFd::new(&watch.inotify, PollFlags::IN)];
        if poll(&mut ready, Some(&second)).is_ok_and(|count| count > 0) {
            thread::sleep(GATHER);
            watch.gather();
        }
    }
}

/// Until the share is gone.
fn pass_on(watch: &Weak<Watch>) {
    while let Some(watch) = watch.upgrade() {
        watch.wait();
        watch.tell_next();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::mpsc::channel;

    use rustix::fs::FileType;
    use virtiofsd::fuse::Attr;

    use super::super::state::stamp_of;
    use super::*;

    #[test]
    fn what_the_kernel_could_not_keep_is_found_by_looking() {
        const FILES: usize = 20_000;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let watch = Watch::new(folder.path()).unwrap();
        std::fs::write(at("changed"), "1").unwrap();
        std::fs::write(at("removed"), "1").unwrap();
        std::fs::write(at("never-seen"), "1").unwrap();
        let (sender, told) = channel();
        watch.listen(Arc::new(move |event: Event| sender.send(event).is_ok())).unwrap();
        // Older than what comes next, whatever the clock's grain.
        thread::sleep(Duration::from_millis(50));
        let mut state = watch.lock();
        (state.complete_until, state.taken_until) = (now(), now());
        for (node, name) in [(2, c"changed"), (3, c"removed")] {
            let stamp = watch.stamp(Path::new(""), name).unwrap();
            state.known.looked_up((ROOT, name.to_owned()), node, stamp);
        }
        // More than the kernel keeps (fs.inotify.max_queued_events), while nobody takes them in.
        for number in 0..FILES {
            std::fs::write(at(&number.to_string()), "").unwrap();
        }
        std::fs::write(at("changed"), "22").unwrap();
        std::fs::remove_file(at("removed")).unwrap();
        drop(state);
        let mut expected: BTreeMap<String, EventKind> =
            (0..FILES).map(|number| (number.to_string(), EventKind::Created)).collect();
        expected.insert("changed".to_owned(), EventKind::Modified);
        expected.insert("removed".to_owned(), EventKind::Removed);
        while !expected.is_empty() {
            let event = told.recv_timeout(Duration::from_secs(20)).expect("all that was missed");
            let name = event.path.display().to_string();
            assert_eq!(expected.remove(&name), Some(event.kind), "{name}");
        }
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
    }

    #[test]
    fn what_nobody_took_is_told_again_and_nothing_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new(folder.path()).unwrap();
        let (sender, told) = channel();
        let listens = Arc::new(AtomicBool::new(false));
        let is_listened_to = Arc::clone(&listens);
        let sink = move |event: Event| {
            let takes = is_listened_to.load(Ordering::SeqCst);
            sender.send((event.path.display().to_string(), takes)).unwrap();
            takes
        };
        watch.listen(Arc::new(sink)).unwrap();
        assert!(watch.lock().is_followed(ROOT));
        for name in ["a", "b"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let next = || told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), ("a".to_owned(), false));
        assert!(told.recv_timeout(Duration::from_millis(100)).is_err(), "the rest waits");
        assert!(!watch.lock().is_followed(ROOT), "what the guest knows may be wrong by now");
        listens.store(true, Ordering::SeqCst);
        watch.resume(watch.next_trigger().0, || ());
        assert_eq!([next(), next()], [("a".to_owned(), true), ("b".to_owned(), true)]);
        assert!(watch.lock().is_followed(ROOT));
    }

    #[test]
    fn a_name_from_before_the_watch_is_no_news_and_one_from_after_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new(folder.path()).unwrap();
        std::fs::write(folder.path().join("old"), "").unwrap();
        thread::sleep(Duration::from_millis(50));
        watch.listen(Arc::new(|_| true)).unwrap();
        let mut state = watch.lock();
        std::fs::write(folder.path().join("new"), "").unwrap();
        for (name, is_news) in [(c"old", false), (c"new", true)] {
            let place = (ROOT, name.to_owned());
            let stamp = watch.stamp(Path::new(""), name).unwrap();
            state.known.looked_up(place.clone(), 7, stamp);
            assert_eq!(state.is_untold(&place, stamp), is_news, "{name:?}");
        }
        assert!(state.is_nothing(&(ROOT, c"absent".to_owned())));
        assert!(!state.is_nothing(&(ROOT, c"old".to_owned())));
    }

    #[test]
    fn content_that_was_opened_is_kept_for_a_while_until_it_changes_and_never_while_it_is_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new(folder.path()).unwrap();
        watch.listen(Arc::new(|_| true)).unwrap();
        let mut state = watch.lock();
        let attr = |changed: i64| Attr {
            ino: 9,
            mode: FileType::RegularFile.as_raw_mode(),
            nlink: 1,
            ctime: u64::try_from(changed).unwrap(),
            ..Attr::default()
        };
        let (old, fresh) = (attr(now().0 - 100), attr(now().0));
        state.known.looked_up((ROOT, c"a".to_owned()), 7, stamp_of(&old));
        let minute = Duration::from_secs(60);
        assert_eq!([&old, &old].map(|attr| state.open(7, attr, minute)), [false, true]);
        assert!(!state.open(7, &old, Duration::ZERO), "it was opened too long ago");
        assert_eq!([&fresh, &fresh].map(|attr| state.open(7, attr, minute)), [false, false]);
        assert!(!state.open(7, &old, minute), "it looked otherwise in between");
        assert!(state.open(7, &old, minute));
        state.known.removed(&(ROOT, c"a".to_owned()));
        assert!(!state.open(7, &old, minute), "nobody tells of what happens to it elsewhere");
    }
}
