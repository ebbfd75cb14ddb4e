//! Verbs that list: `ps`, `images`, `history`, `stats` and `df`. The fields for `--format` have
//! Docker's names.

use api::client::Client;
use api::client::containers::ListContainers;
use api::container::{ContainerSummary, Stats};
use clap::Args;

use crate::containers::filters;
use crate::exit::Outcome;
use crate::table::{Columns, FormatArgs, Row, cut, print};
use crate::{printer, units};

/// The first twelve digits of an id, or all.
fn short(id: &str, is_whole: bool) -> String {
    if is_whole { id.to_owned() } else { id.trim_start_matches("sha256:").chars().take(12).collect() }
}

/// Docker's form of a time in lists.
fn date(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// Flags of `ps`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove ps -a
  cove ps -a --filter status=exited --format '{{.Names}}: {{.Status}}'
  cove ps --format 'table {{.Names}}\\t{{.Image}}'
  cove ps --format json")]
pub(crate) struct PsArgs {
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
    /// Also how much they have written
    #[arg(short, long)]
    size: bool,
    /// status=…, name=…, label=…, ancestor=…
    #[arg(short, long)]
    filter: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
}

const CONTAINERS: &Columns = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("CreatedAt", "CREATED AT"),
    ("State", "STATE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
];

pub(crate) async fn ps(client: &Client, args: PsArgs) -> Outcome {
    let limit = if args.latest { Some(1) } else { args.last };
    let wants_size =
        args.size || args.format.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let list = ListContainers { all: args.all, limit, size: wants_size, filters: filters(&args.filter)? };
    let all = client.list_containers(&list).await?;
    if args.quiet {
        all.iter().for_each(|container| printer::line(short(&container.id, args.no_trunc)));
        return Ok(0);
    }
    let rows = all.iter().map(|container| ps_row(container, args.no_trunc)).collect();
    print(&args.format, CONTAINERS, if args.size { 8 } else { 7 }, rows)?;
    Ok(0)
}

fn ps_row(container: &ContainerSummary, is_whole: bool) -> Row {
    let command = if is_whole { container.command.clone() } else { cut(&container.command, 20) };
    let names: Vec<&str> = container.names.iter().map(|name| name.trim_start_matches('/')).collect();
    let ports: Vec<String> = container
        .ports
        .iter()
        .map(|port| match port.public_port {
            Some(public) if port.ip.contains(':') => {
                format!("[{}]:{public}->{}/{}", port.ip, port.private_port, port.r#type)
            }
            Some(public) => format!("{}:{public}->{}/{}", port.ip, port.private_port, port.r#type),
            None => format!("{}/{}", port.private_port, port.r#type),
        })
        .collect();
    let labels: Vec<String> = container.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mounts: Vec<&str> = container
        .mounts
        .iter()
        .map(|mount| if mount.name.is_empty() { mount.source.as_str() } else { mount.name.as_str() })
        .collect();
    let networks: Vec<&str> = container.network_settings.networks.keys().map(String::as_str).collect();
    let volumes = container.mounts.iter().filter(|mount| mount.r#type == "volume").count();
    let size = container.size_rw.map_or_else(String::new, |written| {
        let whole = container.size_root_fs.unwrap_or(0);
        format!("{} (virtual {})", units::size(written), units::size(whole))
    });
    Row::new(
        CONTAINERS,
        [
            short(&container.id, is_whole),
            container.image.clone(),
            format!("\"{command}\""),
            units::ago(container.created),
            container.status.clone(),
            ports.join(", "),
            names.join(","),
            size,
            date(container.created),
            container.state.clone(),
            labels.join(","),
            mounts.join(","),
            networks.join(","),
            volumes.to_string(),
        ],
    )
}

/// Flags of `images`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  cove images\n  cove images --format '{{.Repository}}:{{.Tag}} {{.Size}}'"
)]
pub(crate) struct ImagesArgs {
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Print ids in full
    #[arg(long)]
    no_trunc: bool,
    /// Print digests
    #[arg(long)]
    digests: bool,
    /// Also layers in between; there are none
    #[arg(short, long)]
    all: bool,
    /// dangling=true, label=…, reference=…
    #[arg(short, long)]
    filter: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
    /// Only images of this name
    name: Option<String>,
}

const IMAGES: &Columns = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
    ("CreatedAt", "CREATED AT"),
    ("Digest", "DIGEST"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

/// With `--digests`.
const IMAGES_BY_DIGEST: &Columns = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("Size", "SIZE"),
];

pub(crate) async fn images(client: &Client, args: ImagesArgs) -> Outcome {
    let mut filters = filters(&args.filter)?;
    if let Some(name) = &args.name {
        filters = filters.with("reference", name);
    }
    let images = client.list_images(args.all, &filters).await?;
    if args.quiet {
        images.iter().for_each(|image| printer::line(short(&image.id, args.no_trunc)));
        return Ok(0);
    }
    let mut rows = Vec::new();
    for image in images {
        let none = vec!["<none>:<none>".to_owned()];
        for name in if image.repo_tags.is_empty() { &none } else { &image.repo_tags } {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            let digest = image
                .repo_digests
                .iter()
                .filter_map(|digest| digest.split_once('@'))
                .find(|(name, _)| *name == repository)
                .map_or("<none>", |(_, digest)| digest);
            rows.push(Row::new(
                IMAGES,
                [
                    repository.to_owned(),
                    tag.to_owned(),
                    short(&image.id, args.no_trunc),
                    units::ago(image.created),
                    units::size(image.size),
                    date(image.created),
                    digest.to_owned(),
                    image.containers.max(0).to_string(),
                    units::size(image.shared_size.max(0)),
                    units::size(image.size - image.shared_size.max(0)),
                    units::size(image.size),
                ],
            ));
        }
    }
    if args.digests && args.format.format.is_none() {
        print(&args.format, IMAGES_BY_DIGEST, 6, rows)?;
    } else {
        print(&args.format, IMAGES, 5, rows)?;
    }
    Ok(0)
}

/// Flags of `history`.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// Print commands in full
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArgs,
    /// The image
    name: String,
}

const HISTORY: &Columns = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
];

pub(crate) async fn history(client: &Client, args: HistoryArgs) -> Outcome {
    let entries = client.image_history(&args.name).await?;
    if args.quiet {
        entries.iter().for_each(|entry| printer::line(short(&entry.id, args.no_trunc)));
        return Ok(0);
    }
    let rows = entries.into_iter().map(|entry| {
        let by = if args.no_trunc { entry.created_by.clone() } else { cut(&entry.created_by, 45) };
        Row::new(
            HISTORY,
            [
                short(&entry.id, args.no_trunc),
                units::ago(entry.created),
                by,
                units::size(entry.size),
                entry.comment,
                date(entry.created),
            ],
        )
    });
    print(&args.format, HISTORY, 5, rows.collect())?;
    Ok(0)
}

/// Flags of `stats`.
#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// Also those that don't run
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    format: FormatArgs,
    /// Names or ids; all that run, if none is given
    names: Vec<String>,
}

const STATS: &Columns = &[
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
    ("Container", "CONTAINER"),
];

pub(crate) async fn stats(client: &Client, args: StatsArgs) -> Outcome {
    loop {
        let names = if args.names.is_empty() {
            let list = ListContainers { all: args.all, ..ListContainers::default() };
            client.list_containers(&list).await?.into_iter().map(|container| container.id).collect()
        } else {
            args.names.clone()
        };
        let samples =
            futures_util::future::join_all(names.iter().map(|name| client.container_stats_once(name))).await;
        let mut rows = Vec::with_capacity(samples.len());
        for sample in samples {
            match sample {
                Ok(sample) => rows.push(stats_row(&sample)),
                // One of the list may be gone by now; one that was named may not.
                Err(error) if args.names.is_empty() && error.kind() == api::client::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !args.no_stream && printer::is_terminal() {
            printer::bytes(b"\x1b[2J\x1b[H");
        }
        print(&args.format, STATS, 8, rows)?;
        if args.no_stream {
            return Ok(0);
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

fn stats_row(stats: &Stats) -> Row {
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
    let bytes = |n: u64| units::size(i64::try_from(n).unwrap_or(i64::MAX));
    let (received, sent) = stats
        .networks
        .iter()
        .flatten()
        .fold((0, 0), |(rx, tx), (_, network)| (rx + network.rx_bytes, tx + network.tx_bytes));
    let moved = |op: &str| {
        let entries = stats.blkio_stats.io_service_bytes_recursive.iter().flatten();
        entries.filter(|entry| entry.op.eq_ignore_ascii_case(op)).map(|entry| entry.value).sum::<u64>()
    };
    let id = short(&stats.id, false);
    Row::new(
        STATS,
        [
            id.clone(),
            stats.name.trim_start_matches('/').to_owned(),
            percent(cpu),
            format!("{} / {}", units::memory(memory), units::memory(limit)),
            percent(hundredths(memory, limit)),
            format!("{} / {}", bytes(received), bytes(sent)),
            format!("{} / {}", bytes(moved("read")), bytes(moved("write"))),
            stats.pids_stats.current.unwrap_or(0).to_string(),
            id,
        ],
    )
}

/// Flags of `df`.
#[derive(Args, Debug)]
pub(crate) struct DfArgs {
    #[command(flatten)]
    format: FormatArgs,
}

const USAGE: &Columns = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

pub(crate) async fn df(client: &Client, args: DfArgs) -> Outcome {
    let usage = client.disk_usage(&[]).await?;
    let in_use = usage.images.iter().filter(|image| image.containers > 0).count();
    let running = usage.containers.iter().filter(|container| container.state == "running").count();
    let written: i64 = usage.containers.iter().filter_map(|container| container.size_rw).sum();
    let stopped: i64 = usage
        .containers
        .iter()
        .filter(|container| container.state != "running" && container.state != "paused")
        .filter_map(|container| container.size_rw)
        .sum();
    let unused: i64 = usage
        .images
        .iter()
        .filter(|image| image.containers == 0)
        .map(|image| image.size - image.shared_size.max(0))
        .sum();
    let volumes = || usage.volumes.iter().filter_map(|volume| volume.usage_data.as_ref());
    let mounted = volumes().filter(|volume| volume.ref_count > 0).count();
    let size_of = |counts: &dyn Fn(i64) -> bool| -> i64 {
        volumes().filter(|volume| counts(volume.ref_count)).map(|volume| volume.size).sum()
    };
    let row = |name: &str, total: usize, active: usize, size: i64, free: i64| {
        let cells =
            [name.to_owned(), total.to_string(), active.to_string(), units::size(size), units::size(free)];
        Row::new(USAGE, cells)
    };
    let rows = vec![
        row("Images", usage.images.len(), in_use, usage.layers_size, unused),
        row("Containers", usage.containers.len(), running, written, stopped),
        row("Local Volumes", usage.volumes.len(), mounted, size_of(&|_| true), size_of(&|count| count == 0)),
    ];
    print(&args.format, USAGE, 5, rows)?;
    Ok(0)
}
