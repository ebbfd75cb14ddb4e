//! `/images` and `/commit`.

use std::collections::HashMap;

use api::container::ContainerConfig;
use api::exec::IdResponse;
use api::image::{DeletedImage, HistoryEntry, ManifestSummary, Progress, PruneImagesResponse};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use engine::Engine;
use http::{HeaderValue, StatusCode, header};
use image_store::{Auth, ImageRecord, Removed, SavedForm};
use model::{Digest, Reference};
use tokio::sync::mpsc;

use super::containers::{body, body_reader, drain, tar_response};
use super::progress::{LINES, Line, failure, json_line, json_stream, teller, told};
use super::registry::{asked_platform, auth_of};
use super::system::now;
use crate::convert::{config_of_image, image_inspect, image_summary, int, manifest_summary};
use crate::endpoints::filters;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::hijack::routes_spawn;
use crate::query::Query;

fn query(raw: RawQuery) -> Query {
    Query::parse(&raw.0.unwrap_or_default())
}

pub(super) async fn list(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let containers: Vec<_> = engine.list().collect();
    let users = |image: &ImageRecord| {
        let id = image.id.to_string();
        containers.iter().filter(|info| info.image_id == id).count()
    };
    let query = query(raw);
    let mut filters = Filters::parse(&query, filters::IMAGES)?;
    if let Some(reference) = query.get("filter") {
        filters.add("reference", reference);
    }
    let dangling = filters.flag("dangling")?;
    let created = |name: &str| -> ApiResult<Option<String>> {
        filters.get(name).first().map(|other| Ok(engine.images().resolve(other)?.created.clone())).transpose()
    };
    let (before, since) = (created("before")?, created("since")?);
    let until = filters.until(now())?;
    let shared: HashMap<_, _> = if query.flag("shared-size") {
        super::beside(|| engine.images().disk_usage())
            .into_iter()
            .map(|(id, _, shared)| (id, shared))
            .collect()
    } else {
        HashMap::new()
    };
    let rows: Vec<_> = engine
        .images()
        .list()?
        .iter()
        .filter(|image| dangling.is_none_or(|wanted| image.repo_tags.is_empty() == wanted))
        .filter(|image| before.as_ref().is_none_or(|at| image.created < *at))
        .filter(|image| since.as_ref().is_none_or(|at| image.created > *at))
        .filter(|image| is_as_old(image, until))
        .filter(|image| filters.labels(&image.config.labels))
        .filter(|image| {
            filters.any("reference", |pattern| {
                image.repo_tags.iter().any(|tag| {
                    let name = tag.rsplit_once(':').map_or(tag.as_str(), |(name, _)| name);
                    glob(pattern, tag) || glob(pattern, name)
                })
            })
        })
        .map(|image| {
            let mut row = image_summary(image, shared.get(&image.id).copied(), Some(users(image)));
            if query.flag("manifests") {
                let name = image.repo_tags.first().cloned().unwrap_or_else(|| image.id.to_string());
                row.manifests = Some(manifests(&engine, &name)?);
            }
            Ok(row)
        })
        .collect::<ApiResult<_>>()?;
    Ok(Json(rows).into_response())
}

/// The entries of the index that a name leads to.
fn manifests(engine: &Engine, name: &str) -> ApiResult<Vec<ManifestSummary>> {
    let users = |image: &Digest| {
        let id = image.to_string();
        engine.list().filter(|info| info.image_id == id).map(|info| info.id.clone()).collect()
    };
    let entries = engine.images().manifests(name)?;
    Ok(entries.iter().map(|entry| manifest_summary(entry, users)).collect())
}

/// `*` and `?` within one part of a path.
fn glob(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = pattern.get(1..).unwrap_or_default();
            glob(rest, text)
                || text
                    .chars()
                    .next()
                    .is_some_and(|c| c != '/' && glob(pattern, text.get(c.len_utf8()..).unwrap_or_default()))
        }
        (Some('?'), Some(c)) if c != '/' => {
            glob(pattern.get(1..).unwrap_or_default(), text.get(c.len_utf8()..).unwrap_or_default())
        }
        (Some(p), Some(c)) if p == c => glob(
            pattern.get(p.len_utf8()..).unwrap_or_default(),
            text.get(c.len_utf8()..).unwrap_or_default(),
        ),
        _ => false,
    }
}

/// Refuses a platform that is not the image's.
fn must_be_for(engine: &Engine, name: &str, platform: Option<&model::Platform>) -> ApiResult<()> {
    let Some(wanted) = platform else { return Ok(()) };
    let image = engine.images().resolve(name)?;
    if wanted.accepts(&image.platform()) { Ok(()) } else { Err(is_for_another(name, &image, wanted)) }
}

/// Has a name mean the image for a platform, where that is here.
pub(super) async fn choose_platform(engine: &Engine, name: &str, wanted: model::Platform) -> ApiResult<()> {
    let (images, name) = (engine.images().clone(), name.to_owned());
    let chosen = tokio::task::spawn_blocking(move || {
        let image = images.resolve(&name)?;
        let found = images.for_platform(&name, &wanted)?;
        found.map(drop).ok_or_else(|| is_for_another(&name, &image, &wanted))
    });
    chosen.await.map_err(|_| ApiError::bad("the engine is shutting down"))?
}

fn is_for_another(name: &str, image: &ImageRecord, wanted: &model::Platform) -> ApiError {
    let found = image.platform();
    ApiError {
        status: StatusCode::NOT_FOUND,
        message: format!(
            "image with reference {name} was found but its platform ({found}) does not match the specified platform ({wanted})"
        ),
    }
}

/// `GET /images/NAME/{json,history,get}`.
pub(super) async fn get_by_name(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let (name, what) = rest.rsplit_once('/').unwrap_or((rest.as_str(), ""));
    let query = query(raw);
    let platform = asked_platform(&query)?;
    must_be_for(&engine, name, platform.as_ref())?;
    match what {
        "json" => {
            let mut answer = image_inspect(&*engine.images().resolve(name)?);
            if query.flag("manifests") {
                answer.manifests = Some(manifests(&engine, name)?);
            }
            Ok(Json(answer).into_response())
        }
        "history" => {
            let entries: Vec<HistoryEntry> = engine
                .images()
                .history(name)?
                .into_iter()
                .map(|entry| HistoryEntry {
                    id: entry.id.map_or_else(|| "<missing>".into(), |id| id.to_string()),
                    created: entry.created.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second),
                    created_by: entry.created_by,
                    tags: (!entry.tags.is_empty()).then_some(entry.tags),
                    size: int(entry.size),
                    comment: entry.comment,
                })
                .collect();
            Ok(Json(entries).into_response())
        }
        "get" => save(&engine, vec![name.to_owned()], saved_form(platform.as_ref())),
        _ => Err(ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() }),
    }
}

pub(super) async fn save_many(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let query = query(raw);
    let platform = asked_platform(&query)?;
    let names: Vec<String> =
        query.all("names").iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
    for name in &names {
        must_be_for(&engine, name, platform.as_ref())?;
    }
    save(&engine, names, saved_form(platform.as_ref()))
}

/// What is asked for by its platform goes alone.
fn saved_form(platform: Option<&model::Platform>) -> SavedForm {
    if platform.is_some() { SavedForm::OnePlatform } else { SavedForm::Whole }
}

fn save(engine: &Engine, names: Vec<String>, form: SavedForm) -> ApiResult<Response> {
    for name in &names {
        engine.images().resolve(name)?;
    }
    let images = engine.images().clone();
    Ok(tar_response(move |into| images.save(&names, form, into).map_err(|error| error.to_string())))
}

/// `POST /images/NAME/{tag,push}`.
pub(super) async fn post_by_name(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    raw: RawQuery,
    request: Request,
) -> ApiResult<Response> {
    let (name, what) = rest.rsplit_once('/').unwrap_or((rest.as_str(), ""));
    match what {
        "tag" => {
            let query = query(raw);
            let repo = query
                .get("repo")
                .ok_or_else(|| ApiError::bad("invalid reference format: repo is missing"))?;
            let target = match query.get("tag") {
                Some(tag) => format!("{repo}:{tag}"),
                None => repo.to_owned(),
            };
            let target: Reference = target.parse().map_err(|error| ApiError::bad(format!("{error}")))?;
            engine.tag_image(name, &target)?;
            Ok(StatusCode::CREATED.into_response())
        }
        "push" => super::registry::push(engine, name, &query(raw), request.headers()).await,
        _ => Err(ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() }),
    }
}

pub(super) async fn remove(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let is_forced = query(raw).flag("force");
    let removed = tokio::task::spawn_blocking(move || engine.remove_image(&name, is_forced))
        .await
        .map_err(|_| ApiError::bad("the engine is shutting down"))??;
    Ok(Json(deleted(removed)).into_response())
}

fn deleted(removed: Vec<Removed>) -> Vec<DeletedImage> {
    removed
        .into_iter()
        .map(|part| match part {
            Removed::Untagged(name) => DeletedImage { untagged: Some(name), deleted: None },
            Removed::Deleted(digest) => DeletedImage { untagged: None, deleted: Some(digest.to_string()) },
        })
        .collect()
}

pub(super) async fn prune(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let filters = Filters::parse(&query(raw), filters::PRUNED_IMAGES)?;
    let until = filters.until(now())?;
    let is_all = filters.flag("dangling")? == Some(false);
    let matches = move |image: &ImageRecord| is_as_old(image, until) && filters.labels(&image.config.labels);
    let (removed, space) = tokio::task::spawn_blocking(move || engine.prune_images(is_all, matches))
        .await
        .map_err(|_| ApiError::bad("the engine is shutting down"))??;
    let answer = PruneImagesResponse {
        images_deleted: (!removed.is_empty()).then(|| deleted(removed)),
        space_reclaimed: space,
    };
    Ok(Json(answer).into_response())
}

/// Whether an image was made by then (nanoseconds since the epoch). As in Docker, one that does not say
/// when it was made is never old enough.
fn is_as_old(image: &ImageRecord, until: Option<u64>) -> bool {
    let Some(until) = until else { return true };
    let Ok(created) = image.created.parse::<jiff::Timestamp>() else { return false };
    created.as_nanosecond() <= i128::from(until)
}

/// `POST /images/create`: a pull, told line by line.
pub(super) async fn create(
    State(engine): State<Engine>,
    raw: RawQuery,
    request: Request,
) -> ApiResult<Response> {
    let query = query(raw);
    if let Some(source) = query.get("fromSrc") {
        return import(engine, source, &query, request).await;
    }
    let name = query.get("fromImage").ok_or_else(|| ApiError::bad("fromImage is missing"))?;
    let text = match query.get("tag") {
        Some(tag) if tag.starts_with("sha256:") => format!("{name}@{tag}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_owned(),
    };
    let reference: Reference = text.parse().map_err(|error| ApiError::bad(format!("{error}")))?;
    let platform = platform(&query)?;
    let auth = auth_of(request.headers())?;
    let (sender, lines) = mpsc::channel(LINES);
    routes_spawn(pull(engine, reference, platform, auth, sender));
    told(lines).await
}

fn platform(query: &Query) -> ApiResult<Option<model::Platform>> {
    let given = query.get("platform").map(str::parse::<model::Platform>).transpose();
    given.map_err(|error| ApiError::bad(format!("{error}")))
}

/// The name a new image is to have: `repo`, with its tag behind it or in `tag`.
fn new_name(query: &Query) -> ApiResult<Option<Reference>> {
    let text = match (query.get("repo"), query.get("tag")) {
        (None, _) => return Ok(None),
        (Some(repo), None) => repo.to_owned(),
        (Some(repo), Some(tag)) => format!("{repo}:{tag}"),
    };
    text.parse().map(Some).map_err(|error| ApiError::bad(format!("{error}")))
}

/// Dockerfile instructions: one parameter each, or lines of one.
fn changes(query: &Query) -> Vec<String> {
    let lines = query.all("changes").iter().flat_map(|text| text.lines());
    lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// `POST /images/create?fromSrc=-`: an image of the archive that is sent.
async fn import(engine: Engine, source: &str, query: &Query, request: Request) -> ApiResult<Response> {
    let wanted = import_wanted(source, query);
    let mut reader = body_reader(request);
    let id = tokio::task::spawn_blocking(move || {
        let imported = wanted.and_then(|wanted| Ok(engine.import_image(&mut reader, wanted)?));
        drain(reader);
        imported
    })
    .await
    .map_err(|_| ApiError::bad("the engine is shutting down"))??;
    let line = json_line(&Progress { status: Some(id), ..Progress::default() });
    Ok(json_stream(futures_util::stream::iter([Ok(line)])))
}

fn import_wanted(source: &str, query: &Query) -> ApiResult<engine::Import> {
    if source != "-" {
        return Err(ApiError::unsupported(format!(
            "the engine fetches nothing from {source}: download the archive and import the file"
        )));
    }
    Ok(engine::Import {
        reference: new_name(query)?,
        comment: query.get("message").unwrap_or("Imported from -").to_owned(),
        changes: changes(query),
        platform: platform(query)?,
    })
}

/// Pulls, and gives up when nobody listens any more.
async fn pull(
    engine: Engine,
    reference: Reference,
    platform: Option<model::Platform>,
    auth: Option<Auth>,
    sender: mpsc::Sender<Line>,
) {
    let pulled = tokio::select! {
        pulled = engine.images().pull(&reference, platform.as_ref(), auth, teller(&sender)) => pulled,
        () = sender.closed() => return,
    };
    match pulled {
        Ok(_) => {
            let name = reference.familiar();
            engine.image_event("pull", &name, &name);
        }
        // The client may have gone meanwhile.
        Err(error) => drop(sender.send(Line::Failed(error)).await),
    }
}

/// `POST /images/load`.
pub(super) async fn load(State(engine): State<Engine>, request: Request) -> ApiResult<Response> {
    let mut reader = body_reader(request);
    let images = engine.images().clone();
    let mut said = Vec::new();
    let (loaded, said) = tokio::task::spawn_blocking(move || {
        let lines = std::sync::Mutex::new(&mut said);
        let loaded = images.load(&mut reader, |line| {
            lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(format!("{line}\n"));
        });
        drain(reader);
        (loaded, said)
    })
    .await
    .map_err(|_| ApiError::bad("the engine is shutting down"))?;
    let mut body: Vec<u8> = said
        .into_iter()
        .flat_map(|line| json_line(&Progress { stream: Some(line), ..Progress::default() }))
        .collect();
    match loaded {
        Ok(names) => names.iter().for_each(|name| engine.image_event("load", name, name)),
        // Clients look for it in the stream.
        Err(error) => body.extend(json_line(&failure(&error.to_string()))),
    }
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `POST /commit`.
pub(super) async fn commit(
    State(engine): State<Engine>,
    raw: RawQuery,
    request: Request,
) -> ApiResult<Response> {
    let query = query(raw);
    let container = query.get("container").ok_or_else(|| ApiError::bad("container is missing"))?;
    let reference = new_name(&query)?;
    let given: Option<ContainerConfig> = body(request).await?;
    let is_given = given.as_ref().is_some_and(|config| *config != ContainerConfig::default());
    let config = given.filter(|_| is_given).map(config_of_image);
    let text = |key: &str| query.get(key).unwrap_or("").to_owned();
    let wanted = engine::Commit {
        reference,
        author: text("author"),
        comment: text("comment"),
        config,
        changes: changes(&query),
        pauses: query.flag_or("pause", true),
    };
    let id = engine.commit(container, wanted).await?;
    Ok((StatusCode::CREATED, Json(IdResponse { id })).into_response())
}
