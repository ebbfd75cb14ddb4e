//! What goes to registries: pushes, `/auth`, `/distribution` and `/images/search`.

use api::image::{
    AuthRequest, AuthResponse, Descriptor, DistributionInspect, DistributionPlatform, SearchResult,
};
use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use engine::Engine;
use http::{HeaderMap, StatusCode};
use image_store::{Auth, PushOptions};
use model::{ErrorKind, Reference};
use tokio::sync::mpsc;

use super::containers::body;
use super::progress::{LINES, Line, teller, told};
use crate::endpoints::filters;
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::hijack::routes_spawn;
use crate::query::Query;

/// `X-Registry-Auth`: base64 of `{"username":…}`.
pub(super) fn auth_of(headers: &HeaderMap) -> ApiResult<Option<Auth>> {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Given {
        username: String,
        password: String,
        auth: String,
        identitytoken: String,
        registrytoken: String,
    }
    let Some(text) =
        headers.get("x-registry-auth").and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let plain = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(plain)
        .map_err(|_| ApiError::bad("invalid X-Registry-Auth header: it is no base64"))?;
    let given: Given = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad(format!("invalid X-Registry-Auth header: {error}")))?;
    if !given.registrytoken.is_empty() || (!given.auth.is_empty() && given.username.is_empty()) {
        return Err(ApiError::unsupported(
            "X-Registry-Auth with a registry token is not supported; give user name and password",
        ));
    }
    let is_empty = given.username.is_empty() && given.identitytoken.is_empty();
    Ok((!is_empty).then_some(Auth {
        username: given.username,
        password: given.password,
        identity_token: given.identitytoken,
    }))
}

/// `POST /images/NAME/push`, told line by line.
pub(super) async fn push(
    engine: Engine,
    name: &str,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    let repository: Reference = name.parse().map_err(|error| ApiError::bad(format!("{error}")))?;
    if repository.digest().is_some() {
        return Err(ApiError::bad("cannot push a digest reference"));
    }
    let tag = query.get("tag").map(str::to_owned);
    let options = PushOptions { platform: asked_platform(query)?, auth: auth_of(headers)? };
    let (sender, lines) = mpsc::channel(LINES);
    routes_spawn(run_push(engine, repository, tag, options, sender));
    told(lines).await
}

/// Pushes, and gives up when nobody listens any more.
async fn run_push(
    engine: Engine,
    repository: Reference,
    tag: Option<String>,
    options: PushOptions,
    sender: mpsc::Sender<Line>,
) {
    let pushed = tokio::select! {
        pushed = engine.images().push(&repository, tag.as_deref(), options, teller(&sender)) => pushed,
        () = sender.closed() => return,
    };
    match pushed {
        Ok(()) => {
            let name = repository.familiar_name();
            let name = tag.map_or_else(|| name.clone(), |tag| format!("{name}:{tag}"));
            engine.image_event("push", &name, &name);
        }
        // The client may have gone meanwhile.
        Err(error) => drop(sender.send(Line::Failed(error)).await),
    }
}

/// Since API 1.46, a platform is asked for as JSON.
pub(super) fn asked_platform(query: &Query) -> ApiResult<Option<model::Platform>> {
    #[derive(serde::Deserialize)]
    struct Given {
        os: String,
        architecture: String,
        #[serde(default)]
        variant: String,
    }
    let given = query.get("platform").map(serde_json::from_str::<Given>).transpose();
    let given = given.map_err(|error| ApiError::bad(format!("invalid platform: {error}")))?;
    Ok(given.map(|given| model::Platform {
        os: given.os,
        architecture: given.architecture,
        variant: given.variant,
    }))
}

/// `POST /auth`.
pub(super) async fn login(State(engine): State<Engine>, request: Request) -> ApiResult<Response> {
    let given: AuthRequest = body(request).await?;
    let registry = credentials::registry_of(&given.serveraddress).to_owned();
    let auth =
        Auth { username: given.username, password: given.password, identity_token: given.identitytoken };
    let login = engine.images().check_login(&registry, &auth).await.map_err(unauthorized)?;
    let answer = AuthResponse { status: "Login Succeeded".into(), identity_token: login.identity_token };
    Ok(Json(answer).into_response())
}

/// Docker's clients expect 401 where a registry refuses who asks.
fn unauthorized(error: image_store::Error) -> ApiError {
    let is_refusal = error.kind() == ErrorKind::Permission;
    let error = ApiError::from(error);
    if is_refusal { ApiError { status: StatusCode::UNAUTHORIZED, ..error } } else { error }
}

/// `GET /distribution/NAME/json`.
pub(super) async fn describe(
    State(engine): State<Engine>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let Some(name) = rest.strip_suffix("/json") else {
        return Err(ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() });
    };
    let reference: Reference = name.parse().map_err(|error| ApiError::bad(format!("{error}")))?;
    let found = engine.images().describe(&reference, auth_of(&headers)?).await.map_err(unauthorized)?;
    let platforms = found.platforms.into_iter().map(|platform| DistributionPlatform {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
    });
    let descriptor =
        Descriptor { media_type: found.media_type, digest: found.digest.to_string(), size: found.size };
    Ok(Json(DistributionInspect { descriptor, platforms: platforms.collect() }).into_response())
}

/// `GET /images/search`.
pub(super) async fn search(
    State(engine): State<Engine>,
    raw: RawQuery,
    headers: HeaderMap,
) -> ApiResult<Response> {
    const USUAL: i64 = 25;
    let query = Query::parse(&raw.0.unwrap_or_default());
    let term = query.get("term").ok_or_else(|| ApiError::bad("the search needs a term"))?;
    let filters = Filters::parse(&query, filters::SEARCH)?;
    // As Docker has it, 0 is the usual number.
    let limit = query.number("limit")?.filter(|limit| *limit != 0).unwrap_or(USUAL);
    let limit = u32::try_from(limit)
        .ok()
        .filter(|limit| (1..=100).contains(limit))
        .ok_or_else(|| ApiError::bad(format!("invalid limit {limit}: it is a number from 1 to 100")))?;
    let (is_official, is_automated) = (filters.flag("is-official")?, filters.flag("is-automated")?);
    let stars = filters
        .get("stars")
        .iter()
        .map(|text| text.parse::<i64>().map_err(|_| ApiError::bad(format!("invalid filter 'stars={text}'"))));
    let stars = stars.collect::<ApiResult<Vec<i64>>>()?.into_iter().max().unwrap_or(0);
    let found = engine.images().search(term, limit, auth_of(&headers)?).await.map_err(unauthorized)?;
    let found = found
        .into_iter()
        .filter(|one| is_official.is_none_or(|wanted| one.is_official == wanted))
        .filter(|one| is_automated.is_none_or(|wanted| one.is_automated == wanted))
        .filter(|one| one.star_count >= stars)
        .map(|one| SearchResult {
            name: one.name,
            description: one.description,
            star_count: one.star_count,
            is_official: one.is_official,
            is_automated: one.is_automated,
        });
    Ok(Json(found.collect::<Vec<_>>()).into_response())
}
