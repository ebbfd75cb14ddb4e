//! The share below the layer: its files by descriptors, which is what the kernel's numbers stand for.
//!
//! No path is looked at by us: a name is opened in the folder that has it, and what is open is opened anew by the kernel's
//! own links to descriptors.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, fstatfs, linkat, open, openat, openat2, statx,
};
use rustix::io::Errno;
use vm_changes::{ROOT, SYNTHETIC};

use super::abi::Attr;
use crate::shares::FUSE;

/// What a file is told by: another with the same is the same, by another name.
type Identity = (u32, u32, u64, u16);

struct Node {
    fd: Arc<OwnedFd>,
    identity: Identity,
    /// How often the kernel was given its number.
    references: u64,
}

#[derive(Default)]
struct Nodes {
    by_number: HashMap<u64, Node>,
    by_identity: HashMap<Identity, u64>,
    last: u64,
}

/// A share's files, as far as the kernel knows them.
pub(super) struct Below {
    nodes: Mutex<Nodes>,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    last_handle: AtomicU64,
    /// `/proc/self/fd`.
    descriptors: OwnedFd,
    /// A file of another file system.
    elsewhere: OwnedFd,
    /// What is written has arrived at the share's server when the write has: nothing is kept back here.
    pub(super) writes_through: bool,
}

/// What is open.
pub(super) struct Handle {
    pub(super) fd: OwnedFd,
    /// Of a folder: whoever reads it needs its position for himself.
    pub(super) position: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(found: &Statx) -> Identity {
    (found.stx_dev_major, found.stx_dev_minor, found.stx_ino, found.stx_mode & 0o170_000)
}

impl Nodes {
    fn unname(&mut self, number: u64, identity: Identity) {
        if self.by_identity.get(&identity) == Some(&number) {
            self.by_identity.remove(&identity);
        }
    }
}

impl Below {
    /// Of the share whose root this is.
    pub(super) fn new(root: OwnedFd) -> rustix::io::Result<Self> {
        let plain = OFlags::PATH | OFlags::CLOEXEC;
        let descriptors = open("/proc/self/fd", plain | OFlags::DIRECTORY, Mode::empty())?;
        let elsewhere = open("/proc/self/stat", plain, Mode::empty())?;
        let found = look(root.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        let writes_through = fstatfs(&root)?.f_type == FUSE;
        let identity = identity(&found);
        let mut nodes = Nodes { last: ROOT, ..Nodes::default() };
        nodes.by_number.insert(ROOT, Node { fd: Arc::new(root), identity, references: 1 });
        nodes.by_identity.insert(identity, ROOT);
        Ok(Self {
            nodes: Mutex::new(nodes),
            handles: RwLock::default(),
            last_handle: AtomicU64::new(0),
            descriptors,
            elsewhere,
            writes_through,
        })
    }

    /// What a number stands for.
    pub(super) fn node(&self, number: u64) -> rustix::io::Result<Arc<OwnedFd>> {
        lock(&self.nodes).by_number.get(&number).map(|node| Arc::clone(&node.fd)).ok_or(Errno::STALE)
    }

    /// The share's own number of a file.
    pub(super) fn inode(&self, number: u64) -> rustix::io::Result<u64> {
        lock(&self.nodes).by_number.get(&number).map(|node| node.identity.2).ok_or(Errno::STALE)
    }

    /// Finds a name, for which the kernel gets a reference.
    pub(super) fn find(&self, folder: u64, name: &CStr) -> rustix::io::Result<(u64, Attr)> {
        let folder = self.node(folder)?;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(&folder, name, flags, Mode::empty(), how)?;
        let found = look(fd.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        Ok((self.keep(fd, &found), Attr::from(&found)))
    }

    fn keep(&self, fd: OwnedFd, found: &Statx) -> u64 {
        let identity = identity(found);
        let fd = Arc::new(fd);
        let nodes = &mut *lock(&self.nodes);
        if let Some(number) = nodes.by_identity.get(&identity)
            && let Some(node) = nodes.by_number.get_mut(number)
        {
            node.references += 1;
            // What was found last is there for certain.
            node.fd = fd;
            return *number;
        }
        nodes.last += 1;
        let number = nodes.last;
        nodes.by_number.insert(number, Node { fd, identity, references: 1 });
        nodes.by_identity.insert(identity, number);
        number
    }

    /// The kernel gives references back.
    pub(super) fn forget(&self, number: u64, count: u64) {
        if number == ROOT || number >= SYNTHETIC {
            return;
        }
        let nodes = &mut *lock(&self.nodes);
        let Some(node) = nodes.by_number.get_mut(&number) else { return };
        node.references = node.references.saturating_sub(count);
        if node.references == 0
            && let Some(node) = nodes.by_number.remove(&number)
        {
            nodes.unname(number, node.identity);
        }
    }

    /// What is found by it from now on has another number.
    pub(super) fn disown(&self, number: u64) {
        let nodes = &mut *lock(&self.nodes);
        if let Some(identity) = nodes.by_number.get(&number).map(|node| node.identity) {
            nodes.unname(number, identity);
        }
    }

    /// How a file looks.
    pub(super) fn look(&self, number: u64) -> rustix::io::Result<Attr> {
        Ok(Attr::from(&look(self.node(number)?.as_fd(), c"", AtFlags::EMPTY_PATH)?))
    }

    /// The same at this very moment.
    pub(super) fn look_at_it_anew(&self, number: u64) -> rustix::io::Result<Attr> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        Ok(Attr::from(&look(self.node(number)?.as_fd(), c"", flags)?))
    }

    /// How what has a name looks at this very moment, whatever is remembered of it.
    pub(super) fn look_anew(&self, folder: u64, name: &CStr) -> rustix::io::Result<Attr> {
        let folder = self.node(folder)?;
        self.ask_anew(folder.as_fd(), name);
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
        Ok(Attr::from(&look(folder.as_fd(), name, flags)?))
    }

    /// Has the kernel ask the share's server for a name that it may remember: it does so where a link is to be made, which
    /// fails then, as it would lead from one file system to another.
    fn ask_anew(&self, folder: BorrowedFd<'_>, name: &CStr) {
        let link = format!("{}", self.elsewhere.as_raw_fd());
        let _ = linkat(&self.descriptors, link, folder, name, AtFlags::SYMLINK_FOLLOW);
    }

    /// Opens what a number stands for.
    pub(super) fn open(&self, number: u64, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let node = self.node(number)?;
        openat(&self.descriptors, link(&node), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// The link to what a number stands for, in the folder of such links: for calls that take a path.
    pub(super) fn link(&self, number: u64) -> rustix::io::Result<Link<'_>> {
        let node = self.node(number)?;
        Ok(Link { folder: self.descriptors.as_fd(), name: link(&node), _node: node })
    }

    /// Keeps what was opened; its number.
    pub(super) fn keep_open(&self, fd: OwnedFd) -> u64 {
        let number = self.last_handle.fetch_add(1, Ordering::Relaxed) + 1;
        let handle = Arc::new(Handle { fd, position: Mutex::new(()) });
        self.handles.write().unwrap_or_else(PoisonError::into_inner).insert(number, handle);
        number
    }

    /// What was opened.
    pub(super) fn handle(&self, number: u64) -> rustix::io::Result<Arc<Handle>> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(&number).cloned().ok_or(Errno::BADF)
    }

    /// Closes it.
    pub(super) fn close(&self, number: u64) {
        self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

impl Handle {
    /// While this is kept, the position is its holder's.
    pub(super) fn hold_position(&self) -> MutexGuard<'_, ()> {
        lock(&self.position)
    }
}

/// See [`Below::link`].
pub(super) struct Link<'a> {
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: CString,
    _node: Arc<OwnedFd>,
}

impl Link<'_> {
    /// From the root, for calls that know no folder.
    pub(super) fn path(&self) -> CString {
        let path = [b"/proc/self/fd/", self.name.to_bytes()].concat();
        CString::new(path).unwrap_or_default()
    }
}

fn link(fd: &OwnedFd) -> CString {
    CString::new(fd.as_raw_fd().to_string()).unwrap_or_default()
}

fn look(fd: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> rustix::io::Result<Statx> {
    statx(fd, name, flags, StatxFlags::BASIC_STATS)
}
