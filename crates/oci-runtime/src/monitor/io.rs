//! The container's streams and the clients attached to them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::open_null;
use super::protocol::Streams;
use crate::error::{Doing, Result};

/// Which of the two outputs; the number is that of Docker's stream framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout = 1,
    Stderr = 2,
}

/// How much is read at once.
const CHUNK: usize = 32 * 1024;

/// The monitor's ends of the container's streams.
pub(super) struct Stdio {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: bool,
    /// Input that the container has not taken yet.
    pending: Vec<u8>,
    closes_once: bool,
    /// Whether stdin ends once `pending` is written.
    is_closing: bool,
}

/// The container's ends.
pub(super) struct TheirStdio([OwnedFd; 3]);

impl TheirStdio {
    pub(super) fn as_fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.0[0].as_fd(), self.0[1].as_fd(), self.0[2].as_fd()]
    }
}

impl Stdio {
    pub(super) fn new(is_terminal: bool, opens_stdin: bool, closes_once: bool) -> Result<(Self, TheirStdio)> {
        let mut ours = Self {
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: is_terminal,
            pending: Vec::new(),
            closes_once,
            is_closing: false,
        };
        if is_terminal {
            let null = || open_null();
            return Ok((ours, TheirStdio([null()?, null()?, null()?])));
        }
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe");
        let stdin = if opens_stdin {
            let (read, write) = pipe()?;
            set_nonblocking(&write)?;
            ours.stdin = Some(write);
            read
        } else {
            open_null()?
        };
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        set_nonblocking(&out_read)?;
        set_nonblocking(&err_read)?;
        ours.stdout = Some(out_read);
        ours.stderr = Some(err_read);
        Ok((ours, TheirStdio([stdin, out_write, err_write])))
    }

    /// The container's terminal is both its input and its output.
    pub(super) fn set_terminal(&mut self, master: Option<OwnedFd>) -> Result<()> {
        if let Some(master) = master {
            set_nonblocking(&master)?;
            self.stdin = Some(master.try_clone().doing(|| "copy the terminal")?);
            self.stdout = Some(master);
        }
        Ok(())
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) {
        if let Some(terminal) = self.stdout.as_ref().filter(|_| self.terminal) {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // A terminal whose container is gone needs no size.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// Three entries, always: stdout, stderr, stdin. `is_blocked`: a client is behind, so nothing is
    /// read. A stream that is closed or of no interest must not wake the loop by its hang-up, so
    /// `idle`, which never does, stands in for it.
    pub(super) fn poll_fds<'a>(&'a self, is_blocked: bool, idle: &'a OwnedFd) -> [PollFd<'a>; 3] {
        let reads = if is_blocked { PollFlags::empty() } else { PollFlags::IN };
        let writes = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let entry =
            |fd: &'a Option<OwnedFd>, flags: PollFlags| match fd.as_ref().filter(|_| !flags.is_empty()) {
                Some(fd) => PollFd::new(fd, flags),
                None => PollFd::new(idle, PollFlags::empty()),
            };
        [entry(&self.stdout, reads), entry(&self.stderr, reads), entry(&self.stdin, writes)]
    }

    pub(super) fn takes_input(&self) -> bool {
        self.stdin.is_some() && self.pending.is_empty() && !self.is_closing
    }

    /// Reads what is there. Closes the stream at its end.
    pub(super) fn read_output(&mut self, which: usize) -> Option<(Stream, Vec<u8>)> {
        let (slot, stream) =
            if which == 0 { (&mut self.stdout, Stream::Stdout) } else { (&mut self.stderr, Stream::Stderr) };
        let fd = slot.as_ref()?;
        let mut bytes = vec![0; CHUNK];
        match rustix::io::read(fd, &mut bytes) {
            Ok(0) => *slot = None,
            // A terminal without its other side, which may come back while the container lives.
            Err(Errno::IO) => *slot = None,
            Ok(length) => {
                bytes.truncate(length);
                return Some((stream, bytes));
            }
            Err(_) => {}
        }
        None
    }

    /// What is left once the container is dead; `None` when nothing is.
    pub(super) fn drain(&mut self) -> Option<(Stream, Vec<u8>)> {
        for which in 0..2 {
            if let Some(output) = self.read_output(which) {
                return Some(output);
            }
        }
        None
    }

    fn give_input(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        // A failure shows at the next write.
        let _ = self.flush_input(PollFlags::OUT);
    }

    /// A client's input has ended.
    fn end_input(&mut self) {
        if self.closes_once && !self.terminal {
            self.is_closing = true;
            let _ = self.flush_input(PollFlags::OUT);
        }
    }

    pub(super) fn flush_input(&mut self, events: PollFlags) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        while let Some(stdin) = self.stdin.as_ref().filter(|_| !self.pending.is_empty()) {
            match rustix::io::write(stdin, &self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => {
                    // The container closed its stdin: what was meant for it is lost, as on any pipe.
                    self.stdin = None;
                    self.pending = Vec::new();
                }
            }
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
            if self.is_closing {
                self.stdin = None;
            }
        }
        Ok(())
    }
}

fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).doing(|| "make a stream non-blocking")
}

/// A client: gets output in Docker's framing (raw with a terminal), gives input.
pub(super) struct Attacher {
    socket: OwnedFd,
    streams: Streams,
    /// Output it has not taken yet.
    pending: Vec<u8>,
    input_ended: bool,
}

impl Attacher {
    pub(super) fn new(socket: OwnedFd, streams: Streams) -> Result<Self> {
        set_nonblocking(&socket)?;
        Ok(Self { socket, streams, pending: Vec::new(), input_ended: !streams.stdin })
    }

    /// Whether output must wait for it: nothing is dropped, so the container is held up, as on a pipe.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn poll_fd(&self, takes_input: bool) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        if takes_input && !self.input_ended {
            flags |= PollFlags::IN;
        }
        if self.is_behind() {
            flags |= PollFlags::OUT;
        }
        PollFd::new(&self.socket, flags)
    }

    /// Sends output; `false` when the client is gone.
    pub(super) fn send(&mut self, stream: Stream, bytes: &[u8], is_raw: bool) -> bool {
        let wants = match stream {
            Stream::Stdout => self.streams.stdout,
            Stream::Stderr => self.streams.stderr,
        };
        if !wants {
            return true;
        }
        if !is_raw {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.pending.extend([stream as u8, 0, 0, 0, length[0], length[1], length[2], length[3]]);
        }
        self.pending.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends what is pending; `false` when the client is gone.
    pub(super) fn flush(&mut self) -> bool {
        let mut sent = 0;
        while let Some(rest) = self.pending.get(sent..).filter(|rest| !rest.is_empty()) {
            match rustix::net::send(&self.socket, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(written) => sent += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        self.pending.drain(..sent);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        true
    }

    /// Takes input; `false` when the client is gone.
    pub(super) fn take_input(&mut self, stdio: &mut Stdio, has_hung_up: bool) -> bool {
        while !self.input_ended && (has_hung_up || stdio.takes_input()) {
            let mut bytes = vec![0; 16 * 1024];
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => {
                    self.input_ended = true;
                    stdio.end_input();
                }
                Ok(length) => stdio.give_input(bytes.get(..length).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.input_ended = true;
                    stdio.end_input();
                    return false;
                }
            }
        }
        // Half closed, it still gets output; hung up, it has closed both directions.
        !has_hung_up && (!self.input_ended || self.streams.stdout || self.streams.stderr)
    }

    /// Waits until the client has all of it, or has gone.
    pub(super) fn finish(&mut self) {
        while self.flush() && self.is_behind() {
            let mut fds = [PollFd::new(&self.socket, PollFlags::OUT)];
            if matches!(poll(&mut fds, None), Err(error) if error != Errno::INTR) {
                return;
            }
        }
    }
}
