//! Named pipes.
//!
//! They are of messages, so that an empty one can say what closing one direction of a socket says: the same as Docker's
//! own pipe and its clients do.

mod security;

use std::ffi::OsStr;
use std::io;
use std::os::windows::io::AsRawHandle;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::ptr::null_mut;
use std::task::{Context, Poll};
use std::time::Duration;

use security::Descriptor;
pub use security::user;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::windows::named_pipe::{
    ClientOptions, NamedPipeClient, NamedPipeServer, PipeMode, ServerOptions,
};
use windows_sys::Win32::Foundation::ERROR_PIPE_BUSY;
use windows_sys::Win32::System::Pipes::{
    GetNamedPipeClientProcessId, GetNamedPipeServerProcessId, PeekNamedPipe,
};

/// Where all pipes of this computer are.
const PREFIX: &str = r"\\.\pipe\";
/// The longest name, prefix included (`CreateNamedPipeW`).
const NAME_MAX: usize = 256;
/// How soon a pipe is tried again that somebody else took this moment.
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// A connection, of either side.
#[derive(Debug)]
pub enum Stream {
    /// To whoever listens.
    Client(NamedPipeClient),
    /// From whoever connected.
    Server(NamedPipeServer),
}

/// The direction that reads.
pub type ReadHalf = tokio::io::ReadHalf<Stream>;
/// The direction that writes.
pub type WriteHalf = tokio::io::WriteHalf<Stream>;

/// Lets others connect.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    /// There always is one, or clients would find no pipe of that name.
    next: NamedPipeServer,
}

/// Connects to whoever listens at `path`.
///
/// # Errors
/// Nobody does, or not for us.
pub async fn connect(path: &Path) -> io::Result<Stream> {
    loop {
        match ClientOptions::new().open(path) {
            Err(error) if is(&error, ERROR_PIPE_BUSY) => tokio::time::sleep(BUSY_PAUSE).await,
            other => return other.map(Stream::Client),
        }
    }
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error().and_then(|raw| u32::try_from(raw).ok()) == Some(code)
}

/// Listens at `path`: for this user, administrators and the system, and for nobody from another computer.
///
/// # Errors
/// Somebody listens there, or it can't be a pipe's name.
pub fn bind(path: &Path) -> io::Result<Listener> {
    let next = instance(path, true)?;
    Ok(Listener { path: path.to_owned(), next })
}

#[expect(unsafe_code, reason = "tokio asks its callers to vouch for the rule of who may")]
fn instance(path: &Path, is_first: bool) -> io::Result<NamedPipeServer> {
    let mut options = ServerOptions::new();
    options.pipe_mode(PipeMode::Message).first_pipe_instance(is_first).reject_remote_clients(true);
    Descriptor::of_this_user()?.with(|attributes| {
        // SAFETY: the attributes are complete, and live until the call returns.
        unsafe { options.create_with_security_attributes_raw(path, attributes) }
    })
}

/// Takes away what is left of an earlier one at `path`: nothing, as a pipe is gone with who listened.
///
/// # Errors
/// None.
pub fn clear(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether who connected is gone already, as far as can be told without reading.
#[must_use]
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub fn has_hung_up(stream: &Stream) -> bool {
    let handle = match stream {
        Stream::Client(pipe) => pipe.as_raw_handle(),
        Stream::Server(pipe) => pipe.as_raw_handle(),
    };
    // SAFETY: the handle is open for as long as the stream is borrowed, and nothing is asked for that would be written.
    let told = unsafe { PeekNamedPipe(handle, null_mut(), 0, null_mut(), null_mut(), null_mut()) };
    told == 0
}

/// Waits for somebody to connect.
///
/// # Errors
/// The system's.
pub async fn accept(listener: &mut Listener) -> io::Result<Stream> {
    listener.next.connect().await?;
    let next = instance(&listener.path, false)?;
    Ok(Stream::Server(std::mem::replace(&mut listener.next, next)))
}

/// Its two directions. Shutting the one down that writes is the end of input at the other side, and leaves the one that
/// reads open.
#[must_use]
pub fn split(stream: Stream) -> (ReadHalf, WriteHalf) {
    tokio::io::split(stream)
}

/// The id of the process at the other side.
///
/// # Errors
/// The system does not tell.
#[expect(unsafe_code, reason = "the system's call has no safe form")]
pub fn peer(stream: &Stream) -> io::Result<u32> {
    let mut id = 0;
    let told = match stream {
        // SAFETY: the handle is open for as long as the stream is borrowed, and `id` may be written to.
        Stream::Client(pipe) => unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle(), &raw mut id) },
        // SAFETY: the same.
        Stream::Server(pipe) => unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut id) },
    };
    if told == 0 { Err(io::Error::last_os_error()) } else { Ok(id) }
}

/// The address of what is called `name` among those of `folder`: names of pipes are in no folders, so the folder's path
/// becomes a part of it.
#[must_use]
pub fn address(folder: &Path, name: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let folder = AsRef::<OsStr>::as_ref(folder).to_string_lossy();
    let whole = format!("{folder}-{name}");
    // What tells two of them apart stands at the end.
    let begin = whole.char_indices().rev().map(|(at, _)| at).nth(NAME_MAX - PREFIX.len() - 1).unwrap_or(0);
    let name: String = whole.get(begin..).unwrap_or_default().chars().map(plain).collect();
    format!("{PREFIX}{name}").into()
}

/// Runs `$body` with `$pipe` bound to the pinned pipe of either side.
macro_rules! each {
    ($self:ident, $pipe:ident => $body:expr) => {
        match $self.get_mut() {
            Stream::Client(inner) => {
                let $pipe = Pin::new(inner);
                $body
            }
            Stream::Server(inner) => {
                let $pipe = Pin::new(inner);
                $body
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, pipe => pipe.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // An empty message is the end.
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        each!(self, pipe => pipe.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, pipe => pipe.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match each!(self, pipe => pipe.poll_write(cx, &[])) {
            Poll::Pending => Poll::Pending,
            // Nobody is left to be told.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Poll::Ready(Ok(())),
            Poll::Ready(written) => Poll::Ready(written.map(drop)),
        }
    }
}
