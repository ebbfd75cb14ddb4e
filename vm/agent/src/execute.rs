//! Programs that the host runs in the guest: a shell to look around, an archive to get files out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use vm_proto::stream::Piece;

use crate::channel::Stream;
use crate::children::{Children, Started};
use crate::sys;

const SHELL: &[&str] = &["/bin/sh", "-l"];
/// Pieces of output on their way.
const WAITING: usize = 8;

/// A program with its ends.
#[derive(Debug)]
pub(crate) struct Program {
    started: Started,
    input: Option<pipe::Sender>,
    outputs: Vec<(Piece, pipe::Receiver)>,
    terminal: Option<OwnedFd>,
}

/// Starts `command`, or a shell.
pub(crate) fn start(
    children: &Children,
    command: &[String],
    terminal: Option<(u16, u16)>,
) -> Result<Program> {
    let mut words = command.iter().map(String::as_str).collect::<Vec<_>>();
    if words.is_empty() {
        words.extend(SHELL);
    }
    let (program, arguments) = words.split_first().context("there is no command")?;
    let mut command = stdx::process::command(program);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .args(arguments)
        .current_dir("/root");
    match terminal {
        Some(size) => {
            let (ours, theirs) = open_terminal(size)?;
            command.env("TERM", "xterm-256color");
            command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
            sys::lead_session(&mut command);
            let started = children.spawn(&mut command)?;
            let (read, write) = (File::from(ours.try_clone()?), File::from(ours.try_clone()?));
            // A terminal's two directions are read and written as pipes are.
            let output = pipe::Receiver::from_file_unchecked(nonblocking(read)?)?;
            let input = pipe::Sender::from_file_unchecked(nonblocking(write)?)?;
            Ok(Program {
                started,
                input: Some(input),
                outputs: vec![(Piece::Output, output)],
                terminal: Some(ours),
            })
        }
        None => {
            let (their_input, input) = pipe::pipe().map(|(sender, receiver)| (receiver, sender))?;
            let (their_output, output) = pipe::pipe()?;
            let (their_error, error) = pipe::pipe()?;
            command.stdin(Stdio::from(their_input.into_blocking_fd()?));
            command.stdout(their_output.into_blocking_fd()?).stderr(their_error.into_blocking_fd()?);
            let started = children.spawn(&mut command)?;
            // The command holds the child's ends of the pipes, which must not outlive it here.
            drop(command);
            let outputs = vec![(Piece::Output, output), (Piece::Error, error)];
            Ok(Program { started, input: Some(input), outputs, terminal: None })
        }
    }
}

fn nonblocking(file: File) -> Result<File> {
    rustix::io::ioctl_fionbio(&file, true)?;
    Ok(file)
}

fn open_terminal((rows, columns): (u16, u16)) -> Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("failed to open a terminal")?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
    resize(&ours, rows, columns)?;
    Ok((ours, theirs))
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

impl Program {
    /// Carries its input and outputs until it ends; its exit code is the last piece.
    pub(crate) async fn carry(mut self, stream: Stream) -> io::Result<()> {
        let (from, to) = tokio::io::split(stream);
        let (sender, receiver) = mpsc::channel(WAITING);
        let readers: Vec<_> =
            self.outputs.drain(..).map(|(piece, pipe)| read_pieces(piece, pipe, sender.clone())).collect();
        drop(sender);
        let input = write_input(from, self.input.take(), self.terminal.take());
        let outputs = async {
            let both = join(readers);
            let (written, ()) = tokio::join!(write_pieces(to, receiver), both);
            written
        };
        let mut outputs = std::pin::pin!(outputs);
        let mut to = tokio::select! {
            written = &mut outputs => written?,
            ended = input => {
                // Input ends when the host has no more; the program may still write.
                ended?;
                outputs.await?
            }
        };
        let status = self.started.wait().await.map_err(io::Error::other)?;
        let code = status
            .code()
            .or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal));
        let mut piece = Piece::Exit.head(4).to_vec();
        piece.extend(code.unwrap_or(255).to_le_bytes());
        to.write_all(&piece).await?;
        to.shutdown().await
    }
}

/// Runs readers, of which there are at most two, to their ends.
async fn join(mut readers: Vec<impl Future<Output = ()>>) {
    match (readers.pop(), readers.pop()) {
        (Some(one), Some(other)) => drop(tokio::join!(one, other)),
        (Some(one), None) => one.await,
        _ => {}
    }
}

async fn read_pieces(piece: Piece, mut pipe: pipe::Receiver, to: mpsc::Sender<(Piece, Vec<u8>)>) {
    loop {
        let mut bytes = vec![0; 16 << 10];
        match pipe.read(&mut bytes).await {
            // The end; of a terminal whose program is gone, an error.
            Ok(0) | Err(_) => return,
            Ok(length) => bytes.truncate(length),
        }
        if to.send((piece, bytes)).await.is_err() {
            return;
        }
    }
}

async fn write_pieces(
    mut to: WriteHalf<Stream>,
    mut from: mpsc::Receiver<(Piece, Vec<u8>)>,
) -> io::Result<WriteHalf<Stream>> {
    while let Some((piece, bytes)) = from.recv().await {
        to.write_all(&piece.head(bytes.len())).await?;
        to.write_all(&bytes).await?;
    }
    Ok(to)
}

async fn write_input(
    mut from: ReadHalf<Stream>,
    mut input: Option<pipe::Sender>,
    terminal: Option<OwnedFd>,
) -> io::Result<()> {
    loop {
        let mut head = [0; Piece::HEAD];
        match from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let (piece, length) = Piece::parse(head).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; length];
        from.read_exact(&mut bytes).await?;
        match (piece, terminal.as_ref()) {
            (Piece::Input, _) if bytes.is_empty() => input = None,
            (Piece::Input, _) => {
                // A program that closed its input does not want any.
                if let Some(pipe) = &mut input
                    && pipe.write_all(&bytes).await.is_err()
                {
                    input = None;
                }
            }
            (Piece::Resize, Some(terminal)) => {
                if let &[a, b, c, d] = bytes.as_slice() {
                    resize(terminal, u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))?;
                }
            }
            _ => {}
        }
    }
}
