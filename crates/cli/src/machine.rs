//! Verbs about machines: `machine init`, `start`, `stop`, `sleep`, `status`, `ls`, `shell`, `logs`, `set`, `reset`, `rescue`,
//! `check` and `rm`.

mod check;
mod shell;
mod show;

use clap::{Args, Subcommand};
use host::machine::config::Config;
use host::machine::{Backend, Machine, Mode, Phase, Share, Stage, Status, size};

use crate::exit::{Failure, Outcome};
use crate::{printer, terminal};

/// What a machine is named when nobody says.
const DEFAULT: &str = "default";
const MEMORY: &str = "2G";
const DISK: &str = "64G";

#[derive(Subcommand, Debug)]
pub(crate) enum MachineVerb {
    /// Make a machine
    Init(InitArgs),
    /// Start a machine, and wait until its engine answers
    Start(StartArgs),
    /// Stop a machine, its containers first
    Stop(StopArgs),
    /// Save a machine's state and take nothing of this computer but its disk, until the next start or call
    Sleep(SleepArgs),
    /// Show how a machine stands
    Status(StatusArgs),
    /// List machines
    #[command(visible_alias = "list")]
    Ls(show::ListArgs),
    /// Run a shell or a program in a machine, beside its containers
    Shell(shell::ShellArgs),
    /// Show what a machine's console said
    Logs(LogsArgs),
    /// Change a machine; what can't change while it runs does at its next start
    Set(SetArgs),
    /// Begin anew with an empty disk
    Reset(ResetArgs),
    /// Start a machine with its disk read-only and no engine, to get files out of it
    Rescue(RescueArgs),
    /// Walk the hops between a machine and the world, and name the one that fails
    Check(check::CheckArgs),
    /// Remove machines, with their disks
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

/// Which machine.
#[derive(Args, Debug)]
pub(crate) struct Name {
    /// The machine
    #[arg(default_value = DEFAULT)]
    name: String,
}

/// Flags of `machine init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove machine init
  cove machine init dev --backend uml --memory 1G --share ~/src --share /data:ro
  cove machine init dev --sleep-after 10m --ssh-agent
  cove machine init --rosetta               on a Mac: containers for linux/amd64 run too
  cove machine start dev && cove --host machine://dev run --rm -it alpine sh")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    name: Name,
    /// On Linux qemu or uml (User Mode Linux: needs neither virtualization nor privilege, and is no wall against hostile
    /// code); on macOS vz (Virtualization.framework); on Windows hyperv or wsl2. Unless it is given: qemu, vz, and on Windows
    /// what this user may have, which is told
    #[arg(long)]
    backend: Option<String>,
    /// Processors
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = MEMORY)]
    memory: String,
    /// The largest its disk may become
    #[arg(long, value_name = "SIZE", default_value = DISK)]
    disk: String,
    /// A folder of this computer that the machine sees, PATH or PATH:ro; your home unless any is given
    #[arg(long, value_name = "PATH[:ro]")]
    share: Vec<String>,
    /// Share no folder at all
    #[arg(long, conflicts_with = "share")]
    no_share: bool,
    /// Fall asleep when nothing has run in it for so long: 30s, 10m, 1h
    #[arg(long, value_name = "TIME")]
    sleep_after: Option<String>,
    /// Let programs in it use your SSH agent, at /run/host-services/ssh-auth.sock
    #[arg(long)]
    ssh_agent: bool,
    /// Run programs for x86-64 by Rosetta (vz, on Apple silicon; macOS installs it by softwareupdate --install-rosetta)
    #[arg(long)]
    rosetta: bool,
}

/// Flags of `machine start`.
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    name: Name,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of `machine stop`.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    name: Name,
    /// At once, as a power cut would
    #[arg(short, long)]
    force: bool,
}

/// Flags of `machine sleep`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove machine sleep dev                    containers stand still, and go on when it wakes
  cove --host machine://dev ps              wakes it
  cove machine set dev --sleep-after 10m    it does so by itself when nothing runs in it")]
pub(crate) struct SleepArgs {
    #[command(flatten)]
    name: Name,
}

/// Flags of `machine status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    name: Name,
    /// json, or a Go template: '{{.phase}}'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Flags of `machine logs`.
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    name: Name,
    /// What its supervisor on this computer said, instead
    #[arg(long)]
    supervisor: bool,
}

/// Flags of `machine set`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove machine set --memory 4G --cpus 4
  cove machine set dev --share ~/src
  cove machine set dev --image previous
  cove machine set dev --ssh-agent on       then: cove --host machine://dev run \\
    -v /run/host-services/ssh-auth.sock:/agent -e SSH_AUTH_SOCK=/agent IMAGE ssh-add -l")]
pub(crate) struct SetArgs {
    #[command(flatten)]
    name: Name,
    /// Another kind of machine, as for init; the disk is kept
    #[arg(long)]
    backend: Option<String>,
    /// Processors
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// The largest its disk may become; it only grows
    #[arg(long, value_name = "SIZE")]
    disk: Option<String>,
    /// The folders it sees, instead of those it saw
    #[arg(long, value_name = "PATH[:ro]")]
    share: Vec<String>,
    /// Share no folder any more
    #[arg(long, conflicts_with = "share")]
    no_share: bool,
    /// The guest image: newest, previous, or a digest
    #[arg(long, value_name = "WHICH")]
    image: Option<String>,
    /// Fall asleep when nothing has run in it for so long (30s, 10m, 1h), or off
    #[arg(long, value_name = "TIME")]
    sleep_after: Option<String>,
    /// Let programs in it use your SSH agent, at /run/host-services/ssh-auth.sock: on or off
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    ssh_agent: Option<bool>,
    /// Run programs for x86-64 by Rosetta (vz, on Apple silicon; macOS installs it by softwareupdate --install-rosetta): on
    /// or off
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    rosetta: Option<bool>,
}

/// Flags of `machine reset`.
#[derive(Args, Debug)]
pub(crate) struct ResetArgs {
    #[command(flatten)]
    name: Name,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Volumes too; they are kept unless this is given
    #[arg(long)]
    volumes: bool,
}

/// Flags of `machine rescue`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  cove machine rescue dev --save volumes.tar    all volumes, as a tar archive; then the machine is stopped")]
pub(crate) struct RescueArgs {
    #[command(flatten)]
    name: Name,
    /// Write all volumes to a tar archive, and stop again
    #[arg(long, value_name = "FILE")]
    save: Option<std::path::PathBuf>,
}

/// Flags of `machine rm`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Don't ask, and stop those that run
    #[arg(short, long)]
    force: bool,
    /// The machines
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn dispatch(verb: MachineVerb) -> Outcome {
    match verb {
        MachineVerb::Init(args) => init(&args),
        MachineVerb::Start(args) => start(&args).await,
        MachineVerb::Stop(args) => stop(&args).await,
        MachineVerb::Sleep(args) => sleep(&args).await,
        MachineVerb::Status(args) => show::status(&args.name.name, args.format.as_deref()).await,
        MachineVerb::Ls(args) => show::list(args).await,
        MachineVerb::Shell(args) => shell::shell(args).await,
        MachineVerb::Logs(args) => logs(&args),
        MachineVerb::Set(args) => set(&args).await,
        MachineVerb::Reset(args) => reset(&args).await,
        MachineVerb::Rescue(args) => rescue(&args).await,
        MachineVerb::Check(args) => check::check(args).await,
        MachineVerb::Rm(args) => remove(&args).await,
    }
}

fn bytes(what: &str, text: &str) -> Outcome<u64> {
    size::parse(text).ok_or_else(|| Failure::new(format!("{what} can't be {text:?}: write it as 512M or 4G")))
}

fn shares(texts: &[String]) -> Outcome<Vec<Share>> {
    texts.iter().map(|text| text.parse::<Share>().map_err(|error| machine_error(error.into()))).collect()
}

fn machine_error(error: host::machine::Error) -> Failure {
    Failure::from(host::Error::from(error))
}

fn find(name: &str) -> Outcome<Machine> {
    Machine::named(name).map_err(machine_error)
}

fn init(args: &InitArgs) -> Outcome {
    let machine = find(&args.name.name)?;
    let (backend, reason) = match &args.backend {
        Some(name) => {
            let backend: Backend =
                name.parse().map_err(|error: vm_manager::Error| machine_error(error.into()))?;
            (backend, None)
        }
        None => {
            let chosen = host::machine::choose_backend().map_err(machine_error)?;
            (chosen.backend, chosen.reason)
        }
    };
    let available =
        std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
    let config = Config {
        backend,
        cpus: args.cpus.unwrap_or(available),
        memory: bytes("memory", &args.memory)?,
        disk: bytes("the disk", &args.disk)?,
        shares: if args.no_share {
            vec![]
        } else if args.share.is_empty() {
            home()?
        } else {
            shares(&args.share)?
        },
        image: None,
        sleep_after: args.sleep_after.as_deref().map_or(Ok(None), sleep_after)?,
        ssh_agent: args.ssh_agent,
        rosetta: args.rosetta,
    };
    machine.places().create(&config).map_err(|error| machine_error(error.into()))?;
    printer::line(&args.name.name);
    if let Some(reason) = reason {
        printer::note(format_args!("Its kind is {backend}: {reason}."));
    }
    if let Some(note) = vm_manager::backend::note_on_sizes(backend) {
        printer::note(format_args!("Its sizes: {note}."));
    }
    Ok(0)
}

fn sleep_after(text: &str) -> Outcome<Option<u64>> {
    host::machine::config::parse_sleep_after(text).map_err(|error| machine_error(error.into()))
}

/// The user's home, if it is a folder that can be shared.
fn home() -> Outcome<Vec<Share>> {
    let home = stdx::process::home().and_then(|home| home.into_os_string().into_string().ok());
    Ok(home.unwrap_or_default().parse::<Share>().into_iter().collect())
}

async fn start(args: &StartArgs) -> Outcome {
    bring_up(&args.name.name, Mode::Normal, args.quiet).await.map(|_| 0)
}

/// Starts a machine; its stages are told as they pass.
async fn bring_up(name: &str, mode: Mode, quiet: bool) -> Outcome<Status> {
    let machine = find(name)?;
    let mut told = 0;
    let mut warned: Vec<String> = Vec::new();
    let mut at: Option<Stage> = None;
    let bar = (!quiet && printer::is_terminal()).then(show::spinner);
    let outcome = machine
        .start(mode, |status| {
            for (stage, milliseconds) in status.took.iter().skip(told) {
                if !quiet && bar.is_none() {
                    printer::note(format_args!("{:<10} {milliseconds} ms", stage.name()));
                }
            }
            told = status.took.len();
            for warning in &status.warnings {
                if !warned.contains(warning) {
                    warned.push(warning.clone());
                    printer::note(format_args!("warning: {warning}"));
                }
            }
            if let (Some(bar), Some(stage)) = (&bar, status.stage)
                && at != Some(stage)
            {
                at = Some(stage);
                bar.set_message(format!("{name}: {}", stage.name()));
            }
        })
        .await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let status = outcome.map_err(machine_error)?;
    if !quiet {
        let all: u64 = status.took.iter().map(|(_, milliseconds)| milliseconds).sum();
        printer::note(format_args!(
            "{name} {} after {all} ms ({})",
            status.phase.name(),
            status.acceleration
        ));
    }
    Ok(status)
}

async fn stop(args: &StopArgs) -> Outcome {
    find(&args.name.name)?.stop(args.force).await.map_err(machine_error)?;
    printer::line(&args.name.name);
    Ok(0)
}

async fn sleep(args: &SleepArgs) -> Outcome {
    let machine = find(&args.name.name)?;
    let bar = printer::is_terminal().then(show::spinner);
    if let Some(bar) = &bar {
        bar.set_message(format!("{}: falling asleep", args.name.name));
    }
    let outcome = machine.sleep().await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    outcome.map_err(machine_error)?;
    printer::line(&args.name.name);
    Ok(0)
}

fn logs(args: &LogsArgs) -> Outcome {
    let machine = find(&args.name.name)?;
    machine.config().map_err(machine_error)?;
    let path = if args.supervisor { machine.places().log() } else { machine.places().console() };
    match std::fs::read(&path) {
        Ok(text) => printer::bytes(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            printer::note(format_args!("machine {:?} was not started yet", args.name.name));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}

async fn set(args: &SetArgs) -> Outcome {
    let machine = find(&args.name.name)?;
    let before = machine.config().map_err(machine_error)?;
    let mut config = before.clone();
    if let Some(backend) = &args.backend {
        let parsed = backend.parse().map_err(|error: vm_manager::Error| machine_error(error.into()));
        config.set_backend(parsed?);
    }
    if let Some(cpus) = args.cpus {
        config.cpus = cpus;
    }
    if let Some(memory) = &args.memory {
        config.memory = bytes("memory", memory)?;
    }
    if let Some(disk) = &args.disk {
        config.disk = bytes("the disk", disk)?;
    }
    if args.no_share {
        config.shares.clear();
    } else if !args.share.is_empty() {
        config.shares = shares(&args.share)?;
    }
    if let Some(text) = &args.sleep_after {
        config.sleep_after = sleep_after(text)?;
    }
    if let Some(ssh_agent) = args.ssh_agent {
        config.ssh_agent = ssh_agent;
    }
    if let Some(rosetta) = args.rosetta {
        config.rosetta = rosetta;
    }
    match args.image.as_deref() {
        Some("newest") => {
            config.image = None;
            machine.forget_failed_image().map_err(machine_error)?;
        }
        Some(which) => config.image = Some(which.to_owned()),
        None => {}
    }
    machine.change(&config).map_err(machine_error)?;
    if (args.cpus.is_some() || args.memory.is_some() || args.disk.is_some())
        && let Some(note) = vm_manager::backend::note_on_sizes(config.backend)
    {
        printer::note(format_args!("Its sizes: {note}."));
    }
    let has_sizes = machine.apply_sizes().await.map_err(machine_error)?;
    let status = machine.status().await.map_err(machine_error)?;
    let only_sizes = Config { memory: before.memory, disk: before.disk, ..config.clone() } == before;
    if config != before
        && !(only_sizes && has_sizes)
        && !matches!(status.phase, Phase::Stopped | Phase::Failed)
    {
        printer::note(format_args!(
            "{}from the next start on: cove machine stop {name} && cove machine start {name}",
            if has_sizes && !only_sizes && (config.memory, config.disk) != (before.memory, before.disk) {
                "Memory and disk hold now, the rest holds "
            } else {
                "This holds "
            },
            name = args.name.name
        ));
    }
    printer::line(&args.name.name);
    Ok(0)
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

async fn reset(args: &ResetArgs) -> Outcome {
    let machine = find(&args.name.name)?;
    let status = machine.status().await.map_err(machine_error)?;
    let what = if args.volumes {
        "all containers, images, networks and volumes of the machine"
    } else {
        "all containers, images and networks of the machine; volumes are kept"
    };
    if !args.force && !terminal::agrees(what)? {
        return Ok(0);
    }
    if args.volumes {
        machine.stop(false).await.map_err(machine_error)?;
        machine.empty_disk().await.map_err(machine_error)?;
    } else {
        if !matches!(status.phase, Phase::Running) {
            bring_up(&args.name.name, Mode::Normal, true).await?;
        }
        machine.empty_engine().await.map_err(machine_error)?;
        machine.stop(false).await.map_err(machine_error)?;
    }
    printer::line(&args.name.name);
    Ok(0)
}

async fn rescue(args: &RescueArgs) -> Outcome {
    let name = &args.name.name;
    let machine = find(name)?;
    bring_up(name, Mode::Rescue, false).await?;
    let Some(file) = &args.save else {
        printer::note(format_args!(
            "Its disk is at /var/lib/cove, read-only: cove machine shell {name}\nVolumes are in /var/lib/cove/volumes; \
             cove machine rescue {name} --save FILE writes them all. cove machine stop {name} ends this."
        ));
        return Ok(0);
    };
    let saved = shell::save(&machine, file).await;
    machine.stop(false).await.map_err(machine_error)?;
    saved
}

async fn remove(args: &RemoveArgs) -> Outcome {
    let mut worst = 0;
    for name in &args.names {
        let removed = async {
            let machine = find(name)?;
            machine.config().map_err(machine_error)?;
            if args.force {
                machine.stop(true).await.map_err(machine_error)?;
            } else if !terminal::agrees(&format!("machine {name:?} with everything in it"))? {
                return Ok(());
            }
            machine.remove().await.map_err(machine_error)?;
            printer::line(name);
            Ok(())
        };
        if let Err(failure) = removed.await {
            printer::failure(&failure);
            worst = 1;
        }
    }
    Ok(worst)
}
