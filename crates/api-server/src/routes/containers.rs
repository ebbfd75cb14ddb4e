//! `/containers`.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::RangeInclusive;

use api::container::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, CreateContainer, CreateResponse, FilesystemChange,
    MemoryStats, NetworkStats, PathStat, PidsStats, PruneContainersResponse, Stats, Throttling, TopResponse,
    UpdateContainer, UpdateResponse, WaitResponse,
};
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use bytes::Bytes;
use engine::logs::{Entry, LogQuery};
use engine::stats::Sample;
use engine::{ContainerInfo, Engine, PathInfo, PathKind, Removal, Streams, Unpacking};
use http::{HeaderValue, StatusCode, header};

use super::ApiMinor;
use super::system::now;
use crate::convert::{
    container_inspect, container_ports, container_spec, container_summary, limits, restart_policy,
    status_text, time_text,
};
use crate::endpoints::{Endpoint, filters};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::hijack::{DetachKeys, Hijack, routes_spawn};
use crate::query::Query;
use crate::versions;

/// More than any request but an archive has.
pub(super) const MAX_BODY: usize = 8 << 20;

/// Reads a JSON body whatever its content type says, as Docker does.
pub(super) async fn body<T: serde::de::DeserializeOwned + Default>(request: Request) -> ApiResult<T> {
    let endpoint = request.extensions().get::<&'static Endpoint>().copied();
    let minor = request.extensions().get::<ApiMinor>().map_or(super::NEWEST, |ApiMinor(minor)| *minor);
    let bytes = axum::body::to_bytes(request.into_body(), MAX_BODY)
        .await
        .map_err(|error| ApiError::bad(format!("failed to read the request's body: {error}")))?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    let invalid = |error: serde_json::Error| ApiError::bad(format!("invalid JSON: {error}"));
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).map_err(invalid)?;
    drop_nulls(&mut value, false);
    if let Some(endpoint) = endpoint {
        endpoint.settle_body(&mut value, minor)?;
        versions::request(endpoint, minor, &mut value);
    }
    serde_json::from_value(value).map_err(invalid)
}

/// Takes out fields that are null: Docker, as Go does, leaves them at what they are without. In maps whose
/// keys are the user's, a null is a value of its own.
fn drop_nulls(value: &mut serde_json::Value, is_map: bool) {
    const MAPS: [&str; 4] = ["ExposedPorts", "Volumes", "PortBindings", "EndpointsConfig"];
    match value {
        serde_json::Value::Object(fields) => {
            if !is_map {
                fields.retain(|_, field| !field.is_null());
            }
            for (name, field) in fields {
                drop_nulls(field, MAPS.contains(&name.as_str()));
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(|one| drop_nulls(one, false)),
        _ => {}
    }
}

fn query(raw: RawQuery) -> Query {
    Query::parse(&raw.0.unwrap_or_default())
}

/// Bytes that a container has in a list, about.
const ROW: usize = 1 << 10;

pub(super) async fn list(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let query = query(raw);
    let filters = Filters::parse(&query, filters::CONTAINERS)?;
    let limit = query.number("limit")?.filter(|limit| *limit > 0);
    let shows_all = query.flag("all") || limit.is_some() || !filters.get("status").is_empty();
    let created = |name: &str| -> ApiResult<Option<u64>> {
        filters.get(name).first().map(|other| Ok(engine.inspect(other)?.created)).transpose()
    };
    let (before, since) = (created("before")?, created("since")?);
    let (published, exposed) = (port_filter(&filters, "publish")?, port_filter(&filters, "expose")?);
    let all = engine.list();
    let mut body = Vec::with_capacity(ROW * all.size_hint().0);
    let rows = all
        .filter(|info| shows_all || info.state.run().is_some() || info.state.name() == "restarting")
        .filter(|info| before.is_none_or(|at| info.created < at) && since.is_none_or(|at| info.created > at))
        .filter(|info| matches(info, &filters))
        .filter(|info| has_ports(info, &published, &exposed))
        .take(limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)));
    let (at, with_size) = (now(), query.flag("size"));
    body.push(b'[');
    for info in rows {
        if body.len() > 1 {
            body.push(b',');
        }
        // Into memory, with names for keys: that can't fail.
        let text = |written| serde_json::to_vec(&container_summary(&info, written, at)).unwrap_or_default();
        if with_size {
            body.extend(text(Some(super::beside(|| sizes(&engine, &info)))));
        } else {
            // All of it is the container's but how long it has been so.
            body.extend(info.memo.get(&status_text(&info, at), || text(None)).iter());
        }
    }
    body.push(b']');
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response())
}

fn sizes(engine: &Engine, info: &ContainerInfo) -> (u64, u64) {
    let written = engine.written(&info.id);
    let image = engine.image_of(&info.image_id).map_or(0, |image| image.size);
    (written, written + image)
}

/// The ports that a filter names: `80`, `80/udp`, `8000-8080/tcp`.
fn port_filter(filters: &Filters, name: &str) -> ApiResult<Vec<(RangeInclusive<u16>, String)>> {
    let parse = |text: &String| {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let range =
            first.parse().ok().zip(last.parse().ok()).filter(|(first, last): &(u16, u16)| first <= last);
        range
            .map(|(first, last)| (first..=last, protocol.to_owned()))
            .ok_or_else(|| ApiError::bad(format!("invalid filter '{name}={text}': it is a port or a range")))
    };
    filters.get(name).iter().map(parse).collect()
}

/// Whether one of its ports is outside or inside one of those, where any are named.
fn has_ports(
    info: &ContainerInfo,
    published: &[(RangeInclusive<u16>, String)],
    exposed: &[(RangeInclusive<u16>, String)],
) -> bool {
    let is_in = |list: &[(RangeInclusive<u16>, String)], port: u16, protocol: &str| {
        list.iter().any(|(range, of)| of == protocol && range.contains(&port))
    };
    if published.is_empty() && exposed.is_empty() {
        return true;
    }
    container_ports(info).iter().any(|port| {
        port.public_port.is_some_and(|public| is_in(published, public, &port.r#type))
            || is_in(exposed, port.private_port, &port.r#type)
    })
}

fn matches(info: &ContainerInfo, filters: &Filters) -> bool {
    let health = info.health.as_ref().map_or("none", |health| health.status.name());
    let image = &info.spec.image;
    filters.labels(&info.spec.labels)
        && filters.any("id", |id| info.id.starts_with(id))
        && filters.any("name", |wanted| {
            format!("/{}", info.name).contains(wanted.trim_start_matches('^').trim_end_matches('$'))
        })
        && filters.any("status", |status| info.state.name() == status)
        && filters.any("health", |wanted| wanted == health)
        && filters.any("exited", |code| info.state.end().is_some_and(|end| end.code.to_string() == code))
        && filters.any("network", |wanted| {
            info.networks.iter().any(|member| member.name == wanted || member.id.starts_with(wanted))
        })
        && filters.any("volume", |volume| {
            info.mounts.iter().any(|m| m.name == volume || m.source == volume || m.target == volume)
        })
        && filters.any("ancestor", |wanted| {
            image == wanted
                || image.split(':').next() == Some(wanted)
                || info.image_id == wanted
                || info.image_id.trim_start_matches("sha256:").starts_with(wanted)
        })
}

/// What Docker's body has, and ours: a directory in place of an image.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct CreateBody {
    #[serde(flatten)]
    docker: CreateContainer,
    #[serde(rename = "CoveRootfs")]
    rootfs: Option<std::path::PathBuf>,
}

pub(super) async fn create(
    State(engine): State<Engine>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
    request: Request,
) -> ApiResult<Response> {
    let query = query(raw);
    let spec = wanted(&engine, &query, minor, request).await?;
    let created = engine.create(spec, query.get("name")).await?;
    let answer = CreateResponse { id: created.id, warnings: created.warnings };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// The container that a request's body asks for.
pub(super) async fn wanted(
    engine: &Engine,
    query: &Query,
    minor: u32,
    request: Request,
) -> ApiResult<model::container::ContainerSpec> {
    let body: CreateBody = body(request).await?;
    if body.rootfs.is_none() && body.docker.config.image.is_empty() {
        return Err(ApiError::bad("no image specified"));
    }
    if let Some(platform) = query.get("platform") {
        let wanted = platform.parse().map_err(|error| ApiError::bad(format!("{error}")))?;
        super::images::choose_platform(engine, &body.docker.config.image, wanted).await?;
    }
    let mut spec = container_spec(body.docker, minor)?;
    spec.rootfs = body.rootfs;
    Ok(spec)
}

pub(super) async fn inspect(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let info = engine.inspect(&id)?;
    let written = query(raw).flag("size").then(|| super::beside(|| sizes(&engine, &info)));
    Ok(Json(container_inspect(&info, written)).into_response())
}

pub(super) async fn start(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    Ok(changed(engine.start(&id).await?))
}

/// 304 where there was nothing to do.
fn changed(has_changed: bool) -> StatusCode {
    if has_changed { StatusCode::NO_CONTENT } else { StatusCode::NOT_MODIFIED }
}

pub(super) async fn stop(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    let query = query(raw);
    Ok(changed(engine.stop(&id, query.get("signal"), query.number("t")?).await?))
}

pub(super) async fn restart(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    let query = query(raw);
    engine.restart(&id, query.get("signal"), query.number("t")?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn kill(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    engine.kill(&id, query(raw).get("signal")).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn pause(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    engine.pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn unpause(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<StatusCode> {
    engine.resume(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rename(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    let query = query(raw);
    let name = query.get("name").ok_or_else(|| ApiError::bad("Neither old nor new names may be empty"))?;
    engine.rename(&id, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn update(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let body: UpdateContainer = body(request).await?;
    let policy =
        if body.restart_policy.name.is_empty() { None } else { Some(restart_policy(&body.restart_policy)?) };
    engine.update(&id, &limits(body.resources), policy).await?;
    Ok(Json(UpdateResponse::default()).into_response())
}

pub(super) async fn remove(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    let query = query(raw);
    let removal = Removal { is_forced: query.flag("force"), takes_volumes: query.flag("v") };
    engine.remove(&id, removal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The headers go out at once: clients start the container when they have them.
pub(super) async fn wait(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let ended = engine.wait(&id, query(raw).get("condition").unwrap_or(""))?;
    let body = futures_util::stream::once(async move {
        let answer = WaitResponse { status_code: ended.await.code.into(), error: None };
        let mut bytes = serde_json::to_vec(&answer).unwrap_or_default();
        bytes.push(b'\n');
        Ok::<_, std::convert::Infallible>(Bytes::from(bytes))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

pub(super) fn size_of_terminal(query: &Query) -> ApiResult<(u16, u16)> {
    let side = |name: &str| -> ApiResult<u16> {
        let number = query.number(name)?.unwrap_or(0);
        u16::try_from(number).map_err(|_| ApiError::bad(format!("invalid value for {name}: {number}")))
    };
    Ok((side("h")?, side("w")?))
}

pub(super) async fn resize(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    let (rows, columns) = size_of_terminal(&query(raw))?;
    engine.resize(&id, rows, columns).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn attach(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
    mut request: Request,
) -> ApiResult<Response> {
    let query = query(raw);
    let keys = DetachKeys::of(&query)?;
    let has_terminal = engine.has_terminal(&id)?;
    let mut hijack = Hijack::of(&mut request, has_terminal, minor);
    let streams =
        Streams { stdin: query.flag("stdin"), stdout: query.flag("stdout"), stderr: query.flag("stderr") };
    if query.flag("logs") {
        hijack.set_prelude(logs_so_far(&engine, &id, streams, has_terminal).await?);
    }
    if !query.flag("stream") {
        return Ok(hijack.prelude_only());
    }
    let attached = engine.attach(&id, streams).await?;
    Ok(hijack.attach(attached.stream, has_terminal.then_some(keys)))
}

/// What was written before, as `attach` with `logs` replays it.
pub(super) async fn logs_so_far(
    engine: &Engine,
    id: &str,
    streams: Streams,
    is_raw: bool,
) -> ApiResult<Vec<u8>> {
    let wanted = LogQuery { stdout: streams.stdout, stderr: streams.stderr, ..LogQuery::default() };
    let mut batches = engine.logs(id, wanted)?;
    let mut bytes = Vec::new();
    while let Some(Ok(batch)) = batches.recv().await {
        encode(&batch, is_raw, Prefix::default(), &mut bytes);
    }
    Ok(bytes)
}

pub(super) async fn logs(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
) -> ApiResult<Response> {
    let query = query(raw);
    let tail = match query.get("tail") {
        None | Some("all") => None,
        // A negative number is everything, as in Docker.
        Some(text) => match text.parse::<i64>() {
            Ok(lines) => usize::try_from(lines).ok(),
            Err(_) => None,
        },
    };
    let is_raw = engine.has_terminal(&id)?;
    let mut batches = engine.logs(
        &id,
        LogQuery {
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
            follow: query.flag("follow"),
            tail,
            since: query.time("since")?,
            until: query.time("until")?,
        },
    )?;
    let prefix = Prefix { has_time: query.flag("timestamps"), has_details: query.flag("details") };
    let stream = async_stream(move |sender| async move {
        while let Some(batch) = batches.recv().await {
            let mut bytes = Vec::new();
            match batch {
                Ok(batch) => encode(&batch, is_raw, prefix, &mut bytes),
                Err(error) => {
                    tracing::warn!(%error, "failed to read a log");
                    return;
                }
            }
            if sender.send(Ok(Bytes::from(bytes))).await.is_err() {
                return;
            }
        }
    });
    let kind = if is_raw || !versions::names_multiplexed_streams(minor) {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    };
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// A stream of what `task` sends.
pub(super) fn async_stream<F: Future<Output = ()> + Send + 'static>(
    task: impl FnOnce(tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>) -> F,
) -> tokio_stream::wrappers::ReceiverStream<Result<Bytes, std::io::Error>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    routes_spawn(task(sender));
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// What stands before each line of a log.
#[derive(Debug, Clone, Copy, Default)]
struct Prefix {
    has_time: bool,
    /// Labels and variables that a log driver was told to keep. None keeps any here, so it is the space behind.
    has_details: bool,
}

/// Entries as Docker sends them: a frame each (raw with a terminal). Some clients take a frame for a line.
fn encode(batch: &[Entry], is_raw: bool, prefix: Prefix, into: &mut Vec<u8>) {
    for entry in batch {
        let header_at = into.len();
        if !is_raw {
            into.extend([entry.stream, 0, 0, 0, 0, 0, 0, 0]);
        }
        if prefix.has_time {
            into.extend(time_text(entry.at).into_bytes());
            into.push(b' ');
        }
        if prefix.has_details {
            into.push(b' ');
        }
        into.extend_from_slice(&entry.bytes);
        if !is_raw {
            close_frame(header_at, into);
        }
    }
}

fn close_frame(header_at: usize, bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len() - header_at - 8).unwrap_or(u32::MAX).to_be_bytes();
    if let Some(slot) = bytes.get_mut(header_at + 4..header_at + 8) {
        slot.copy_from_slice(&length);
    }
}

/// `DELETE /containers/{id}/{alias}?link=1`.
pub(super) async fn remove_link(
    State(engine): State<Engine>,
    Path((id, alias)): Path<(String, String)>,
    raw: RawQuery,
) -> ApiResult<Response> {
    if !query(raw).flag("link") {
        return Err(ApiError::bad(format!("{id}/{alias} is no container; a link is removed with link=1")));
    }
    engine.remove_link(&id, &alias).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn top(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let table = engine.top(&id, query(raw).get("ps_args").unwrap_or("")).await?;
    Ok(Json(TopResponse { titles: table.titles, processes: table.rows }).into_response())
}

pub(super) async fn stats(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let query = query(raw);
    let first = engine.stats(&id)?;
    if !query.flag_or("stream", true) {
        // A single sample is compared with one a second before, unless asked for at once.
        if query.flag("one-shot") || !first.is_running {
            return Ok(Json(sample(&first, None)).into_response());
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let second = engine.stats(&id)?;
        return Ok(Json(sample(&second, Some(&first))).into_response());
    }
    let stream = async_stream(move |sender| async move {
        let mut before: Option<Sample> = None;
        loop {
            let Ok(now) = engine.stats(&id) else { return };
            let mut line = serde_json::to_vec(&sample(&now, before.as_ref())).unwrap_or_default();
            line.push(b'\n');
            if sender.send(Ok(Bytes::from(line))).await.is_err() {
                return;
            }
            before = Some(now);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn sample(now: &Sample, before: Option<&Sample>) -> Stats {
    let cpu = |sample: &Sample| CpuStats {
        cpu_usage: CpuUsage {
            total_usage: sample.usage.cpu_total,
            usage_in_kernelmode: sample.usage.cpu_system,
            usage_in_usermode: sample.usage.cpu_user,
        },
        system_cpu_usage: Some(sample.system_cpu),
        online_cpus: Some(sample.cpus),
        throttling_data: Throttling {
            periods: sample.usage.periods,
            throttled_periods: sample.usage.throttled_periods,
            throttled_time: sample.usage.throttled_time,
        },
    };
    let usage = &now.usage;
    let entries = |read: fn(&engine::stats::IoStat) -> u64, write: fn(&engine::stats::IoStat) -> u64| {
        let of = |op: &str, io: &engine::stats::IoStat, value: u64| BlkioEntry {
            major: io.major,
            minor: io.minor,
            op: op.into(),
            value,
        };
        Some(usage.io.iter().flat_map(|io| [of("read", io, read(io)), of("write", io, write(io))]).collect())
    };
    let networks: BTreeMap<String, NetworkStats> = now
        .networks
        .iter()
        .map(|interface| {
            let [rx_bytes, rx_packets, rx_errors, rx_dropped, tx_bytes, tx_packets, tx_errors, tx_dropped] =
                interface.counters;
            let counters = NetworkStats {
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            };
            (interface.name.clone(), counters)
        })
        .collect();
    Stats {
        id: now.id.clone(),
        name: format!("/{}", now.name),
        read: if now.is_running { time_text(now.at) } else { time_text(0) },
        preread: time_text(before.map_or(0, |before| before.at)),
        os_type: "linux".into(),
        pids_stats: PidsStats { current: usage.pids, limit: usage.pids_limit },
        cpu_stats: if now.is_running { cpu(now) } else { CpuStats::default() },
        precpu_stats: before.map(cpu).unwrap_or_default(),
        memory_stats: if now.is_running {
            MemoryStats {
                usage: usage.memory_usage,
                max_usage: usage.memory_max_usage,
                stats: usage.memory_stat.clone(),
                failcnt: usage.memory_failures,
                limit: Some(usage.memory_limit.unwrap_or(now.memory_total).min(now.memory_total)),
            }
        } else {
            MemoryStats::default()
        },
        blkio_stats: BlkioStats {
            io_service_bytes_recursive: entries(|io| io.read_bytes, |io| io.write_bytes),
            io_serviced_recursive: entries(|io| io.reads, |io| io.writes),
        },
        networks: (!networks.is_empty()).then_some(networks),
        ..Stats::default()
    }
}

pub(super) async fn changes(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Response> {
    let changes: Vec<FilesystemChange> = engine
        .changes(&id)?
        .into_iter()
        .map(|(path, kind)| FilesystemChange { path: path.display().to_string(), kind: kind as u8 })
        .collect();
    Ok(Json(changes).into_response())
}

pub(super) async fn prune(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let filters = Filters::parse(&query(raw), filters::PRUNED)?;
    let until = filters.until(now())?;
    let (removed, space) = engine
        .prune_containers(|info| {
            until.is_none_or(|at| info.created < at) && filters.labels(&info.spec.labels)
        })
        .await?;
    let answer = PruneContainersResponse {
        containers_deleted: (!removed.is_empty()).then_some(removed),
        space_reclaimed: space,
    };
    Ok(Json(answer).into_response())
}

/// A tar archive that a blocking task writes.
pub(super) fn tar_response(
    write: impl FnOnce(Box<dyn std::io::Write + Send>) -> Result<(), String> + Send + 'static,
) -> Response {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(4);
    tokio::task::spawn_blocking(move || {
        let sink = ChannelWriter { sender: sender.clone() };
        let buffered = std::io::BufWriter::with_capacity(64 * 1024, sink);
        if let Err(message) = write(Box::new(buffered)) {
            // The headers are out: breaking the stream off is what is left to say.
            tracing::warn!(message, "failed to write an archive");
            let _ = sender.blocking_send(Err(std::io::Error::other(message)));
        }
    });
    let mut response =
        Response::new(Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    response
}

struct ChannelWriter {
    sender: tokio::sync::mpsc::Sender<Result<Bytes, std::io::Error>>,
}

impl std::io::Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(bytes)))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The request's body as a blocking reader.
pub(super) fn body_reader(request: Request) -> impl Read + Send + 'static {
    let stream =
        futures_util::TryStreamExt::map_err(request.into_body().into_data_stream(), std::io::Error::other);
    tokio_util::io::SyncIoBridge::new(tokio_util::io::StreamReader::new(stream))
}

pub(super) async fn export(State(engine): State<Engine>, Path(id): Path<String>) -> ApiResult<Response> {
    engine.inspect(&id)?;
    Ok(tar_response(move |into| engine.export(&id, into).map_err(|error| error.chain())))
}

fn archive_path(raw: RawQuery) -> ApiResult<(Query, String)> {
    let query = query(raw);
    let path =
        query.get("path").ok_or_else(|| ApiError::bad("bad parameter: path cannot be empty"))?.to_owned();
    Ok((query, path))
}

pub(super) async fn stat_archive(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let (_, path) = archive_path(raw)?;
    let mut response = Response::new(Body::empty());
    insert_stat(&mut response, &stat(engine, id, path).await?);
    Ok(response)
}

async fn stat(engine: Engine, id: String, path: String) -> ApiResult<PathInfo> {
    let found = tokio::task::spawn_blocking(move || engine.stat_path(&id, &path)).await;
    Ok(found.map_err(|_| ApiError::bad("the engine is shutting down"))??)
}

pub(super) async fn get_archive(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let (_, path) = archive_path(raw)?;
    let info = stat(engine.clone(), id.clone(), path.clone()).await?;
    let mut response =
        tar_response(move |into| engine.read_archive(&id, &path, into).map_err(|error| error.chain()));
    insert_stat(&mut response, &info);
    Ok(response)
}

pub(super) async fn put_archive(
    State(engine): State<Engine>,
    Path(id): Path<String>,
    raw: RawQuery,
    request: Request,
) -> ApiResult<StatusCode> {
    let (query, path) = archive_path(raw)?;
    let how =
        Unpacking { keeps_kind: query.flag("noOverwriteDirNonDir"), gives_to_user: query.flag("copyUIDGID") };
    let mut reader = body_reader(request);
    tokio::task::spawn_blocking(move || {
        let written = engine.write_archive(&id, &path, how, &mut reader);
        drain(reader);
        written
    })
    .await
    .map_err(|_| ApiError::bad("the engine is shutting down"))??;
    Ok(StatusCode::OK)
}

/// Reads what a client still sends behind the end of an archive, or after it was refused: one whose
/// connection is closed while it sends tells of that instead of the answer.
pub(super) fn drain(reader: impl Read) {
    const MOST: u64 = 64 << 20;
    let _ = std::io::copy(&mut reader.take(MOST), &mut std::io::sink());
}

fn insert_stat(response: &mut Response, info: &PathInfo) {
    // Go's FileMode: permissions below, kinds and set-id bits from the top.
    let bits: u32 = match info.kind {
        PathKind::File => 0,
        PathKind::Directory => 1 << 31,
        PathKind::Symlink => 1 << 27,
        PathKind::Device => 1 << 26 | 1 << 21,
        PathKind::Fifo => 1 << 25,
        PathKind::Socket => 1 << 24,
    };
    let set = |mask: u32, bit: u32| if info.mode & mask != 0 { 1 << bit } else { 0 };
    let stat = PathStat {
        name: info.name.clone(),
        size: i64::try_from(info.size).unwrap_or(i64::MAX),
        mode: bits | (info.mode & 0o777) | set(0o4000, 23) | set(0o2000, 22) | set(0o1000, 20),
        mtime: time_text(u64::try_from(info.modified).unwrap_or(0)),
        link_target: info.link_target.clone(),
    };
    let text =
        base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(&stat).unwrap_or_default());
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert("x-docker-container-path-stat", value);
    }
}
