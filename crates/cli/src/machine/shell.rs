//! Programs in a machine, beside its containers: `machine shell`, and what is built on it.

use std::path::Path;

use clap::Args;
use host::machine::{Machine, Supervisor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vm_proto::stream::Piece;

use super::{find, machine_error};
use crate::exit::{Failure, Outcome};
use crate::printer;
use crate::sys::Resizes;
use crate::terminal::{self, RawMode};

/// Flags of `machine shell`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove machine shell dev
  cove machine shell dev -- dmesg
  tar c . | cove machine shell dev -- tar x -C /tmp")]
pub(crate) struct ShellArgs {
    /// The machine
    #[arg(default_value = super::DEFAULT)]
    name: String,
    /// A program and its arguments, instead of a shell
    #[arg(last = true)]
    command: Vec<String>,
}

pub(super) async fn shell(args: ShellArgs) -> Outcome {
    let machine = find(&args.name)?;
    let size = (terminal::is_input() && printer::is_terminal() && args.command.is_empty())
        .then(|| terminal::size().unwrap_or((24, 80)));
    let raw = size.and_then(|_| RawMode::enter());
    let code = run(&machine, args.command, size, true, printer::bytes).await;
    drop(raw);
    code
}

/// Runs a program; what it prints goes to `output`. Its exit code.
async fn run(
    machine: &Machine,
    command: Vec<String>,
    size: Option<(u16, u16)>,
    takes_input: bool,
    mut output: impl FnMut(&[u8]),
) -> Outcome {
    machine.config().map_err(machine_error)?;
    let name = machine.places().name.clone();
    let not_running = |_| machine_error(host::machine::Error::NotRunning { name });
    let supervisor = Supervisor::connect(machine.places()).await.map_err(not_running)?;
    let stream = supervisor.execute(command, size).await.map_err(machine_error)?;
    let (mut from, to) = tokio::io::split(stream);
    let input = async {
        // Its end is not ours: the program may still print.
        let _ = carry_input(to, takes_input, size.is_some()).await;
        std::future::pending::<()>().await;
    };
    let outputs = async {
        loop {
            let mut head = [0; Piece::HEAD];
            if from.read_exact(&mut head).await.is_err() {
                return Err(Failure::new("the machine went away"));
            }
            let parsed =
                Piece::parse(head).ok_or_else(|| Failure::new("the machine sends what can't be understood"));
            let (piece, length) = parsed?;
            let mut bytes = vec![0; length];
            from.read_exact(&mut bytes).await?;
            match piece {
                Piece::Output => output(&bytes),
                Piece::Error => printer::error_bytes(&bytes),
                Piece::Exit => {
                    printer::flush();
                    let code = bytes.first_chunk::<4>().map_or(255, |code| i32::from_le_bytes(*code));
                    return Ok(u8::try_from(code & 0xff).unwrap_or(255));
                }
                Piece::Input | Piece::Resize => {}
            }
            printer::flush();
        }
    };
    tokio::select! {
        outcome = outputs => outcome,
        () = input => Ok(0),
    }
}

async fn carry_input(
    mut to: impl AsyncWriteExt + Unpin,
    takes_input: bool,
    is_terminal: bool,
) -> std::io::Result<()> {
    let mut resized = Resizes::new()?;
    let mut input = tokio::io::stdin();
    let mut bytes = vec![0; 32 << 10];
    let mut is_open = takes_input;
    if !is_open {
        to.write_all(&Piece::Input.head(0)).await?;
    }
    loop {
        tokio::select! {
            length = input.read(&mut bytes), if is_open => {
                let length = length?;
                to.write_all(&Piece::Input.head(length)).await?;
                to.write_all(bytes.get(..length).unwrap_or_default()).await?;
                to.flush().await?;
                is_open = length > 0;
            }
            () = resized.next(), if is_terminal => {
                let (rows, columns) = terminal::size().unwrap_or((24, 80));
                to.write_all(&Piece::Resize.head(4)).await?;
                to.write_all(&[rows.to_le_bytes(), columns.to_le_bytes()].concat()).await?;
                to.flush().await?;
            }
            else => return Ok(()),
        }
    }
}

/// Writes all volumes of a machine to a tar archive.
pub(super) async fn save(machine: &Machine, file: &Path) -> Outcome {
    let half = file.with_extension("half");
    let mut to = std::fs::File::create(&half)?;
    let mut failed = None;
    let command = ["tar", "c", "-C", "/var/lib/cove/volumes", "."].map(str::to_owned).to_vec();
    let code = run(machine, command, None, false, |bytes| {
        if failed.is_none() {
            failed = std::io::Write::write_all(&mut to, bytes).err();
        }
    })
    .await?;
    if let Some(error) = failed {
        return Err(Failure::new(format!("failed to write {}: {error}", half.display())));
    }
    if code != 0 {
        return Err(Failure::new("the machine's volumes could not be read to their end").with_code(code));
    }
    to.sync_all()?;
    std::fs::rename(&half, file)?;
    printer::line(file.display());
    Ok(0)
}
