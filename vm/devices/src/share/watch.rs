//! Tells a guest of what changes in a share on the host: watches the folders that the guest knows, and lets a thread in
//! the guest act out each change, so that the guest's kernel sees it and its own watchers wake.
//!
//! The acting thread makes itself known by looking up `.cove-trigger-<token>` in the share's root. What it does to a name
//! that is armed is answered as the kernel expects and leaves the host's files alone.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};
use std::{fmt, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use virtiofsd::fuse::Attr;

use super::known::{Change, Known, Place, ROOT, Shape, Stamp, Told};

/// Events of one deed, such as an editor's save, come together.
const GATHER: Duration = Duration::from_millis(3);
/// How long the guest may take to act out a change.
const ARMED: Duration = Duration::from_secs(10);
const MAX_ARMED: usize = 4096;
/// Numbers from here on are of files that nobody knows any more.
pub(crate) const SYNTHETIC: u64 = 1 << 62;
const MAX_WATCHES: usize = 65_536;

/// What happened to a file of a share on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A file is there that was not.
    Created,
    /// A folder is there that was not.
    FolderCreated,
    /// A symbolic link is there that was not.
    LinkCreated,
    /// Its content or attributes are others.
    Modified,
    /// A file or link is gone.
    Removed,
    /// A folder is gone.
    FolderRemoved,
}

/// A change on the host that the guest is to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// From the share's root.
    pub path: PathBuf,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// As the guest's half reads it: a letter for the kind, the path, a zero byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let letter = match self.kind {
            EventKind::Created => b'c',
            EventKind::FolderCreated => b'f',
            EventKind::LinkCreated => b'l',
            EventKind::Modified => b'm',
            EventKind::Removed => b'r',
            EventKind::FolderRemoved => b'd',
        };
        let mut bytes = vec![letter];
        bytes.extend(self.path.as_os_str().as_bytes());
        bytes.push(0);
        bytes
    }
}

type Sink = Arc<dyn Fn(Event) + Send + Sync>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) known: Known,
    folders: HashMap<u64, i32>,
    by_watch: HashMap<i32, u64>,
    armed: HashMap<Place, Vec<(Change, Instant)>>,
    acting_thread: Option<i32>,
    /// References of the guest that virtiofsd does not count, for names that were gone already.
    pub(crate) borrowed: HashMap<u64, u64>,
    /// By which numbers the guest knew what is to be removed.
    tombs: HashMap<Place, u64>,
    next_synthetic: u64,
    sink: Option<Sink>,
}

/// A share's watcher: off until somebody listens.
pub(crate) struct Watch {
    root: PathBuf,
    trigger: CString,
    inotify: OwnedFd,
    is_on: AtomicBool,
    state: Mutex<State>,
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
            trigger: CString::new(format!(".cove-trigger-{token}"))?,
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            is_on: AtomicBool::new(false),
            state: Mutex::new(State::default()),
        }))
    }

    /// The name that the guest's acting thread looks up.
    pub(crate) fn trigger(&self) -> &str {
        self.trigger.to_str().unwrap_or_default()
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
            thread::Builder::new().name("share-watch".to_owned()).spawn(move || run(&watch))?;
        }
        let mut state = self.lock();
        self.watch_folder(&mut state, ROOT);
        Ok(())
    }

    /// A new guest knows of nothing.
    pub(crate) fn forget_all(&self) {
        let mut state = self.lock();
        for (_, watch) in state.folders.drain() {
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
        let sink = state.sink.take();
        *state = State { sink, ..State::default() };
        if self.is_on() {
            self.watch_folder(&mut state, ROOT);
        }
    }

    /// Whether it is the acting thread that asks; looking up its name makes it that.
    pub(crate) fn is_acting(&self, state: &mut State, thread: i32, looked_up: Option<(u64, &CStr)>) -> bool {
        if looked_up.is_some_and(|(parent, name)| parent == ROOT && name == self.trigger.as_c_str()) {
            state.acting_thread = Some(thread);
        }
        state.acting_thread == Some(thread)
    }

    /// From now on changes in the folder are noticed. Called whenever the guest looks something up in it.
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
        // Where there are no more watches to be had, the guest sees changes as late as without.
        if let Ok(watch) =
            inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", fd.as_raw_fd()), flags)
        {
            state.folders.insert(folder, watch);
            state.by_watch.insert(watch, folder);
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
        let stat = statat(self.open(folder)?, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let shape = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Shape::Folder,
            FileType::Symlink => Shape::Link,
            _ => Shape::File,
        };
        Some(Stamp {
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            changed: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
            shape,
        })
    }

    /// Reads what the kernel told, a name once, in the order of first mention.
    fn read(&self) -> Vec<(i32, CString, Told)> {
        let mut space = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        let mut told: Vec<(i32, CString, Told)> = Vec::new();
        let mut index: HashMap<(i32, CString), usize> = HashMap::new();
        while let Ok(event) = reader.next() {
            let Some(name) = event.file_name() else { continue };
            let at = *index.entry((event.wd(), name.to_owned())).or_insert_with(|| {
                told.push((event.wd(), name.to_owned(), Told::default()));
                told.len() - 1
            });
            let flags = event.events();
            told[at].2.appeared |= flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
            told[at].2.disappeared |= flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
            if told.len() >= MAX_ARMED {
                break;
            }
        }
        told
    }

    fn handle(&self, told: Vec<(i32, CString, Told)>) {
        for (watch, name, told) in told {
            let mut state_guard = self.lock();
            let state = &mut *state_guard;
            let Some(&folder) = state.by_watch.get(&watch) else { continue };
            let Some(path) = state.known.path(folder, None) else {
                // The guest has forgotten the folder.
                state.folders.remove(&folder);
                state.by_watch.remove(&watch);
                let _ = inotify::remove_watch(&self.inotify, watch);
                continue;
            };
            let place = (folder, name);
            let stamp = self.stamp(&path, &place.1);
            if let Some(node) = state.known.node(&place) {
                state.tombs.insert(place.clone(), node);
            }
            let changes = state.known.decide(&place, told, stamp);
            let Some(sink) = state.sink.clone() else { continue };
            let now = Instant::now();
            if state.armed.len() >= MAX_ARMED {
                state.armed.retain(|_, changes| changes.iter().any(|(_, until)| *until > now));
                let armed = &state.armed;
                state.tombs.retain(|place, _| armed.contains_key(place));
            }
            if !changes.iter().any(|change| matches!(change, Change::Removed(_))) {
                state.tombs.remove(&place);
            }
            for change in &changes {
                if state.armed.len() < MAX_ARMED {
                    state.armed.entry(place.clone()).or_default().push((*change, now + ARMED));
                }
            }
            // The guest may need an answer of ours before it takes the next event.
            drop(state_guard);
            let path = path.join(OsStr::from_bytes(place.1.as_bytes()));
            for change in changes {
                sink(Event { path: path.clone(), kind: change.into() });
            }
        }
    }
}

impl State {
    /// The number by which the guest knew what is gone.
    pub(crate) fn tomb(&self, place: &Place) -> Option<u64> {
        self.tombs.get(place).copied()
    }

    pub(crate) fn synthetic(&mut self) -> u64 {
        self.next_synthetic += 1;
        SYNTHETIC + self.next_synthetic
    }

    /// The change that is to be acted out next at a name.
    pub(crate) fn armed(&mut self, place: &Place) -> Option<Change> {
        let now = Instant::now();
        let changes = self.armed.get_mut(place)?;
        changes.retain(|(_, until)| *until > now);
        // A modification needs no preparation.
        changes.iter().map(|(change, _)| *change).find(|change| *change != Change::Modified)
    }

    /// That change has been acted out.
    pub(crate) fn acted(&mut self, place: &Place) {
        if let Some(changes) = self.armed.get_mut(place) {
            if let Some(at) = changes.iter().position(|(change, _)| *change != Change::Modified) {
                changes.remove(at);
            }
            changes.retain(|(change, _)| *change != Change::Modified);
            if changes.is_empty() {
                self.armed.remove(place);
                self.tombs.remove(place);
            }
        }
    }
}

impl From<Change> for EventKind {
    fn from(change: Change) -> Self {
        match change {
            Change::Created(Shape::File) => EventKind::Created,
            Change::Created(Shape::Folder) => EventKind::FolderCreated,
            Change::Created(Shape::Link) => EventKind::LinkCreated,
            Change::Modified => EventKind::Modified,
            Change::Removed(Shape::Folder) => EventKind::FolderRemoved,
            Change::Removed(Shape::File | Shape::Link) => EventKind::Removed,
        }
    }
}

impl From<&Attr> for Stamp {
    fn from(attr: &Attr) -> Self {
        let time = |seconds, nanoseconds| (i64::try_from(seconds).unwrap_or(0), i64::from(nanoseconds));
        Stamp {
            inode: attr.ino,
            size: attr.size,
            modified: time(attr.mtime, attr.mtimensec),
            changed: time(attr.ctime, attr.ctimensec),
            shape: match FileType::from_raw_mode(attr.mode) {
                FileType::Directory => Shape::Folder,
                FileType::Symlink => Shape::Link,
                _ => Shape::File,
            },
        }
    }
}

/// Until the share is gone.
fn run(watch: &Weak<Watch>) {
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    while let Some(watch) = watch.upgrade() {
        let mut ready = [PollFd::new(&watch.inotify, PollFlags::IN)];
        if poll(&mut ready, Some(&second)).is_ok_and(|count| count > 0) {
            thread::sleep(GATHER);
            watch.handle(watch.read());
        }
    }
}
