//! What Linux tells of changes in a folder and all below it (inotify(7)), for shares that a layer in the guest stands in
//! front of. Here that is tried alone, with `COVE_SHARES=layer`: our own server tells of changes itself.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags, open};
use vm_proto::change::Deed;

use crate::told::Notes;

/// How soon it is seen that nobody listens any more.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// Events of one deed, such as the making and the writing of a file, come together.
const GATHER: Duration = Duration::from_millis(3);
/// How long after the one half of a rename the other may come.
const HALF: Duration = Duration::from_micros(300);

/// Whether machines are to be made as where the shares' server is another's.
pub(crate) fn is_tried() -> bool {
    std::env::var_os("COVE_SHARES").is_some_and(|how| how == "layer")
}

/// Tells until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher;

/// Whether every change is told.
pub(crate) fn is_complete(_: &Path) -> bool {
    true
}

/// Begins to tell of a folder.
pub(crate) fn watch(root: &Path, notes: Notes) -> io::Result<Watcher> {
    let mut tree = Tree {
        root: root.to_owned(),
        inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
        folders: HashMap::new(),
        notes,
    };
    tree.add(Path::new(""))?;
    thread::Builder::new().name("share-tree".to_owned()).spawn(move || tree.tell())?;
    Ok(Watcher)
}

struct Tree {
    root: PathBuf,
    inotify: OwnedFd,
    /// Paths from the root, by their watches.
    folders: HashMap<i32, PathBuf>,
    notes: Notes,
}

/// An event as it is read.
struct Raw {
    watch: i32,
    name: Option<CString>,
    flags: ReadFlags,
    cookie: u32,
}

impl Tree {
    /// Watches a folder and all below it.
    fn add(&mut self, path: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = open(self.root.join(path), flags, Mode::empty())?;
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ONLYDIR;
        let watch =
            inotify::add_watch(&self.inotify, format!("/proc/self/fd/{}", folder.as_raw_fd()), flags)?;
        self.folders.insert(watch, path.to_owned());
        for entry in std::fs::read_dir(self.root.join(path))?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // One that is gone by now needs no watch.
                let _ = self.add(&path.join(entry.file_name()));
            }
        }
        Ok(())
    }

    fn tell(&mut self) {
        while !self.notes.is_over() {
            let mut ready = [PollFd::new(&self.inotify, PollFlags::IN)];
            if !matches!(poll(&mut ready, Some(&LOOK_EVERY)), Ok(1..)) {
                continue;
            }
            thread::sleep(GATHER);
            let mut events = self.read();
            if events.last().is_some_and(|last| last.flags.contains(ReadFlags::MOVED_FROM)) {
                // The other half comes in a moment.
                thread::sleep(HALF);
                events.extend(self.read());
            }
            let mut events = events.into_iter().peekable();
            while let Some(event) = events.next() {
                let Raw { flags, cookie, .. } = event;
                if flags.contains(ReadFlags::IGNORED) {
                    self.folders.remove(&event.watch);
                }
                // By the names that folders have now that all before is told.
                let Some(path) = self.path(&event) else { continue };
                let is_folder = flags.contains(ReadFlags::ISDIR);
                let is_half =
                    |other: &Raw| other.flags.contains(ReadFlags::MOVED_TO) && other.cookie == cookie;
                if flags.contains(ReadFlags::MOVED_FROM) {
                    let to = events.next_if(is_half).and_then(|other| self.path(&other));
                    self.moved(&path, to, is_folder);
                } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                    self.notes.tell(bytes(&path), Deed::Appeared { is_folder });
                    if is_folder && self.add(&path).is_ok() {
                        // What is in it may have been made before it was watched.
                        self.notes.tell(bytes(&path), Deed::Lost);
                    }
                } else if flags.contains(ReadFlags::DELETE) {
                    self.notes.tell(bytes(&path), Deed::Disappeared { is_folder });
                } else {
                    self.notes.tell(bytes(&path), Deed::Touched);
                }
            }
        }
    }

    fn moved(&mut self, from: &Path, to: Option<PathBuf>, is_folder: bool) {
        if is_folder {
            for path in self.folders.values_mut() {
                if let (Ok(rest), Some(to)) = (path.strip_prefix(from), &to) {
                    *path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                }
            }
        }
        let deed = match to {
            Some(to) => Deed::Renamed { to: bytes(&to) },
            None => Deed::Disappeared { is_folder },
        };
        self.notes.tell(bytes(from), deed);
    }

    fn read(&mut self) -> Vec<Raw> {
        let mut space = [MaybeUninit::uninit(); 64 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        let mut events = Vec::new();
        while let Ok(event) = reader.next() {
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                self.notes.lose();
            }
            let name = event.file_name().map(CString::from);
            events.push(Raw { watch: event.wd(), name, flags, cookie: event.cookie() });
        }
        events
    }

    fn path(&self, event: &Raw) -> Option<PathBuf> {
        let name = event.name.as_ref()?;
        Some(self.folders.get(&event.watch)?.join(OsStr::from_bytes(name.as_bytes())))
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
