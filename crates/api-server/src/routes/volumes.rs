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
use crate::endpoints::filters;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::query::Query;
use crate::versions;

fn query(raw: RawQuery) -> Query {
    Query::parse(&raw.0.unwrap_or_default())
}

/// `GET /volumes`.
pub(super) async fn list(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let filters = Filters::parse(&query(raw), filters::VOLUMES)?;
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
    let info = engine.create_volume(new_volume(body)).await?;
    Ok((StatusCode::CREATED, Json(wire(info))).into_response())
}

/// A volume that is to be made.
pub(crate) fn new_volume(body: CreateVolume) -> NewVolume {
    NewVolume { name: body.name, driver: body.driver, options: body.driver_opts, labels: body.labels }
}

/// `GET /volumes/{name}`.
pub(super) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> ApiResult<Response> {
    Ok(Json(wire(engine.volume(&name)?)).into_response())
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
    let filters = Filters::parse(&query(raw), filters::PRUNED_VOLUMES)?;
    let takes_all = filters.flag("all")?.unwrap_or(false) || versions::prunes_named_volumes(minor);
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
