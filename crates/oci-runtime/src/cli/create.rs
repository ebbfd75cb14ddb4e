//! `create`, `start` and `run`.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::args::Args;
use crate::cgroup::{Cgroups, Missing};
use crate::container::{self, CgroupDriver, OCI_VERSION, Record, StateRoot, Status};
use crate::error::{Doing, Error, Result};
use crate::hooks;
use crate::launch::{Launch, Launched, launch};
use crate::relay;
use crate::seccomp;
use crate::spec::{self, Spec};

#[derive(Default)]
struct Options {
    bundle: PathBuf,
    console_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    preserved_fds: u32,
    is_detached: bool,
    keeps: bool,
    id: String,
}

fn parse(args: &mut Args) -> Result<Options> {
    let mut options = Options {
        bundle: std::env::current_dir().doing(|| "find the current directory")?,
        ..Options::default()
    };
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--bundle" | "-b" => {
                let given = args.value(&word)?;
                options.bundle =
                    std::fs::canonicalize(&given).doing(|| format!("find the bundle {given:?}"))?;
            }
            "--console-socket" => options.console_socket = Some(args.value(&word)?.into()),
            "--pid-file" => options.pid_file = Some(args.value(&word)?.into()),
            "--preserve-fds" => {
                let text = args.value(&word)?;
                options.preserved_fds = text
                    .parse()
                    .map_err(|_| Error::invalid(format!("--preserve-fds {text:?} is no number")))?;
            }
            "--detach" | "-d" => options.is_detached = args.switch(),
            "--keep" => options.keeps = args.switch(),
            // Session keyrings are not made, so there is none to leave out.
            "--no-new-keyring" => {}
            "--no-pivot" => {
                let what = "--no-pivot is not supported: a root entered by MS_MOVE can be left again".into();
                return Err(Error::Unsupported { what });
            }
            flag if flag.starts_with('-') => return Err(Error::invalid(format!("flag {flag} is unknown"))),
            _ => options.id = word,
        }
    }
    if options.id.is_empty() { Err(Error::invalid("a container id is missing")) } else { Ok(options) }
}

pub(super) fn create(root: &StateRoot, driver: CgroupDriver, args: &mut Args) -> Result<()> {
    let options = parse(args)?;
    make(root, driver, &options, Gate::Closed).map(drop)
}

/// Whether the program waits for `start`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Closed,
    None,
}

/// A container that was made.
struct Made {
    record: Record,
    launched: Launched,
    cgroups: Cgroups,
}

/// Makes the container; what was made of it is removed where that fails.
fn make(root: &StateRoot, driver: CgroupDriver, options: &Options, gate: Gate) -> Result<Made> {
    let spec = container::read_bundle(&options.bundle)?;
    let wants_terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    let is_apart = gate == Gate::Closed || options.is_detached;
    if wants_terminal && is_apart && options.console_socket.is_none() {
        return Err(Error::invalid("process.terminal needs --console-socket"));
    }
    let file = root.reserve(&options.id)?;
    let made = make_at(&file, driver, options, spec, gate);
    if made.is_err() {
        // The first failure is the one to tell.
        let _ = container::forget(&file);
    }
    made
}

fn make_at(file: &Path, driver: CgroupDriver, options: &Options, spec: Spec, gate: Gate) -> Result<Made> {
    let rootfs = spec.root.as_ref().map(|root| options.bundle.join(&root.path)).unwrap_or_default();
    let filter =
        spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()).map(seccomp::compile).transpose()?;
    let fifo = if gate == Gate::Closed { Some(make_gate(file)?) } else { None };
    let missing = if crate::process::is_host_root() { Missing::Refuse } else { Missing::Tolerate };
    let mut cgroups = container::begin_cgroups(&spec, &options.id, driver, missing)?;
    let state = spec::State {
        oci_version: OCI_VERSION.into(),
        id: options.id.clone(),
        status: "creating".into(),
        pid: 0,
        bundle: options.bundle.clone(),
        annotations: spec.annotations.clone(),
    };
    let launch_of = Launch {
        spec: &spec,
        state,
        rootfs: &rootfs,
        overlay: None,
        missing_cgroups: missing,
        filter: filter.as_ref(),
        stdio: [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()],
        gate: fifo.as_ref().map(AsFd::as_fd),
        preserved_fds: options.preserved_fds,
        has_init: false,
    };
    let launched = launch(&launch_of, &mut cgroups);
    let made = launched.and_then(|launched| {
        let start_time = container::process_stat(launched.pid).map_or(0, |(_, started)| started);
        let record = Record {
            id: options.id.clone(),
            pid: launched.pid,
            start_time,
            bundle: options.bundle.clone(),
            rootfs,
            created: super::now(),
            cgroup_path: cgroups.path().to_owned(),
            unit: cgroups.unit().cloned(),
            spec,
        };
        publish(file, options, &record, &launched).map(|()| (record, launched))
    });
    if made.is_err() {
        // What is in it goes first, or it can't be removed.
        let _ = cgroups.kill();
        let _ = cgroups.delete();
    }
    made.map(|(record, launched)| Made { record, launched, cgroups })
}

fn publish(file: &Path, options: &Options, record: &Record, launched: &Launched) -> Result<()> {
    record.save(file)?;
    if let (Some(socket), Some(terminal)) = (&options.console_socket, &launched.terminal) {
        send_terminal(socket, terminal.as_fd())?;
    }
    if let Some(path) = &options.pid_file {
        std::fs::write(path, launched.pid.to_string()).doing(|| format!("write {path:?}"))?;
    }
    Ok(())
}

/// Hands the terminal's master to whoever listens, as runc does (docs/terminals.md there).
pub(super) fn send_terminal(socket: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let step = || format!("hand the terminal to {socket:?}");
    let stream = std::os::unix::net::UnixStream::connect(socket).doing(step)?;
    stdx::socket::send_with_fds(stream.as_fd(), b"/dev/ptmx", &[master]).doing(step)
}

/// A pipe with a name, open at both ends, that the program waits on.
fn make_gate(file: &Path) -> Result<OwnedFd> {
    let path = container::gate_of(file);
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .doing(|| format!("make {path:?}"))?;
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).doing(|| format!("open {path:?}"))
}

pub(super) fn start(root: &StateRoot, args: &mut Args) -> Result<()> {
    let id = args.next_word().ok_or_else(|| Error::invalid("start needs a container id"))?;
    let record = root.load(&id)?;
    let file = root.file(&id)?;
    match record.status(&file) {
        Status::Created => {}
        status => {
            return Err(Error::State { what: format!("container {id} is {}, not created", status.as_str()) });
        }
    }
    let fifo = container::gate_of(&file);
    let gate = rustix::fs::open(&fifo, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {fifo:?}"))?;
    std::fs::File::from(gate).write_all(b"0").doing(|| format!("start container {id}"))?;
    std::fs::remove_file(&fifo).doing(|| format!("remove {fifo:?}"))?;
    run_poststart(&record)
}

fn run_poststart(record: &Record) -> Result<()> {
    let Some(all) = &record.spec.hooks else { return Ok(()) };
    hooks::run("poststart", &all.poststart, &record.oci_state(Status::Running))
}

pub(super) fn run(root: &StateRoot, driver: CgroupDriver, args: &mut Args) -> Result<i32> {
    let options = parse(args)?;
    let signals = if options.is_detached { None } else { Some(relay::Signals::catch()?) };
    let Made { record, launched, cgroups } = make(root, driver, &options, Gate::None)?;
    let file = root.file(&options.id)?;
    let started = run_poststart(&record);
    let Some(signals) = signals.filter(|_| started.is_ok()) else {
        if started.is_err() {
            let _ = record.delete_with(&file, &cgroups);
        }
        return started.map(|()| 0);
    };
    let terminal = if options.console_socket.is_some() { None } else { launched.terminal.as_ref() };
    let code = relay::until_exit(launched.pid, terminal, &signals)?;
    if !options.keeps {
        record.delete_with(&file, &cgroups)?;
    }
    Ok(code)
}
