//! What the daemon and a monitor tell each other: one JSON packet a message over `SOCK_SEQPACKET`.
//!
//! Bodies of any size (a bundle, a process with its environment) travel in a memory file whose
//! descriptor goes with the packet, because a packet is bounded by the socket's buffer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use model::ErrorKind;
use serde::{Deserialize, Serialize};
use stdx::socket::{receive_with_fds, send_with_fds};

use crate::error::Error;
use crate::rootfs::Overlay;
use crate::seccomp;
use crate::spec::{Process, Spec};

/// In the state directory: locked by the description that comes with [`Request::Start`], from
/// before that is sent until the monitor has ended.
pub const LOCK: &str = "monitor.lock";

/// The monitor's socket in the container's state directory.
pub const SOCKET: &str = "monitor.sock";
/// Where the end of the container is recorded, in its state directory: an [`Exit`] as JSON.
pub const EXIT_FILE: &str = "exit.json";
/// The longest packet.
pub const MAX_PACKET: usize = 16 * 1024;

/// Daemon to monitor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Descriptors: the body, a [`StartRequest`], then a stream socket per entry of its `attach`.
    Start,
    /// Descriptor: a stream socket that gets output and gives input.
    Attach(Streams),
    /// Sizes the container's terminal, in characters.
    Resize {
        /// Height.
        rows: u16,
        /// Width.
        columns: u16,
    },
    /// Sends a signal to the container's first process.
    Signal {
        /// Its number.
        signal: i32,
    },
    /// Opens the log file anew, after it was moved away.
    Rotate,
    /// Descriptors: the body, an [`ExecRequest`], then stdin, stdout and stderr unless it has a terminal.
    Exec {
        /// The daemon's name for it.
        id: String,
    },
}

/// Monitor to daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The container runs; also the greeting on each new connection.
    Started {
        /// Its first process.
        pid: i32,
        /// When that started, in clock ticks after boot.
        start_time: u64,
    },
    /// The container could not be started; the monitor ends.
    Failed(Failure),
    /// The process runs. With a terminal, its master comes along.
    ExecStarted {
        /// The daemon's name for it.
        id: String,
        /// Its process id.
        pid: i32,
    },
    /// The process could not be started.
    ExecFailed {
        /// The daemon's name for it.
        id: String,
        /// Why.
        failure: Failure,
    },
    /// The process ended.
    ExecExited {
        /// The daemon's name for it.
        id: String,
        /// Its exit code, or 128 plus the signal.
        code: i32,
    },
    /// The container ended; its exit file is written, its cgroups are gone.
    Exited(Exit),
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, or 128 plus the signal.
    pub code: i32,
    /// Whether the kernel killed for want of memory.
    pub is_oom: bool,
    /// Nanoseconds since the epoch.
    pub at: u64,
}

/// Why something could not be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The whole chain of causes.
    pub message: String,
    /// The errno at its end, or 0.
    pub errno: i32,
    /// Whether it was the program itself that could not be executed.
    pub is_exec: bool,
    /// Whether this host lacks something.
    pub is_unsupported: bool,
}

impl Failure {
    /// Describes an error.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let (errno, is_exec) = match error {
            Error::Child { errno, is_exec, .. } => (*errno, *is_exec),
            Error::Exec { source, .. } => (source.raw_os_error().unwrap_or(libc::ENOENT), true),
            Error::Os { source, .. } => (source.raw_os_error().unwrap_or(0), false),
            _ => (0, false),
        };
        Self {
            message: error.chain(),
            errno,
            is_exec,
            is_unsupported: error.kind() == ErrorKind::Unsupported,
        }
    }
}

/// Which streams a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Its input goes to the container.
    pub stdin: bool,
    /// It gets the container's output.
    pub stdout: bool,
    /// It gets the container's error output.
    pub stderr: bool,
}

/// Everything a monitor needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartRequest {
    /// The container's id.
    pub id: String,
    /// Becomes the working directory; holds socket and exit file.
    pub state_dir: PathBuf,
    /// The directory that becomes the root, or that `overlay` is mounted on.
    pub rootfs: PathBuf,
    /// Mounted in the container's namespace.
    pub overlay: Option<Overlay>,
    /// Below each hierarchy's root.
    pub cgroup_path: PathBuf,
    /// The part of the v2 hierarchy that takes the root's place, where one was delegated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_root: Option<PathBuf>,
    /// Whether to go on without cgroups where none can be made and no limit asks for one.
    pub tolerates_missing_cgroups: bool,
    /// The bundle.
    pub spec: Spec,
    /// The compiled filter; `spec.linux.seccomp` is not compiled again.
    pub filter: Option<Filter>,
    /// Whether a small init is its first process.
    #[serde(default)]
    pub has_init: bool,
    /// Whether a descriptor of its network namespace comes along, behind the lock.
    #[serde(default)]
    pub has_network: bool,
    /// Where output is kept.
    pub log: LogTarget,
    /// Whether stdin is a pipe (or terminal) rather than empty.
    pub opens_stdin: bool,
    /// Whether stdin ends with the first client's.
    pub closes_stdin_once: bool,
    /// Clients from the first byte on: what each wants.
    pub attach: Vec<Streams>,
}

/// A compiled filter on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filter {
    instructions: Vec<u64>,
    flags: u64,
    has_notify: bool,
}

impl From<&seccomp::Program> for Filter {
    fn from(program: &seccomp::Program) -> Self {
        Self {
            instructions: program.instructions.clone(),
            flags: program.flags,
            has_notify: program.has_notify,
        }
    }
}

impl From<Filter> for seccomp::Program {
    fn from(filter: Filter) -> Self {
        Self { instructions: filter.instructions, flags: filter.flags, has_notify: filter.has_notify }
    }
}

/// Where and how output is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LogTarget {
    /// Docker's driver of that name.
    pub format: LogFormat,
    /// The file; ignored for `none`.
    pub path: PathBuf,
    /// Bytes after which the file is rotated; 0 is never.
    pub max_size: u64,
    /// How many files are kept, the current one included.
    pub max_files: u32,
}

/// The form of a log file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object a line, as Docker writes it.
    #[default]
    JsonFile,
    /// Binary records: see `monitor::log`.
    Local,
    /// Nothing is kept.
    None,
}

/// A process to be started in the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecRequest {
    /// What to run, as whom.
    pub process: Process,
    /// Whether the container's seccomp filter is left out (`--privileged`).
    pub is_unconfined: bool,
}

/// Sends one request, with its descriptors.
///
/// # Errors
/// sendmsg(2)'s; `WouldBlock` on a non-blocking socket that is full.
pub fn send(socket: BorrowedFd<'_>, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with_fds(socket, &serde_json::to_vec(request)?, fds)
}

/// Receives one event, with its descriptors; `None` at the end.
///
/// # Errors
/// recvmsg(2)'s, and `InvalidData` for what is no event.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_PACKET];
    let (length, fds) = receive_with_fds(socket, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(bytes.get(..length).unwrap_or_default())?, fds)))
}

/// Puts a body into a memory file to be sent along.
///
/// # Errors
/// Any error of making or writing it.
pub fn write_body(body: &impl Serialize) -> io::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("cove-request", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(&serde_json::to_vec(body)?)?;
    Ok(file.into())
}

/// Reads a body that came along.
///
/// # Errors
/// Any error of reading it.
pub fn read_body(fd: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(fd);
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
