//! Who asks for a machine: this process's own user, or whoever is at the other side of a pipe.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::path::{Path, PathBuf};
use std::ptr::{null, null_mut};

use windows_sys::Win32::Security::{
    DuplicateTokenEx, ImpersonateLoggedOnUser, RevertToSelf, SecurityImpersonation, TOKEN_DUPLICATE,
    TOKEN_IMPERSONATE, TOKEN_QUERY, TokenImpersonation,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_LIST_DIRECTORY, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FILE_TYPE_DISK, GetFileType, GetFinalPathNameByHandleW,
};
use windows_sys::Win32::System::Pipes::ImpersonateNamedPipeClient;
use windows_sys::Win32::System::Threading::{GetCurrentThread, OpenThreadToken};

use super::security::{check, own_token, user};
use crate::session::{Access, Caller};

/// The longest path, in units of two bytes.
const PATH_MAX: usize = 32 << 10;

/// For whom the service is to act: a token.
#[derive(Debug)]
pub struct Identity(OwnedHandle);

impl Identity {
    /// Its handle, for as long as it is kept.
    pub(super) fn as_raw_handle(&self) -> RawHandle {
        self.0.as_raw_handle()
    }
}

/// This process's user, who is nobody else while he asks.
#[derive(Debug)]
pub(crate) struct Myself {
    user: String,
    token: OwnedHandle,
}

impl Myself {
    /// Whoever this process is.
    ///
    /// # Errors
    /// The system does not tell.
    pub(crate) fn new() -> io::Result<Self> {
        let token = own_token(TOKEN_QUERY | TOKEN_DUPLICATE)?;
        Ok(Self { user: user(token.as_handle())?, token })
    }
}

impl Caller for Myself {
    type Kept = Option<File>;

    fn user(&self) -> &str {
        &self.user
    }

    fn open(&self, file: &Path, access: Access) -> io::Result<(PathBuf, Option<File>)> {
        open(file, access)
    }

    fn act<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        Ok(work())
    }

    fn identity(&self) -> io::Result<Identity> {
        impersonation(&self.token)
    }
}

/// Whoever is at the other side of a pipe.
#[derive(Debug)]
pub(super) struct Client {
    user: String,
    token: OwnedHandle,
}

impl Client {
    /// Of a pipe of which something was read, as the system demands.
    #[expect(unsafe_code, reason = "the system's calls have no safe form")]
    pub(super) fn of(pipe: &File) -> io::Result<Self> {
        // SAFETY: the pipe is open.
        check(unsafe { ImpersonateNamedPipeClient(pipe.as_raw_handle()) })?;
        let theirs = Theirs;
        let mut token = null_mut();
        let rights = TOKEN_QUERY | TOKEN_DUPLICATE | TOKEN_IMPERSONATE;
        // SAFETY: the call takes nothing.
        let thread = unsafe { GetCurrentThread() };
        // SAFETY: the handle is this thread's own, and `token` may be written to; it is opened as ourselves, as the client
        // need not be allowed to.
        let opened = check(unsafe { OpenThreadToken(thread, rights, 1, &raw mut token) });
        drop(theirs);
        opened?;
        // SAFETY: it was opened this moment, and nobody else closes it.
        let token = unsafe { OwnedHandle::from_raw_handle(token) };
        Ok(Self { user: user(token.as_handle())?, token })
    }
}

/// This thread is somebody else for as long as this is kept.
struct Theirs;

impl Drop for Theirs {
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn drop(&mut self) {
        // SAFETY: the call takes nothing.
        if unsafe { RevertToSelf() } == 0 {
            // Whatever was done next would be done as somebody else.
            std::process::abort();
        }
    }
}

impl Caller for Client {
    type Kept = Option<File>;

    fn user(&self) -> &str {
        &self.user
    }

    fn open(&self, file: &Path, access: Access) -> io::Result<(PathBuf, Option<File>)> {
        self.act(|| open(file, access))?
    }

    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn act<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        // SAFETY: the token is open, with the right to be used so.
        check(unsafe { ImpersonateLoggedOnUser(self.token.as_raw_handle()) })?;
        let theirs = Theirs;
        let done = work();
        drop(theirs);
        Ok(done)
    }

    fn identity(&self) -> io::Result<Identity> {
        impersonation(&self.token)
    }
}

/// A token by which others may act for its user.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn impersonation(token: &OwnedHandle) -> io::Result<Identity> {
    let mut copy = null_mut();
    // SAFETY: the token is open, with the right to be copied; the copy may be written to.
    check(unsafe {
        DuplicateTokenEx(
            token.as_raw_handle(),
            TOKEN_QUERY | TOKEN_DUPLICATE | TOKEN_IMPERSONATE,
            null(),
            SecurityImpersonation,
            TokenImpersonation,
            &raw mut copy,
        )
    })?;
    // SAFETY: it was made this moment, and nobody else closes it.
    Ok(Identity(unsafe { OwnedHandle::from_raw_handle(copy) }))
}

/// Opens a file as this thread; its path without links, and the file itself where that keeps it as it is.
fn open(file: &Path, access: Access) -> io::Result<(PathBuf, Option<File>)> {
    let mut options = OpenOptions::new();
    match access {
        Access::Read => options.read(true).share_mode(FILE_SHARE_READ),
        Access::Write => {
            options.read(true).write(true).share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
        }
        Access::Into => options
            .access_mode(FILE_LIST_DIRECTORY)
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS),
        Access::List => options
            .access_mode(FILE_LIST_DIRECTORY)
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS),
    };
    let opened = options.open(file)?;
    if !is_of_disk(&opened) || opened.metadata()?.is_dir() != matches!(access, Access::List | Access::Into) {
        return Err(io::Error::other("it is not of that sort"));
    }
    let path = final_path(&opened)?;
    // A machine wants what it writes to itself.
    Ok((path, matches!(access, Access::Read | Access::Into).then_some(opened)))
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn is_of_disk(file: &File) -> bool {
    // SAFETY: the file is open.
    unsafe { GetFileType(file.as_raw_handle()) == FILE_TYPE_DISK }
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn final_path(file: &File) -> io::Result<PathBuf> {
    let mut path = vec![0_u16; PATH_MAX];
    let size = u32::try_from(path.len()).unwrap_or_default();
    // SAFETY: the file is open, and `path` may be written to for its length.
    let length = unsafe { GetFinalPathNameByHandleW(file.as_raw_handle(), path.as_mut_ptr(), size, 0) };
    match path.get(..length as usize) {
        Some(path) if length > 0 => Ok(std::ffi::OsString::from_wide(path).into()),
        _ => Err(io::Error::last_os_error()),
    }
}
