//! What a guest knows of a share, what it is told next, and so how long it may believe what it knows.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use virtiofsd::fuse::Attr;
use vm_changes::{Acting, Known, Place, ROOT, SYNTHETIC, Shape, Stamp};

use super::told::{Kind, Queue};
use super::watch::Sink;

/// How much earlier than now the kernel may say that a file changed.
pub(super) const COARSE: i64 = 10_000_000;
/// Files whose look at their opening is remembered.
const MAX_OPENED: usize = 1 << 18;
/// How long a name that is new on the host may wait until the guest is told of it.
pub(super) const UNTOLD: i64 = 60;
/// A file that changed so long ago, in seconds, has another time of change if it changes now.
const SETTLED: i64 = 2;

/// Seconds and nanoseconds since 1970.
pub(super) type Time = (i64, i64);

#[derive(Default)]
pub(super) struct State {
    pub(super) known: Known,
    pub(super) acting: Acting,
    pub(super) queue: Queue,
    pub(super) folders: HashMap<u64, Watched>,
    pub(super) by_watch: HashMap<i32, u64>,
    /// Nobody took what was told last. It is told again once somebody listens; the rest waits.
    pub(super) is_unheard: bool,
    /// Folders that had lost their names, and in which changes are looked for.
    pub(super) found_again: BTreeSet<u64>,
    /// How files looked when the guest opened them, by the host's numbers, if they had looked so for a while.
    opened: HashMap<u64, (Stamp, Instant)>,
    /// Those that were to listen so far, and who does.
    pub(super) listeners: u64,
    pub(super) listener: u64,
    /// References of the guest that virtiofsd does not count, for names that were gone already.
    pub(super) borrowed: HashMap<u64, u64>,
    next_synthetic: u64,
    pub(super) sink: Option<Sink>,
    /// All that happened before is known.
    pub(super) complete_until: Time,
    /// All that happened before has been taken in.
    pub(super) taken_until: Time,
}

/// A folder whose changes the kernel tells of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    pub(super) watch: i32,
    /// When it began. What changed before is never told.
    pub(super) since: Time,
    /// Nobody but this kernel changes what is in it.
    pub(super) is_local: bool,
    /// Every change that this kernel makes is told.
    pub(super) is_told: bool,
    /// When the guest listed it last.
    pub(super) listed: Option<Instant>,
}

impl State {
    /// Of a guest that knows nothing, with who listens.
    pub(super) fn anew(&mut self) -> State {
        State {
            sink: self.sink.take(),
            listeners: self.listeners,
            listener: self.listener,
            complete_until: now(),
            taken_until: now(),
            ..State::default()
        }
    }

    /// Whether there is something that the guest is to hear of and can.
    pub(super) fn has_news(&self) -> bool {
        let has_next = self.acting.has_planned() || !self.found_again.is_empty() || !self.queue.is_empty();
        !self.is_unheard && has_next
    }

    pub(super) fn synthetic(&mut self) -> u64 {
        self.next_synthetic += 1;
        SYNTHETIC + self.next_synthetic
    }

    /// The guest does this itself, so it needs not be told.
    pub(super) fn expect(&mut self, place: &Place, kind: Kind) {
        self.acting.overtake(place);
        if let Some(folder) = self.folders.get(&place.0) {
            self.queue.expect((folder.watch, place.1.clone()), kind);
        }
    }

    /// Whether the guest will be told that a name is new, so that it may not rely on what it knows of it.
    pub(super) fn is_untold(&self, place: &Place, stamp: Stamp) -> bool {
        let is_told = self.known.name(place).is_some_and(|name| name.is_told && name.inode == stamp.inode);
        let may_be_new = || {
            let since = self.folders.get(&place.0).map_or((0, 0), |folder| folder.since);
            stamp.changed >= earlier(since, COARSE) && now().0 - stamp.changed.0 < UNTOLD
        };
        self.acting.is_coming(place) || !is_told && may_be_new()
    }

    /// Whether the guest hears of everything that happens in a folder.
    pub(super) fn is_followed(&self, folder: u64) -> bool {
        let is_told = |folder: &Watched| folder.is_local && folder.is_told;
        !self.is_unheard
            && self.folders.get(&folder).is_some_and(is_told)
            && (folder == ROOT || self.known.is_there(folder))
    }

    /// Whether the guest hears of whatever happens to a file: by another of its names, it may not.
    pub(super) fn is_file_followed(&self, node: u64, attr: &Attr) -> bool {
        // Of the root itself nobody tells, and of what left its place neither.
        self.known.is_there(node)
            && self.known.folder(node).is_some_and(|folder| self.is_followed(folder))
            && match Shape::of_mode(attr.mode) {
                Shape::Folder => self.is_followed(node),
                _ => attr.nlink == 1,
            }
    }

    /// Whether what is written to a file has arrived when the write has: nothing more can fail when it is closed.
    pub(super) fn is_local(&self, node: u64) -> bool {
        let folder = self.known.folder(node).and_then(|folder| self.folders.get(&folder));
        folder.is_some_and(|folder| folder.is_local)
    }

    /// Whether a name that is not there is none that the guest still has to see come or go.
    pub(super) fn is_nothing(&self, place: &Place) -> bool {
        self.is_followed(place.0) && self.known.name(place).is_none() && !self.acting.concerns(place)
    }

    /// The guest lists a folder; whether what it kept of the last time is as good: not longer than names are, or it would
    /// ask for each.
    pub(super) fn list(&mut self, folder: u64, freshness: Duration) -> bool {
        let is_followed = self.is_followed(folder);
        let Some(watched) = self.folders.get_mut(&folder).filter(|_| is_followed) else { return false };
        let is_kept = watched.listed.is_some_and(|listed| listed.elapsed() < freshness);
        if !is_kept {
            watched.listed = Some(Instant::now());
        }
        is_kept
    }

    /// What the guest kept of a folder's list is not right for longer than it has its name.
    pub(super) fn unlist(&mut self, folder: u64) {
        self.folders.entry(folder).and_modify(|folder| folder.listed = None);
    }

    /// The guest opens a file; whether what it kept of its content is right: for a while, because not every write by a
    /// mapping changes how a file looks.
    pub(super) fn open(&mut self, node: u64, attr: &Attr, freshness: Duration) -> bool {
        let stamp = stamp_of(attr);
        let known = self.opened.get(&stamp.inode);
        if known.is_some_and(|(known, opened)| *known == stamp && opened.elapsed() < freshness) {
            return self.is_file_followed(node, attr);
        }
        if self.opened.len() >= MAX_OPENED {
            self.opened.clear();
        }
        if stamp.shape == Shape::File && now().0 - stamp.changed.0.max(stamp.modified.0) > SETTLED {
            self.opened.insert(stamp.inode, (stamp, Instant::now()));
        } else {
            self.opened.remove(&stamp.inode);
        }
        false
    }
}

/// How a file looks that virtiofsd tells of.
pub(super) fn stamp_of(attr: &Attr) -> Stamp {
    let time = |seconds, nanoseconds| (i64::try_from(seconds).unwrap_or(0), i64::from(nanoseconds));
    Stamp {
        inode: attr.ino,
        size: attr.size,
        modified: time(attr.mtime, attr.mtimensec),
        changed: time(attr.ctime, attr.ctimensec),
        shape: Shape::of_mode(attr.mode),
    }
}

/// The same that the kernel tells of.
pub(super) fn stamp_of_stat(stat: &Stat) -> Stamp {
    Stamp {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        changed: (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0)),
        shape: Shape::of_mode(stat.st_mode),
    }
}

/// So many nanoseconds before; only to be compared with.
pub(super) fn earlier((seconds, nanoseconds): Time, by: i64) -> Time {
    if nanoseconds >= by {
        (seconds, nanoseconds - by)
    } else {
        (seconds - 1, nanoseconds + 1_000_000_000 - by)
    }
}

pub(super) fn now() -> Time {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or(0), i64::from(now.subsec_nanos()))
}
