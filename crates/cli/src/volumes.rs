//! Verbs about volumes: `volume create`, `ls`, `inspect`, `rm` and `prune`.

use std::collections::BTreeMap;

use api::client::Client;
use api::volume::{CreateVolume, Volume};
use clap::{Args, Subcommand};

use crate::containers::{each, filters};
use crate::exit::{Failure, Outcome};
use crate::table::{Columns, FormatArgs, Row, print, print_found};
use crate::{printer, units};

#[derive(Subcommand, Debug)]
pub(crate) enum VolumeVerb {
    /// Create a volume
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show all about volumes, as JSON
    Inspect(InspectArgs),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Remove volumes no container has
    Prune(PruneArgs),
}

pub(crate) async fn volume(client: &Client, verb: VolumeVerb) -> Outcome {
    match verb {
        VolumeVerb::Create(args) => create(client, args).await,
        VolumeVerb::Ls(args) => list(client, args).await,
        VolumeVerb::Inspect(args) => inspect(client, args).await,
        VolumeVerb::Rm(args) => remove(client, args).await,
        VolumeVerb::Prune(args) => prune(client, args).await,
    }
}

/// Flags of `volume create`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cove volume create data
  cove volume create -o type=none -o o=bind -o device=/srv/data data
  cove volume create -o type=nfs -o o=addr=10.0.0.1,rw -o device=:/export files")]
pub(crate) struct CreateArgs {
    /// The driver
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// KEY=value
    #[arg(long)]
    label: Vec<String>,
    /// The driver's options: type=…, o=…, device=…
    #[arg(short, long)]
    opt: Vec<String>,
    /// Its name; a random one, if none is given
    name: Option<String>,
}

async fn create(client: &Client, args: CreateArgs) -> Outcome {
    let pairs = |list: &[String]| -> BTreeMap<String, String> {
        let split = |text: &String| {
            text.split_once('=').map_or((text.clone(), String::new()), |(a, b)| (a.into(), b.into()))
        };
        list.iter().map(split).collect()
    };
    let wanted = CreateVolume {
        name: args.name.unwrap_or_default(),
        driver: args.driver,
        driver_opts: pairs(&args.opt),
        labels: pairs(&args.label),
        ..CreateVolume::default()
    };
    printer::line(client.create_volume(&wanted).await?.name);
    Ok(0)
}

/// Flags of `volume ls`.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// dangling=…, driver=…, label=…, name=…
    #[arg(short, long)]
    filter: Vec<String>,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArgs,
}

const VOLUMES: &Columns = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Availability", "AVAILABILITY"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

async fn list(client: &Client, args: ListArgs) -> Outcome {
    let volumes = client.list_volumes(&filters(&args.filter)?).await?.volumes;
    if args.quiet {
        volumes.iter().for_each(|volume| printer::line(&volume.name));
        return Ok(0);
    }
    print(&args.format, VOLUMES, 2, volumes.into_iter().map(row).collect())?;
    Ok(0)
}

fn row(volume: Volume) -> Row {
    let none = || "N/A".to_owned();
    let labels: Vec<String> =
        volume.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let usage = volume.usage_data.as_ref();
    Row::new(
        VOLUMES,
        [
            volume.driver,
            volume.name,
            none(),
            none(),
            labels.join(","),
            usage.map_or_else(none, |usage| usage.ref_count.to_string()),
            volume.mountpoint,
            volume.scope,
            usage.map_or_else(none, |usage| units::size(usage.size)),
            none(),
        ],
    )
}

/// Flags of `volume inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// json, or a Go template: '{{.Mountpoint}}'
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// The volumes
    #[arg(required = true)]
    names: Vec<String>,
}

async fn inspect(client: &Client, args: InspectArgs) -> Outcome {
    let (mut found, mut worst) = (Vec::new(), 0);
    for name in &args.names {
        match client.inspect_volume(name).await {
            Ok(volume) => found.push(serde_json::to_value(volume).unwrap_or_default()),
            Err(error) => {
                printer::failure(&error.into());
                worst = 1;
            }
        }
    }
    print_found(args.format.as_deref(), found)?;
    Ok(worst)
}

/// Flags of `volume rm`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// One that is not there is fine
    #[arg(short, long)]
    force: bool,
    /// The volumes
    #[arg(required = true)]
    names: Vec<String>,
}

async fn remove(client: &Client, args: RemoveArgs) -> Outcome {
    each(&args.names, |name| async move { client.remove_volume(&name, args.force).await }).await
}

/// Flags of `volume prune`.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Also volumes that have a name
    #[arg(short, long)]
    all: bool,
    /// label=…, label!=…
    #[arg(long)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

async fn prune(client: &Client, args: PruneArgs) -> Outcome {
    let mut filters = filters(&args.filter)?;
    if args.all {
        filters = filters.with("all", "true");
    }
    if !args.force {
        let which = if args.all { "all" } else { "anonymous" };
        if !crate::terminal::agrees(&format!("{which} local volumes not used by at least one container"))? {
            return Ok(0);
        }
    }
    let pruned = client.prune_volumes(&filters).await?;
    let names: Vec<String> = pruned.volumes_deleted.unwrap_or_default();
    if !names.is_empty() {
        printer::line("Deleted Volumes:");
        names.iter().for_each(printer::line);
        printer::line("");
    }
    let bytes = i64::try_from(pruned.space_reclaimed)
        .map_err(|_| Failure::new("the engine freed more than there can be"))?;
    printer::line(format_args!("Total reclaimed space: {}", units::size(bytes)));
    Ok(0)
}
