//! `exec`: one more process in a running container.

use std::path::PathBuf;

use super::args::Args;
use crate::capabilities;
use crate::container::{StateRoot, Status};
use crate::error::{Doing, Error, Result};
use crate::launch::{Exec, exec as launch_exec};
use crate::relay;
use crate::seccomp;
use crate::spec::Process;

#[derive(Default)]
struct Options {
    process_file: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    console_socket: Option<PathBuf>,
    is_detached: bool,
    ignores_pause: bool,
    preserved_fds: u32,
    changes: Changes,
    id: String,
    command: Vec<String>,
}

/// What the flags change of the container's own process.
#[derive(Default)]
struct Changes {
    is_terminal: bool,
    cwd: Option<String>,
    env: Vec<String>,
    user: Option<String>,
    groups: Vec<u32>,
    capabilities: Vec<String>,
    no_new_privileges: bool,
}

fn parse(args: &mut Args) -> Result<Options> {
    let mut options = Options::default();
    let number = |flag: &str, text: String| {
        text.parse::<u32>().map_err(|_| Error::invalid(format!("{flag} {text:?} is no number")))
    };
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--process" | "-p" => options.process_file = Some(args.value(&word)?.into()),
            "--pid-file" => options.pid_file = Some(args.value(&word)?.into()),
            "--console-socket" => options.console_socket = Some(args.value(&word)?.into()),
            "--detach" | "-d" => options.is_detached = args.switch(),
            "--ignore-paused" => options.ignores_pause = args.switch(),
            "--tty" | "-t" => options.changes.is_terminal = args.switch(),
            "--cwd" => options.changes.cwd = Some(args.value(&word)?),
            "--env" | "-e" => options.changes.env.push(args.value(&word)?),
            "--user" | "-u" => options.changes.user = Some(args.value(&word)?),
            "--additional-gids" | "-g" => options.changes.groups.push(number(&word, args.value(&word)?)?),
            "--cap" | "-c" => options.changes.capabilities.push(args.value(&word)?),
            "--no-new-privs" => options.changes.no_new_privileges = args.switch(),
            "--preserve-fds" => options.preserved_fds = number(&word, args.value(&word)?)?,
            flag if flag.starts_with('-') => return Err(Error::invalid(format!("flag {flag} is unknown"))),
            _ => {
                options.id = word;
                options.command = args.rest();
                break;
            }
        }
    }
    // A command may be set apart by `--`.
    if options.command.first().is_some_and(|word| word == "--") {
        options.command.remove(0);
    }
    if options.id.is_empty() { Err(Error::invalid("exec needs a container id")) } else { Ok(options) }
}

pub(super) fn exec(root: &StateRoot, args: &mut Args) -> Result<i32> {
    let options = parse(args)?;
    let record = root.load(&options.id)?;
    match record.status(&root.file(&options.id)?) {
        Status::Running | Status::Created => {}
        Status::Paused if options.ignores_pause => {}
        status => {
            let what = format!("cannot exec in container {}: it is {}", options.id, status.as_str());
            return Err(Error::State { what });
        }
    }
    let process = process_of(&options, record.spec.process.clone().unwrap_or_default())?;
    if process.terminal && options.is_detached && options.console_socket.is_none() {
        return Err(Error::invalid("a detached terminal needs --console-socket"));
    }
    let filter =
        record.spec.linux.as_ref().and_then(|l| l.seccomp.as_ref()).map(seccomp::compile).transpose()?;
    let cgroups = record.cgroups()?;
    let signals = if options.is_detached { None } else { Some(relay::Signals::catch()?) };
    let launched = launch_exec(&Exec {
        pid: record.pid,
        process: &process,
        cgroups: &cgroups,
        filter: filter.as_ref(),
        state: record.oci_state(Status::Running),
        stdio: [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()],
        preserved_fds: options.preserved_fds,
    })?;
    if let (Some(socket), Some(terminal)) = (&options.console_socket, &launched.terminal) {
        super::create::send_terminal(socket, std::os::fd::AsFd::as_fd(terminal))?;
    }
    if let Some(file) = &options.pid_file {
        std::fs::write(file, launched.pid.to_string()).doing(|| format!("write {file:?}"))?;
    }
    let Some(signals) = signals else { return Ok(0) };
    let terminal = if options.console_socket.is_some() { None } else { launched.terminal.as_ref() };
    relay::until_exit(launched.pid, terminal, &signals)
}

/// The process of `--process`, or the container's own with the flags' changes.
fn process_of(options: &Options, base: Process) -> Result<Process> {
    if let Some(file) = &options.process_file {
        let bytes = std::fs::read(file).doing(|| format!("read {file:?}"))?;
        return serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(format!("{}: {error}", file.display())));
    }
    if options.command.is_empty() {
        return Err(Error::invalid("exec needs a command or --process"));
    }
    let changes = &options.changes;
    let mut process = Process { args: options.command.clone(), terminal: changes.is_terminal, ..base };
    if let Some(cwd) = &changes.cwd {
        process.cwd.clone_from(cwd);
    }
    process.env.extend(changes.env.iter().cloned());
    if let Some(user) = &changes.user {
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        let bad = || Error::invalid(format!("--user {user:?} is not uid[:gid]"));
        process.user.uid = uid.parse().map_err(|_| bad())?;
        if let Some(gid) = gid {
            process.user.gid = gid.parse().map_err(|_| bad())?;
        }
    }
    process.user.additional_gids.extend(&changes.groups);
    process.no_new_privileges |= changes.no_new_privileges;
    for name in &changes.capabilities {
        if !capabilities::names().contains(&name.as_str()) {
            return Err(Error::invalid(format!("capability {name:?} is unknown")));
        }
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push(name.clone());
        }
    }
    Ok(process)
}
