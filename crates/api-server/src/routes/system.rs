//! The engine itself: `/_ping`, `/version`, `/info`, `/events`, `/system/df`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::container::ContainerSummary;
use api::event::{Actor, Event as WireEvent};
use api::image::ImageSummary;
use api::system::{Component, DiskUsage, Info, KindUsage, Version, VersionPlatform};
use api::volume::Volume;
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::{ContainerInfo, Engine, Event, Subject, VolumeInfo};
use http::{HeaderMap, HeaderValue, header};
use image_store::ImageRecord;
use tokio::sync::broadcast::error::RecvError;

use super::ApiMinor;
use super::containers::async_stream;
use crate::convert::{container_summary, image_summary, int, time_text};
use crate::endpoints::filters;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::query::Query;
use crate::versions;

/// Nanoseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) async fn ping(request: Request) -> Response {
    let body = if request.method() == http::Method::HEAD { Body::empty() } else { Body::from("OK") };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    response
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn architecture() -> String {
    model::Platform::host().architecture
}

pub(super) async fn version() -> Json<Version> {
    let component = |name: &str, version: &str| Component {
        name: name.into(),
        version: version.into(),
        details: BTreeMap::from([
            ("ApiVersion".into(), api::API_VERSION.into()),
            ("MinAPIVersion".into(), api::MIN_API_VERSION.into()),
            ("Os".into(), "linux".into()),
            ("Arch".into(), architecture()),
            ("KernelVersion".into(), kernel()),
        ]),
    };
    Json(Version {
        platform: VersionPlatform { name: "Cove".into() },
        components: vec![
            component("Engine", env!("CARGO_PKG_VERSION")),
            component("cove-runtime", env!("CARGO_PKG_VERSION")),
        ],
        version: env!("CARGO_PKG_VERSION").into(),
        api_version: api::API_VERSION.into(),
        min_api_version: api::MIN_API_VERSION.into(),
        os: "linux".into(),
        arch: architecture(),
        kernel_version: kernel(),
        ..Version::default()
    })
}

pub(super) async fn info(State(engine): State<Engine>) -> ApiResult<Response> {
    let system = engine.system()?;
    let has = |name: &str| system.controllers.iter().any(|controller| controller == name);
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let [running, paused, stopped] = system.containers;
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    let uname = rustix::system::uname();
    let mut security = vec!["name=seccomp,profile=builtin".to_owned(), "name=cgroupns".to_owned()];
    if system.is_rootless {
        security.push("name=rootless".into());
    }
    let drivers = if engine.has_bridge() { &["bridge", "ipvlan", "macvlan"][..] } else { &[] };
    let bridge = drivers.iter().map(|driver| (*driver).to_owned());
    let networks = bridge.into_iter().chain(["host".to_owned(), "null".to_owned()]).collect();
    let info = Info {
        id: system.id,
        containers: count(running + paused + stopped),
        containers_running: count(running),
        containers_paused: count(paused),
        containers_stopped: count(stopped),
        images: count(system.images),
        driver: "overlay2".into(),
        driver_status: vec![["Backing Filesystem".into(), "native".into()]],
        docker_root_dir: system.root,
        plugins: [
            ("Volume".to_owned(), Some(vec![VolumeInfo::DRIVER.to_owned()])),
            ("Network".to_owned(), Some(networks)),
            ("Authorization".to_owned(), None),
            ("Log".to_owned(), Some(vec!["json-file".to_owned(), "local".to_owned(), "none".to_owned()])),
        ]
        .into(),
        memory_limit: has("memory"),
        swap_limit: has("memory"),
        cpu_cfs_period: has("cpu"),
        cpu_cfs_quota: has("cpu"),
        cpu_shares: has("cpu"),
        cpu_set: has("cpuset"),
        pids_limit: has("pids"),
        ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
            .is_ok_and(|text| text.trim() == "1"),
        oom_kill_disable: has("memory") && system.cgroup_version == 1,
        system_time: time_text(now()),
        logging_driver: "json-file".into(),
        cgroup_driver: if system.controllers.is_empty() { "none" } else { "cgroupfs" }.into(),
        cgroup_version: system.cgroup_version.to_string(),
        n_events_listener: count(engine.events().listeners()),
        kernel_version: kernel(),
        operating_system: os("PRETTY_NAME"),
        os_version: os("VERSION_ID"),
        os_type: "linux".into(),
        architecture: uname.machine().to_string_lossy().into_owned(),
        index_server_address: "https://index.docker.io/v1/".into(),
        registry_config: serde_json::json!({ "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"], "IndexConfigs": {}, "Mirrors": [] }),
        ncpu: count(system.cpus),
        mem_total: int(system.memory_total),
        name: uname.nodename().to_string_lossy().into_owned(),
        server_version: env!("CARGO_PKG_VERSION").into(),
        runtimes: [("cove".to_owned(), serde_json::json!({ "path": "cove-runtime" }))].into(),
        default_runtime: "cove".into(),
        swarm: serde_json::json!({ "LocalNodeState": "inactive", "ControlAvailable": false, "NodeID": "", "NodeAddr": "", "Error": "", "RemoteManagers": null }),
        live_restore_enabled: true,
        init_binary: String::new(),
        security_options: security,
        warnings: system.warnings,
        ..Info::default()
    };
    Ok(Json(info).into_response())
}

/// `GET /system/df`: of the kinds that `type` names, since measuring each reads all of it.
pub(super) async fn disk_usage(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];
    let query = Query::parse(&raw.0.unwrap_or_default());
    let kinds = query.all("type");
    if let Some(other) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(ApiError::bad(format!("unknown object type: {other}")));
    }
    let is_wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
    // Verbose, lists stand with the sums they belong to; otherwise where they were before API 1.52.
    let is_verbose = query.flag("verbose");
    let mut answer = DiskUsage::default();
    if is_wanted("image") {
        let (all, layers) = super::beside(|| (images_usage(&engine), int(engine.images().layers_size())));
        let all = all?;
        let used =
            |image: &ImageSummary| if image.containers > 0 { image.size - image.shared_size } else { 0 };
        let usage = KindUsage {
            active_count: count(all.iter().filter(|image| image.containers > 0)),
            total_count: count(all.iter()),
            reclaimable: layers - all.iter().map(used).sum::<i64>(),
            total_size: layers,
            items: Vec::new(),
        };
        answer.layers_size = if is_verbose { 0 } else { layers };
        answer.image_usage = Some(listed(usage, all, &mut answer.images, is_verbose));
    }
    if is_wanted("container") {
        let all = super::beside(|| containers_usage(&engine))?;
        let is_active =
            |row: &&ContainerSummary| ["running", "paused", "restarting"].contains(&row.state.as_str());
        let total_size: i64 = all.iter().filter_map(|row| row.size_rw).sum();
        let usage = KindUsage {
            active_count: count(all.iter().filter(is_active)),
            total_count: count(all.iter()),
            reclaimable: total_size - all.iter().filter(is_active).filter_map(|row| row.size_rw).sum::<i64>(),
            total_size,
            items: Vec::new(),
        };
        answer.container_usage = Some(listed(usage, all, &mut answer.containers, is_verbose));
    }
    if is_wanted("volume") {
        let all = super::volumes::usage(&engine).await?;
        let is_active = |row: &&Volume| row.usage_data.as_ref().is_some_and(|usage| usage.ref_count > 0);
        let size = |row: &Volume| row.usage_data.as_ref().map_or(0, |usage| usage.size);
        let total_size: i64 = all.iter().map(size).sum();
        let usage = KindUsage {
            active_count: count(all.iter().filter(is_active)),
            total_count: count(all.iter()),
            reclaimable: total_size - all.iter().filter(is_active).map(size).sum::<i64>(),
            total_size,
            items: Vec::new(),
        };
        answer.volume_usage = Some(listed(usage, all, &mut answer.volumes, is_verbose));
    }
    if is_wanted("build-cache") {
        answer.build_cache_usage = Some(KindUsage::default());
    }
    Ok(Json(answer).into_response())
}

fn count<T>(all: impl Iterator<Item = T>) -> i64 {
    i64::try_from(all.count()).unwrap_or(i64::MAX)
}

/// Puts a list where the client looks for it.
fn listed<T>(usage: KindUsage<T>, all: Vec<T>, older: &mut Vec<T>, is_verbose: bool) -> KindUsage<T> {
    if is_verbose {
        return KindUsage { items: all, ..usage };
    }
    *older = all;
    usage
}

fn images_usage(engine: &Engine) -> ApiResult<Vec<ImageSummary>> {
    let (containers, usage) = (engine.list().collect::<Vec<_>>(), engine.images().disk_usage());
    let summary = |image: &Arc<_>| {
        let image: &ImageRecord = image;
        let shared = usage.iter().find(|(id, ..)| *id == image.id).map_or(0, |(_, _, shared)| *shared);
        let id = image.id.to_string();
        let users = containers.iter().filter(|info| info.image_id == id).count();
        image_summary(image, Some(shared), Some(users))
    };
    Ok(engine.images().list()?.iter().map(summary).collect())
}

fn containers_usage(engine: &Engine) -> ApiResult<Vec<ContainerSummary>> {
    let (images, at) = (engine.images().list()?, now());
    let summary = |info: Arc<ContainerInfo>| {
        let written = engine.written(&info.id);
        let image = images.iter().find(|image| image.id.to_string() == info.image_id);
        container_summary(&info, Some((written, written + image.map_or(0, |image| image.size))), at)
    };
    Ok(engine.list().map(summary).collect())
}

pub(super) async fn events(
    State(engine): State<Engine>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let kind = stream_type(&headers);
    let query = Query::parse(&raw.0.unwrap_or_default());
    let filters = Filters::parse(&query, filters::EVENTS)?;
    let (since, until) = (query.time("since")?, query.time("until")?);
    // From the beginning, unlike of a log, is something else than from now on.
    let since = query.get("since").filter(|text| !text.is_empty()).map(|_| since.unwrap_or(0));
    let (past, mut live) = engine.events().subscribe();
    let past: Vec<_> = past
        .into_iter()
        .filter(|event| since.is_some_and(|at| event.at >= at) && until.is_none_or(|at| event.at <= at))
        .collect();
    let stream = async_stream(move |sender| async move {
        let line = |event: &Event| {
            let mut bytes = if kind == JSON_SEQUENCE { vec![0x1e] } else { Vec::new() };
            // A value of our own types always becomes JSON, and a vector takes all of it.
            let _ = serde_json::to_writer(&mut bytes, &wire(event, minor));
            bytes.push(b'\n');
            Bytes::from(bytes)
        };
        for event in past.iter().filter(|event| wanted(event, &filters)) {
            if sender.send(Ok(line(event))).await.is_err() {
                return;
            }
        }
        let left = until.map(|at| std::time::Duration::from_nanos(at.saturating_sub(now())));
        let deadline = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        loop {
            let event = tokio::select! {
                () = &mut deadline => return,
                () = sender.closed() => return,
                event = live.recv() => event,
            };
            match event {
                Ok(event) if wanted(&event, &filters) => {
                    if sender.send(Ok(line(&event))).await.is_err() {
                        return;
                    }
                }
                // A client that reads too slowly loses what it was too late for.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

const JSON_SEQUENCE: &str = "application/json-seq";

/// The form of the stream that the client likes best; each event is a line in any.
fn stream_type(headers: &HeaderMap) -> &'static str {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let names = accepted.split(',').filter_map(|part| part.split(';').next()).map(str::trim);
    names
        .filter_map(|name| match name {
            "application/x-ndjson" => Some("application/x-ndjson"),
            "application/jsonl" => Some("application/jsonl"),
            JSON_SEQUENCE => Some(JSON_SEQUENCE),
            "application/json" => Some("application/json"),
            _ => None,
        })
        .next()
        .unwrap_or("application/json")
}

fn kind(event: &Event) -> &'static str {
    match event.subject {
        Subject::Container => "container",
        Subject::Image => "image",
        Subject::Volume => "volume",
        Subject::Network => "network",
    }
}

fn wanted(event: &Event, filters: &Filters) -> bool {
    let is_named = |wanted: &str| {
        event.id.starts_with(wanted) || event.attributes.get("name").is_some_and(|name| name == wanted)
    };
    let action = event.action.split(':').next().unwrap_or_default();
    filters.any("type", |wanted| wanted == kind(event))
        && filters.any("event", |wanted| wanted == action || wanted == event.action)
        && filters.any("container", |wanted| event.subject == Subject::Container && is_named(wanted))
        && filters.any("image", |wanted| {
            event.attributes.get("image").is_some_and(|image| image == wanted)
                || (event.subject == Subject::Image && is_named(wanted))
        })
        && filters.any("scope", |wanted| wanted == "local")
        && filters.any("volume", |wanted| event.subject == Subject::Volume && is_named(wanted))
        && filters.any("network", |wanted| event.subject == Subject::Network && is_named(wanted))
        && ["daemon", "plugin", "node", "secret", "service", "config"]
            .iter()
            .all(|name| filters.get(name).is_empty())
        && filters.labels(&event.attributes)
}

fn wire(event: &Event, minor: u32) -> WireEvent {
    let has_older_fields = versions::has_older_event_fields(minor);
    let image = event.attributes.get("image").cloned().unwrap_or_default();
    let has_older_form = has_older_fields && matches!(event.subject, Subject::Container | Subject::Image);
    let older = |text: &String| if has_older_form { text.clone() } else { String::new() };
    WireEvent {
        status: older(&event.action),
        id: older(&event.id),
        from: if has_older_fields { image } else { String::new() },
        kind: kind(event).into(),
        action: event.action.clone(),
        actor: Actor { id: event.id.clone(), attributes: event.attributes.clone() },
        scope: "local".into(),
        time: int(event.at / 1_000_000_000),
        time_nano: int(event.at),
    }
}
