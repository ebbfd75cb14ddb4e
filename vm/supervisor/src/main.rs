//! `cove-machine`: owns one machine, its devices, and what crosses between it and its host.
//!
//! A process for each machine, started by `cove` and ending with the machine, so that closing a window stops nothing.
//! [`machine`] is the one task that owns the state; what it decides comes from `vm_manager::lifecycle`. Start reading
//! there, then [`platform`] for what the machine is made with on this system, [`guest`] for the conversation with its
//! agent, and [`engine`], [`ports`] and [`execute`] for what crosses.

mod balloon;
/// Used on Windows, tested everywhere.
#[cfg(any(windows, test))]
mod carried;
/// Used on macOS, tested on any Unix.
#[cfg(any(target_os = "macos", all(unix, test)))]
mod channel;
mod clock;
/// Used on macOS and Windows, tested everywhere.
#[cfg(any(target_os = "macos", windows, test))]
mod connecting;
mod console;
mod control;
mod engine;
mod execute;
mod guest;
mod loopback;
mod machine;
mod platform;
mod ports;
mod preparation;
mod room;
/// Used on Windows, tested everywhere.
#[cfg(any(windows, test))]
mod sockets;
mod ssh_agent;
mod told;
mod trust;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use vm_manager::places::Folders;
use vm_proto::message::Mode;

/// Owns one machine. `cove machine` starts it.
#[derive(Parser, Debug)]
#[command(
    name = "cove-machine",
    version,
    about,
    after_help = "\
Example:
  cove-machine run dev --data /var/lib/cove/machines --run /run/cove/machines --images /usr/share/cove/guest"
)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start a machine and stay with it until it has ended
    Run(RunArgs),
    /// Print the certificates that people made this computer trust
    #[cfg(windows)]
    #[command(hide = true)]
    Certificates,
}

#[derive(clap::Args, Debug)]
struct RunArgs {
    /// Its name
    name: String,
    /// The folder of all machines' files
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The folder of all machines' sockets
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// The folder of guest images
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    /// With the data disk read-only and no engine
    #[arg(long)]
    rescue: bool,
}

fn main() -> std::process::ExitCode {
    let Args { verb } = Args::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("COVE_LOG");
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(filter.unwrap_or_else(|_| "warn,cove_machine=info,vm_devices=info".into()))
        .init();
    let outcome = match verb {
        Verb::Run(args) => run(&args),
        #[cfg(windows)]
        Verb::Certificates => platform::certificates::print(),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs) -> Result<()> {
    let folders = Folders { data: args.data.clone(), run: args.run.clone() };
    let places = folders.machine(&args.name)?;
    let config = vm_manager::config::Config::read(&places)?;
    let lock = std::fs::File::create(places.lock()).context("failed to open the machine's lock")?;
    if lock.try_lock().is_err() {
        bail!("machine {:?} has a supervisor already", args.name);
    }
    vm_manager::places::make_private(&places.run)?;
    // Whoever had these is gone: the lock was free.
    for entry in std::fs::read_dir(&places.run).context("failed to look at the machine's sockets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sock") {
            std::fs::remove_file(&path).context("failed to remove a socket that was left")?;
        }
    }
    if let Err(error) = platform::raise_open_files() {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .context("failed to start the event loop")?;
    let mode = if args.rescue { Mode::Rescue } else { Mode::Normal };
    let outcome = runtime.block_on(machine::supervise(places, config, args.images.clone(), mode));
    runtime.shutdown_background();
    drop(lock);
    outcome
}
