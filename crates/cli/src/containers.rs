//! Verbs about containers that put no streams on the terminal.

use api::client::containers::{ListContainers, Logs, RemoveContainer};
use api::client::{Body, Client, Filters, FrameDecoder};
use api::container::{ContainerSummary, Resources, RestartPolicy, Stats, UpdateContainer};
use clap::Args;
use futures_util::StreamExt;

use crate::exit::{Failure, Outcome};
use crate::table::{cut, print};
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
    /// Names or ids
    #[arg(required = true)]
    names: Vec<String>,
}

pub(crate) async fn remove(client: &Client, args: RemoveArgs) -> Outcome {
    let remove = RemoveContainer { force: args.force, volumes: false };
    each(&args.names, |name| async move { client.remove_container(&name, remove).await }).await
}

/// Flags of `ps`.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct ListArgs {
    /// Also those that don't run
    #[arg(short, long)]
    all: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Print ids and commands in full
    #[arg(long)]
    no_trunc: bool,
    /// The newest so many
    #[arg(short = 'n', long)]
    last: Option<u32>,
    /// The newest
    #[arg(short, long)]
    latest: bool,
    /// status=…, name=…, label=…, ancestor=…
    #[arg(short, long)]
    filter: Vec<String>,
    /// json
    #[arg(long, value_parser = ["json", "table"])]
    format: Option<String>,
}

pub(crate) async fn list(client: &Client, args: ListArgs) -> Outcome {
    let limit = if args.latest { Some(1) } else { args.last };
    let list = ListContainers { all: args.all, limit, size: false, filters: filters(&args.filter)? };
    let all = client.list_containers(&list).await?;
    let is_json = args.format.as_deref() == Some("json");
    let mut rows = Vec::new();
    for container in &all {
        let id: String =
            if args.no_trunc { container.id.clone() } else { container.id.chars().take(12).collect() };
        if is_json {
            printer::line(serde_json::to_string(container).unwrap_or_default());
        } else if args.quiet {
            printer::line(id);
        } else {
            rows.push(row(container, id, args.no_trunc));
        }
    }
    if !is_json && !args.quiet {
        print(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"], &rows);
    }
    Ok(0)
}

fn row(container: &ContainerSummary, id: String, is_whole: bool) -> Vec<String> {
    let command = if is_whole { container.command.clone() } else { cut(&container.command, 20) };
    let names: Vec<&str> = container.names.iter().map(|name| name.trim_start_matches('/')).collect();
    vec![
        id,
        container.image.clone(),
        format!("\"{command}\""),
        units::ago(container.created),
        container.status.clone(),
        String::new(),
        names.join(","),
    ]
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
    print(&heads, &table.processes);
    Ok(0)
}

/// Flags of `stats`.
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// Names or ids; all that run, if none is given
    names: Vec<String>,
}

pub(crate) async fn stats(client: &Client, args: StatsArgs) -> Outcome {
    loop {
        let names = if args.names.is_empty() {
            let list = client.list_containers(&ListContainers::default()).await?;
            list.into_iter().map(|container| container.id).collect()
        } else {
            args.names.clone()
        };
        let samples =
            futures_util::future::join_all(names.iter().map(|name| client.container_stats_once(name))).await;
        let rows = samples.into_iter().map(|sample| Ok(stats_row(&sample?))).collect::<Outcome<Vec<_>>>()?;
        if !args.no_stream && printer::is_terminal() {
            printer::bytes(b"\x1b[2J\x1b[H");
        }
        print(&["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "PIDS"], &rows);
        if args.no_stream {
            return Ok(0);
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

fn stats_row(stats: &Stats) -> Vec<String> {
    // In hundredths of a percent, to stay in whole numbers.
    let hundredths = |part: u64, whole: u64| part.saturating_mul(10_000).checked_div(whole).unwrap_or(0);
    let percent = |n: u64| format!("{}.{:02}%", n / 100, n % 100);
    let used = stats.cpu_stats.cpu_usage.total_usage.saturating_sub(stats.precpu_stats.cpu_usage.total_usage);
    let system = stats
        .cpu_stats
        .system_cpu_usage
        .unwrap_or(0)
        .saturating_sub(stats.precpu_stats.system_cpu_usage.unwrap_or(0));
    let cpu = hundredths(used, system) * u64::from(stats.cpu_stats.online_cpus.unwrap_or(1));
    let cache = ["inactive_file", "total_inactive_file"]
        .iter()
        .find_map(|key| stats.memory_stats.stats.get(*key))
        .copied()
        .unwrap_or(0);
    let memory = stats.memory_stats.usage.unwrap_or(0).saturating_sub(cache);
    let limit = stats.memory_stats.limit.unwrap_or(0);
    vec![
        stats.id.chars().take(12).collect(),
        stats.name.trim_start_matches('/').to_owned(),
        percent(cpu),
        format!("{} / {}", units::memory(memory), units::memory(limit)),
        percent(hundredths(memory, limit)),
        stats.pids_stats.current.unwrap_or(0).to_string(),
    ]
}

pub(crate) async fn inspect(client: &Client, args: Names) -> Outcome {
    let mut found = Vec::new();
    let mut worst = 0;
    for name in &args.names {
        let value = match client.inspect_container(name).await {
            Ok(info) => serde_json::to_value(info),
            Err(error) if error.kind() == api::client::ErrorKind::NotFound => {
                match client.inspect_image(name).await {
                    Ok(image) => serde_json::to_value(image),
                    Err(_) => {
                        printer::failure(&Failure::new(format!("No such object: {name}")));
                        worst = 1;
                        continue;
                    }
                }
            }
            Err(error) => return Err(error.into()),
        };
        found.push(value.map_err(|error| Failure::new(error.to_string()))?);
    }
    printer::line(serde_json::to_string_pretty(&found).unwrap_or_default());
    Ok(worst)
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

/// Flags of `cp`.
#[derive(Args, Debug)]
#[command(
    after_help = "One of the two is CONTAINER:PATH, the other a path here, or - for a tar archive.\n\n\
Examples:\n  cove cp web:/etc/hosts .\n  cove cp web:/var/log - | tar t\n  tar c src | cove cp - web:/tmp"
)]
pub(crate) struct CopyArgs {
    source: String,
    target: String,
}

/// A container and a path in it.
fn in_container(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(name, _)| !name.is_empty() && !name.contains('/') && !name.starts_with('.'))
}

pub(crate) async fn copy(client: &Client, args: CopyArgs) -> Outcome {
    match (in_container(&args.source), in_container(&args.target)) {
        (Some((name, path)), None) => copy_out(client, name, path, &args.target).await,
        (None, Some((name, path))) => copy_in(client, &args.source, name, path).await,
        (Some(_), Some(_)) => Err(Failure::new("copying between containers is not supported")),
        (None, None) => Err(Failure::new("one of the two must be CONTAINER:PATH")),
    }
}

/// Archives are packed and unpacked by `tar`, which every system has.
fn tar(args: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("tar");
    command.args(args);
    command
}

async fn copy_out(client: &Client, name: &str, path: &str, target: &str) -> Outcome {
    use tokio::io::AsyncWriteExt;
    let response = client.read_archive(name, path).await?;
    if target == "-" {
        return write_out(response.into_body(), None).await;
    }
    let to = std::path::Path::new(target);
    let base = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let (dir, wanted) = if to.is_dir() {
        (to.to_owned(), None)
    } else {
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
        (dir.to_owned(), to.file_name().map(|name| name.to_string_lossy().into_owned()))
    };
    let dir_text = dir.display().to_string();
    // Under another name: the first part of each name in the archive is replaced.
    let escape = |text: &str| {
        text.chars()
            .flat_map(|c| if c.is_alphanumeric() { vec![c] } else { vec!['\\', c] })
            .collect::<String>()
    };
    let rename = wanted.map(|wanted| format!("--transform=s,^{},{},", escape(&base), escape(&wanted)));
    let mut list = vec!["-x", "-f", "-", "-C", &dir_text, "--no-same-owner"];
    list.extend(rename.as_deref());
    let mut child = tar(&list).stdin(std::process::Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or_else(|| Failure::new("tar takes no input"))?;
    let mut body = response.into_body();
    while let Some(chunk) = body.next().await {
        stdin.write_all(&chunk?).await?;
    }
    drop(stdin);
    if child.wait().await?.success() {
        Ok(0)
    } else {
        Err(Failure::new(format!("failed to unpack into {target}")))
    }
}

async fn copy_in(client: &Client, source: &str, name: &str, path: &str) -> Outcome {
    if source == "-" {
        let stream = tokio_util::io::ReaderStream::new(tokio::io::stdin());
        client.write_archive(name, path, false, stream).await?;
        return Ok(0);
    }
    let from = std::path::Path::new(source);
    let base = from.canonicalize().map_err(|error| Failure::new(format!("{source}: {error}")))?;
    let base_name = base.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let dir = base.parent().map(|dir| dir.display().to_string()).unwrap_or_else(|| "/".into());
    // An existing directory takes it under its own name; else the last part of the path is its name.
    let is_dir = client.stat_archive(name, &format!("{}/.", path.trim_end_matches('/'))).await.is_ok();
    let (into, shown) = if is_dir || path.ends_with('/') {
        (path.to_owned(), base_name.clone())
    } else {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        (if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, last.to_owned())
    };
    let escape = |text: &str| {
        text.chars()
            .flat_map(|c| if c.is_alphanumeric() { vec![c] } else { vec!['\\', c] })
            .collect::<String>()
    };
    let rename = format!("--transform=s,^{},{},", escape(&base_name), escape(&shown));
    let mut child = tar(&["-c", "-f", "-", "-C", &dir, &rename, "--", &base_name])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| Failure::new("tar gives no output"))?;
    client
        .write_archive(name, &into, false, tokio_util::io::ReaderStream::with_capacity(stdout, 128 * 1024))
        .await?;
    if child.wait().await?.success() { Ok(0) } else { Err(Failure::new(format!("failed to pack {source}"))) }
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
