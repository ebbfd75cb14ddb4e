//! Libraries that are loaded when they are asked for, since not every Windows has them.

use std::ffi::OsStr;
use std::os::windows::ffi::OsStrExt;
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{FreeLibrary, GetLastError, HMODULE};
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};

use crate::hcs::Failure;

/// What a library's table of names tells.
pub(super) type Address = unsafe extern "system" fn() -> isize;

/// A library, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Module(HMODULE);

// SAFETY: a module belongs to the process.
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Send for Module {}
// SAFETY: the same.
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Sync for Module {}

/// A text as the system takes it.
pub(super) fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

/// `HRESULT_FROM_WIN32` of an error.
pub(super) fn of_win32(code: u32) -> u32 {
    0x8007_0000 | (code & 0xffff)
}

/// The same of the last error of this thread.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub(super) fn last_error() -> u32 {
    // SAFETY: the call takes nothing.
    of_win32(unsafe { GetLastError() })
}

/// A call of a module by its name, as a function of the type that is asked for.
macro_rules! call {
    ($module:expr, $name:literal as $kind:ty) => {
        $module.address($name).map(|address| {
            // SAFETY: what the library exports by this name has this form, by the SDK's header.
            unsafe { std::mem::transmute::<Address, $kind>(address) }
        })
    };
}
pub(super) use call;

impl Module {
    /// Loads one of the system's own folder, and of no other.
    pub(super) fn of_the_system(name: &str) -> Result<Self, Failure> {
        Self::load(Path::new(name), LOAD_LIBRARY_SEARCH_SYSTEM32)
    }

    /// Loads a file.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        Self::load(path, 0)
    }

    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn load(path: &Path, flags: u32) -> Result<Self, Failure> {
        let path = wide(path);
        // SAFETY: the path ends with a zero; the other argument is reserved.
        let module = unsafe { LoadLibraryExW(path.as_ptr(), null_mut(), flags) };
        if module.is_null() { Err(Failure::new("LoadLibrary", last_error())) } else { Ok(Self(module)) }
    }

    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    pub(super) fn address(&self, name: &std::ffi::CStr) -> Result<Address, Failure> {
        // SAFETY: the module is loaded, and the name ends with a zero.
        let address = unsafe { GetProcAddress(self.0, name.as_ptr().cast()) };
        address.ok_or_else(|| Failure::new("GetProcAddress", last_error()))
    }
}

impl Drop for Module {
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn drop(&mut self) {
        // SAFETY: it was loaded once, and whoever has a call of it has kept this value.
        unsafe { FreeLibrary(self.0) };
    }
}
