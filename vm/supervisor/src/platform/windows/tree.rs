//! What Windows tells of changes in a folder and all below it (`ReadDirectoryChangesW`).
#![expect(unsafe_code, reason = "ReadDirectoryChangesW has no safe form")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::{Component, Path, PathBuf, Prefix};
use std::ptr::null;
use std::thread;

use windows_sys::Win32::Foundation::{ERROR_NOTIFY_ENUM_DIR, WAIT_OBJECT_0, WAIT_TIMEOUT};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OVERLAPPED, FILE_LIST_DIRECTORY, FILE_NOTIFY_CHANGE_ATTRIBUTES,
    FILE_NOTIFY_CHANGE_DIR_NAME, FILE_NOTIFY_CHANGE_FILE_NAME, FILE_NOTIFY_CHANGE_LAST_WRITE,
    FILE_NOTIFY_CHANGE_SIZE, GetDriveTypeW, ReadDirectoryChangesW,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Threading::{CreateEventW, WaitForSingleObject};

use crate::told::Notes;
use crate::told::records::{Now, deeds};

/// How much the system keeps between two looks; where more happens, it says so.
const ROOM: usize = 64 << 10;
/// How soon it is seen that nobody listens any more, in milliseconds.
const LOOK_EVERY: u32 = 500;
/// `DRIVE_FIXED` of `GetDriveTypeW`.
const FIXED: u32 = 3;

/// Tells until whoever listens is gone.
#[derive(Debug)]
pub(crate) struct Watcher;

/// Whether every change is told: those of a drive of this computer's are.
pub(crate) fn is_complete(root: &Path) -> bool {
    let Some(Component::Prefix(prefix)) = root.components().next() else { return false };
    let (Prefix::Disk(letter) | Prefix::VerbatimDisk(letter)) = prefix.kind() else { return false };
    let drive = [u16::from(letter), u16::from(b':'), u16::from(b'\\'), 0];
    // SAFETY: the text lives through the call, and a zero ends it.
    unsafe { GetDriveTypeW(drive.as_ptr()) == FIXED }
}

/// Begins to tell of a folder.
pub(crate) fn watch(root: &Path, notes: Notes) -> io::Result<Watcher> {
    let folder = File::options()
        .access_mode(FILE_LIST_DIRECTORY)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OVERLAPPED)
        .open(root)?;
    // SAFETY: neither attributes nor a name are given, which may both be left out.
    let event = unsafe { CreateEventW(null(), 0, 0, null()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else has it.
    let event = unsafe { OwnedHandle::from_raw_handle(event) };
    let tree = Tree { root: root.to_owned(), folder, event, notes };
    let mut reading = Reading { room: vec![0; ROOM / 4], overlapped: Box::new(tree.overlapped()) };
    // What happens from here on is kept by the system.
    tree.ask(&mut reading)?;
    thread::Builder::new().name("share-tree".to_owned()).spawn(move || tree.tell(reading))?;
    Ok(Watcher)
}

struct Tree {
    root: PathBuf,
    folder: File,
    event: OwnedHandle,
    notes: Notes,
}

/// What the system writes to while it is asked.
struct Reading {
    /// Records begin where numbers of four bytes may.
    room: Vec<u32>,
    overlapped: Box<OVERLAPPED>,
}

// SAFETY: what the system is told to write to stays where it is when this is handed to another thread.
unsafe impl Send for Reading {}

impl Tree {
    fn overlapped(&self) -> OVERLAPPED {
        // SAFETY: it is a plain struct of numbers and pointers, for which all zeroes is a value.
        let mut overlapped: OVERLAPPED = unsafe { MaybeUninit::zeroed().assume_init() };
        overlapped.hEvent = self.event.as_raw_handle();
        overlapped
    }

    /// Asks for what happens next.
    fn ask(&self, reading: &mut Reading) -> io::Result<()> {
        let what = FILE_NOTIFY_CHANGE_FILE_NAME
            | FILE_NOTIFY_CHANGE_DIR_NAME
            | FILE_NOTIFY_CHANGE_ATTRIBUTES
            | FILE_NOTIFY_CHANGE_SIZE
            | FILE_NOTIFY_CHANGE_LAST_WRITE;
        *reading.overlapped = self.overlapped();
        let room = reading.room.as_mut_ptr().cast();
        let length = u32::try_from(ROOM).unwrap_or(0);
        let overlapped = &raw mut *reading.overlapped;
        // SAFETY: the folder is open for this and for asking ahead; room and structure are on the heap, of the lengths that
        // are told, and are let go of by `tell` alone, after the system has answered.
        let asked = unsafe {
            ReadDirectoryChangesW(
                self.folder.as_raw_handle(),
                room,
                length,
                1,
                what,
                std::ptr::null_mut(),
                overlapped,
                None,
            )
        };
        if asked == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn tell(self, mut reading: Reading) {
        loop {
            // SAFETY: the event is ours, and open.
            let waited = unsafe { WaitForSingleObject(self.event.as_raw_handle(), LOOK_EVERY) };
            let is_over = self.notes.is_over();
            if waited == WAIT_TIMEOUT && !is_over {
                continue;
            }
            if is_over || waited != WAIT_OBJECT_0 {
                // SAFETY: the folder is open; what was asked is answered below.
                unsafe { CancelIoEx(self.folder.as_raw_handle(), &raw const *reading.overlapped) };
            }
            let answered = self.answer(&mut reading);
            if is_over || waited != WAIT_OBJECT_0 {
                return;
            }
            match answered {
                // Too much for its room, or for ours.
                Ok(0) => self.notes.lose(),
                Ok(length) => self.pass_on(&reading, length),
                Err(error) if error.raw_os_error().map(i32::cast_unsigned) == Some(ERROR_NOTIFY_ENUM_DIR) => {
                    self.notes.lose();
                }
                Err(error) => {
                    tracing::warn!(%error, "Windows no longer tells of changes in {}", self.root.display());
                    return;
                }
            }
            if let Err(error) = self.ask(&mut reading) {
                tracing::warn!(%error, "Windows tells of no more changes in {}", self.root.display());
                return;
            }
        }
    }

    /// Waits until the system has answered; how long the records are.
    fn answer(&self, reading: &mut Reading) -> io::Result<usize> {
        let mut length = 0;
        let overlapped = &raw const *reading.overlapped;
        // SAFETY: it is what was asked with, for this folder.
        let answered =
            unsafe { GetOverlappedResult(self.folder.as_raw_handle(), overlapped, &raw mut length, 1) };
        if answered == 0 {
            return Err(io::Error::last_os_error());
        }
        usize::try_from(length).map_err(io::Error::other)
    }

    fn pass_on(&self, reading: &Reading, length: usize) {
        let bytes: Vec<u8> = reading.room.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
        let look = |path: &[u8]| {
            let path = self.root.join(String::from_utf8_lossy(path).replace('/', "\\"));
            match path.symlink_metadata() {
                Ok(found) if found.is_dir() => Now::Folder,
                Ok(_) => Now::File,
                Err(_) => Now::Nothing,
            }
        };
        for (path, deed) in deeds(&bytes, look) {
            self.notes.tell(path, deed);
        }
    }
}
