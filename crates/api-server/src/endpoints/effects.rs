//! The table says the truth: what it calls done has an effect, and is read.

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::table::ENDPOINTS;
use super::{Endpoint, Field, Shape, Standing};
use crate::convert::{config_of_image, container_spec, endpoint_spec, limits, network_spec, restart_policy};
use crate::error::{ApiError, ApiResult};
use crate::routes::{exec_spec, new_volume};

const ROUTES: &str = concat!(
    include_str!("../hijack.rs"),
    include_str!("../routes.rs"),
    include_str!("../routes/containers.rs"),
    include_str!("../routes/execs.rs"),
    include_str!("../routes/images.rs"),
    include_str!("../routes/networks.rs"),
    include_str!("../routes/registry.rs"),
    include_str!("../routes/system.rs"),
    include_str!("../routes/volumes.rs"),
    include_str!("../routes/websocket.rs"),
);

fn read<T: DeserializeOwned>(body: Value) -> ApiResult<T> {
    serde_json::from_value(body).map_err(|error| ApiError::bad(error.to_string()))
}

/// What the engine is asked for by a body, as text.
fn asked(path: &str, body: Value) -> ApiResult<String> {
    Ok(match path {
        "/containers/create" => {
            let is_rootfs = body.get("CoveRootfs").cloned();
            format!("{:?} {is_rootfs:?}", container_spec(read(body)?, super::NEWEST)?)
        }
        "/containers/{id}/update" => {
            let body: api::container::UpdateContainer = read(body)?;
            format!("{:?} {:?}", restart_policy(&body.restart_policy)?, limits(body.resources))
        }
        "/containers/{id}/exec" => format!("{:?}", exec_spec(read(body)?)),
        "/networks/create" => format!("{:?}", network_spec(read(body)?)?),
        "/networks/{id}/connect" => {
            let body: api::network::ConnectNetwork = read(body)?;
            format!("{:?}", endpoint_spec(body.endpoint_config)?)
        }
        "/volumes/create" => format!("{:?}", new_volume(read(body)?)),
        "/commit" => format!("{:?}", config_of_image(read(body)?)),
        other => panic!("the body of {other} is nowhere converted"),
    })
}

/// Every field with a sample, with the body that has it and the one that has only what stands beside it.
fn samples(fields: &'static [Field], wrap: &dyn Fn(Value) -> Value, found: &mut Vec<(String, Value, Value)>) {
    for field in fields.iter().filter(|field| field.is_known_to(super::NEWEST)) {
        let beside: Map<String, Value> = serde_json::from_str(field.beside).unwrap();
        let place = |inner: Option<Value>| {
            let mut all = beside.clone();
            if let Some(inner) = inner {
                all.insert(field.name.into(), inner);
            }
            wrap(Value::Object(all))
        };
        match field.shape {
            Shape::Value if !field.sample.is_empty() => {
                let sample = serde_json::from_str(field.sample).unwrap();
                found.push((field.name.into(), place(Some(sample)), place(None)));
            }
            Shape::Value => {}
            Shape::Object(inner) => samples(inner, &|value| place(Some(value)), found),
            Shape::List(inner) => samples(inner, &|value| place(Some(json!([value]))), found),
            Shape::Map(inner) => samples(inner, &|value| place(Some(json!({ "a": value }))), found),
        }
    }
}

#[test]
fn each_field_that_is_done_has_an_effect() {
    let bodies = [
        "/containers/create",
        "/containers/{id}/update",
        "/containers/{id}/exec",
        "/networks/create",
        "/networks/{id}/connect",
        "/volumes/create",
        "/commit",
    ];
    let mut idle = Vec::new();
    for path in bodies {
        let endpoint = ENDPOINTS.iter().find(|one| one.method == "POST" && one.path == path).unwrap();
        let mut found = Vec::new();
        samples(endpoint.body, &|value| value, &mut found);
        assert!(!found.is_empty(), "{path}");
        for (name, mut with, mut without) in found {
            endpoint.settle_body(&mut with, super::NEWEST).unwrap();
            endpoint.settle_body(&mut without, super::NEWEST).unwrap();
            let text = with.to_string();
            let (with, without) = (asked(path, with), asked(path, without));
            match with {
                Ok(with) if without.as_ref().is_ok_and(|without| *without == with) => {
                    idle.push(format!("{path}: {name} has no effect: {text}"));
                }
                Ok(_) => {}
                Err(error) => idle.push(format!("{path}: {name}: {text}: {}", error.message)),
            }
        }
    }
    assert!(idle.is_empty(), "{}", idle.join("\n"));
}

#[test]
fn each_parameter_that_is_done_is_read() {
    for endpoint in ENDPOINTS {
        for field in endpoint.query {
            let is_read = ROUTES.contains(&format!("\"{}\"", field.name))
                || (field.name == "filters" && ROUTES.contains("Filters::parse"));
            if matches!(field.standing, Standing::Done | Standing::Partly(_)) {
                assert!(is_read, "{} {}: {} is read nowhere", endpoint.method, endpoint.path, field.name);
            }
        }
    }
}

#[test]
fn each_endpoint_that_is_done_has_a_handler() {
    for endpoint in ENDPOINTS {
        if matches!(endpoint.standing, Standing::Refused(_) | Standing::NoSwarm) {
            continue;
        }
        let path = match endpoint.path.split_once("{name...}") {
            Some((start, _)) => format!("{start}{{*rest}}"),
            None => endpoint.path.to_owned(),
        };
        assert!(ROUTES.contains(&format!("\"{path}\"")), "{} {path} has no handler", endpoint.method);
        let path = endpoint.path.replace("{name...}", "a/b").replace(['{', '}'], "");
        let method: Method = endpoint.method.parse().unwrap();
        let found = Endpoint::find(&method, &path).unwrap();
        assert_eq!(found.path, endpoint.path, "another endpoint stands before {method} {path}");
    }
}
