//! The layer's file system: what is passed on to the share below, and what is ours to decide before.
//!
//! While the host tells of changes, what the guest does is noted, and what the acting thread does is answered without the
//! share. Lock order: the state before the nodes of `below.rs`.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
    chmodat, chownat, copy_file_range, fallocate, ftruncate, linkat, mkdirat, mknodat, openat, readlinkat,
    renameat_with, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use vm_changes::{AWAY_NODE, Act, Place, ROOT, SYNTHETIC, Shape, Stamp};

use super::abi::{self, Attr, Body, Caller, Entry, set};
use super::below::Below;
use super::told::{Kind, State};
use crate::sys;

/// How long the guest may believe what it is told changes of, and what it is not.
const FOLLOWED: Duration = Duration::from_secs(60);
const UNFOLLOWED: Duration = Duration::from_secs(1);
/// The handle of a file that the acting thread opens: nothing is open below.
const ACTED: u64 = u64::MAX;

type Result<T> = rustix::io::Result<T>;

/// A share with the layer in front.
pub(super) struct Folder {
    pub(super) below: Below,
    state: Mutex<State>,
    /// Something was told.
    pub(super) told: Condvar,
    /// Held by the thread that acts out: another begins when it has ended, as one alone is told.
    pub(super) acting: Mutex<()>,
    /// The kernel's end.
    pub(super) device: OwnedFd,
    is_read_only: bool,
}

impl Attr {
    pub(super) fn stamp(&self) -> Stamp {
        let time = |(seconds, nanoseconds): (i64, u32)| (seconds, i64::from(nanoseconds));
        Stamp {
            inode: self.inode,
            size: self.size,
            modified: time(self.modified),
            changed: time(self.changed),
            shape: Shape::of_mode(self.mode),
        }
    }
}

impl Folder {
    pub(super) fn new(below: Below, device: OwnedFd, is_read_only: bool) -> Self {
        Self {
            below,
            state: Mutex::default(),
            told: Condvar::new(),
            acting: Mutex::default(),
            device,
            is_read_only,
        }
    }

    /// No state is left half changed by a panic, so a poisoned lock is as good as any.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_acting(&self, caller: Caller) -> bool {
        acts(&mut self.lock(), caller)
    }

    fn refuse_read_only(&self) -> Result<()> {
        if self.is_read_only { Err(Errno::ROFS) } else { Ok(()) }
    }

    /// Lets the guest believe longer what it will be told changes of.
    fn entry(state: &State, folder: u64, node: u64, attr: Attr) -> Entry {
        let entry_valid = if state.is_followed(folder) { FOLLOWED } else { UNFOLLOWED };
        Entry { node, attr, entry_valid, attr_valid: Self::attr_valid(state, node, &attr) }
    }

    fn attr_valid(state: &State, node: u64, attr: &Attr) -> Duration {
        let is_followed = state.is_file_followed(node, attr.stamp(), attr.links);
        if is_followed { FOLLOWED } else { UNFOLLOWED }
    }

    pub(super) fn look_up(&self, caller: Caller, folder: u64, name: &CStr) -> Result<Entry> {
        let state = &mut *self.lock();
        let place = (folder, name.to_owned());
        if acts(state, caller) {
            return self.look_as_acting(state, &place);
        }
        let (node, attr) = match self.below.find(folder, name) {
            Err(Errno::NOENT) if state.is_nothing(&place) && !vm_changes::is_away(&place) => {
                // There is none, and the guest need not ask again.
                let (entry_valid, attr_valid) = (FOLLOWED, FOLLOWED);
                return Ok(Entry { node: 0, attr: Attr::default(), entry_valid, attr_valid });
            }
            found => found?,
        };
        self.looked_up(state, place.clone(), node, attr.stamp());
        let mut entry = Self::entry(state, folder, node, attr);
        if state.is_untold(&place, attr.stamp()) {
            // Else the guest would know it already when it is to see it come.
            entry.entry_valid = Duration::ZERO;
        }
        Ok(entry)
    }

    /// The guest is given a number for a name.
    fn looked_up(&self, state: &mut State, place: Place, node: u64, stamp: Stamp) {
        if state.known.looked_up(place, node, stamp) {
            state.unlist(node);
            state.look_in(node);
            self.told.notify_all();
        }
    }

    /// What the acting thread finds at a name, which was just looked at when what it acts out was named.
    fn look_as_acting(&self, state: &mut State, place: &Place) -> Result<Entry> {
        if vm_changes::is_away(place) {
            state.lend(AWAY_NODE);
            let (node, attr) = (AWAY_NODE, self.made_up(ROOT, AWAY_NODE, Shape::Folder));
            return Ok(Entry { node, attr, entry_valid: Duration::ZERO, attr_valid: Duration::ZERO });
        }
        if place.0 == AWAY_NODE {
            return Err(Errno::NOENT);
        }
        match state.acting.current().cloned() {
            Some(Act::Create { place: current, .. }) if current == *place => return Err(Errno::NOENT),
            Some(Act::Remove { place: current, shape, node, .. }) if current == *place => {
                return Ok(self.tombstone(state, place, node, shape));
            }
            Some(Act::Rename { from, to, shape, node, .. }) if from == *place => {
                // Whoever else looks at the old name finds what there is.
                let moved = self.find(state, &to);
                let moved = moved.map(|moved| Entry { entry_valid: Duration::ZERO, ..moved });
                return Ok(moved.unwrap_or_else(|_| self.tombstone(state, place, node, shape)));
            }
            Some(Act::Rename { to, replaced, shape, .. }) if to == *place => {
                let node = replaced.ok_or(Errno::NOENT)?;
                return Ok(self.tombstone(state, place, Some(node), shape));
            }
            Some(Act::Create { .. } | Act::Modify | Act::Remove { .. } | Act::Rename { .. }) | None => {}
        }
        let found = self.find(state, place);
        let known = state.known.name(place);
        let gone = state.acting.gone(place).or_else(|| known.and_then(|name| name.node));
        match (found, gone) {
            (Err(_), Some(node)) => {
                let shape = known.map_or(Shape::Folder, |name| name.shape);
                Ok(self.tombstone(state, place, Some(node), shape))
            }
            (found, _) => found,
        }
    }

    fn find(&self, state: &mut State, place: &Place) -> Result<Entry> {
        let (node, attr) = self.below.find(place.0, &place.1)?;
        self.looked_up(state, place.clone(), node, attr.stamp());
        Ok(Self::entry(state, place.0, node, attr))
    }

    /// What is not there any more, for the kernel to see: by the number it knows it by, if it still does.
    fn tombstone(&self, state: &mut State, place: &Place, node: Option<u64>, shape: Shape) -> Entry {
        // A folder is at one place: one that the guest has found elsewhere stays there.
        let node = node.filter(|node| shape != Shape::Folder || !state.known.is_elsewhere(*node, place));
        let known = node.and_then(|node| Some((node, self.below.look(node).ok()?)));
        let (node, attr) = known.unwrap_or_else(|| {
            let node = state.synthetic();
            (node, self.made_up(place.0, node, shape))
        });
        state.lend(node);
        // Whoever looks next asks again, and finds what there is.
        Entry { node, attr, entry_valid: Duration::ZERO, attr_valid: Duration::ZERO }
    }

    fn made_up(&self, like: u64, node: u64, shape: Shape) -> Attr {
        let mode = match shape {
            Shape::Folder => FileType::Directory.as_raw_mode() | 0o755,
            Shape::Link => FileType::Symlink.as_raw_mode() | 0o777,
            Shape::File | Shape::Special => FileType::RegularFile.as_raw_mode() | 0o644,
        };
        Attr { mode, inode: node, links: 1, ..self.below.look(like).unwrap_or_default() }
    }

    pub(super) fn forget(&self, node: u64, count: u64) {
        let own = self.lock().forget(node, count);
        self.below.forget(node, own);
    }

    pub(super) fn get_attributes(&self, node: u64) -> Result<(Attr, Duration)> {
        let attr = match self.below.look(node) {
            Err(_) if node == AWAY_NODE => self.made_up(ROOT, node, Shape::Folder),
            Err(_) if node >= SYNTHETIC => self.made_up(ROOT, node, Shape::File),
            found => found?,
        };
        let valid = Self::attr_valid(&self.lock(), node, &attr);
        Ok((attr, valid))
    }

    /// A change of a file by the guest: how it looks then is the guest's doing.
    fn changing<T>(&self, node: u64, change: impl FnOnce() -> Result<T>) -> Result<T> {
        self.refuse_read_only()?;
        let file = self.below.inode(node)?;
        self.lock().begin_writing(file);
        let changed = change();
        self.lock().end_writing(file);
        changed
    }

    pub(super) fn set_attributes(
        &self,
        caller: Caller,
        node: u64,
        mut wanted: Body<'_>,
    ) -> Result<(Attr, Duration)> {
        if self.is_acting(caller) {
            return self.get_attributes(node);
        }
        let (valid, _) = (wanted.u32()?, wanted.u32()?);
        let (handle, size, _) = (wanted.u64()?, wanted.u64()?, wanted.u64()?);
        let seconds = [wanted.u64()?, wanted.u64()?, wanted.u64()?];
        let nanoseconds = [wanted.u32()?, wanted.u32()?, wanted.u32()?];
        let (mode, _) = (wanted.u32()?, wanted.u32()?);
        let (uid, gid) = (wanted.u32()?, wanted.u32()?);
        let has = |what| valid & what != 0;
        self.changing(node, || {
            let link = self.below.link(node)?;
            if has(set::MODE) {
                chmodat(link.folder, &link.name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
            }
            if has(set::UID | set::GID) {
                let uid = has(set::UID).then(|| Uid::from_raw(uid));
                let gid = has(set::GID).then(|| Gid::from_raw(gid));
                chownat(self.below.node(node)?, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            if has(set::SIZE) {
                let truncate = || match has(set::FH) {
                    true => ftruncate(&self.below.handle(handle)?.fd, size),
                    false => ftruncate(self.below.open(node, OFlags::WRONLY | OFlags::NONBLOCK)?, size),
                };
                sys::without_keeping_set_id(has(set::KILL_SUIDGID), truncate)?;
            }
            if has(set::ATIME | set::MTIME) {
                let time = |which: usize, given, at_once| {
                    let nanoseconds = match (has(given), has(at_once)) {
                        (false, _) => UTIME_OMIT,
                        (true, true) => UTIME_NOW,
                        (true, false) => nanoseconds[which].into(),
                    };
                    Timespec {
                        tv_sec: i64::from_ne_bytes(seconds[which].to_ne_bytes()),
                        tv_nsec: nanoseconds,
                    }
                };
                let times = Timestamps {
                    last_access: time(0, set::ATIME, set::ATIME_NOW),
                    last_modification: time(1, set::MTIME, set::MTIME_NOW),
                };
                utimensat(self.below.node(node)?, c"", &times, AtFlags::EMPTY_PATH).or_else(|error| {
                    // Before Linux 5.8 a descriptor alone is not enough.
                    if error == Errno::INVAL {
                        return utimensat(link.folder, &link.name, &times, AtFlags::empty());
                    }
                    Err(error)
                })?;
            }
            Ok(())
        })?;
        self.get_attributes(node)
    }

    pub(super) fn read_link(&self, node: u64) -> Result<Vec<u8>> {
        Ok(readlinkat(self.below.node(node)?, c"", Vec::new())?.into_bytes())
    }

    /// A new name, made by the guest as whoever asks.
    fn making(
        &self,
        caller: Caller,
        folder: u64,
        name: &CStr,
        make: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<Entry> {
        let state = &mut *self.lock();
        let place = (folder, name.to_owned());
        if acts(state, caller) {
            return self.act_out_creation(state, place);
        }
        self.refuse_read_only()?;
        let parent = self.below.node(folder)?;
        sys::as_user(caller.uid, caller.gid, || make(&parent))?;
        state.expect(&place, Kind::Created);
        let (node, attr) = self.below.find(folder, name)?;
        state.known.made(place, node, attr.stamp());
        Ok(Self::entry(state, folder, node, attr))
    }

    fn act_out_creation(&self, state: &mut State, place: Place) -> Result<Entry> {
        let shape = match state.acting.current() {
            Some(Act::Create { place: current, shape }) if *current == place => *shape,
            // It never makes anything in the share.
            _ => return Err(Errno::NOENT),
        };
        let (node, attr) = match self.below.find(place.0, &place.1) {
            Ok((node, attr)) if attr.stamp().shape == shape && shape != Shape::Special => (node, attr),
            // It came and is gone, or is what the thread can't make: the next look finds what there is.
            other => {
                if let Ok((node, _)) = other {
                    self.below.forget(node, 1);
                }
                return Ok(self.tombstone(state, &place, None, shape));
            }
        };
        let folder = place.0;
        self.looked_up(state, place, node, attr.stamp());
        // Of what was made the kernel believes the attributes even where it knows newer ones by now.
        Ok(Entry { attr_valid: Duration::ZERO, ..Self::entry(state, folder, node, attr) })
    }

    pub(super) fn make_node(&self, caller: Caller, folder: u64, mut body: Body<'_>) -> Result<Entry> {
        let (mode, device, _, _) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let kind = FileType::from_raw_mode(mode);
        let name = body.name()?;
        self.making(caller, folder, name, |parent| {
            mknodat(parent, name, kind, Mode::from_raw_mode(mode & 0o7777), Dev::from(device))
        })
    }

    pub(super) fn make_folder(&self, caller: Caller, folder: u64, mut body: Body<'_>) -> Result<Entry> {
        let (mode, _) = (body.u32()?, body.u32()?);
        let name = body.name()?;
        self.making(caller, folder, name, |parent| mkdirat(parent, name, Mode::from_raw_mode(mode & 0o7777)))
    }

    pub(super) fn make_symlink(&self, caller: Caller, folder: u64, mut body: Body<'_>) -> Result<Entry> {
        let name = body.name()?;
        let to = body.text()?;
        self.making(caller, folder, name, |parent| symlinkat(to, parent, name))
    }

    pub(super) fn make_link(&self, caller: Caller, folder: u64, mut body: Body<'_>) -> Result<Entry> {
        let node = body.u64()?;
        let name = body.name()?;
        let link = self.below.link(node)?;
        // It is as root that a descriptor may be linked; whether the caller may, the kernel has looked at.
        let as_root = Caller { uid: 0, gid: 0, ..caller };
        self.changing(node, || {
            self.making(as_root, folder, name, |parent| {
                linkat(link.folder, &link.name, parent, name, AtFlags::SYMLINK_FOLLOW)
            })
        })
    }

    pub(super) fn create(
        &self,
        caller: Caller,
        folder: u64,
        mut body: Body<'_>,
    ) -> Result<(Entry, u64, u32)> {
        let (flags, mode, _, extra) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let name = body.name()?;
        if self.is_acting(caller) {
            let entry = self.act_out_creation(&mut self.lock(), (folder, name.to_owned()))?;
            return Ok((entry, ACTED, abi::open::NOFLUSH));
        }
        self.refuse_read_only()?;
        let state = &mut *self.lock();
        let place = (folder, name.to_owned());
        let parent = self.below.node(folder)?;
        let flags = opening(flags) | OFlags::CREATE | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let open = |flags| sys::as_user(caller.uid, caller.gid, || openat(&parent, name, flags, mode));
        // Of a file that is there already nobody tells that it is made.
        let (fd, is_new) = match open(flags | OFlags::EXCL) {
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                let is_killing = extra & abi::OPEN_KILL_SUIDGID != 0;
                (sys::without_keeping_set_id(is_killing, || open(flags))?, false)
            }
            opened => (opened?, true),
        };
        if is_new {
            state.expect(&place, Kind::Created);
        }
        let (node, attr) = self.below.find(folder, name)?;
        state.known.made(place, node, attr.stamp());
        let entry = Self::entry(state, folder, node, attr);
        Ok((entry, self.below.keep_open(fd), self.flushing(state, flags)))
    }

    pub(super) fn remove(&self, caller: Caller, folder: u64, name: &CStr, flags: AtFlags) -> Result<()> {
        let state = &mut *self.lock();
        let place = (folder, name.to_owned());
        if acts(state, caller) {
            // It never removes a file of the share's.
            if !state.acting.may_remove(&place, false, &state.known) {
                return Err(Errno::NOENT);
            }
            if let Some(Act::Remove { node: Some(node), .. }) = state.acting.current()
                && flags.contains(AtFlags::REMOVEDIR)
            {
                // Whatever is found by it later is another for the kernel, which looks into this one no more.
                self.below.disown(*node);
            }
            return Ok(());
        }
        self.refuse_read_only()?;
        let parent = self.below.node(folder)?;
        unlinkat(&parent, name, flags)?;
        state.expect(&place, Kind::Deleted);
        state.known.removed(&place);
        Ok(())
    }

    pub(super) fn rename(
        &self,
        caller: Caller,
        from: (u64, &CStr),
        to: (u64, &CStr),
        flags: u32,
    ) -> Result<()> {
        let state = &mut *self.lock();
        let (old, new) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        if acts(state, caller) {
            return match state.acting.current() {
                Some(Act::Rename { from, to, .. }) if (from, to) == (&old, &new) => Ok(()),
                _ if new.0 == AWAY_NODE && state.acting.may_remove(&old, true, &state.known) => Ok(()),
                _ => Err(Errno::NOENT),
            };
        }
        self.refuse_read_only()?;
        let folders = (self.below.node(from.0)?, self.below.node(to.0)?);
        let flags = RenameFlags::from_bits_retain(flags);
        renameat_with(&folders.0, from.1, &folders.1, to.1, flags)?;
        state.expect(&old, Kind::MovedFrom);
        state.expect(&new, Kind::MovedTo);
        if flags.contains(RenameFlags::EXCHANGE) {
            state.expect(&new, Kind::MovedFrom);
            state.expect(&old, Kind::MovedTo);
            state.known.exchanged(&old, &new);
        } else {
            state.known.renamed(&old, new.clone());
        }
        // What was renamed has a new time of change.
        for place in [old, new] {
            if let Some(node) = state.known.name(&place).and_then(|name| name.node)
                && let Ok(attr) = self.below.look(node)
            {
                state.known.changed(attr.stamp());
            }
        }
        Ok(())
    }

    pub(super) fn open(&self, caller: Caller, node: u64, mut body: Body<'_>) -> Result<(u64, u32)> {
        let (flags, extra) = (body.u32()?, body.u32()?);
        if self.is_acting(caller) {
            return Ok((ACTED, abi::open::NOFLUSH));
        }
        let flags = opening(flags);
        if self.is_read_only && !(flags & OFlags::RWMODE).is_empty() {
            return Err(Errno::ROFS);
        }
        if flags.contains(OFlags::TRUNC) {
            let is_killing = extra & abi::OPEN_KILL_SUIDGID != 0;
            let open = || sys::without_keeping_set_id(is_killing, || self.below.open(node, flags));
            let options = self.flushing(&self.lock(), flags);
            return Ok((self.below.keep_open(self.changing(node, open)?), options));
        }
        let fd = self.below.open(node, flags)?;
        let attr = self.below.look(node)?;
        let is_kept = self.lock().open(node, attr.stamp(), attr.links, FOLLOWED / 2);
        let mut options = self.flushing(&self.lock(), flags);
        if is_kept {
            options |= abi::open::KEEP_CACHE;
        }
        Ok((self.below.keep_open(fd), options))
    }

    /// Whether something may fail to arrive, so that the share's server is to be asked when a file is closed.
    fn flushing(&self, state: &State, flags: OFlags) -> u32 {
        let is_read = (flags & OFlags::RWMODE).is_empty();
        let has_arrived = self.below.writes_through && state.is_local();
        if is_read || has_arrived { abi::open::NOFLUSH } else { 0 }
    }

    pub(super) fn open_folder(&self, node: u64) -> Result<(u64, u32)> {
        let fd = self.below.open(node, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut state = self.lock();
        let mut flags = 0;
        if state.is_followed(node) {
            flags |= abi::open::CACHE_DIR;
        }
        if state.list(node, FOLLOWED / 2) {
            flags |= abi::open::KEEP_CACHE;
        }
        Ok((self.below.keep_open(fd), flags))
    }

    pub(super) fn release(&self, handle: u64) {
        if handle != ACTED {
            self.below.close(handle);
        }
    }

    /// What is to arrive at the share has: closing a descriptor's copy asks the share's server, as closing ours would.
    pub(super) fn flush(&self, handle: u64) -> Result<()> {
        if handle == ACTED {
            return Ok(());
        }
        sys::flush(self.below.handle(handle)?.fd.as_fd())
    }

    pub(super) fn write(&self, node: u64, mut body: Body<'_>) -> Result<u32> {
        let (handle, offset) = (body.u64()?, body.u64()?);
        let (size, flags) = (body.u32()?, body.u32()?);
        let (_, _, _) = (body.u64()?, body.u32()?, body.u32()?);
        let data = body.bytes(size)?;
        let handle = self.below.handle(handle)?;
        let written = self.changing(node, || {
            sys::without_keeping_set_id(flags & abi::WRITE_KILL_SUIDGID != 0, || {
                rustix::io::pwrite(&handle.fd, data, offset)
            })
        })?;
        u32::try_from(written).map_err(|_| Errno::IO)
    }

    pub(super) fn allocate(&self, node: u64, mut body: Body<'_>) -> Result<()> {
        let (handle, offset, length) = (body.u64()?, body.u64()?, body.u64()?);
        let mode = rustix::fs::FallocateFlags::from_bits_retain(body.u32()?);
        let handle = self.below.handle(handle)?;
        self.changing(node, || fallocate(&handle.fd, mode, offset, length))
    }

    pub(super) fn copy(&self, mut body: Body<'_>) -> Result<u32> {
        let (from, mut from_at) = (self.below.handle(body.u64()?)?, body.u64()?);
        let node = body.u64()?;
        let (to, mut to_at) = (self.below.handle(body.u64()?)?, body.u64()?);
        // The answer has 32 bits.
        let length = usize::try_from(body.u64()?.min(1 << 30)).map_err(|_| Errno::INVAL)?;
        let copied = self.changing(node, || {
            copy_file_range(&from.fd, Some(&mut from_at), &to.fd, Some(&mut to_at), length)
        })?;
        u32::try_from(copied).map_err(|_| Errno::IO)
    }

    pub(super) fn set_xattr(&self, node: u64, mut body: Body<'_>) -> Result<()> {
        let (size, flags) = (body.u32()?, body.u32()?);
        let name = body.text()?;
        let value = body.bytes(size)?;
        let flags = rustix::fs::XattrFlags::from_bits_retain(flags);
        let path = self.below.link(node)?.path();
        self.changing(node, || rustix::fs::setxattr(path.as_c_str(), name, value, flags))
    }

    pub(super) fn remove_xattr(&self, node: u64, mut body: Body<'_>) -> Result<()> {
        let name = body.text()?;
        let path = self.below.link(node)?.path();
        self.changing(node, || rustix::fs::removexattr(path.as_c_str(), name))
    }

    /// What a folder is listed with beside a name: as if it was looked up.
    pub(super) fn listed(&self, caller: Caller, folder: u64, name: &CStr) -> Option<Entry> {
        self.look_up(caller, folder, name).ok().filter(|entry| entry.node != 0)
    }

    /// What the kernel believes of a file's attributes may be old.
    pub(super) fn doubt(&self, node: u64) {
        // A kernel that knows it no longer is as good.
        let _ = rustix::io::write(&self.device, &abi::forget_attributes(node));
    }
}

/// Whether it is the acting thread that asks, which gives way to what others have done meanwhile.
fn acts(state: &mut State, caller: Caller) -> bool {
    let is_acting = state.acting.is(caller.thread);
    if is_acting {
        state.acting.give_way();
    }
    is_acting
}

/// How a file is opened below: what the kernel has seen to by itself is left out.
fn opening(flags: u32) -> OFlags {
    let flags = OFlags::from_bits_retain(flags);
    flags - (OFlags::CREATE | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::DIRECT)
}
