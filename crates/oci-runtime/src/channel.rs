//! The pair of sockets between a process on its way into a container and the one that made it.
//!
//! Each message is one packet, perhaps with a descriptor. The child's end closes on exec, so that
//! the parent reads the end of the stream exactly when the program runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use stdx::socket::{receive_with_fds, send_with_fds};

use crate::error::{Doing, Error, Result};

/// What crosses the pair. The child asks or tells; the parent answers with [`Message::Go`].
#[derive(Debug)]
pub(crate) enum Message {
    /// Parent, with descriptors: the cgroups stand, enter them here.
    Cgroups(Vec<OwnedFd>),
    /// Child: namespaces and mounts stand, the root is not entered yet. Answered, after the hooks.
    NeedHooks,
    /// Child, with a descriptor: the master of my terminal.
    Terminal(OwnedFd),
    /// Child, with a descriptor: the root I mounted.
    Root(OwnedFd),
    /// Child, with a descriptor: the listener of my seccomp filter. Answered.
    SeccompListener(OwnedFd),
    /// Child: everything stands, I wait at the gate.
    Created,
    /// Intermediate: the process that joined the namespaces has this id.
    Pid(i32),
    /// Child: I failed.
    Failed(Error),
    /// Parent: go on.
    Go,
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// The longest error text that crosses whole.
const MAX_MESSAGE: usize = 4096;

impl Channel {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map(|(a, b)| (Self(a), Self(b)))
            .doing(|| "make a socket pair")
    }

    pub(crate) fn send(&self, message: &Message) -> Result<()> {
        match message {
            Message::Cgroups(fds) => {
                let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                send_with_fds(self.0.as_fd(), b"N", &fds)
            }
            Message::NeedHooks => self.send_bytes(b"H", None),
            Message::Terminal(fd) => self.send_bytes(b"T", Some(fd.as_fd())),
            Message::Root(fd) => self.send_bytes(b"R", Some(fd.as_fd())),
            Message::SeccompListener(fd) => self.send_bytes(b"S", Some(fd.as_fd())),
            Message::Created => self.send_bytes(b"C", None),
            Message::Go => self.send_bytes(b"G", None),
            Message::Pid(pid) => {
                let mut bytes = vec![b'P'];
                bytes.extend(pid.to_ne_bytes());
                self.send_bytes(&bytes, None)
            }
            Message::Failed(error) => {
                let (errno, is_exec) = match error {
                    Error::Exec { source, .. } => (source.raw_os_error().unwrap_or(0), 1),
                    Error::Os { source, .. } => (source.raw_os_error().unwrap_or(0), 0),
                    _ => (0, 0),
                };
                let mut bytes = vec![b'E', is_exec];
                bytes.extend(errno.to_ne_bytes());
                bytes.extend(error.chain().bytes().take(MAX_MESSAGE - bytes.len()));
                self.send_bytes(&bytes, None)
            }
        }
        .doing(|| "tell the parent process")
    }

    /// Sends and waits for [`Message::Go`].
    pub(crate) fn ask(&self, message: &Message) -> Result<()> {
        self.send(message)?;
        self.await_go()
    }

    /// Waits for [`Message::Go`].
    pub(crate) fn await_go(&self) -> Result<()> {
        match self.receive()? {
            Some(Message::Go) => Ok(()),
            other => Err(Error::State { what: format!("the parent process gave up ({other:?})") }),
        }
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) fn receive(&self) -> Result<Option<Message>> {
        let mut bytes = [0; MAX_MESSAGE];
        let (length, mut fds) =
            receive_with_fds(self.0.as_fd(), &mut bytes).doing(|| "hear from the container's process")?;
        let bytes = bytes.get(..length).unwrap_or_default();
        let number =
            |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        if bytes.first() == Some(&b'N') {
            return Ok(Some(Message::Cgroups(fds)));
        }
        Ok(Some(match (bytes.first(), fds.pop()) {
            (None, _) => return Ok(None),
            (Some(b'H'), _) => Message::NeedHooks,
            (Some(b'C'), _) => Message::Created,
            (Some(b'G'), _) => Message::Go,
            (Some(b'T'), Some(fd)) => Message::Terminal(fd),
            (Some(b'R'), Some(fd)) => Message::Root(fd),
            (Some(b'S'), Some(fd)) => Message::SeccompListener(fd),
            (Some(b'P'), _) => Message::Pid(number(1).unwrap_or(-1)),
            (Some(b'E'), _) => Message::Failed(Error::Child {
                message: String::from_utf8_lossy(bytes.get(6..).unwrap_or_default()).into_owned(),
                errno: number(2).unwrap_or(0),
                is_exec: bytes.get(1) == Some(&1),
            }),
            (Some(tag), _) => return Err(Error::State { what: format!("message {tag:#x} is unknown") }),
        }))
    }

    fn send_bytes(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send_with_fds(self.0.as_fd(), bytes, fd.as_slice())
    }
}
