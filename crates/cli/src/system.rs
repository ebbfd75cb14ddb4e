//! Verbs about the engine and its computer.

use std::net::{Ipv4Addr, SocketAddr};

use api::client::Client;
use clap::Args;
use futures_util::StreamExt;
use host::engine::{Surroundings, Target};
use host::web::{Assets, Web};

use crate::exit::{Failure, Outcome};
use crate::table::print_value;
use crate::{containers, printer, units};

/// Flags of `events`.
#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// A time, or how long ago (10m)
    #[arg(long)]
    since: Option<String>,
    /// A time
    #[arg(long)]
    until: Option<String>,
    /// container=…, event=…, label=…
    #[arg(short, long)]
    filter: Vec<String>,
    /// json, or a Go template: '{{.Action}} {{.Actor.ID}}'
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(crate) async fn events(client: &Client, args: EventsArgs) -> Outcome {
    let filters = containers::filters(&args.filter)?;
    let since = args.since.as_deref().map(containers::time);
    let until = args.until.as_deref().map(containers::time);
    let mut events = client.events(since.as_deref(), until.as_deref(), &filters).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if let Some(format) = &args.format {
            print_value(format, &serde_json::to_value(&event).unwrap_or_default())?;
            continue;
        }
        let at = jiff::Timestamp::from_nanosecond(i128::from(event.time_nano)).unwrap_or_default();
        let attributes: Vec<String> =
            event.actor.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        printer::line(format_args!(
            "{at:.9} {} {} {} ({})",
            event.kind,
            event.action,
            event.actor.id,
            attributes.join(", ")
        ));
    }
    Ok(0)
}

/// `--format` of verbs that print one thing.
#[derive(Args, Debug)]
pub(crate) struct ValueArgs {
    /// json, or a Go template: '{{.ServerVersion}}'
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(crate) async fn info(client: &Client, args: ValueArgs) -> Outcome {
    let info = client.info().await?;
    if let Some(format) = &args.format {
        print_value(format, &serde_json::to_value(&info).unwrap_or_default())?;
        return Ok(0);
    }
    for (name, value) in [
        ("Containers", info.containers.to_string()),
        (" Running", info.containers_running.to_string()),
        (" Paused", info.containers_paused.to_string()),
        (" Stopped", info.containers_stopped.to_string()),
        ("Images", info.images.to_string()),
        ("Server Version", info.server_version),
        ("Storage Driver", info.driver),
        ("Logging Driver", info.logging_driver),
        ("Cgroup Driver", info.cgroup_driver),
        ("Cgroup Version", info.cgroup_version),
        ("Security Options", info.security_options.join(" ")),
        ("Kernel Version", info.kernel_version),
        ("Operating System", info.operating_system),
        ("Architecture", info.architecture),
        ("CPUs", info.ncpu.to_string()),
        ("Total Memory", units::memory(u64::try_from(info.mem_total).unwrap_or(0))),
        ("Name", info.name),
        ("ID", info.id),
        ("Root Dir", info.docker_root_dir),
    ] {
        printer::line(format_args!("{name}: {value}"));
    }
    for warning in info.warnings {
        printer::note(format_args!("WARNING: {warning}"));
    }
    Ok(0)
}

pub(crate) async fn version(client: &Client, args: ValueArgs) -> Outcome {
    let server = client.version().await?;
    if let Some(format) = &args.format {
        let both = serde_json::json!({
            "Client": { "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": server.arch },
            "Server": server,
        });
        print_value(format, &both)?;
        return Ok(0);
    }
    printer::line(format_args!("Client: {}", env!("CARGO_PKG_VERSION")));
    printer::line(format_args!(
        "Engine: {} (API {}, at least {})",
        server.version, server.api_version, server.min_api_version
    ));
    printer::line(format_args!("System: {}/{}, kernel {}", server.os, server.arch, server.kernel_version));
    Ok(0)
}

/// Flags of `prune`.
#[derive(Args, Debug)]
pub(crate) struct PruneArgs {
    /// Also images that have a name
    #[arg(short, long)]
    all: bool,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// label=…, label!=…, until=… (a time, or how long ago)
    #[arg(long)]
    filter: Vec<String>,
    /// containers or images, and not the other
    #[arg(long, value_name = "KIND", value_parser = ["containers", "images"])]
    only: Option<String>,
    /// Also volumes without a name that no container has
    #[arg(long, conflicts_with = "only")]
    volumes: bool,
}

pub(crate) async fn prune(client: &Client, args: PruneArgs) -> Outcome {
    if args.volumes && args.filter.iter().any(|filter| filter.starts_with("until")) {
        return Err(Failure::new("the filter 'until' is not for volumes: leave out --volumes or the filter"));
    }
    let takes = |kind: &str| args.only.as_deref().is_none_or(|only| only == kind);
    if !args.force {
        let images = if args.all { "all images no container uses" } else { "images without a name" };
        let what = match (takes("containers"), takes("images")) {
            (true, true) => format!("all stopped containers, with their logs, and {images}"),
            (true, false) => "all stopped containers, with their logs".to_owned(),
            _ => images.to_owned(),
        };
        let volumes = if args.volumes { ", and all volumes without a name no container has" } else { "" };
        if !crate::terminal::agrees(&format!("{what}{volumes}"))? {
            return Ok(0);
        }
    }
    let filters = containers::filters(&args.filter)?;
    let mut containers = api::container::PruneContainersResponse::default();
    if takes("containers") {
        containers = client.prune_containers(&filters).await?;
    }
    let mut images = api::image::PruneImagesResponse::default();
    if takes("images") {
        let filters = filters.with("dangling", if args.all { "false" } else { "true" });
        images = client.prune_images(&filters).await?;
    }
    let mut volumes = api::volume::PruneVolumesResponse::default();
    if args.volumes {
        volumes = client.prune_volumes(&containers::filters(&args.filter)?).await?;
    }
    for id in containers.containers_deleted.iter().flatten().chain(volumes.volumes_deleted.iter().flatten()) {
        printer::line(id);
    }
    for part in images.images_deleted.iter().flatten() {
        if let Some(name) = part.untagged.as_ref().or(part.deleted.as_ref()) {
            printer::line(name);
        }
    }
    let bytes = containers.space_reclaimed + images.space_reclaimed + volumes.space_reclaimed;
    printer::line(format_args!(
        "Total reclaimed space: {}",
        units::size(i64::try_from(bytes).unwrap_or(i64::MAX))
    ));
    Ok(0)
}

/// Flags of `web`.
#[derive(Args, Debug)]
pub(crate) struct WebArgs {
    /// The port on this computer; 0 is any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Serve the built UI of this directory
    #[arg(long, value_name = "DIR")]
    assets: Option<std::path::PathBuf>,
}

pub(crate) async fn web(host_name: Option<&str>, args: &WebArgs) -> Outcome {
    let fail = |error: host::web::Error| Failure {
        message: error.to_string(),
        hint: error.hint().map(str::to_owned),
        code: 1,
    };
    let target = Target::find(host_name, &Surroundings::of_this_process())?;
    let assets = match &args.assets {
        Some(dir) => Assets::folder(dir.clone()),
        None => Assets::embedded(),
    }
    .map_err(fail)?;
    let session = host::ui::Session::new(target);
    let web =
        Web::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, args.port)), assets, session).await.map_err(fail)?;
    printer::line(format_args!("Open {}", web.url()));
    printer::note("The address works once. Ctrl-C ends this; containers go on.");
    printer::flush();
    let shutdown = async {
        // Without a signal to wait for, it serves until it is killed.
        let _ = tokio::signal::ctrl_c().await;
    };
    web.serve(shutdown).await.map_err(fail)?;
    Ok(0)
}
