//! `/networks`.

use api::network::{
    ConnectNetwork, CreateNetwork, CreateNetworkResponse, DisconnectNetwork, PruneNetworksResponse,
};
use axum::Json;
use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use engine::{Engine, NetworkInfo};
use http::StatusCode;

use super::ApiMinor;
use super::containers::body;
use super::system::now;
use crate::convert::{endpoint_spec, network, network_spec};
use crate::endpoints::filters;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::query::Query;
use crate::versions;

/// `GET /networks`.
pub(super) async fn list(
    State(engine): State<Engine>,
    raw: RawQuery,
    Extension(ApiMinor(minor)): Extension<ApiMinor>,
) -> ApiResult<Response> {
    let query = Query::parse(&raw.0.unwrap_or_default());
    let filters = Filters::parse(&query, filters::NETWORKS)?;
    let dangling = filters.flag("dangling")?;
    let is_wanted = |info: &NetworkInfo| {
        let (record, spec) = (&info.record, &info.record.spec);
        let is_dangling = !info.is_predefined() && info.members.is_empty();
        let kind = if info.is_predefined() { "builtin" } else { "custom" };
        filters.any("name", |wanted| spec.name.contains(wanted))
            && filters.any("driver", |wanted| spec.driver == wanted)
            && filters.any("id", |wanted| record.id.starts_with(wanted))
            && filters.any("type", |wanted| kind == wanted)
            && filters.any("scope", |wanted| wanted == "local")
            && filters.labels(&spec.labels)
            && dangling.is_none_or(|wanted| wanted == is_dangling)
    };
    let with_members = versions::lists_members(minor);
    let all: Vec<_> = engine
        .networks()
        .iter()
        .filter(|info| is_wanted(info))
        .map(|info| network(info, with_members))
        .collect();
    Ok(Json(all).into_response())
}

/// `GET /networks/{id}`.
pub(super) async fn inspect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    raw: RawQuery,
) -> ApiResult<Response> {
    let query = Query::parse(&raw.0.unwrap_or_default());
    if query.get("scope").is_some_and(|scope| scope != "local") {
        return Err(ApiError { status: StatusCode::NOT_FOUND, message: format!("network {name} not found") });
    }
    Ok(Json(network(&engine.network(&name)?, true)).into_response())
}

/// `POST /networks/create`.
pub(super) async fn create(State(engine): State<Engine>, request: Request) -> ApiResult<Response> {
    let request: CreateNetwork = body(request).await?;
    let id = engine.create_network(network_spec(request)?).await?;
    let answer = CreateNetworkResponse { id, warning: String::new() };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// `DELETE /networks/{id}`.
pub(super) async fn remove(State(engine): State<Engine>, Path(name): Path<String>) -> ApiResult<Response> {
    engine.remove_network(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /networks/{id}/connect`.
pub(super) async fn connect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let request: ConnectNetwork = body(request).await?;
    let endpoint = endpoint_spec(request.endpoint_config)?;
    engine.connect_network(&name, &request.container, endpoint).await?;
    Ok(StatusCode::OK.into_response())
}

/// `POST /networks/{id}/disconnect`.
pub(super) async fn disconnect(
    State(engine): State<Engine>,
    Path(name): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    let request: DisconnectNetwork = body(request).await?;
    engine.disconnect_network(&name, &request.container).await?;
    Ok(StatusCode::OK.into_response())
}

/// `POST /networks/prune`.
pub(super) async fn prune(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let query = Query::parse(&raw.0.unwrap_or_default());
    let filters = Filters::parse(&query, filters::PRUNED)?;
    let until = filters.until(now())?;
    let removed = engine
        .prune_networks(|record| {
            filters.labels(&record.spec.labels) && until.is_none_or(|until| record.created < until)
        })
        .await?;
    let answer = PruneNetworksResponse { networks_deleted: (!removed.is_empty()).then_some(removed) };
    Ok(Json(answer).into_response())
}
