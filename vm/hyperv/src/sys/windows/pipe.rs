//! The small service's pipe, of both sides, and the pipe that a console is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsHandle, AsRawHandle, FromRawHandle};
use std::path::Path;
use std::ptr::null_mut;
use std::thread;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{
    ERROR_NO_DATA, ERROR_PIPE_BUSY, ERROR_PIPE_CONNECTED, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, PIPE_ACCESS_DUPLEX, SECURITY_IMPERSONATION,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_BYTE,
    PIPE_WAIT,
};

use super::module::wide;
use super::security::{Descriptor, owner, user};
use windows_sys::Win32::Security::TOKEN_QUERY;

/// Where the small service listens.
pub const SERVICE: &str = r"\\.\pipe\cove-service";
/// What a client opens a pipe for: to read and write, and not to make more of it (`FILE_CREATE_PIPE_INSTANCE`), by which
/// one could take others' calls.
const CLIENT: u32 = 0x0012_019b;
/// Whoever has logged in at this computer.
const INTERACTIVE: &str = "IU";
/// All of this computer's machines.
const MACHINES: &str = "S-1-5-83-0";
/// The system, and administrators: whose pipe it is, if it is the service's.
const OWNERS: [&str; 2] = ["S-1-5-18", "S-1-5-32-544"];
const ROOM: u32 = 64 << 10;
/// How many may be connected at once.
const INSTANCES: u32 = 128;
/// How long a pipe may be busy.
const PATIENCE: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(10);

/// The side that listens.
#[derive(Debug)]
pub struct Listener {
    name: String,
    rule: String,
    instances: u32,
    next: File,
}

impl Listener {
    /// Listens for users of this computer.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn of_service(name: &str) -> io::Result<Self> {
        // Its owner is what clients know it by, which only a service can make one of: it is said, for it is not the same on
        // all systems.
        let rule = format!("O:BAD:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;{CLIENT:#x};;;{INTERACTIVE})");
        Self::new(name, rule, INSTANCES)
    }

    /// Listens for a machine of this user's, which writes what its console says.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn of_console(name: &str) -> io::Result<Self> {
        let me = user(super::security::own_token(TOKEN_QUERY)?.as_handle())?;
        let rule = format!("D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;{me})(A;;{CLIENT:#x};;;{MACHINES})");
        Self::new(name, rule, 1)
    }

    fn new(name: &str, rule: String, instances: u32) -> io::Result<Self> {
        let next = instance(name, &rule, instances, FILE_FLAG_FIRST_PIPE_INSTANCE)?;
        Ok(Self { name: name.to_owned(), rule, instances, next })
    }

    /// Waits for somebody, and goes on listening.
    ///
    /// # Errors
    /// The system's.
    pub fn accept(&mut self) -> io::Result<File> {
        connected(&self.next)?;
        let next = instance(&self.name, &self.rule, self.instances, 0)?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    /// Waits for the one who is to come.
    ///
    /// # Errors
    /// The system's.
    pub fn accept_one(self) -> io::Result<File> {
        connected(&self.next)?;
        Ok(self.next)
    }
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn connected(pipe: &File) -> io::Result<()> {
    // SAFETY: the pipe is open, and is waited for.
    if unsafe { ConnectNamedPipe(pipe.as_raw_handle(), null_mut()) } != 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Somebody was faster, and may be gone already: what was said is there to be read.
    let is_there = is(&error, ERROR_PIPE_CONNECTED) || is(&error, ERROR_NO_DATA);
    if is_there { Ok(()) } else { Err(error) }
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error().map(i32::cast_unsigned) == Some(code)
}

#[expect(unsafe_code, reason = "the system's call has no safe form")]
fn instance(name: &str, rule: &str, instances: u32, flags: u32) -> io::Result<File> {
    let (name, descriptor) = (wide(name), Descriptor::of(rule)?);
    let mode = PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS;
    let handle = descriptor.with(|attributes| {
        // SAFETY: the name ends with a zero, and the attributes live until the call returns.
        unsafe {
            CreateNamedPipeW(
                name.as_ptr(),
                PIPE_ACCESS_DUPLEX | flags,
                mode,
                instances,
                ROOM,
                ROOM,
                0,
                attributes,
            )
        }
    });
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made this moment, and nobody else closes it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Has whoever waits for one at a pipe wait no longer: somebody comes, and is gone.
pub fn release(name: &str) {
    // Where nobody waits, somebody else came.
    let _ = OpenOptions::new().access_mode(CLIENT).open(Path::new(name));
}

/// Connects to a service that may act as this user, after a look at whose it is: anybody may listen where it does not.
///
/// # Errors
/// Nobody listens there, or somebody whom to trust would be a mistake.
pub fn connect(name: &str) -> io::Result<File> {
    let pipe = connect_to_any(name)?;
    let owner = owner(pipe.as_handle())?;
    if OWNERS.contains(&owner.as_str()) {
        return Ok(pipe);
    }
    let cause = format!("{name} is {owner}'s, and not the system's");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, cause))
}

/// The same, whosever it is.
///
/// # Errors
/// Nobody listens there.
pub fn connect_to_any(name: &str) -> io::Result<File> {
    let begin = Instant::now();
    loop {
        let mut options = OpenOptions::new();
        options.access_mode(CLIENT).security_qos_flags(SECURITY_IMPERSONATION);
        match options.open(Path::new(name)) {
            Err(error) if is(&error, ERROR_PIPE_BUSY) && begin.elapsed() < PATIENCE => thread::sleep(AGAIN),
            other => return other,
        }
    }
}
