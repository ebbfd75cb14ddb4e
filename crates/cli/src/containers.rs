//! Verbs about containers that put no streams on the terminal.

use api::client::containers::{Logs, RemoveContainer};
use api::client::{Body, Client, Filters, FrameDecoder};
use api::container::{Resources, RestartPolicy, UpdateContainer};
use clap::Args;
use futures_util::StreamExt;

use crate::exit::{Failure, Outcome};
use crate::table::{print_cells, print_found};
use crate::{printer, streams, units};

/// One name.
#[derive(Args, Debug)]
pub(crate) struct Name {
    /// Name or id
    pub(crate) name: String,
}

/// Some names.
#[derive(Args, Debug)]
pub(crate) struct Names {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// `key=value`s as filters.
pub(crate) fn filters(list: &[String]) -> Outcome<Filters> {
    list.iter().try_fold(Filters::default(), |filters, text| {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Failure::new(format!("invalid filter '{text}': expected name=value")))?;
        Ok(filters.with(key, value))
    })
}

/// Does the same with each; tells of those that failed, and then fails itself.
pub(crate) async fn for_each<F: Future<Output = Result<(), api::client::Error>>>(
    names: &[String],
    act: impl Fn(String) -> F,
) -> Outcome {
    let mut worst = 0;
    for name in names {
        if let Err(error) = act(name.clone()).await {
            printer::failure(&error.into());
            worst = 1;
        }
    }
    Ok(worst)
}

/// As [`for_each`], and prints the names that went well.
pub(crate) async fn each<F: Future<Output = Result<(), api::client::Error>>>(
    names: &[String],
    act: impl Fn(String) -> F,
) -> Outcome {
    for_each(names, |name| {
        let done = act(name.clone());
        async move {
            done.await?;
            printer::line(name);
            Ok(())
        }
    })
    .await
}

/// Flags of `start`.
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Attach its output
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Attach its input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Names or ids
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// Flags of `stop` and `restart`.
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Seconds before it is killed; -1 never
    #[arg(short, long, allow_hyphen_values = true, value_name = "SECONDS")]
    time: Option<i64>,
    /// How to ask
    #[arg(short, long)]
    signal: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn stop(client: &Client, args: StopArgs) -> Outcome {
    each(&args.names, |name| {
        let (signal, time) = (args.signal.clone(), args.time);
        async move { client.stop_container(&name, signal.as_deref(), time).await.map(drop) }
    })
    .await
}

pub(crate) async fn restart(client: &Client, args: StopArgs) -> Outcome {
    each(&args.names, |name| {
        let (signal, time) = (args.signal.clone(), args.time);
        async move { client.restart_container(&name, signal.as_deref(), time).await }
    })
    .await
}

/// Flags of `kill`.
#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// Which signal
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn kill(client: &Client, args: KillArgs) -> Outcome {
    each(&args.names, |name| {
        let signal = args.signal.clone();
        async move { client.kill_container(&name, Some(&signal)).await }
    })
    .await
}

pub(crate) async fn pause(client: &Client, args: Names) -> Outcome {
    each(&args.names, |name| async move { client.pause_container(&name).await }).await
}

pub(crate) async fn unpause(client: &Client, args: Names) -> Outcome {
    each(&args.names, |name| async move { client.unpause_container(&name).await }).await
}

/// Flags of `rm`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Kill it first, where it runs
    #[arg(short, long)]
    force: bool,
    /// Its volumes without a name too
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn remove(client: &Client, args: RemoveArgs) -> Outcome {
    let remove = RemoveContainer { force: args.force, volumes: args.volumes };
    each(&args.names, |name| async move { client.remove_container(&name, remove).await }).await
}

/// Flags of `logs`.
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Print times
    #[arg(short, long)]
    timestamps: bool,
    /// So many lines from the end, or all
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// A time, or how long ago (10m)
    #[arg(long)]
    since: Option<String>,
    /// A time, or how long ago (10m)
    #[arg(long)]
    until: Option<String>,
    /// Name or id
    name: String,
}

/// A time as it stands, or how long ago, as seconds since the epoch.
pub(crate) fn time(text: &str) -> String {
    match units::parse_duration(text) {
        Ok(nanos) => {
            let at = jiff::Timestamp::now().as_nanosecond() - i128::from(nanos);
            format!("{}.{:09}", at / 1_000_000_000, at % 1_000_000_000)
        }
        Err(_) => text.to_owned(),
    }
}

pub(crate) async fn logs(client: &Client, args: LogsArgs) -> Outcome {
    let tail = match args.tail.as_str() {
        "all" => None,
        text => Some(text.parse().map_err(|_| Failure::new(format!("invalid value for --tail: '{text}'")))?),
    };
    let wanted = Logs {
        stdout: true,
        stderr: true,
        follow: args.follow,
        timestamps: args.timestamps,
        tail,
        since: args.since.as_deref().map(time),
        until: args.until.as_deref().map(time),
    };
    let is_raw = client.inspect_container(&args.name).await?.config.tty;
    let mut body = client.container_logs(&args.name, &wanted).await?;
    let mut decoder = FrameDecoder::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk?;
        if is_raw {
            printer::bytes(&chunk);
        } else {
            streams::demultiplex(&mut decoder, &chunk);
        }
        printer::flush();
    }
    Ok(0)
}

pub(crate) async fn wait(client: &Client, args: Names) -> Outcome {
    for name in &args.names {
        printer::line(client.wait_container(name, None).await?.status_code);
    }
    Ok(0)
}

/// Flags of `top`.
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Name or id
    name: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) async fn top(client: &Client, args: TopArgs) -> Outcome {
    let options = args.options.join(" ");
    let table =
        client.top_container(&args.name, Some(options.as_str()).filter(|text| !text.is_empty())).await?;
    let heads: Vec<&str> = table.titles.iter().map(String::as_str).collect();
    print_cells(&heads, &table.processes);
    Ok(0)
}

/// Flags of `inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// json, or a Go template: '{{.State.Status}}'
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// container, image or volume, where several have the name
    #[arg(long = "type", value_name = "KIND", value_parser = ["container", "image", "volume"])]
    kind: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn inspect(client: &Client, args: InspectArgs) -> Outcome {
    let mut found = Vec::new();
    let mut worst = 0;
    for name in &args.names {
        match find(client, name, args.kind.as_deref()).await? {
            Some(value) => found.push(value),
            None => {
                printer::failure(&Failure::new(format!("No such object: {name}")));
                worst = 1;
            }
        }
    }
    print_found(args.format.as_deref(), found)?;
    Ok(worst)
}

/// A container, an image or a volume of that name.
async fn find(client: &Client, name: &str, kind: Option<&str>) -> Outcome<Option<serde_json::Value>> {
    let value = |value: Result<serde_json::Value, serde_json::Error>| {
        value.map(Some).map_err(|error| Failure::new(error.to_string()))
    };
    let is_wanted = |one: &str| kind.is_none_or(|kind| kind == one);
    if is_wanted("container") {
        match client.inspect_container(name).await {
            Ok(info) => return value(serde_json::to_value(info)),
            Err(error) if error.kind() == api::client::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    if is_wanted("image") {
        match client.inspect_image(name).await {
            Ok(image) => return value(serde_json::to_value(image)),
            Err(error) if error.kind() == api::client::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    if is_wanted("volume") {
        match client.inspect_volume(name).await {
            Ok(volume) => return value(serde_json::to_value(volume)),
            Err(error) if error.kind() == api::client::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

pub(crate) async fn diff(client: &Client, args: Name) -> Outcome {
    for change in client.container_changes(&args.name).await? {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            _ => 'D',
        };
        printer::line(format_args!("{letter} {}", change.path));
    }
    Ok(0)
}

/// Flags of `export`.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Where to; else standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<String>,
    /// Name or id
    name: String,
}

pub(crate) async fn export(client: &Client, args: ExportArgs) -> Outcome {
    if args.output.is_none() && printer::is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal: use -o FILE or redirect"));
    }
    write_out(client.export_container(&args.name).await?, args.output.as_deref()).await
}

/// A body to a file, which is removed if that breaks off, or to standard output.
pub(crate) async fn write_out(mut body: Body, output: Option<&str>) -> Outcome {
    use std::io::Write;
    let Some(path) = output else {
        while let Some(chunk) = body.next().await {
            printer::bytes(&chunk?);
        }
        printer::flush();
        return Ok(0);
    };
    let mut file = std::fs::File::create(path).map_err(|error| Failure::new(format!("{path}: {error}")))?;
    while let Some(chunk) = body.next().await {
        let written = chunk.map_err(Failure::from).and_then(|chunk| Ok(file.write_all(&chunk)?));
        if let Err(failure) = written {
            let _ = std::fs::remove_file(path);
            return Err(failure);
        }
    }
    Ok(0)
}

/// Flags of `rename`.
#[derive(Args, Debug)]
pub(crate) struct RenameArgs {
    /// Name or id
    name: String,
    /// The new name
    wanted: String,
}

pub(crate) async fn rename(client: &Client, args: RenameArgs) -> Outcome {
    client.rename_container(&args.name, &args.wanted).await?;
    Ok(0)
}

/// Flags of `commit`.
#[derive(Args, Debug)]
pub(crate) struct CommitArgs {
    /// Who made it
    #[arg(short, long, default_value = "")]
    author: String,
    /// What it is
    #[arg(short, long, default_value = "")]
    message: String,
    /// A Dockerfile instruction to apply: 'CMD ["sh"]', 'ENV A=1'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Go on running meanwhile
    #[arg(long)]
    no_pause: bool,
    /// Name or id
    name: String,
    /// The image's name
    image: Option<String>,
}

pub(crate) async fn commit(client: &Client, args: CommitArgs) -> Outcome {
    let (repository, tag) = match args.image.as_deref().map(|image| (image, image.rsplit_once(':'))) {
        Some((_, Some((repository, tag)))) if !tag.contains('/') => (Some(repository), Some(tag)),
        Some((image, _)) => (Some(image), None),
        None => (None, None),
    };
    let answer: api::exec::IdResponse = client
        .request(api::client::Method::POST, "/commit")
        .query("container", &args.name)
        .query_opt("repo", repository)
        .query_opt("tag", tag)
        .query("author", &args.author)
        .query("comment", &args.message)
        .query("pause", if args.no_pause { "0" } else { "1" })
        .query_opt("changes", Some(args.change.join("\n")).filter(|text| !text.is_empty()).as_deref())
        .fetch()
        .await?;
    printer::line(answer.id);
    Ok(0)
}

/// Flags of `update`.
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    /// Processors, such as 1.5
    #[arg(long)]
    cpus: Option<String>,
    /// Relative weight
    #[arg(short, long)]
    cpu_shares: Option<i64>,
    /// Which processors
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory, such as 512m
    #[arg(short, long)]
    memory: Option<String>,
    /// Memory and swap together
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// How many processes at most
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// no, always, unless-stopped or on-failure[:times]
    #[arg(long)]
    restart: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn update(client: &Client, args: UpdateArgs) -> Outcome {
    let size = |text: &Option<String>| text.as_deref().map_or(Ok(0), units::parse_size);
    let update = UpdateContainer {
        resources: Resources {
            nano_cpus: args.cpus.as_deref().map_or(Ok(0), units::parse_cpus)?,
            cpu_shares: args.cpu_shares.unwrap_or(0),
            cpuset_cpus: args.cpuset_cpus.clone().unwrap_or_default(),
            memory: size(&args.memory)?,
            memory_swap: size(&args.memory_swap)?,
            pids_limit: args.pids_limit,
            ..Resources::default()
        },
        restart_policy: args
            .restart
            .as_deref()
            .map_or(Ok(RestartPolicy::default()), crate::spec::parse_restart)?,
    };
    let update = &update;
    each(&args.names, |name| async move { client.update_container(&name, update).await.map(drop) }).await
}
