//! Calls of `computecore.dll`, loaded when it is asked for.
//!
//! Source of their forms: `computecore.h` of the Windows SDK.

use std::ffi::{CStr, OsStr, c_void};
use std::fmt;
use std::os::windows::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use windows_sys::Win32::Foundation::{FreeLibrary, GetLastError, HMODULE, LocalFree};
use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::Win32::System::LibraryLoader::{
    GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExW,
};
use windows_sys::core::{HRESULT, PCWSTR, PWSTR};

use crate::hcs::{Failure, Order, Service, System};

/// How long the service may take, in milliseconds: saving writes all of a machine's memory.
const PATIENCE: u32 = 4 * 60 * 1000;

/// What a library's table of names tells.
type Address = unsafe extern "system" fn() -> isize;
type Handle = *mut c_void;
type CreateOperation = unsafe extern "system" fn(*const c_void, *const c_void) -> Handle;
type Close = unsafe extern "system" fn(Handle);
type Wait = unsafe extern "system" fn(Handle, u32, *mut PWSTR) -> HRESULT;
type Create = unsafe extern "system" fn(PCWSTR, PCWSTR, Handle, *const c_void, *mut Handle) -> HRESULT;
/// Of a system, an operation and a document: `Start`, `Pause`, `Resume`, `Save`, `Terminate`, `GetProperties`.
type Tell = unsafe extern "system" fn(Handle, Handle, PCWSTR) -> HRESULT;
type Modify = unsafe extern "system" fn(Handle, Handle, PCWSTR, Handle) -> HRESULT;
type Enumerate = unsafe extern "system" fn(PCWSTR, Handle) -> HRESULT;
type Grant = unsafe extern "system" fn(PCWSTR, PCWSTR) -> HRESULT;

/// The service's library.
#[derive(Debug, Clone)]
pub struct Library(Arc<Calls>);

/// A machine of the service's; the last that holds it ends it.
#[derive(Debug)]
pub struct ComputeSystem {
    handle: Handle,
    calls: Arc<Calls>,
}

// SAFETY: the service's handles belong to the process, not to a thread, and each call takes a lock of its own.
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Send for ComputeSystem {}
// SAFETY: the same.
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Sync for ComputeSystem {}

/// Its calls, each of which is there as long as the library is loaded.
struct Calls {
    module: HMODULE,
    create_operation: CreateOperation,
    close_operation: Close,
    wait: Wait,
    create: Create,
    close: Close,
    start: Tell,
    pause: Tell,
    resume: Tell,
    save: Tell,
    terminate: Tell,
    properties: Tell,
    modify: Modify,
    enumerate: Enumerate,
    grant: Grant,
}

// SAFETY: a module and addresses in it belong to the process.
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Send for Calls {}
// SAFETY: the same.
#[expect(unsafe_code, reason = "a pointer says nothing of threads")]
unsafe impl Sync for Calls {}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("computecore.dll")
    }
}

/// A text as the system takes it.
fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

/// `HRESULT_FROM_WIN32` of the last error of this thread.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn last_error() -> u32 {
    // SAFETY: the call takes nothing.
    0x8007_0000 | (unsafe { GetLastError() } & 0xffff)
}

/// Bytes that this user may still write where a folder is.
#[must_use]
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub fn free_space(folder: &Path) -> Option<u64> {
    let folder = wide(folder);
    let mut free = 0;
    // SAFETY: the path ends with a zero, `free` may be written to, and the other two figures are not asked for.
    let told = unsafe { GetDiskFreeSpaceExW(folder.as_ptr(), &raw mut free, null_mut(), null_mut()) };
    (told != 0).then_some(free)
}

/// A call of a module by its name, as a function of the type that is asked for.
macro_rules! call {
    ($module:expr, $name:literal as $kind:ty) => {{
        let name: &CStr = $name;
        // SAFETY: the module is loaded, and the name ends with a zero.
        match unsafe { GetProcAddress($module, name.as_ptr().cast()) } {
            Some(address) => {
                // SAFETY: what the library exports by this name has this form, by the SDK's header.
                unsafe { Ok(std::mem::transmute::<Address, $kind>(address)) }
            }
            None => Err(Failure::new("GetProcAddress", last_error())),
        }
    }};
}

impl Library {
    /// Loads the system's own.
    ///
    /// # Errors
    /// This Windows has none, or one that lacks a call.
    pub fn load() -> Result<Self, Failure> {
        Self::open(Path::new("computecore.dll"), LOAD_LIBRARY_SEARCH_SYSTEM32)
    }

    /// Loads one that stands in for it.
    ///
    /// # Errors
    /// There is none, or it lacks a call.
    pub fn load_from(path: &Path) -> Result<Self, Failure> {
        Self::open(path, 0)
    }

    #[expect(unsafe_code, reason = "the system's calls have no safe form")]
    fn open(path: &Path, flags: u32) -> Result<Self, Failure> {
        let path = wide(path);
        // SAFETY: the path ends with a zero; the other argument is reserved.
        let module = unsafe { LoadLibraryExW(path.as_ptr(), null_mut(), flags) };
        if module.is_null() {
            return Err(Failure::new("LoadLibrary", last_error()));
        }
        let calls = Self::calls(module);
        if calls.is_err() {
            // SAFETY: it was loaded this moment, and nothing of it is kept.
            unsafe { FreeLibrary(module) };
        }
        calls.map(|calls| Self(Arc::new(calls)))
    }

    #[expect(unsafe_code, reason = "a library's calls have the form that its header says")]
    fn calls(module: HMODULE) -> Result<Calls, Failure> {
        Ok(Calls {
            module,
            create_operation: call!(module, c"HcsCreateOperation" as CreateOperation)?,
            close_operation: call!(module, c"HcsCloseOperation" as Close)?,
            wait: call!(module, c"HcsWaitForOperationResult" as Wait)?,
            create: call!(module, c"HcsCreateComputeSystem" as Create)?,
            close: call!(module, c"HcsCloseComputeSystem" as Close)?,
            start: call!(module, c"HcsStartComputeSystem" as Tell)?,
            pause: call!(module, c"HcsPauseComputeSystem" as Tell)?,
            resume: call!(module, c"HcsResumeComputeSystem" as Tell)?,
            save: call!(module, c"HcsSaveComputeSystem" as Tell)?,
            terminate: call!(module, c"HcsTerminateComputeSystem" as Tell)?,
            properties: call!(module, c"HcsGetComputeSystemProperties" as Tell)?,
            modify: call!(module, c"HcsModifyComputeSystem" as Modify)?,
            enumerate: call!(module, c"HcsEnumerateComputeSystems" as Enumerate)?,
            grant: call!(module, c"HcsGrantVmAccess" as Grant)?,
        })
    }
}

impl Drop for Calls {
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn drop(&mut self) {
        // SAFETY: it was loaded once, and whoever has a call of it has kept this value.
        unsafe { FreeLibrary(self.module) };
    }
}

/// Something the service does in its own time.
struct Operation<'a> {
    handle: Handle,
    calls: &'a Calls,
}

impl<'a> Operation<'a> {
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn new(calls: &'a Calls) -> Result<Self, Failure> {
        // SAFETY: neither a context nor a function to be called back is wanted, which the call allows.
        let handle = unsafe { (calls.create_operation)(null(), null()) };
        if handle.is_null() {
            return Err(Failure::new("HcsCreateOperation", last_error()));
        }
        Ok(Self { handle, calls })
    }

    /// Waits for what was begun by `call`; what the service says then.
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn result(&self, call: &'static str, begun: HRESULT) -> Result<String, Failure> {
        if begun < 0 {
            return Err(Failure::new(call, begun.cast_unsigned()));
        }
        let mut said: PWSTR = null_mut();
        // SAFETY: the operation is open, and `said` may be written to.
        let code = unsafe { (self.calls.wait)(self.handle, PATIENCE, &raw mut said) };
        let document = take(said);
        if code < 0 {
            return Err(Failure { call, code: code.cast_unsigned(), document });
        }
        Ok(document)
    }
}

impl Drop for Operation<'_> {
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn drop(&mut self) {
        // SAFETY: the operation is open, and is not used again.
        unsafe { (self.calls.close_operation)(self.handle) };
    }
}

/// A text that the service gave, which is ours to free.
#[expect(unsafe_code, reason = "a text of the system's is a pointer")]
fn take(said: PWSTR) -> String {
    if said.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: the text ends with a zero, and the loop ends there.
    while unsafe { said.wrapping_add(length).read() } != 0 {
        length += 1;
    }
    // SAFETY: that many units were read this moment, and nobody else has the text.
    let text = String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(said, length) });
    // SAFETY: the service allocates it for its caller to free (`HcsWaitForOperationResult`).
    unsafe { LocalFree(said.cast()) };
    text
}

impl Service for Library {
    type System = ComputeSystem;

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn create(&self, id: &str, document: &str) -> Result<ComputeSystem, Failure> {
        let operation = Operation::new(&self.0)?;
        let (id, document) = (wide(id), wide(document));
        let mut handle = null_mut();
        // SAFETY: both texts end with a zero and live until the call returns, the operation is open, no descriptor is a
        // default one, and `handle` may be written to.
        let begun = unsafe {
            (self.0.create)(id.as_ptr(), document.as_ptr(), operation.handle, null(), &raw mut handle)
        };
        // Kept first: one that fails later is to be closed too.
        let system = (!handle.is_null()).then(|| ComputeSystem { handle, calls: Arc::clone(&self.0) });
        operation.result("HcsCreateComputeSystem", begun)?;
        // E_HANDLE.
        system.ok_or_else(|| Failure::new("HcsCreateComputeSystem", 0x8007_0006))
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn grant(&self, id: &str, file: &Path) -> Result<(), Failure> {
        let (id, file) = (wide(id), wide(file));
        // SAFETY: both texts end with a zero and live until the call returns.
        let code = unsafe { (self.0.grant)(id.as_ptr(), file.as_ptr()) };
        if code < 0 { Err(Failure::new("HcsGrantVmAccess", code.cast_unsigned())) } else { Ok(()) }
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn enumerate(&self) -> Result<String, Failure> {
        let operation = Operation::new(&self.0)?;
        // SAFETY: no query means all, and the operation is open.
        let begun = unsafe { (self.0.enumerate)(null(), operation.handle) };
        operation.result("HcsEnumerateComputeSystems", begun)
    }
}

impl ComputeSystem {
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn tell(&self, call: &'static str, tell: Tell, document: Option<&str>) -> Result<String, Failure> {
        let operation = Operation::new(&self.calls)?;
        let document = document.map(wide);
        let text = document.as_ref().map_or(null(), Vec::as_ptr);
        // SAFETY: the system and the operation are open, and the text, where there is one, ends with a zero and lives
        // until the call returns.
        let begun = unsafe { tell(self.handle, operation.handle, text) };
        operation.result(call, begun)
    }
}

impl System for ComputeSystem {
    fn order(&self, order: Order, options: Option<&str>) -> Result<(), Failure> {
        let tell = match order {
            Order::Start => self.calls.start,
            Order::Pause => self.calls.pause,
            Order::Resume => self.calls.resume,
            Order::Save => self.calls.save,
            Order::Terminate => self.calls.terminate,
        };
        self.tell(order.call(), tell, options).map(drop)
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn modify(&self, request: &str) -> Result<(), Failure> {
        let operation = Operation::new(&self.calls)?;
        let request = wide(request);
        // SAFETY: the system and the operation are open, the text ends with a zero and lives until the call returns, and
        // no identity is this process's own.
        let begun =
            unsafe { (self.calls.modify)(self.handle, operation.handle, request.as_ptr(), null_mut()) };
        operation.result("HcsModifyComputeSystem", begun).map(drop)
    }

    fn properties(&self, query: &str) -> Result<String, Failure> {
        self.tell("HcsGetComputeSystemProperties", self.calls.properties, Some(query))
    }
}

impl Drop for ComputeSystem {
    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn drop(&mut self) {
        // SAFETY: the handle is open, and is not used again.
        unsafe { (self.calls.close)(self.handle) };
    }
}
