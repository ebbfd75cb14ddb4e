//! `run`, `create`, `start`, `exec` and `attach`: verbs that put a container's streams on the terminal.

use api::client::containers::Attach;
use api::client::{Client, Error};
use api::container::CreateContainer;
use api::exec::{CreateExec, StartExec};
use clap::Args;

use crate::containers::{StartArgs, each};
use crate::exit::{Failure, Outcome, USAGE, start_code};
use crate::spec::SpecArgs;
use crate::sys::{Endings, Resizes};
use crate::{images, mounts, printer, streams, terminal};

/// Flags of `run`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove run --rm alpine echo hello
  cove run -it --rm -v /home/me/src:/src -w /src alpine sh
  cove run -d --name web --network host --restart unless-stopped nginx")]
pub(crate) struct RunArgs {
    /// Leave it running in the background and print its id
    #[arg(short, long)]
    detach: bool,
    /// The keys that let go of a terminal
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Pass no signals on to the container
    #[arg(long)]
    no_sig_proxy: bool,
    #[command(flatten)]
    create: CreateArgs,
}

/// Flags of `create`, which `run` has too.
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// The container's name
    #[arg(long)]
    name: Option<String>,
    /// Pull the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = ["always", "missing", "never"])]
    pull: String,
    /// The platform, where an image is for several: linux/arm64
    #[arg(long)]
    platform: Option<String>,
    /// Say nothing of a pull
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    spec: SpecArgs,
}

/// Asks for a container, pulling its image if need be.
async fn with_image<T>(
    client: &Client,
    args: &CreateArgs,
    ask: impl AsyncFn() -> Result<T, Error>,
) -> Outcome<T> {
    let image = args.spec.image();
    let platform = args.platform.as_deref();
    let pull = async || {
        images::pull(client, image, platform, args.quiet).await.map_err(|failure| failure.with_code(USAGE))
    };
    if args.pull == "always" {
        pull().await?;
    }
    let mut answer = ask().await;
    let is_missing =
        |error: &Error| error.kind() == api::client::ErrorKind::NotFound && !is_unknown_path(error);
    if matches!(&answer, Err(error) if is_missing(error))
        && args.pull == "missing"
        && args.spec.rootfs.is_none()
    {
        if !args.quiet {
            printer::note(format_args!("Unable to find image '{image}' locally"));
        }
        pull().await?;
        answer = ask().await;
    }
    answer.map_err(|error| Failure::from(error).with_code(USAGE))
}

/// Whether it is no engine of ours that answers, or an older one.
fn is_unknown_path(error: &Error) -> bool {
    matches!(error, Error::Status { message, .. } if message == "page not found")
}

/// Tells of what was made.
fn told(args: &CreateArgs, id: &str, warnings: &[String]) -> Outcome<()> {
    for warning in warnings {
        printer::note(format_args!("WARNING: {warning}"));
    }
    if let Some(file) = &args.spec.cidfile {
        std::fs::write(file, id)
            .map_err(|error| Failure::new(format!("{file}: {error}")).with_code(USAGE))?;
    }
    Ok(())
}

/// Creates a container; its id.
async fn make(client: &Client, args: &CreateArgs, body: &serde_json::Value) -> Outcome<String> {
    let created = with_image(client, args, async || post_create(client, args, body).await).await?;
    told(args, &created.id, &created.warnings)?;
    Ok(created.id)
}

async fn post_create(
    client: &Client,
    args: &CreateArgs,
    body: &serde_json::Value,
) -> Result<api::container::CreateResponse, Error> {
    client
        .request(api::client::Method::POST, "/containers/create")
        .query_opt("name", args.name.as_deref())
        .query_opt("platform", args.platform.as_deref())
        .json(body)
        .fetch()
        .await
}

/// The request's body: Docker's, and a directory in place of an image where one is given.
fn body_of(args: &SpecArgs, is_attached: bool) -> Outcome<(CreateContainer, serde_json::Value)> {
    let spec = args.container(is_attached)?;
    let mut body = serde_json::to_value(&spec).map_err(|error| Failure::new(error.to_string()))?;
    if let (Some(rootfs), Some(object)) = (&args.rootfs, body.as_object_mut()) {
        let path = std::fs::canonicalize(rootfs)
            .map_err(|error| Failure::new(format!("{rootfs}: {error}")).with_code(USAGE))?;
        let path = mounts::as_engine_sees(&path.display().to_string())?;
        object.insert("CoveRootfs".into(), path.into());
    }
    Ok((spec, body))
}

pub(crate) async fn create(client: &Client, args: CreateArgs) -> Outcome {
    let (_, body) = body_of(&args.spec, true)?;
    printer::line(make(client, &args, &body).await?);
    Ok(0)
}

pub(crate) async fn run(client: &Client, args: RunArgs) -> Outcome {
    let create = &args.create;
    let (spec, body) = body_of(&create.spec, !args.detach)?;
    if args.detach {
        let id = make(client, create, &body).await?;
        start_one(client, &id).await?;
        printer::line(&id);
        return Ok(0);
    }
    let config = &spec.config;
    let condition = if spec.host_config.auto_remove { "removed" } else { "next-exit" };
    let attach = Attach {
        stdin: config.open_stdin,
        stdout: true,
        stderr: !config.tty,
        stream: true,
        logs: false,
        detach_keys: args.detach_keys.clone(),
    };
    let connection = with_image(client, create, async || {
        let (name, platform) = (create.name.as_deref(), create.platform.as_deref());
        match client.run_container(&body, name, platform, &attach, condition).await {
            Err(error) if is_unknown_path(&error) => Ok(None),
            other => other.map(Some),
        }
    });
    let Some(connection) = connection.await? else {
        let id = make(client, create, &body).await?;
        return foreground(client, &id, &attach, config.tty, condition, !args.no_sig_proxy, true).await;
    };
    let (running, made) = streams::Running::begin(connection).await?;
    told(create, &made.id, &made.warnings)?;
    if let Some(message) = made.error {
        let code = start_code(&message);
        return Err(Failure::new(message).with_code(code));
    }
    let raw = if config.tty && attach.stdin { terminal::RawMode::enter() } else { None };
    let carried = tokio::select! {
        done = running.carry(attach.stdin) => done,
        never = follow_size(client, &made.id, config.tty) => match never {},
        never = pass_signals(client, &made.id, !args.no_sig_proxy && !config.tty) => match never {},
    };
    drop(raw);
    match carried? {
        Some(status) => Ok(code(status)),
        // Let go of by its keys, it goes on.
        None if config.tty
            && client.inspect_container(&made.id).await.is_ok_and(|info| info.state.running) =>
        {
            Ok(0)
        }
        None => Err(Failure::new("the engine went away; the container goes on").with_code(USAGE)),
    }
}

/// Attaches, starts where asked, carries the streams, and ends with the container's code.
async fn foreground(
    client: &Client,
    id: &str,
    attach: &Attach,
    has_terminal: bool,
    condition: &str,
    passes_signals: bool,
    starts: bool,
) -> Outcome {
    let (connection, waiting) =
        tokio::try_join!(client.attach_container(id, attach), client.begin_wait(id, Some(condition)))?;
    if starts {
        start_one(client, id).await?;
    }
    let raw = if has_terminal && attach.stdin { terminal::RawMode::enter() } else { None };
    let resizing = follow_size(client, id, has_terminal);
    let passing = pass_signals(client, id, passes_signals && !has_terminal);
    let carried = streams::carry(connection, attach.stdin);
    tokio::pin!(carried, resizing, passing);
    let carried = tokio::select! {
        done = &mut carried => done,
        never = &mut resizing => match never {},
        never = &mut passing => match never {},
    };
    drop(raw);
    carried?;
    // Detached, the container goes on; its end is not waited for.
    if has_terminal && client.inspect_container(id).await.is_ok_and(|info| info.state.running) {
        return Ok(0);
    }
    let ended: api::container::WaitResponse = waiting.json().await?;
    Ok(code(ended.status_code))
}

fn code(status: i64) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(1)
}

async fn start_one(client: &Client, id: &str) -> Outcome<()> {
    match client.start_container(id).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let failure = Failure::from(error);
            let code = start_code(&failure.message);
            Err(failure.with_code(code))
        }
    }
}

enum Never {}

/// Keeps the container's terminal as large as the user's.
async fn follow_size(client: &Client, id: &str, has_terminal: bool) -> Never {
    let (true, Ok(mut changes)) = (has_terminal, Resizes::new()) else { return std::future::pending().await };
    loop {
        if let Some((rows, columns)) = terminal::size() {
            // A container that has ended needs no size.
            let _ = client.resize_container(id, rows, columns).await;
        }
        changes.next().await;
    }
}

/// Passes the signals that ask a program to end on to the container.
async fn pass_signals(client: &Client, id: &str, is_wanted: bool) -> Never {
    let (true, Ok(mut endings)) = (is_wanted, Endings::new()) else { return std::future::pending().await };
    loop {
        let name = endings.next().await;
        // It may have ended meanwhile.
        let _ = client.kill_container(id, Some(name)).await;
    }
}

/// `start`, attached where asked.
pub(crate) async fn start(client: &Client, args: StartArgs) -> Outcome {
    if !args.attach && !args.interactive {
        return each(&args.names, |name| async move { client.start_container(&name).await.map(drop) }).await;
    }
    let [name] = args.names.as_slice() else {
        return Err(Failure::new("only one container can be started and attached at once"));
    };
    let info = client.inspect_container(name).await?;
    let attach = Attach {
        stdin: args.interactive && info.config.open_stdin,
        stdout: true,
        stderr: true,
        stream: true,
        logs: false,
        detach_keys: None,
    };
    foreground(client, name, &attach, info.config.tty, "next-exit", true, true).await
}

/// Flags of `attach`.
#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// Give no input
    #[arg(long)]
    no_stdin: bool,
    /// The keys that let go of a terminal
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// The container
    name: String,
}

pub(crate) async fn attach(client: &Client, args: AttachArgs) -> Outcome {
    let info = client.inspect_container(&args.name).await?;
    if !info.state.running {
        return Err(Failure::new("You cannot attach to a stopped container, start it first"));
    }
    let attach = Attach {
        stdin: !args.no_stdin && info.config.open_stdin,
        stdout: true,
        stderr: true,
        stream: true,
        logs: false,
        detach_keys: args.detach_keys,
    };
    foreground(client, &args.name, &attach, info.config.tty, "not-running", true, false).await
}

/// Flags of `exec`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cove exec -it web sh\n  cove exec -u 1000 -e DEBUG=1 web env")]
pub(crate) struct ExecArgs {
    /// Leave it running in the background
    #[arg(short, long)]
    detach: bool,
    /// Keep its input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// NAME=value
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Name or id, and perhaps :group
    #[arg(short, long)]
    user: Option<String>,
    /// Where it starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Give it all capabilities
    #[arg(long)]
    privileged: bool,
    /// The keys that let go of a terminal
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// The container
    name: String,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn exec(client: &Client, args: ExecArgs) -> Outcome {
    if args.tty && args.interactive && !terminal::is_input() {
        return Err(Failure::new("the input device is not a TTY"));
    }
    let request = CreateExec {
        user: args.user.unwrap_or_default(),
        privileged: args.privileged,
        tty: args.tty,
        attach_stdin: args.interactive && !args.detach,
        attach_stdout: !args.detach,
        attach_stderr: !args.detach,
        detach_keys: args.detach_keys.unwrap_or_default(),
        env: args.env,
        working_dir: args.workdir.unwrap_or_default(),
        cmd: Some(args.command),
        ..CreateExec::default()
    };
    let id = client.create_exec(&args.name, &request).await?.id;
    let refused = |error: Error| {
        let failure = Failure::from(error);
        let code = start_code(&failure.message);
        failure.with_code(if code == USAGE { 126 } else { code })
    };
    if args.detach {
        client.start_exec_detached(&id).await.map_err(refused)?;
        return Ok(0);
    }
    let size = terminal::size().filter(|_| args.tty).map(|(rows, columns)| [rows, columns]);
    let start = StartExec { detach: false, tty: args.tty, console_size: size };
    let connection = client.start_exec(&id, &start).await.map_err(refused)?;
    let raw = if args.tty && args.interactive { terminal::RawMode::enter() } else { None };
    let resizing = async {
        let Ok(mut changes) = Resizes::new() else {
            return std::future::pending::<Never>().await;
        };
        loop {
            changes.next().await;
            if let Some((rows, columns)) = terminal::size().filter(|_| args.tty) {
                // A process that has ended needs no size.
                let _ = client.resize_exec(&id, rows, columns).await;
            }
        }
    };
    let carried = tokio::select! {
        done = streams::carry(connection, args.interactive) => done,
        never = resizing => match never {},
    };
    drop(raw);
    carried?;
    let info = client.inspect_exec(&id).await?;
    Ok(code(info.exit_code.unwrap_or(0)))
}
