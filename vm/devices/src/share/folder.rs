//! The shared folder's file system: virtiofsd's, and what is ours to decide before it is asked.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SerializableFileSystem, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

/// The most that Linux reads of a directory, or holds in extended attributes, at once. A guest's word on how much room
/// it has is no reason to take as much memory.
const MAX_DIRECTORY: u32 = 1 << 20;
const MAX_XATTR: u32 = 1 << 16;

/// A file system whose requests pass us by. Clones are the same folder.
pub(crate) struct Folder<F> {
    inner: Arc<F>,
}

impl<F> Clone for Folder<F> {
    fn clone(&self) -> Self {
        Folder { inner: Arc::clone(&self.inner) }
    }
}

impl<F> Folder<F> {
    pub(crate) fn new(inner: F) -> Self {
        Folder { inner: Arc::new(inner) }
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
        self.inner.write(ctx, inode, handle, r, size, offset, lock_owner, delayed_write, kill_priv, flags)
    }

    pass! {
        fn init(&self, capable: FsOptions) -> io::Result<FsOptions>;
        fn destroy(&self);
        fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry>;
        fn forget(&self, ctx: Context, inode: u64, count: u64);
        fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>);
        fn getattr(&self, ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)>;
        fn setattr(
            &self, ctx: Context, inode: u64, attr: SetattrIn, handle: Option<u64>, valid: SetattrValid,
        ) -> io::Result<(Attr, Duration)>;
        fn readlink(&self, ctx: Context, inode: u64) -> io::Result<Vec<u8>>;
        fn symlink(
            &self, ctx: Context, linkname: &CStr, parent: u64, name: &CStr, extensions: Extensions,
        ) -> io::Result<Entry>;
        fn mknod(
            &self, ctx: Context, inode: u64, name: &CStr, mode: u32, rdev: u32, umask: u32, extensions: Extensions,
        ) -> io::Result<Entry>;
        fn mkdir(
            &self, ctx: Context, parent: u64, name: &CStr, mode: u32, umask: u32, extensions: Extensions,
        ) -> io::Result<Entry>;
        fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()>;
        fn rename(
            &self, ctx: Context, olddir: u64, oldname: &CStr, newdir: u64, newname: &CStr, flags: u32,
        ) -> io::Result<()>;
        fn link(&self, ctx: Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry>;
        fn open(
            &self, ctx: Context, inode: u64, kill_priv: bool, flags: u32,
        ) -> io::Result<(Option<u64>, OpenOptions)>;
        fn create(
            &self, ctx: Context, parent: u64, name: &CStr, mode: u32, kill_priv: bool, flags: u32, umask: u32,
            extensions: Extensions,
        ) -> io::Result<(Entry, Option<u64>, OpenOptions)>;
        fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()>;
        fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn fallocate(
            &self, ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64,
        ) -> io::Result<()>;
        fn release(
            &self, ctx: Context, inode: u64, flags: u32, handle: u64, flush: bool, flock_release: bool,
            lock_owner: Option<u64>,
        ) -> io::Result<()>;
        fn statfs(&self, ctx: Context, inode: u64) -> io::Result<libc::statvfs64>;
        fn setxattr(
            &self, ctx: Context, inode: u64, name: &CStr, value: &[u8], flags: u32, extra_flags: SetxattrFlags,
        ) -> io::Result<()>;
        fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()>;
        fn opendir(&self, ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)>;
        fn fsyncdir(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()>;
        fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()>;
        fn lseek(&self, ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64>;
        fn copyfilerange(
            &self, ctx: Context, inode_in: u64, handle_in: u64, offset_in: u64, inode_out: u64, handle_out: u64,
            offset_out: u64, len: u64, flags: u64,
        ) -> io::Result<usize>;
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
