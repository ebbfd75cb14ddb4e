//! The command line of `cove-runtime`: runc's commands and flags, so that other engines can use it.

mod args;
mod create;
mod exec;
mod features;
mod inspect;

use std::io::Write;
use std::path::PathBuf;

use crate::container::{self, CgroupDriver, StateRoot, Status};
use crate::error::{Error, Result};
use crate::spec::Resources;
use args::Args;

const USAGE: &str = "\
cove-runtime: runs OCI bundles (runtime-spec 1.2), with runc's command line

Usage: cove-runtime [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND [flags] ID

  create ID   make a container from a bundle       run ID      create, start, wait, delete
  start ID    execute its program                  exec ID     run one more process in it
  state ID    print its state as JSON              list        print all containers
  kill ID S   send a signal                        delete ID   remove a stopped one
  ps ID       list its processes                   events ID   print its statistics
  pause ID    freeze its processes                 resume ID   let them go on
  update ID   change its limits                    spec        write an example config.json
  features    print what is supported, as JSON     monitor, netns-holder: used by coved

Examples:
  cove-runtime run --bundle ./bundle web
  cove-runtime exec --tty web sh
  podman --runtime /usr/bin/cove-runtime run --rm alpine true
";

/// Where messages go besides stderr.
struct Log {
    file: Option<PathBuf>,
    is_json: bool,
}

/// Runs the command line; returns the exit code.
#[must_use]
pub fn main() -> i32 {
    let mut args = Args::new(std::env::args().skip(1));
    let mut log = Log { file: None, is_json: false };
    match run(&mut args, &mut log) {
        Ok(code) => code,
        Err(error) => {
            log.report(&error.chain());
            match error {
                Error::Child { is_exec: true, errno: libc::ENOENT, .. } => 127,
                Error::Child { is_exec: true, .. } => 126,
                _ => 1,
            }
        }
    }
}

fn run(args: &mut Args, log: &mut Log) -> Result<i32> {
    let mut root = None;
    let mut driver = CgroupDriver::Cgroupfs;
    while let Some(flag) = args.leading_flag() {
        match flag.as_str() {
            "--root" => root = Some(PathBuf::from(args.value("--root")?)),
            "--log" => log.file = Some(PathBuf::from(args.value("--log")?)),
            "--log-format" => log.is_json = args.value("--log-format")? == "json",
            "--rootless" => drop(args.value("--rootless")?),
            // Levels of output this runtime does not have: it reports failures and nothing else.
            "--debug" => {}
            // A container that there is already has it on record who made its cgroups.
            "--systemd-cgroup" => {
                driver = if args.switch() { CgroupDriver::Systemd } else { CgroupDriver::Cgroupfs };
            }
            "--version" | "-v" => {
                print(&format!(
                    "cove-runtime version {}\nspec: {}\n",
                    env!("CARGO_PKG_VERSION"),
                    container::OCI_VERSION
                ));
                return Ok(0);
            }
            "--help" | "-h" => {
                print(USAGE);
                return Ok(0);
            }
            other => return Err(Error::invalid(format!("flag {other} is unknown; see cove-runtime --help"))),
        }
    }
    let root = StateRoot::new(root);
    let Some(command) = args.positional() else {
        print(USAGE);
        return Ok(0);
    };
    match command.as_str() {
        "create" => create::create(&root, driver, args).map(|()| 0),
        "run" => create::run(&root, driver, args),
        "start" => create::start(&root, args).map(|()| 0),
        "exec" => exec::exec(&root, args),
        "state" => inspect::state(&root, args).map(|()| 0),
        "list" => inspect::list(&root, args).map(|()| 0),
        "ps" => inspect::ps(&root, args).map(|()| 0),
        "events" => inspect::events(&root, args).map(|()| 0),
        "kill" => kill(&root, args).map(|()| 0),
        "delete" => delete(&root, args).map(|()| 0),
        "pause" => freeze(&root, args, true).map(|()| 0),
        "resume" => freeze(&root, args, false).map(|()| 0),
        "update" => update(&root, args).map(|()| 0),
        "spec" => features::spec(args).map(|()| 0),
        "monitor" => crate::monitor::main(),
        "netns-holder" => crate::holder::main(crate::holder::state_dir(args.next_word())?),
        "features" => {
            features::features();
            Ok(0)
        }
        "help" => {
            print(USAGE);
            Ok(0)
        }
        other => Err(Error::invalid(format!("command {other:?} is unknown; see cove-runtime --help"))),
    }
}

fn kill(root: &StateRoot, args: &mut Args) -> Result<()> {
    let mut is_all = false;
    let mut words = Vec::new();
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--all" | "-a" => is_all = true,
            _ => words.push(word),
        }
    }
    let id = words.first().ok_or_else(|| Error::invalid("kill needs a container id"))?;
    let signal = container::parse_signal(words.get(1).map_or("TERM", String::as_str))?;
    let record = root.load(id)?;
    container::kill(&record, &root.file(id)?, signal, is_all)
}

fn delete(root: &StateRoot, args: &mut Args) -> Result<()> {
    let mut is_forced = false;
    let mut id = None;
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--force" | "-f" => is_forced = true,
            _ => id = Some(word),
        }
    }
    let id = id.ok_or_else(|| Error::invalid("delete needs a container id"))?;
    let file = root.file(&id)?;
    let record = match root.load(&id) {
        Err(Error::NotFound { .. }) if is_forced => {
            // A creation that was cut off leaves a file without state.
            return container::forget(&file);
        }
        other => other?,
    };
    match record.status(&file) {
        Status::Stopped => {}
        Status::Created | Status::Running | Status::Paused if is_forced => {
            // cgroup.kill reaches frozen processes too; without cgroups, the first process takes
            // its pid namespace along.
            let _ = record.cgroups()?.kill();
            let _ = crate::sys::kill(record.pid, libc::SIGKILL);
            wait_until_gone(&record)?;
        }
        status => {
            let what = format!("container {id} is {}; stop it first or use --force", status.as_str());
            return Err(Error::State { what });
        }
    }
    record.delete(&file)
}

fn wait_until_gone(record: &container::Record) -> Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while container::is_alive(record.pid, record.start_time) {
        if std::time::Instant::now() > deadline {
            return Err(Error::State { what: format!("container {} survived SIGKILL for 10 s", record.id) });
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

fn freeze(root: &StateRoot, args: &mut Args, is_frozen: bool) -> Result<()> {
    let id = args.next_word().ok_or_else(|| Error::invalid("a container id is missing"))?;
    let record = root.load(&id)?;
    match (record.status(&root.file(&id)?), is_frozen) {
        (Status::Running | Status::Created, true) | (Status::Paused, false) => {
            record.cgroups()?.freeze(is_frozen)
        }
        (status, _) => Err(Error::State { what: format!("container {id} is {}", status.as_str()) }),
    }
}

fn update(root: &StateRoot, args: &mut Args) -> Result<()> {
    let mut resources = Resources::default();
    let mut id = None;
    while let Some(word) = args.next_word() {
        let flag = word.clone();
        let mut number = || -> Result<i64> {
            let text = args.value(&flag)?;
            text.parse().map_err(|_| Error::invalid(format!("{flag}: {text:?} is no number")))
        };
        let positive = |n: i64| u64::try_from(n).map_err(|_| Error::invalid(format!("{n} is negative")));
        match word.as_str() {
            "-r" | "--resources" => {
                let file = args.value(&word)?;
                let bytes = if file == "-" {
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
                } else {
                    std::fs::read(&file)
                };
                let bytes = crate::error::Doing::doing(bytes, || format!("read {file}"))?;
                resources = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::invalid(format!("resources in {file}: {error}")))?;
            }
            "--memory" => resources.memory.get_or_insert_default().limit = Some(number()?),
            "--memory-swap" => resources.memory.get_or_insert_default().swap = Some(number()?),
            "--memory-reservation" => resources.memory.get_or_insert_default().reservation = Some(number()?),
            "--cpu-quota" => resources.cpu.get_or_insert_default().quota = Some(number()?),
            "--cpu-period" => resources.cpu.get_or_insert_default().period = Some(positive(number()?)?),
            "--cpu-burst" => resources.cpu.get_or_insert_default().burst = Some(positive(number()?)?),
            "--cpu-share" => resources.cpu.get_or_insert_default().shares = Some(positive(number()?)?),
            "--cpuset-cpus" => resources.cpu.get_or_insert_default().cpus = args.value(&word)?,
            "--cpuset-mems" => resources.cpu.get_or_insert_default().mems = args.value(&word)?,
            "--pids-limit" => resources.pids.get_or_insert_default().limit = number()?,
            "--blkio-weight" => {
                let weight =
                    u16::try_from(number()?).map_err(|_| Error::invalid("--blkio-weight is out of range"))?;
                resources.block_io.get_or_insert_default().weight = Some(weight);
            }
            flag if flag.starts_with('-') => return Err(Error::invalid(format!("flag {flag} is unknown"))),
            _ => id = Some(word),
        }
    }
    let id = id.ok_or_else(|| Error::invalid("update needs a container id"))?;
    root.load(&id)?.cgroups()?.update(&resources)
}

impl Log {
    fn report(&self, message: &str) {
        warn(message);
        let Some(file) = &self.file else { return };
        let line = if self.is_json {
            let entry = serde_json::json!({ "level": "error", "msg": message, "time": now() });
            format!("{entry}\n")
        } else {
            format!("time=\"{}\" level=error msg={message:?}\n", now())
        };
        let open = std::fs::OpenOptions::new().create(true).append(true).open(file);
        // The message is on stderr already.
        let _ = open.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Says something on stderr.
pub(crate) fn warn(message: &str) {
    // With stderr closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "cove-runtime: {message}");
}

fn print(text: &str) {
    // A closed pipe ends output, not the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// RFC 3339 in UTC, to the nanosecond.
pub(crate) fn now() -> String {
    crate::clock::rfc3339(crate::clock::now())
}
