//! Calls of `computecore.dll`, loaded when it is asked for.
//!
//! Source of their forms: `computecore.h` of the Windows SDK.

mod caller;
pub mod disk;
mod module;
mod network;
pub mod pipe;
mod security;
pub mod serve;
pub mod socket;

use std::ffi::c_void;
use std::fmt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;
use windows_sys::core::{HRESULT, PCWSTR, PWSTR};

use crate::choice::By;
use crate::connection::Connection;
use crate::hcs::{EndTold, Failure, Order, Service, System};
pub use caller::Identity;
pub(crate) use caller::Myself;
use module::{Address, Module, call, last_error, wide};
pub use network::Network;

/// How long the service may take, in milliseconds: saving writes all of a machine's memory.
const PATIENCE: u32 = 4 * 60 * 1000;

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
type MakeState = unsafe extern "system" fn(PCWSTR) -> HRESULT;
type SetCallback = unsafe extern "system" fn(Handle, u32, *const c_void, Callback) -> HRESULT;
type Callback = unsafe extern "system" fn(*const Event, *mut c_void);

/// `HCS_EVENT`.
#[repr(C)]
struct Event {
    kind: i32,
    data: PCWSTR,
    _operation: Handle,
}

/// `HcsEventSystemExited`, and `HcsEventServiceDisconnect`: what the service itself ended with.
const EXITED: i32 = 1;
const DISCONNECTED: i32 = 0x0200_0000;

/// Who hears of the end. It is never freed: a call may be under way for as long as the process lives, and there is one a
/// machine.
type Told = Mutex<Option<EndTold>>;

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
    _module: Module,
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
    make_state: MakeState,
    set_callback: SetCallback,
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

/// Whether machines of our own may be made here, and by whom.
///
/// # Errors
/// By nobody; the failure is the user's own.
pub(crate) fn look() -> Result<By, Failure> {
    Connection::open().map(|connection| connection.by())
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

impl Library {
    /// Loads the system's own.
    ///
    /// # Errors
    /// This Windows has none, or one that lacks a call.
    pub fn load() -> Result<Self, Failure> {
        Self::calls(Module::of_the_system("computecore.dll")?)
    }

    /// Loads one that stands in for it.
    ///
    /// # Errors
    /// There is none, or it lacks a call.
    pub fn load_from(path: &Path) -> Result<Self, Failure> {
        Self::calls(Module::at(path)?)
    }

    #[expect(unsafe_code, reason = "a library's calls have the form that its header says")]
    fn calls(module: Module) -> Result<Self, Failure> {
        Ok(Self(Arc::new(Calls {
            create_operation: call!(&module, c"HcsCreateOperation" as CreateOperation)?,
            close_operation: call!(&module, c"HcsCloseOperation" as Close)?,
            wait: call!(&module, c"HcsWaitForOperationResult" as Wait)?,
            create: call!(&module, c"HcsCreateComputeSystem" as Create)?,
            close: call!(&module, c"HcsCloseComputeSystem" as Close)?,
            start: call!(&module, c"HcsStartComputeSystem" as Tell)?,
            pause: call!(&module, c"HcsPauseComputeSystem" as Tell)?,
            resume: call!(&module, c"HcsResumeComputeSystem" as Tell)?,
            save: call!(&module, c"HcsSaveComputeSystem" as Tell)?,
            terminate: call!(&module, c"HcsTerminateComputeSystem" as Tell)?,
            properties: call!(&module, c"HcsGetComputeSystemProperties" as Tell)?,
            modify: call!(&module, c"HcsModifyComputeSystem" as Modify)?,
            enumerate: call!(&module, c"HcsEnumerateComputeSystems" as Enumerate)?,
            grant: call!(&module, c"HcsGrantVmAccess" as Grant)?,
            make_state: call!(&module, c"HcsCreateEmptyRuntimeStateFile" as MakeState)?,
            set_callback: call!(&module, c"HcsSetComputeSystemCallback" as SetCallback)?,
            _module: module,
        })))
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
            return Err(Failure { call: call.into(), code: code.cast_unsigned(), document });
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

/// Hears of what happens to a machine, on a thread of the service's library.
///
/// # Safety
/// `context` is a [`Told`] that lives for ever, and `event` an event that lives until this returns.
#[expect(unsafe_code, reason = "the library calls it")]
unsafe extern "system" fn hear(event: *const Event, context: *mut c_void) {
    // SAFETY: by this function's contract it is an event that lives.
    let event = unsafe { &*event };
    if !matches!(event.kind, EXITED | DISCONNECTED) {
        return;
    }
    // SAFETY: it is what was leaked when the function was registered.
    let told = unsafe { &*context.cast_const().cast::<Told>() };
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(told) = told {
        told(&read(event.data));
    }
}

/// A text of the system's, which stays its own.
#[expect(unsafe_code, reason = "a text of the system's is a pointer")]
fn read(said: PCWSTR) -> String {
    if said.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: the text ends with a zero, and the loop ends there.
    while unsafe { said.wrapping_add(length).read() } != 0 {
        length += 1;
    }
    // SAFETY: that many units were read this moment, and nobody changes them.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(said, length) })
}

/// A text that the service gave, which is ours to free.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn take(said: PWSTR) -> String {
    let text = read(said);
    // SAFETY: the service allocates it for its caller to free (`HcsWaitForOperationResult`), and nothing is as good.
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
    fn make_state(&self, file: &Path) -> Result<(), Failure> {
        let file = wide(file);
        // SAFETY: the text ends with a zero and lives until the call returns.
        let code = unsafe { (self.0.make_state)(file.as_ptr()) };
        if code < 0 {
            return Err(Failure::new("HcsCreateEmptyRuntimeStateFile", code.cast_unsigned()));
        }
        Ok(())
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
    fn modify(&self, request: &str, identity: Option<&Identity>) -> Result<(), Failure> {
        let operation = Operation::new(&self.calls)?;
        let request = wide(request);
        let identity = identity.map_or(null_mut(), |identity| identity.as_raw_handle());
        // SAFETY: the system and the operation are open, the text ends with a zero and lives until the call returns, and
        // the token is open for as long as it is borrowed, or none.
        let begun = unsafe { (self.calls.modify)(self.handle, operation.handle, request.as_ptr(), identity) };
        operation.result("HcsModifyComputeSystem", begun).map(drop)
    }

    #[expect(unsafe_code, reason = "a library's calls have no safe form")]
    fn on_end(&self, told: EndTold) -> Result<(), Failure> {
        let told: &'static Told = Box::leak(Box::new(Mutex::new(Some(told))));
        // SAFETY: the system is open, no option is set, and what is passed on lives for ever.
        let code = unsafe { (self.calls.set_callback)(self.handle, 0, (&raw const *told).cast(), hear) };
        if code < 0 {
            return Err(Failure::new("HcsSetComputeSystemCallback", code.cast_unsigned()));
        }
        Ok(())
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
