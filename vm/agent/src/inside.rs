//! An agent that is not alone in its machine, as in WSL2: its kernel, first process and network are somebody else's, and
//! the host is reached by no more than its own input and output.
//!
//! What is started there (`cove-agent inside --root DIR`) is two processes. The outer one carries streams between the
//! host and sockets in a folder ([`crate::channel`]). The inner one is the agent, the first process of namespaces of its
//! own: it ends, and so does all that runs in them, by the same calls as a machine does.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipc::mux::{self, Opener, Side};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;
use tokio::net::{UnixListener, UnixStream};
use vm_proto::port;

use crate::channel::{self, FOLDER};
use crate::tell;

/// The word that says so.
pub(crate) const WORD: &str = "inside";
/// The word of the one between them: who makes a namespace of processes starts no threads any more (pid_namespaces(7)).
pub(crate) const BETWEEN: &str = "inside-between";
/// The inner one's.
const FIRST: &str = "inside-first";
/// How long the agent may take to end after its host has hung up: containers may take ten seconds.
const END_DEADLINE: Duration = Duration::from_secs(30);

/// Whether the first process is this kind of agent; the folder of its system then.
pub(crate) fn root_of_first() -> Option<PathBuf> {
    let mut words = std::env::args_os().skip(1);
    let root = (words.next()? == FIRST).then(|| words.next().map(PathBuf::from)).flatten()?;
    // Nobody is told of its end but by who started it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    Some(root)
}

/// The outer process.
pub(crate) fn run() -> ExitCode {
    match carry() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("cove-agent: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn carry() -> Result<()> {
    let mut words = std::env::args_os().skip(2);
    let (Some(option), Some(root), None) = (words.next(), words.next(), words.next()) else {
        bail!("usage: cove-agent {WORD} --root DIR");
    };
    if option != "--root" {
        bail!("{} is unknown", option.display());
    }
    match fs::DirBuilder::new().mode(0o700).create(FOLDER) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("failed to make {FOLDER}"));
        }
        _ => {}
    }
    // Two agents of one system would take each other's sockets.
    let lock = fs::File::create(format!("{FOLDER}/lock")).context("failed to open the agent's lock")?;
    lock.try_lock().context("an agent runs here already")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let opener_side = tokio::io::join(tokio::io::stdin(), tokio::io::stdout());
        let (opener, mut incoming, carrier) = mux::over(opener_side, Side::Called);
        // They listen before there is anybody who connects.
        let to_host = [port::CONTROL, port::SSH_AGENT]
            .map(|port| channel::bind(&channel::of_host(port)).map(|listener| (port, listener)));
        let mut first = stdx::process::command("/proc/self/exe");
        first.arg(BETWEEN).arg(&root).stdin(Stdio::null()).stdout(io::stderr());
        let mut first = tokio::process::Command::from(first)
            .kill_on_drop(true)
            .spawn()
            .context("failed to start the agent")?;
        let mut tasks = tokio::task::JoinSet::new();
        for listener in to_host {
            let (port, listener) = listener?;
            tasks.spawn(to_host_port(listener, port, opener.clone()));
        }
        tasks.spawn(async move {
            let mut streams = tokio::task::JoinSet::new();
            while let Some(stream) = incoming.next().await {
                streams.spawn(async move { drop(from_host(stream).await) });
                while streams.try_join_next().is_some() {}
            }
        });
        let hung_up = tokio::select! {
            outcome = carrier.carry() => outcome,
            status = first.wait() => {
                let status = status?;
                return if status.success() { Ok(()) } else { bail!("the agent ended with {status}") };
            }
        };
        if let Err(error) = hung_up {
            tell(format_args!("cove-agent: the host is gone: {error}"));
        }
        // Its connections break, and it ends as it does when the host of a machine is gone.
        tasks.shutdown().await;
        let _ = tokio::time::timeout(END_DEADLINE, first.wait()).await;
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

/// The process between the two: starts the inner one, and ends with it.
pub(crate) fn stand_between() -> ExitCode {
    let begin = || -> Result<std::process::ExitStatus> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let root = std::env::args_os().nth(2).context("no folder is named")?;
        crate::sys::unshare(UnshareFlags::NEWPID | UnshareFlags::NEWUTS)
            .context("failed to make namespaces: this takes root")?;
        let mut first = stdx::process::command("/proc/self/exe");
        first.arg(FIRST).arg(root).stdin(Stdio::null()).stdout(io::stderr());
        first.status().context("failed to start the agent")
    };
    match begin() {
        // Told to end, it ends itself as a machine is powered off: by a signal.
        Ok(status) if status.success() || status.signal().is_some() => ExitCode::SUCCESS,
        Ok(status) => {
            tell(format_args!("cove-agent: the agent ended with {status}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            tell(format_args!("cove-agent: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn from_host(mut stream: mux::Stream) -> io::Result<()> {
    let port = mux::port(&mut stream).await?;
    // What is refused here is refused there: the stream ends without an answer.
    let mut inner = UnixStream::connect(channel::of_guest(port)).await?;
    mux::take(&mut stream).await?;
    ipc::relay(&mut stream, &mut inner).await;
    Ok(())
}

async fn to_host_port(listener: UnixListener, port: u32, opener: Opener) {
    let mut streams = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((mut inner, _)) => {
                let opener = opener.clone();
                streams.spawn(async move {
                    if let Ok(mut stream) = opener.connect(port).await {
                        ipc::relay(&mut inner, &mut stream).await;
                    }
                });
                while streams.try_join_next().is_some() {}
            }
            Err(error) => {
                tell(format_args!("cove-agent: failed to accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
