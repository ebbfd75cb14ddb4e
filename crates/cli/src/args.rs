//! The grammar of the command line, and which verb does what.

use std::ffi::OsString;

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};

use crate::exit::Outcome;
use crate::run::{CreateArgs, RunArgs};
use crate::{
    containers, copy, docker, doctor, images, listing, machine, networks, registry, run, service, system,
    volumes,
};

/// Runs containers.
#[derive(Parser, Debug)]
#[command(
    name = "cove",
    version,
    about = "Cove: containers on your computer",
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  cove run --network host cove/welcome    a page that shows a container from inside
  cove run -it --rm alpine sh             a shell, gone when it ends
  cove ps -a                              what there is
  cove web                                the window, in a browser

Docker's long forms work too: cove container ls, cove image rm, cove system df."
)]
pub(crate) struct Args {
    /// The engine: unix:///path/to/socket, tcp://HOST:PORT, or machine://NAME
    #[arg(short = 'H', long, global = true, env = "COVE_HOST", value_name = "ADDRESS")]
    pub(crate) host: Option<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// A verb's own grammar alone.
#[derive(Parser, Debug)]
struct Only<T: ClapArgs> {
    #[arg(short = 'H', long, env = "COVE_HOST")]
    host: Option<String>,
    #[command(flatten)]
    args: T,
}

/// Reads the command line.
///
/// The verbs that somebody waits for most are tried by themselves first: the grammar of all verbs takes half a
/// millisecond to build. What they don't take, help and mistakes among it, is the whole grammar's to answer.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Args, clap::Error> {
    fn only<T: ClapArgs>(args: &[OsString], verb_at: usize, verb: impl FnOnce(T) -> Verb) -> Option<Args> {
        // The verb stands for the program's name, and what was before it belongs to its own grammar too.
        let words = [args.get(verb_at..=verb_at)?, args.get(1..verb_at)?, args.get(verb_at + 1..)?].concat();
        let Only { host, args } = Only::<T>::try_parse_from(words).ok()?;
        Some(Args { host, verb: verb(args) })
    }
    let at = verb_at(&args);
    let hot = match args.get(at).and_then(|word| word.to_str()) {
        Some("run") => only(&args, at, |run| Verb::Run(Box::new(run))),
        Some("exec") => only(&args, at, Verb::Exec),
        _ => None,
    };
    hot.map_or_else(|| Args::try_parse_from(args), Ok)
}

/// Where the verb is: behind the program's name and the one flag that comes before verbs.
fn verb_at(args: &[OsString]) -> usize {
    let mut at = 1;
    loop {
        at += match args.get(at).and_then(|arg| arg.to_str()) {
            Some("-H" | "--host") => 2,
            Some(flag) if flag.starts_with("-H") || flag.starts_with("--host=") => 1,
            _ => return at,
        };
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Create a container from an image and run it
    Run(Box<RunArgs>),
    /// Create a container
    Create(Box<CreateArgs>),
    /// Start stopped containers
    Start(containers::StartArgs),
    /// Stop running containers
    Stop(containers::StopArgs),
    /// Kill running containers
    Kill(containers::KillArgs),
    /// Stop and start containers
    Restart(containers::StopArgs),
    /// Freeze the processes of containers
    Pause(containers::Names),
    /// Let the processes of containers go on
    Unpause(containers::Names),
    /// Remove containers
    Rm(containers::RemoveArgs),
    /// List containers
    #[command(visible_alias = "list")]
    Ps(listing::PsArgs),
    /// Show a container's output
    Logs(containers::LogsArgs),
    /// Run a command in a running container
    Exec(run::ExecArgs),
    /// Attach to a running container
    Attach(run::AttachArgs),
    /// Wait until containers end, and print their exit codes
    Wait(containers::Names),
    /// List the processes of a container
    Top(containers::TopArgs),
    /// Show what containers use
    Stats(listing::StatsArgs),
    /// Show all about containers, images or volumes, as JSON
    Inspect(containers::InspectArgs),
    /// List what a container changed
    Diff(containers::Name),
    /// Write a container's file system as a tar archive
    Export(containers::ExportArgs),
    /// Copy files between a container and here
    Cp(copy::CopyArgs),
    /// Give a container another name
    Rename(containers::RenameArgs),
    /// Make an image of a container
    Commit(containers::CommitArgs),
    /// Change limits of containers
    Update(containers::UpdateArgs),
    /// Pull an image
    Pull(images::PullArgs),
    /// Push an image to its registry
    Push(registry::PushArgs),
    /// Log in to a registry
    Login(registry::LoginArgs),
    /// Log out from a registry
    Logout(registry::LogoutArgs),
    /// Search Docker Hub for images
    Search(registry::SearchArgs),
    /// List images
    Images(listing::ImagesArgs),
    /// Remove images
    Rmi(images::RemoveArgs),
    /// Give an image another name
    Tag(images::TagArgs),
    /// Show how an image was made
    History(listing::HistoryArgs),
    /// Write images to a tar archive
    Save(images::SaveArgs),
    /// Load images from a tar archive
    Load(images::LoadArgs),
    /// Volumes: files that outlive containers
    #[command(subcommand)]
    Volume(volumes::VolumeVerb),
    /// Networks that containers share
    #[command(subcommand)]
    Network(networks::NetworkVerb),
    /// Start an engine or a machine with the computer
    #[command(subcommand)]
    Service(service::ServiceVerb),
    /// Machines: the same engine in a light virtual machine
    #[command(subcommand)]
    Machine(machine::MachineVerb),
    /// Make an image of a file system's tar archive
    Import(images::ImportArgs),
    /// Show what happens
    Events(system::EventsArgs),
    /// Show the engine and its computer
    Info(system::ValueArgs),
    /// Show versions
    Version(system::ValueArgs),
    /// Remove stopped containers and unused images
    Prune(system::PruneArgs),
    /// Show disk usage
    Df(listing::DfArgs),
    /// Let Docker's own programs speak to this engine, or no longer
    #[command(subcommand)]
    Docker(docker::DockerVerb),
    /// Serve the window to a browser
    Web(system::WebArgs),
    /// Check this computer
    Doctor,
    /// Print a completion script
    Completion(CompletionArgs),
}

#[derive(ClapArgs, Debug)]
pub(crate) struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// Does what was asked.
/// Docker's long forms: `container`, `image` and `system`, and the verbs behind them.
const LONG_FORMS: &[(&str, &str, &[&str])] = &[
    ("container", "ls", &["ps"]),
    ("container", "list", &["ps"]),
    ("container", "prune", &["prune", "--only", "containers"]),
    ("container", "inspect", &["inspect", "--type", "container"]),
    ("image", "ls", &["images"]),
    ("image", "list", &["images"]),
    ("image", "rm", &["rmi"]),
    ("image", "remove", &["rmi"]),
    ("image", "prune", &["prune", "--only", "images"]),
    ("image", "inspect", &["inspect", "--type", "image"]),
];

/// Verbs that keep their name behind such a word.
const KEPT: &[(&str, &[&str])] = &[
    (
        "container",
        &[
            "attach", "commit", "cp", "create", "diff", "exec", "export", "kill", "logs", "pause", "ps",
            "rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait",
        ],
    ),
    ("image", &["history", "import", "load", "pull", "push", "save", "tag"]),
    ("system", &["df", "events", "info", "prune"]),
];

/// Writes Docker's long forms (`container ls`) as the short ones (`ps`).
pub(crate) fn expand(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let at = verb_at(&args);
    let word = |at: usize| args.get(at).and_then(|arg| arg.to_str()).unwrap_or_default().to_owned();
    let (group, verb) = (word(at), word(at + 1));
    let long = LONG_FORMS.iter().find(|(known, long, _)| *known == group && *long == verb);
    if let Some((_, _, short)) = long {
        args.splice(at..at + 2, short.iter().map(OsString::from));
    } else if KEPT.iter().any(|(known, verbs)| *known == group && verbs.contains(&verb.as_str())) {
        args.remove(at);
    }
    args
}

pub(crate) async fn dispatch(args: Args) -> Outcome {
    if let Verb::Completion(completion) = &args.verb {
        let mut script = Vec::new();
        clap_complete::generate(completion.shell, &mut Args::command(), "cove", &mut script);
        crate::printer::bytes(&script);
        return Ok(0);
    }
    let host = args.host.as_deref();
    match args.verb {
        Verb::Web(web) => return system::web(host, &web).await,
        Verb::Doctor => return doctor::doctor(host).await,
        Verb::Logout(logout) => return registry::logout(&logout),
        Verb::Docker(verb) => return docker::dispatch(host, &verb),
        Verb::Machine(verb) => return machine::dispatch(verb).await,
        Verb::Service(verb) => return service::dispatch(host, &verb).await,
        _ => {}
    }
    let client = host::engine::connect(host).await?;
    match args.verb {
        Verb::Run(args) => run::run(&client, *args).await,
        Verb::Create(args) => run::create(&client, *args).await,
        Verb::Exec(args) => run::exec(&client, args).await,
        Verb::Attach(args) => run::attach(&client, args).await,
        Verb::Start(args) => run::start(&client, args).await,
        Verb::Stop(args) => containers::stop(&client, args).await,
        Verb::Restart(args) => containers::restart(&client, args).await,
        Verb::Kill(args) => containers::kill(&client, args).await,
        Verb::Pause(names) => containers::pause(&client, names).await,
        Verb::Unpause(names) => containers::unpause(&client, names).await,
        Verb::Rm(args) => containers::remove(&client, args).await,
        Verb::Ps(args) => listing::ps(&client, args).await,
        Verb::Logs(args) => containers::logs(&client, args).await,
        Verb::Wait(names) => containers::wait(&client, names).await,
        Verb::Top(args) => containers::top(&client, args).await,
        Verb::Stats(args) => listing::stats(&client, args).await,
        Verb::Inspect(args) => containers::inspect(&client, args).await,
        Verb::Diff(name) => containers::diff(&client, name).await,
        Verb::Export(args) => containers::export(&client, args).await,
        Verb::Cp(args) => copy::copy(&client, args).await,
        Verb::Rename(args) => containers::rename(&client, args).await,
        Verb::Commit(args) => containers::commit(&client, args).await,
        Verb::Update(args) => containers::update(&client, args).await,
        Verb::Pull(args) => images::pull_verb(&client, args).await,
        Verb::Push(args) => registry::push(&client, args).await,
        Verb::Login(args) => registry::login(&client, args).await,
        Verb::Search(args) => registry::search(&client, args).await,
        Verb::Images(args) => listing::images(&client, args).await,
        Verb::Rmi(args) => images::remove(&client, args).await,
        Verb::Tag(args) => images::tag(&client, args).await,
        Verb::History(args) => listing::history(&client, args).await,
        Verb::Save(args) => images::save(&client, args).await,
        Verb::Load(args) => images::load(&client, args).await,
        Verb::Volume(verb) => volumes::volume(&client, verb).await,
        Verb::Network(verb) => networks::dispatch(&client, verb).await,
        Verb::Import(args) => images::import(&client, args).await,
        Verb::Events(args) => system::events(&client, args).await,
        Verb::Info(args) => system::info(&client, args).await,
        Verb::Version(args) => system::version(&client, args).await,
        Verb::Prune(args) => system::prune(&client, args).await,
        Verb::Df(args) => listing::df(&client, args).await,
        Verb::Web(_)
        | Verb::Doctor
        | Verb::Logout(_)
        | Verb::Docker(_)
        | Verb::Machine(_)
        | Verb::Service(_)
        | Verb::Completion(_) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_forms_are_written_short() {
        for (given, expected) in [
            ("cove container ls -a", "cove ps -a"),
            ("cove -H unix:///x image rm a", "cove -H unix:///x rmi a"),
            (
                "cove --host=unix:///x container run -it a container ls",
                "cove --host=unix:///x run -it a container ls",
            ),
            ("cove system df", "cove df"),
            ("cove run container ls", "cove run container ls"),
            ("cove container frob", "cove container frob"),
            ("cove", "cove"),
        ] {
            let expanded = expand(given.split(' ').map(OsString::from));
            assert_eq!(expanded, expected.split(' ').map(OsString::from).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_verb_by_itself_reads_what_the_whole_grammar_reads() {
        for line in [
            "cove run --rm -it -e A=b -v /a:/b --name x image sh -c true",
            "cove run -H unix:///x image -H y",
            "cove run --no-such image",
            "cove -H unix:///x run --rm image -H y",
            "cove --host=unix:///x exec box ls",
            "cove exec -it --user 1:1 box ls -l --color",
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let whole = Args::try_parse_from(&words).unwrap();
            assert_eq!(format!("{:?}", parse(words).unwrap()), format!("{whole:?}"));
        }
        for line in
            ["cove run", "cove run --help", "cove -H", "cove --rm run image", "cove exec --no-such box ls"]
        {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let whole = Args::try_parse_from(&words).unwrap_err().to_string();
            assert_eq!(parse(words).unwrap_err().to_string(), whole);
        }
    }

    #[test]
    fn the_grammar_is_sound_and_knows_every_verb_of_the_long_forms() {
        let command = Args::command();
        command.clone().debug_assert();
        let verbs =
            KEPT.iter().flat_map(|(_, verbs)| verbs.iter()).chain(LONG_FORMS.iter().map(|(.., to)| &to[0]));
        for verb in verbs {
            assert!(command.find_subcommand(verb).is_some(), "{verb}");
        }
    }
}
