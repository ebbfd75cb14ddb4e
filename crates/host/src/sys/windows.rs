//! What is Windows' alone.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::windows::ffi::{OsStrExt, OsStringExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use vm_hyperv::choice::{self, Found, Way};
use vm_hyperv::wsl::{self, Wsl, distribution};
use windows_sys::Win32::Foundation::{GetLastError, HANDLE_FLAG_INHERIT, SetHandleInformation};
use windows_sys::Win32::Storage::FileSystem::{GetCompressedFileSizeW, INVALID_FILE_SIZE};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS, OpenProcess, PROCESS_NAME_WIN32,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_TERMINATE, QueryFullProcessImageNameW, TerminateProcess,
};

use super::variable;
use crate::error::Error;
use crate::machine::{self, Backend, Choice};
use crate::service::Manager;

/// Whether engines run here without a machine.
pub(crate) const HAS_ENGINES: bool = false;
/// What says where files of a user's programs go that are not to follow the user to other computers.
pub(crate) const RUNTIME_DIR: &str = "LOCALAPPDATA";
/// The same, for data.
pub(crate) const DATA_DIR: &str = "LOCALAPPDATA";
/// Where sockets of the computer's own programs go.
pub(crate) const SYSTEM_RUNTIME_DIR: &str = "C:\\ProgramData\\Cove\\run";
/// Where guest images are that were installed.
pub(crate) const GUEST_IMAGES: &str = r"C:\Program Files\Cove\guest";
/// The longest path, in units of two bytes.
const PATH_MAX: u32 = 32 << 10;

/// A user's tasks start with the computer.
pub(crate) const BEFORE_LOGIN: &str = "";

/// Who keeps services.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there may be nobody")]
pub(crate) fn service_manager() -> Result<Manager, Error> {
    Ok(Manager::TaskScheduler)
}

/// The user's name, as the system tells users apart.
pub(crate) fn user_id() -> String {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    format!("{}\\{}", of("USERDOMAIN"), of("USERNAME"))
}

/// Where files of a user's programs go, each in a folder of its own.
pub(crate) fn runtime_dir() -> Option<PathBuf> {
    variable(RUNTIME_DIR)
}

/// Where a user's data goes, each program's in a folder of its own.
pub(crate) fn data_dir() -> Option<PathBuf> {
    variable(DATA_DIR)
}

/// Makes `command` start without our console, so that closing it or pressing Ctrl-C in it does not reach the child; nor does
/// it get our input and outputs beside its own, whose other ends would wait for it.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub(crate) fn detach(command: &mut Command) {
    for handle in [io::stdin().as_raw_handle(), io::stdout().as_raw_handle(), io::stderr().as_raw_handle()] {
        // SAFETY: the call takes any value for a handle, and refuses what is none.
        unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) };
    }
    command.creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
}

/// There is no engine for all users of a computer.
pub(crate) fn is_root() -> bool {
    false
}

/// The engine's address: pipes are in no folders.
pub(crate) fn engine(_: &Path) -> PathBuf {
    r"\\.\pipe\cove".into()
}

/// Ends a process at once, if its program is of that name.
#[expect(unsafe_code, reason = "the system's calls have no safe form")]
pub(crate) fn end(pid: u32, program: &str) -> io::Result<()> {
    let rights = PROCESS_TERMINATE | PROCESS_QUERY_LIMITED_INFORMATION;
    // SAFETY: the call takes plain values.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was opened this moment, and nobody else closes it.
    let process = unsafe { OwnedHandle::from_raw_handle(handle) };
    let mut path = vec![0_u16; PATH_MAX as usize];
    let mut length = PATH_MAX;
    // SAFETY: the handle is open, and `path` may be written to for `length` units, which is its length.
    let told = unsafe {
        QueryFullProcessImageNameW(
            process.as_raw_handle(),
            PROCESS_NAME_WIN32,
            path.as_mut_ptr(),
            &raw mut length,
        )
    };
    if told == 0 {
        return Err(io::Error::last_os_error());
    }
    let found = PathBuf::from(OsString::from_wide(path.get(..length as usize).unwrap_or_default()));
    super::refuse_others(&found, program)?;
    // SAFETY: the handle is open, with the right to do so.
    let ended = unsafe { TerminateProcess(process.as_raw_handle(), 1) };
    if ended == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kind of machine that is taken unless somebody says otherwise: of the two the one that can be had, and is better.
pub(crate) fn choose_backend() -> Result<Choice, machine::Error> {
    match Found::here().choose() {
        Ok(choice::Choice { way, reason }) => {
            let backend = match way {
                Way::Hcs => Backend::HyperV,
                Way::Wsl2 => Backend::Wsl2,
            };
            Ok(Choice { backend, reason: Some(reason) })
        }
        Err(none) => Err(machine::Error::Refused { cause: none.to_string(), hint: Some(none.hint) }),
    }
}

/// Takes away what a machine has outside of its folders: WSL's distribution, with its disk. Where there is none, that is as
/// good, and so it is where there is no WSL.
pub(crate) fn forget_machine(name: &str) -> io::Result<()> {
    match Wsl::of_the_system().unregister(&distribution(name)) {
        Err(wsl::Error::Missing { .. }) | Ok(()) => Ok(()),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Bytes that a file takes on its disk, which are fewer than its length where it is sparse.
#[expect(unsafe_code, reason = "the system's calls have no safe form")]
pub(crate) fn bytes_taken(path: &Path, metadata: &Metadata) -> u64 {
    let wide: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let mut high = 0;
    // SAFETY: `wide` ends with a zero, and `high` may be written to.
    let low = unsafe { GetCompressedFileSizeW(wide.as_ptr(), &raw mut high) };
    // SAFETY: the call takes nothing.
    if low == INVALID_FILE_SIZE && unsafe { GetLastError() } != 0 {
        return metadata.len();
    }
    (u64::from(high) << 32) | u64::from(low)
}
