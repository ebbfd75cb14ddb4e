//! `/networks`: the three that are always there.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use engine::Engine;
use serde_json::{Value, json};

use crate::convert::{mac_text, network_id};
use crate::error::{ApiError, ApiResult};
use crate::filters::Filters;
use crate::query::Query;

/// Names and drivers.
const ALL: [(&str, &str); 3] = [("bridge", "bridge"), ("host", "host"), ("none", "null")];

/// `GET /networks`.
pub(super) async fn list(State(engine): State<Engine>, raw: RawQuery) -> ApiResult<Response> {
    let filters = Filters::parse(
        &Query::parse(raw.0.as_deref().unwrap_or_default()),
        &["name", "driver", "id", "type", "scope", "label", "dangling"],
    )?;
    let is_wanted = |name: &str, driver: &str| {
        filters.any("name", |wanted| name.contains(wanted))
            && filters.any("driver", |wanted| driver == wanted)
            && filters.any("id", |wanted| network_id(name).starts_with(wanted))
            && filters.any("type", |wanted| wanted == "builtin")
            && filters.any("scope", |wanted| wanted == "local")
    };
    let there = ALL.iter().filter(|(name, driver)| is_there(&engine, name) && is_wanted(name, driver));
    let all: Vec<Value> = there.map(|(name, driver)| describe(&engine, name, driver, false)).collect();
    Ok(Json(all).into_response())
}

/// `GET /networks/{id}`.
pub(super) async fn inspect(State(engine): State<Engine>, Path(name): Path<String>) -> ApiResult<Response> {
    let found = ALL
        .iter()
        .filter(|(known, _)| is_there(&engine, known))
        .find(|(known, _)| *known == name || (name.len() > 3 && network_id(known).starts_with(&name)));
    let (name, driver) = found.ok_or_else(|| ApiError {
        status: http::StatusCode::NOT_FOUND,
        message: format!("network {name} not found"),
    })?;
    Ok(Json(describe(&engine, name, driver, true)).into_response())
}

/// `POST /networks/create`, and the others that change something.
pub(super) async fn refuse() -> ApiError {
    ApiError::unsupported(
        "networks of one's own are not supported by this version of Cove; bridge, host and none are there",
    )
}

fn is_there(engine: &Engine, name: &str) -> bool {
    name != "bridge" || engine.bridge().is_some()
}

fn describe(engine: &Engine, name: &str, driver: &str, with_containers: bool) -> Value {
    let bridge = engine.bridge().filter(|_| name == "bridge");
    let subnet = bridge.as_ref().and_then(|(_, subnet)| *subnet);
    let config: Vec<Value> = subnet
        .iter()
        .map(|subnet| json!({ "Subnet": subnet.to_string(), "Gateway": subnet.gateway().to_string() }))
        .collect();
    let options = match &bridge {
        Some((interface, _)) => json!({
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.name": interface,
        }),
        None => json!({}),
    };
    let mut containers = serde_json::Map::new();
    if with_containers {
        for info in engine.list().into_iter().filter(|info| info.spec.host.network_mode == name) {
            if info.state.run().is_none() {
                continue;
            }
            let (address, mac) = info.endpoint.as_ref().map_or_else(Default::default, |endpoint| {
                (format!("{}/{}", endpoint.address, endpoint.subnet.prefix), mac_text(endpoint.mac))
            });
            containers.insert(
                info.id.clone(),
                json!({
                    "Name": info.name, "EndpointID": info.id, "MacAddress": mac,
                    "IPv4Address": address, "IPv6Address": "",
                }),
            );
        }
    }
    json!({
        "Name": name,
        "Id": network_id(name),
        "Created": "0001-01-01T00:00:00Z",
        "Scope": "local",
        "Driver": driver,
        "EnableIPv4": true,
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": config },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": options,
        "Labels": {},
    })
}
