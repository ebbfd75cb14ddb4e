//! The small service: it answers Windows' own keeper of services, and then users at its pipe.
//!
//! It ends with its machines' handles, and they end with it: Windows sees to that.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::null_mut;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use windows_sys::Win32::Foundation::{ERROR_CALL_NOT_IMPLEMENTED, NO_ERROR};
use windows_sys::Win32::System::Services::{
    RegisterServiceCtrlHandlerExW, SERVICE_ACCEPT_SHUTDOWN, SERVICE_ACCEPT_STOP, SERVICE_CONTROL_INTERROGATE,
    SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_STOP, SERVICE_RUNNING, SERVICE_START_PENDING, SERVICE_STATUS,
    SERVICE_STATUS_HANDLE, SERVICE_STOP_PENDING, SERVICE_STOPPED, SERVICE_TABLE_ENTRYW,
    SERVICE_WIN32_OWN_PROCESS, SetServiceStatus, StartServiceCtrlDispatcherW,
};
use windows_sys::core::PWSTR;

use super::caller::Client;
use super::module::wide;
use super::pipe::{Listener, SERVICE};
use super::security::check;
use super::{Library, Network};
use crate::hcs::Failure;
use crate::request::{self, Outcome, Request};
use crate::session::{Machines, Session};

/// What the service is called.
pub const NAME: &str = "CoveService";
/// How long a start or a stop may take, in milliseconds.
const PATIENCE: u32 = 10_000;

/// Whoever is to hear that the service is to stop.
static STOP: Mutex<Option<Sender<()>>> = Mutex::new(None);

/// Is the service until it is stopped.
///
/// # Errors
/// It was not started by Windows' keeper of services.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub fn run() -> io::Result<()> {
    let mut name = wide(NAME);
    let table = [
        SERVICE_TABLE_ENTRYW { lpServiceName: name.as_mut_ptr(), lpServiceProc: Some(main) },
        SERVICE_TABLE_ENTRYW { lpServiceName: null_mut(), lpServiceProc: None },
    ];
    // SAFETY: the table ends with an entry of nothing, and lives until the call returns, which is when the service has stopped.
    check(unsafe { StartServiceCtrlDispatcherW(table.as_ptr()) })
}

/// How the service stands, as its keeper is told.
struct Told(SERVICE_STATUS_HANDLE);

impl Told {
    #[expect(unsafe_code, reason = "the system's call has no safe form")]
    fn tell(&self, state: u32, code: u32) {
        let is_running = state == SERVICE_RUNNING;
        let is_pending = matches!(state, SERVICE_START_PENDING | SERVICE_STOP_PENDING);
        let status = SERVICE_STATUS {
            dwServiceType: SERVICE_WIN32_OWN_PROCESS,
            dwCurrentState: state,
            dwControlsAccepted: if is_running { SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN } else { 0 },
            dwWin32ExitCode: code,
            dwServiceSpecificExitCode: 0,
            dwCheckPoint: 0,
            dwWaitHint: if is_pending { PATIENCE } else { 0 },
        };
        // SAFETY: the handle was given for this service, and the status lives until the call returns.
        unsafe { SetServiceStatus(self.0, &raw const status) };
    }
}

/// What the keeper of services calls, on a thread of its own.
///
/// # Safety
/// None is needed: the words of the command line are not looked at.
#[expect(unsafe_code, reason = "the system calls it")]
unsafe extern "system" fn main(_: u32, _: *mut PWSTR) {
    let (stop, stopped) = channel();
    *STOP.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
    let name = wide(NAME);
    // SAFETY: the name ends with a zero, and what is called lives as long as the program.
    let handle = unsafe { RegisterServiceCtrlHandlerExW(name.as_ptr(), Some(hear), null_mut()) };
    if handle.is_null() {
        return;
    }
    let told = Told(handle);
    told.tell(SERVICE_START_PENDING, NO_ERROR);
    let code = match Listener::of_service(SERVICE) {
        Ok(listener) => {
            told.tell(SERVICE_RUNNING, NO_ERROR);
            serve_until(listener, &stopped);
            told.tell(SERVICE_STOP_PENDING, NO_ERROR);
            NO_ERROR
        }
        Err(error) => error.raw_os_error().map_or(1, i32::cast_unsigned),
    };
    told.tell(SERVICE_STOPPED, code);
}

/// What the keeper of services asks, on any thread.
///
/// # Safety
/// None is needed: nothing that is pointed to is looked at.
#[expect(unsafe_code, reason = "the system calls it")]
unsafe extern "system" fn hear(control: u32, _: u32, _: *mut c_void, _: *mut c_void) -> u32 {
    match control {
        SERVICE_CONTROL_STOP | SERVICE_CONTROL_SHUTDOWN => {
            if let Some(stop) = &*STOP.lock().unwrap_or_else(PoisonError::into_inner) {
                // It may have stopped already.
                let _ = stop.send(());
            }
            NO_ERROR
        }
        SERVICE_CONTROL_INTERROGATE => NO_ERROR,
        _ => ERROR_CALL_NOT_IMPLEMENTED,
    }
}

fn serve_until(listener: Listener, stopped: &Receiver<()>) {
    let serving = thread::Builder::new().name("pipe".to_owned()).spawn(move || serve(listener));
    if serving.is_ok() {
        // Whoever would tell lives as long as the program.
        let _ = stopped.recv();
    }
}

/// Answers users, each on a thread of its own, for as long as the program lives.
pub fn serve(mut listener: Listener) {
    let machines = Arc::<Machines>::default();
    loop {
        let Ok(pipe) = listener.accept() else {
            // All instances are taken, or one broke: neither is to keep a processor busy.
            thread::sleep(std::time::Duration::from_millis(50));
            continue;
        };
        let machines = Arc::clone(&machines);
        // Who can't have a thread is hung up on.
        let _ = thread::Builder::new().name("client".to_owned()).spawn(move || {
            // What a client says that is none ends its conversation, and its machine.
            let _ = converse(pipe, machines);
        });
    }
}

/// A client's requests, one after another, each answered.
fn converse(mut pipe: File, machines: Arc<Machines>) -> io::Result<()> {
    // It is who it is as soon as it has said something.
    let Some(mut request) = request::read::<Request>(&mut pipe)? else { return Ok(()) };
    let caller = Client::of(&pipe)?;
    let mut session = match Library::load() {
        Ok(library) => Session::new(library, Network::load(), caller, machines),
        Err(failure) => return request::write(&mut pipe, &Outcome::Err(failure)),
    };
    loop {
        let outcome: Result<_, Failure> = session.answer(request);
        request::write(&mut pipe, &outcome)?;
        match request::read(&mut pipe)? {
            Some(next) => request = next,
            None => return Ok(()),
        }
    }
}
