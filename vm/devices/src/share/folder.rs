//! The shared folder's file system: virtiofsd's, and what is ours to decide before it is asked.
//!
//! While somebody listens for changes on the host, what the guest does is noted, and what its acting thread does is
//! answered without the host's files (see `watch.rs`). Lock order: ours before virtiofsd's.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use vm_changes::{AWAY_NODE, Act, Place, ROOT, SYNTHETIC, Shape};

use super::state::{State, stamp_of};
use super::told::Kind;
use super::watch::Watch;

/// The most that Linux reads of a directory, or holds in extended attributes, at once. A guest's word on how much room
/// it has is no reason to take as much memory.
const MAX_DIRECTORY: u32 = 1 << 20;
const MAX_XATTR: u32 = 1 << 16;
/// The handle of a file that the acting thread opens: nothing is open on the host.
const ACTED: u64 = u64::MAX;
/// How long the guest may believe what it knows of names and files of whose changes it is told. Writes by a mapping are none
/// that the kernel tells of.
const FOLLOWED: Duration = Duration::from_secs(60);

/// A file system whose requests pass us by. Clones are the same folder.
pub(crate) struct Folder<F> {
    inner: Arc<F>,
    watch: Arc<Watch>,
}

impl<F> Clone for Folder<F> {
    fn clone(&self) -> Self {
        Folder { inner: Arc::clone(&self.inner), watch: Arc::clone(&self.watch) }
    }
}

impl<F> Folder<F> {
    pub(crate) fn new(inner: F, watch: &Arc<Watch>) -> Self {
        watch.forget_all();
        Folder { inner: Arc::new(inner), watch: Arc::clone(watch) }
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64>> Folder<F> {
    /// Lets the guest believe longer what it will be told changes of.
    fn keep(state: &State, folder: u64, mut entry: Entry) -> Entry {
        if state.is_followed(folder) {
            entry.entry_timeout = FOLLOWED;
        }
        if state.is_file_followed(entry.inode, &entry.attr) {
            entry.attr_timeout = FOLLOWED;
        }
        entry
    }

    /// The same of attributes alone.
    fn keep_attributes(&self, inode: u64, (attr, freshness): (Attr, Duration)) -> (Attr, Duration) {
        let is_followed = self.watch.is_on() && self.watch.lock().is_file_followed(inode, &attr);
        (attr, if is_followed { FOLLOWED } else { freshness })
    }

    fn is_acting(&self, ctx: Context) -> bool {
        self.watch.is_on() && self.watch.is_acting(&mut self.watch.lock(), ctx.pid, None)
    }

    /// Whether creating a file makes a name: of one that is there the kernel tells nothing.
    fn is_new(&self, ctx: Context, parent: u64, name: &CStr, flags: u32) -> bool {
        if flags & OFlags::EXCL.bits() != 0 {
            return true;
        }
        match self.inner.lookup(ctx, parent, name) {
            Ok(entry) => {
                self.inner.forget(ctx, entry.inode, 1);
                false
            }
            Err(_) => true,
        }
    }

    /// A change of a file by the guest: how it looks then is the guest's doing.
    fn changing<T>(&self, ctx: Context, inode: u64, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if !self.watch.is_on() {
            return change();
        }
        let mut state = self.watch.lock();
        let changed = change()?;
        if let Ok((attr, _)) = self.inner.getattr(ctx, inode, None) {
            state.known.changed(stamp_of(&attr));
        }
        Ok(changed)
    }

    /// A new name, made by the guest.
    fn making(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        make: impl FnOnce() -> io::Result<Entry>,
    ) -> io::Result<Entry> {
        if !self.watch.is_on() {
            return make();
        }
        let mut state = self.watch.lock();
        let place = (parent, name.to_owned());
        if self.watch.is_acting(&mut state, ctx.pid, None) {
            return self.act_out_creation(ctx, &mut state, place);
        }
        self.watch.watch_folder(&mut state, parent);
        let entry = make()?;
        state.expect(&place, Kind::Created);
        state.known.made(place, entry.inode, stamp_of(&entry.attr));
        if is_folder(&entry.attr) {
            self.watch.watch_folder(&mut state, entry.inode);
        }
        Ok(Self::keep(&state, parent, entry))
    }

    fn act_out_creation(&self, ctx: Context, state: &mut State, place: Place) -> io::Result<Entry> {
        let shape = match state.acting.current() {
            Some(Act::Create { place: current, shape }) if *current == place => *shape,
            // It never makes anything on the host.
            _ => return Err(Errno::NOENT.into()),
        };
        let entry = self.inner.lookup(ctx, place.0, &place.1);
        let (entry, stamp) = match entry {
            Ok(entry) if stamp_of(&entry.attr).shape == shape && shape != Shape::Special => {
                let stamp = stamp_of(&entry.attr);
                // Of what was made the kernel believes the attributes even where it knows newer ones by now.
                (Entry { attr_timeout: Duration::ZERO, ..entry }, stamp)
            }
            // It came and is gone, or is what the thread can't make: the next look finds what there is.
            other => {
                if let Ok(entry) = other {
                    self.inner.forget(ctx, entry.inode, 1);
                }
                return self.tombstone(ctx, state, &place, None, shape);
            }
        };
        self.watch.looked_up(state, place, entry.inode, stamp);
        if shape == Shape::Folder {
            self.watch.watch_folder(state, entry.inode);
        }
        Ok(entry)
    }

    fn removing(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        remove: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.watch.is_on() {
            return remove();
        }
        let mut state = self.watch.lock();
        let place = (parent, name.to_owned());
        if self.watch.is_acting(&mut state, ctx.pid, None) {
            // It never removes a file of the host's.
            let may = state.acting.may_remove(&place, false, &state.known);
            return if may { Ok(()) } else { Err(Errno::NOENT.into()) };
        }
        remove()?;
        state.expect(&place, Kind::Deleted);
        state.known.removed(&place);
        Ok(())
    }

    /// What the acting thread finds at a name.
    fn look_as_acting(&self, ctx: Context, state: &mut State, place: &Place) -> io::Result<Entry> {
        if vm_changes::is_away(place) {
            *state.borrowed.entry(AWAY_NODE).or_default() += 1;
            let (inode, attr, never) = (AWAY_NODE, self.away(ctx)?, Duration::ZERO);
            return Ok(Entry { inode, generation: 0, attr, attr_timeout: never, entry_timeout: never });
        }
        if place.0 == AWAY_NODE {
            return Err(Errno::NOENT.into());
        }
        match state.acting.current().cloned() {
            Some(Act::Create { place: current, .. }) if current == *place => return Err(Errno::NOENT.into()),
            Some(Act::Remove { place: current, shape, node, .. }) if current == *place => {
                return self.tombstone(ctx, state, place, node, shape);
            }
            Some(Act::Rename { from, to, shape, node, .. }) if from == *place => {
                // Whoever else looks at the old name finds what there is.
                let moved = self.look(ctx, state, to);
                let moved = moved.map(|moved| Entry { entry_timeout: Duration::ZERO, ..moved });
                return moved.or_else(|_| self.tombstone(ctx, state, place, node, shape));
            }
            Some(Act::Rename { to, replaced, shape, .. }) if to == *place => {
                let Some(node) = replaced else { return Err(Errno::NOENT.into()) };
                return self.tombstone(ctx, state, place, Some(node), shape);
            }
            Some(Act::Create { .. } | Act::Modify | Act::Remove { .. } | Act::Rename { .. }) | None => {}
        }
        let found = self.look(ctx, state, place.clone());
        let known = state.known.name(place);
        let gone = state.acting.gone(place).or_else(|| known.and_then(|name| name.node));
        match (found, gone) {
            (Err(_), Some(node)) => {
                let shape = known.map_or(Shape::Folder, |name| name.shape);
                self.tombstone(ctx, state, place, Some(node), shape)
            }
            (found, _) => found,
        }
    }

    fn look(&self, ctx: Context, state: &mut State, place: Place) -> io::Result<Entry> {
        let entry = self.inner.lookup(ctx, place.0, &place.1)?;
        self.watch.looked_up(state, place, entry.inode, stamp_of(&entry.attr));
        if is_folder(&entry.attr) {
            self.watch.watch_folder(state, entry.inode);
        }
        Ok(entry)
    }

    /// How the folder looks where others go that have moved away.
    fn away(&self, ctx: Context) -> io::Result<Attr> {
        Ok(Attr { ino: AWAY_NODE, ..self.inner.getattr(ctx, ROOT, None)?.0 })
    }

    /// What is not there on the host, for the guest to see: by the number it knows it by, if it still does.
    fn tombstone(
        &self,
        ctx: Context,
        state: &mut State,
        place: &Place,
        node: Option<u64>,
        shape: Shape,
    ) -> io::Result<Entry> {
        // A folder is at one place: one that the guest has found elsewhere stays there.
        let node = node.filter(|node| shape != Shape::Folder || !state.known.is_elsewhere(*node, place));
        let known = node.and_then(|node| Some((node, self.inner.getattr(ctx, node, None).ok()?.0)));
        let (inode, attr) = match known {
            Some(known) => known,
            None => {
                let (mut attr, _) = self.inner.getattr(ctx, place.0, None)?;
                attr.mode = match shape {
                    Shape::Folder => FileType::Directory.as_raw_mode() | 0o755,
                    Shape::Link => FileType::Symlink.as_raw_mode() | 0o777,
                    Shape::File | Shape::Special => FileType::RegularFile.as_raw_mode() | 0o644,
                };
                let inode = state.synthetic();
                attr.ino = inode;
                (inode, attr)
            }
        };
        *state.borrowed.entry(inode).or_default() += 1;
        // Whoever looks next asks again, and finds what there is.
        Ok(Entry { inode, generation: 0, attr, attr_timeout: Duration::ZERO, entry_timeout: Duration::ZERO })
    }
}

/// Says that there is no such name, and that the guest need not ask again.
fn nothing() -> Entry {
    let timeout = FOLLOWED;
    Entry { inode: 0, generation: 0, attr: Attr::default(), attr_timeout: timeout, entry_timeout: timeout }
}

fn is_folder(attr: &Attr) -> bool {
    FileType::from_raw_mode(attr.mode) == FileType::Directory
}

/// A name in a folder is one: whoever follows it, by whatever call, stays in the folder.
fn check(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL.into()),
        name if name.contains(&b'/') => Err(Errno::INVAL.into()),
        _ => Ok(()),
    }
}

/// Requests that are virtiofsd's alone.
macro_rules! pass {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)* $(,)?) $(-> $result:ty)?;)*) => {
        $(fn $name(&self $(, $arg: $type)*) $(-> $result)? { self.inner.$name($($arg),*) })*
    };
}

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Folder<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = F::DirIter;

    fn readdir(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<F::DirIter> {
        self.inner.readdir(ctx, inode, handle, size.min(MAX_DIRECTORY), offset)
    }

    fn getxattr(&self, ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.inner.getxattr(ctx, inode, name, size.min(MAX_XATTR))
    }

    fn listxattr(&self, ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.inner.listxattr(ctx, inode, size.min(MAX_XATTR))
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        self.inner.read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        self.changing(ctx, inode, || {
            self.inner.write(ctx, inode, handle, r, size, offset, lock_owner, delayed_write, kill_priv, flags)
        })
    }

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        // A kernel that exports the share (NFS) asks for these two.
        if !matches!(name.to_bytes(), b"." | b"..") {
            check(name)?;
        }
        if !self.watch.is_on() {
            return self.inner.lookup(ctx, parent, name);
        }
        let mut state = self.watch.lock();
        let place = (parent, name.to_owned());
        if self.watch.is_acting(&mut state, ctx.pid, Some((parent, name))) {
            return self.look_as_acting(ctx, &mut state, &place);
        }
        self.watch.watch_folder(&mut state, parent);
        let entry = match self.look(ctx, &mut state, place.clone()) {
            Err(error)
                if Errno::from_io_error(&error) == Some(Errno::NOENT)
                    && state.is_nothing(&place)
                    && !vm_changes::is_away(&place) =>
            {
                return Ok(nothing());
            }
            found => found?,
        };
        let mut entry = Self::keep(&state, parent, entry);
        if state.is_untold(&place, stamp_of(&entry.attr)) {
            // Else the guest would know it already when it is to see it come.
            entry.entry_timeout = Duration::ZERO;
        }
        Ok(entry)
    }

    fn forget(&self, ctx: Context, inode: u64, count: u64) {
        self.batch_forget(ctx, vec![(inode, count)]);
    }

    fn batch_forget(&self, ctx: Context, mut requests: Vec<(u64, u64)>) {
        if self.watch.is_on() {
            let state = &mut *self.watch.lock();
            for (inode, count) in &mut requests {
                let borrowed = state.borrowed.get(inode).copied().unwrap_or(0).min(*count);
                if borrowed > 0 {
                    *count -= borrowed;
                    state.borrowed.entry(*inode).and_modify(|left| *left -= borrowed);
                    state.borrowed.retain(|_, left| *left > 0);
                }
                if state.known.forgot(*inode, *count) {
                    self.watch.unwatch_folder(state, *inode);
                }
            }
            requests.retain(|(inode, count)| *count > 0 && *inode < SYNTHETIC);
        }
        self.inner.batch_forget(ctx, requests);
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: u64,
        attr: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        if self.is_acting(ctx) {
            return self.getattr(ctx, inode, None);
        }
        let changed = self.changing(ctx, inode, || self.inner.setattr(ctx, inode, attr, handle, valid))?;
        Ok(self.keep_attributes(inode, changed))
    }

    fn symlink(
        &self,
        ctx: Context,
        linkname: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        check(name)?;
        self.making(ctx, parent, name, || self.inner.symlink(ctx, linkname, parent, name, extensions))
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        check(name)?;
        self.making(ctx, parent, name, || self.inner.mknod(ctx, parent, name, mode, rdev, umask, extensions))
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        check(name)?;
        self.making(ctx, parent, name, || self.inner.mkdir(ctx, parent, name, mode, umask, extensions))
    }

    fn link(&self, ctx: Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry> {
        check(newname)?;
        self.making(ctx, newparent, newname, || self.inner.link(ctx, inode, newparent, newname))
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        check(name)?;
        if !self.watch.is_on() {
            return self.inner.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions);
        }
        let mut state = self.watch.lock();
        let place = (parent, name.to_owned());
        if self.watch.is_acting(&mut state, ctx.pid, None) {
            let entry = self.act_out_creation(ctx, &mut state, place)?;
            return Ok((entry, Some(ACTED), OpenOptions::NOFLUSH));
        }
        self.watch.watch_folder(&mut state, parent);
        let is_new = self.is_new(ctx, parent, name, flags);
        let created = self.inner.create(ctx, parent, name, mode, kill_priv, flags, umask, extensions)?;
        if is_new {
            state.expect(&place, Kind::Created);
        }
        state.known.made(place, created.0.inode, stamp_of(&created.0.attr));
        let (entry, handle, mut options) = created;
        options.set(OpenOptions::NOFLUSH, state.is_local(entry.inode));
        Ok((Self::keep(&state, parent, entry), handle, options))
    }

    fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        check(name)?;
        self.removing(ctx, parent, name, || self.inner.unlink(ctx, parent, name))
    }

    fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        check(name)?;
        self.removing(ctx, parent, name, || self.inner.rmdir(ctx, parent, name))
    }

    fn rename(
        &self,
        ctx: Context,
        olddir: u64,
        oldname: &CStr,
        newdir: u64,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        check(oldname)?;
        check(newname)?;
        if !self.watch.is_on() {
            return self.inner.rename(ctx, olddir, oldname, newdir, newname, flags);
        }
        let mut state = self.watch.lock();
        let (from, to) = ((olddir, oldname.to_owned()), (newdir, newname.to_owned()));
        if self.watch.is_acting(&mut state, ctx.pid, None) {
            return match state.acting.current() {
                Some(Act::Rename { from: old, to: new, .. }) if (old, new) == (&from, &to) => Ok(()),
                _ if newdir == AWAY_NODE && state.acting.may_remove(&from, true, &state.known) => Ok(()),
                _ => Err(Errno::NOENT.into()),
            };
        }
        self.watch.watch_folder(&mut state, newdir);
        self.inner.rename(ctx, olddir, oldname, newdir, newname, flags)?;
        state.expect(&from, Kind::MovedFrom);
        state.expect(&to, Kind::MovedTo);
        if flags & libc::RENAME_EXCHANGE == 0 {
            state.known.renamed(&from, to.clone());
        } else {
            state.expect(&to, Kind::MovedFrom);
            state.expect(&from, Kind::MovedTo);
            state.known.exchanged(&from, &to);
        }
        // What was renamed has a new time of change.
        for place in [from, to] {
            if let Some(node) = state.known.name(&place).and_then(|name| name.node)
                && let Ok((attr, _)) = self.inner.getattr(ctx, node, None)
            {
                state.known.changed(stamp_of(&attr));
            }
        }
        Ok(())
    }

    fn open(
        &self,
        ctx: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        if self.is_acting(ctx) {
            return Ok((Some(ACTED), OpenOptions::NOFLUSH));
        }
        if flags & OFlags::TRUNC.bits() == 0 {
            let (handle, mut options) = self.inner.open(ctx, inode, kill_priv, flags)?;
            if self.watch.is_on() {
                let attr = self.inner.getattr(ctx, inode, None);
                let mut state = self.watch.lock();
                options.set(OpenOptions::NOFLUSH, state.is_local(inode));
                let is_kept = attr.is_ok_and(|(attr, _)| state.open(inode, &attr, FOLLOWED / 2));
                options.set(OpenOptions::KEEP_CACHE, is_kept);
            }
            return Ok((handle, options));
        }
        self.changing(ctx, inode, || self.inner.open(ctx, inode, kill_priv, flags))
    }

    fn opendir(&self, ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let (handle, mut options) = self.inner.opendir(ctx, inode, flags)?;
        if self.watch.is_on() {
            let mut state = self.watch.lock();
            options.set(OpenOptions::CACHE_DIR, state.is_followed(inode));
            options.set(OpenOptions::KEEP_CACHE, state.list(inode, FOLLOWED / 2));
        }
        Ok((handle, options))
    }

    fn getattr(&self, ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)> {
        if inode == AWAY_NODE {
            return Ok((self.away(ctx)?, Duration::ZERO));
        }
        Ok(self.keep_attributes(inode, self.inner.getattr(ctx, inode, handle)?))
    }

    fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        if handle == ACTED {
            return Ok(());
        }
        self.inner.flush(ctx, inode, handle, lock_owner)
    }

    fn release(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        if handle == ACTED {
            return Ok(());
        }
        self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn fallocate(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.changing(ctx, inode, || self.inner.fallocate(ctx, inode, handle, mode, offset, length))
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        self.changing(ctx, inode, || self.inner.setxattr(ctx, inode, name, value, flags, extra_flags))
    }

    fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.changing(ctx, inode, || self.inner.removexattr(ctx, inode, name))
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.changing(ctx, inode_out, || {
            self.inner.copyfilerange(
                ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags,
            )
        })
    }

    pass! {
        fn init(&self, capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy(&self);
        fn readlink(&self, ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn statfs(&self, ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        fn fsyncdir(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(&self, ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        fn syncfs(&self, ctx: Context, inode: u64) -> io::Result<()>;
    }
}

impl<F: SerializableFileSystem> SerializableFileSystem for Folder<F> {
    pass! {
        fn prepare_serialization(&self, cancel: Arc<AtomicBool>);
        fn serialize(&self, state_pipe: File) -> io::Result<()>;
        fn deserialize_and_apply(&self, state_pipe: File) -> io::Result<()>;
    }
}

#[cfg(test)]
mod tests {
    use virtiofsd::passthrough::{Config, PassthroughFs};

    use super::*;

    #[test]
    fn no_name_that_a_guest_sends_leads_out_of_the_share() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        let root = outside.path().join("share");
        std::fs::create_dir_all(root.join("folder")).unwrap();
        std::fs::write(&secret, "secret").unwrap();
        std::fs::write(root.join("own"), "own").unwrap();
        let config = Config { root_dir: root.display().to_string(), ..Config::default() };
        let watch = Watch::new(&root).unwrap();
        let folder = Folder::new(PassthroughFs::new(config).unwrap(), &watch);
        folder.init(FsOptions::empty()).unwrap();
        let ctx = Context { uid: 0.into(), gid: 0.into(), pid: 1 };
        let own = folder.lookup(ctx, ROOT, c"own").unwrap().inode;
        let none = Extensions::default;
        for name in [c"../secret", c"../new", c"..", c".", c"", c"folder/new", c"/"] {
            let refused = [
                folder.unlink(ctx, ROOT, name),
                folder.rmdir(ctx, ROOT, name),
                folder.rename(ctx, ROOT, name, ROOT, c"in", 0),
                folder.rename(ctx, ROOT, c"own", ROOT, name, 0),
                folder.mkdir(ctx, ROOT, name, 0o755, 0, none()).map(drop),
                folder.mknod(ctx, ROOT, name, 0o100_644, 0, 0, none()).map(drop),
                folder.symlink(ctx, c"to", ROOT, name, none()).map(drop),
                folder.link(ctx, own, ROOT, name).map(drop),
                folder.create(ctx, ROOT, name, 0o644, false, 0, 0, none()).map(drop),
            ];
            for (at, refused) in refused.into_iter().enumerate() {
                let error = refused.expect_err("a name that is none");
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}, call {at}: {error}");
            }
        }
        assert!(folder.lookup(ctx, ROOT, c"../secret").is_err());
        folder.unlink(ctx, ROOT, c"own").unwrap();
        let left = |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!((left(outside.path()), left(&root), left(&root.join("folder"))), (2, 1, 0));
    }
}
