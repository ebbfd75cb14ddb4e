//! `/volumes`.

use std::collections::BTreeMap;

use api::volume::{CreateVolume, ListVolumesResponse, PruneVolumesResponse, UsageData, Volume};
use axum::Json;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use engine::{ANONYMOUS, Engine, NewVolume, VolumeInfo};
use http::StatusCode;

use super::ApiMinor;
use super::containers::body;
use crate::convert::{int, time_text};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::query::Query;

fn query(raw: RawQuery) -> Query {
    Query::parse(&raw.0.unwrap_or_default())
}

/// `GET /volumes`.
pub(super) async fn list(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let filters = Filters::parse(&query(raw), &["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let is_wanted = |info: &VolumeInfo| {
        dangling.is_none_or(|wanted| info.users.is_empty() == wanted)
            && filters.any("driver", |wanted| wanted == VolumeInfo::DRIVER)
            && filters.any("name", |wanted| info.name.contains(wanted))
            && filters.labels(&info.labels)
    };
    let volumes = engine.volumes().into_iter().filter(is_wanted).map(wire).collect();
    Ok(Json(ListVolumesResponse { volumes, warnings: None }).into_response())
}

/// `POST /volumes/create`.
pub(super) async fn create(State(engine): State<Engine>, request: Request) -> ApiResult<Response> {
    let body: CreateVolume = body(request).await?;
    if body.cluster_volume_spec.is_some() {
        return Err(ApiError::unsupported("cluster volumes are Swarm's, which is not there"));
    }
    let wanted =
        NewVolume { name: body.name, driver: body.driver, options: body.driver_opts, labels: body.labels };
    let info = engine.create_volume(wanted).await?;
    Ok((StatusCode::CREATED, Json(wire(info))).into_response())
}

/// `GET /volumes/{name}`.
pub(super) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> ApiResult<Response> {
    Ok(Json(wire(engine.volume(&name)?)).into_response())
}

/// `PUT /volumes/{name}`.
pub(super) async fn update() -> ApiError {
    ApiError::unsupported("only cluster volumes can be updated, and those are Swarm's, which is not there")
}

/// `DELETE /volumes/{name}`.
pub(super) async fn remove(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    raw: RawQuery,
) -> ApiResult<StatusCode> {
    engine.remove_volume(&name, query(raw).flag("force")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /volumes/prune`.
pub(super) async fn prune(
    State(engine): State<Engine>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
) -> ApiResult<Response> {
    let filters = Filters::parse(&query(raw), &["all", "label", "label!"])?;
    // Before API 1.42, those with a name went too.
    let takes_all = filters.flag("all")?.unwrap_or(false) || minor < 42;
    let (removed, space) = engine
        .prune_volumes(|info| {
            (takes_all || info.labels.contains_key(ANONYMOUS)) && filters.labels(&info.labels)
        })
        .await?;
    let answer = PruneVolumesResponse {
        volumes_deleted: (!removed.is_empty()).then_some(removed),
        space_reclaimed: space,
    };
    Ok(Json(answer).into_response())
}

/// Every volume with what it occupies, for `GET /system/df`.
pub(super) async fn usage(engine: &Engine) -> ApiResult<Vec<Volume>> {
    let engine = engine.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let measure = |info: VolumeInfo| {
            let ref_count = i64::try_from(info.users.len()).unwrap_or(i64::MAX);
            let size = int(engine.volume_size(&info.name));
            Volume { usage_data: Some(UsageData { ref_count, size }), ..wire(info) }
        };
        engine.volumes().into_iter().map(measure).collect()
    });
    measured.await.map_err(|error| ApiError {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: format!("failed to measure the volumes: {error}"),
    })
}

fn wire(info: VolumeInfo) -> Volume {
    let some = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
    Volume {
        // Docker gives whole seconds.
        created_at: time_text(info.created / 1_000_000_000 * 1_000_000_000).replace(".000000000", ""),
        driver: VolumeInfo::DRIVER.into(),
        labels: some(info.labels),
        mountpoint: info.mountpoint.display().to_string(),
        name: info.name,
        options: some(info.options),
        scope: "local".into(),
        usage_data: None,
    }
}
