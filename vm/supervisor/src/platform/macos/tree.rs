//! What macOS tells of changes in a folder and all below it: FSEvents, by file and with files' numbers (macOS 10.13).
#![expect(unsafe_code, reason = "FSEvents has no safe form")]

use std::ffi::c_void;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use dispatch2::{DispatchQueue, DispatchRetained};
use objc2_core_foundation::{CFArray, CFDictionary, CFNumber, CFRetained, CFString, CFType};
use objc2_core_services::{
    ConstFSEventStreamRef, FSEventStreamContext, FSEventStreamCreate, FSEventStreamEventFlags,
    FSEventStreamEventId, FSEventStreamInvalidate, FSEventStreamRef, FSEventStreamRelease,
    FSEventStreamSetDispatchQueue, FSEventStreamStart, FSEventStreamStop, kFSEventStreamCreateFlagFileEvents,
    kFSEventStreamCreateFlagNoDefer, kFSEventStreamCreateFlagUseCFTypes,
    kFSEventStreamCreateFlagUseExtendedData, kFSEventStreamCreateFlagWatchRoot,
};

use crate::told::Notes;
use crate::told::merged::{Merged, deeds};

/// How long the system gathers before it tells, in seconds: what happens to one file meanwhile is told as one.
const LATENCY: f64 = 0.01;
/// `kFSEventStreamEventIdSinceNow`.
const SINCE_NOW: FSEventStreamEventId = u64::MAX;
/// Keys of what is told of a path (`kFSEventStreamEventExtendedDataPathKey`, `kFSEventStreamEventExtendedFileIDKey`).
const PATH: &str = "path";
const FILE: &str = "fileID";

/// Tells until it is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    stream: FSEventStreamRef,
    _queue: DispatchRetained<DispatchQueue>,
}

// SAFETY: a stream belongs to no thread; it is stopped and released once, by whoever drops this.
unsafe impl Send for Watcher {}

impl Drop for Watcher {
    fn drop(&mut self) {
        // SAFETY: the stream was made and started, and is not released yet.
        unsafe { FSEventStreamStop(self.stream) };
        // SAFETY: it has a queue, and is stopped.
        unsafe { FSEventStreamInvalidate(self.stream) };
        // SAFETY: the one reference is ours, and the stream is not used again.
        unsafe { FSEventStreamRelease(self.stream) };
    }
}

/// Who is told.
struct Ear {
    root: PathBuf,
    notes: Notes,
}

/// Whether every change is told: those of a file system of this computer's own are.
pub(crate) fn is_complete(root: &Path) -> bool {
    /// `MNT_LOCAL` of sys/mount.h.
    const LOCAL: u32 = 0x1000;
    rustix::fs::statfs(root).is_ok_and(|found| found.f_flags & LOCAL != 0)
}

/// Begins to tell of a folder.
pub(crate) fn watch(root: &Path, notes: Notes) -> io::Result<Watcher> {
    // Paths are told without links.
    let root = root.canonicalize()?;
    let text = root.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    let paths = CFArray::from_retained_objects(&[CFString::from_str(text)]);
    let ear = Box::into_raw(Box::new(Ear { root: root.clone(), notes }));
    let mut context = FSEventStreamContext {
        version: 0,
        info: ear.cast(),
        retain: None,
        release: Some(release),
        copyDescription: None,
    };
    let flags = kFSEventStreamCreateFlagUseCFTypes
        | kFSEventStreamCreateFlagUseExtendedData
        | kFSEventStreamCreateFlagFileEvents
        | kFSEventStreamCreateFlagNoDefer
        | kFSEventStreamCreateFlagWatchRoot;
    // SAFETY: the callback takes what these flags have it given; the context lives through the call, which copies it; the
    // paths are strings, as is demanded.
    let stream = unsafe {
        FSEventStreamCreate(None, Some(tell), &raw mut context, paths.as_ref(), SINCE_NOW, LATENCY, flags)
    };
    if stream.is_null() {
        // SAFETY: it came from a box, and no stream has it.
        drop(unsafe { Box::from_raw(ear) });
        return Err(io::Error::other("macOS does not tell of changes there"));
    }
    let queue = DispatchQueue::new("dev.cove.changes", None);
    // SAFETY: the stream was just made; the queue is serial and outlives it.
    unsafe { FSEventStreamSetDispatchQueue(stream, Some(&queue)) };
    let watcher = Watcher { stream, _queue: queue };
    // SAFETY: the stream has a queue, and is not started yet.
    if !unsafe { FSEventStreamStart(watcher.stream) } {
        return Err(io::Error::other("macOS does not begin to tell of changes"));
    }
    Ok(watcher)
}

unsafe extern "C-unwind" fn release(ear: *const c_void) {
    // SAFETY: it is the context's, which came from a box; a stream calls this once, when nobody is told any more.
    drop(unsafe { Box::from_raw(ear.cast_mut().cast::<Ear>()) });
}

unsafe extern "C-unwind" fn tell(
    _: ConstFSEventStreamRef,
    ear: *mut c_void,
    count: usize,
    paths: NonNull<c_void>,
    flags: NonNull<FSEventStreamEventFlags>,
    _: NonNull<FSEventStreamEventId>,
) {
    // SAFETY: it is the context's, which is there as long as the stream, and is only looked at.
    let Some(ear) = (unsafe { ear.cast::<Ear>().as_ref() }) else { return };
    if ear.notes.is_over() {
        return;
    }
    // SAFETY: by the flags that the stream was made with it is an array of dictionaries of strings to objects, which lives
    // through this call.
    let paths: &CFArray<CFDictionary<CFString, CFType>> = unsafe { paths.cast().as_ref() };
    // SAFETY: there are `count` of them, which live through this call.
    let flags = unsafe { std::slice::from_raw_parts(flags.as_ptr(), count) };
    let mut told = Vec::new();
    for (at, flags) in flags.iter().enumerate() {
        let Some(entry) = paths.get(at) else { break };
        let value = |key: &str| entry.get(&CFString::from_str(key));
        let path: Option<CFRetained<CFString>> = value(PATH).and_then(|value| value.downcast().ok());
        let file: Option<CFRetained<CFNumber>> = value(FILE).and_then(|value| value.downcast().ok());
        let path = path.map(|path| PathBuf::from(path.to_string()));
        let Some(path) = path.as_ref().and_then(|path| path.strip_prefix(&ear.root).ok()) else { continue };
        let file = file.and_then(|number| number.as_i64()).and_then(|number| u64::try_from(number).ok());
        let path = path.as_os_str().as_bytes().to_vec();
        told.push(Merged { path, flags: *flags, file: file.unwrap_or(0) });
    }
    for (path, deed) in deeds(told) {
        ear.notes.tell(path, deed);
    }
}
