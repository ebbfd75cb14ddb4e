//! What Docker's API has, and how each part of it stands here: the server asks this table before any handler
//! is called, and `docs/api-coverage.md` is written from it. What is not in the table does not reach a handler.

mod bodies;
#[cfg(test)]
mod document;
#[cfg(test)]
mod effects;
mod table;

use http::{Method, StatusCode};
use serde_json::Value;

use crate::error::{ApiError, ApiResult};
use crate::query::decode;
#[cfg(test)]
use crate::routes::NEWEST;
pub(crate) use table::filters;

/// One method at one path.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    /// As in Docker's reference; `{name...}` is one that may hold slashes.
    pub(crate) path: &'static str,
    standing: Standing,
    query: &'static [Field],
    /// Names that its `filters` parameter takes.
    #[cfg_attr(not(test), expect(dead_code, reason = "handlers name the list; here it is for the document"))]
    filters: &'static [&'static str],
    body: &'static [Field],
}

/// How something of Docker's stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Done,
    /// But for what is said.
    Partly(&'static str),
    /// Taken and without effect; why that is right.
    Ignored(&'static str),
    /// Answered with an error; why.
    Refused(&'static str),
    /// Answered as Docker does outside a swarm.
    NoSwarm,
}

/// A field of a body, or a parameter of a query.
#[derive(Debug)]
struct Field {
    name: &'static str,
    standing: Standing,
    /// The version it came with: to older clients it does not exist.
    since: u32,
    /// The last version that had it.
    until: u32,
    /// Values besides null, false, zero and empty that ask for nothing.
    neutral: &'static [&'static str],
    /// JSON that has an effect, and what must stand beside it for that.
    #[cfg_attr(not(test), expect(dead_code, reason = "by these, a test shows that a field has an effect"))]
    sample: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "as above"))]
    beside: &'static str,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Value,
    Object(&'static [Field]),
    List(&'static [Field]),
    /// By keys of the user's.
    Map(&'static [Field]),
}

impl Field {
    const fn new(name: &'static str, standing: Standing) -> Self {
        Self {
            name,
            standing,
            since: 0,
            until: u32::MAX,
            neutral: &[],
            sample: "",
            beside: "{}",
            shape: Shape::Value,
        }
    }

    const fn since(self, minor: u32) -> Self {
        Self { since: minor, ..self }
    }

    const fn until(self, minor: u32) -> Self {
        Self { until: minor, ..self }
    }

    const fn unless(self, neutral: &'static [&'static str]) -> Self {
        Self { neutral, ..self }
    }

    const fn beside(self, beside: &'static str) -> Self {
        Self { beside, ..self }
    }

    /// Whether a client of this version knows it.
    fn is_known_to(&self, minor: u32) -> bool {
        (self.since..=self.until).contains(&minor)
    }

    fn refusal(&self, place: &str) -> Option<ApiError> {
        let Standing::Refused(why) = self.standing else { return None };
        Some(ApiError::unsupported(format!("{place}{} is not supported by Cove: {why}", self.name)))
    }

    fn is_neutral(&self, value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Bool(is_set) => !is_set,
            Value::Number(number) => {
                number.as_f64() == Some(0.0) || self.neutral.contains(&number.to_string().as_str())
            }
            Value::String(text) => text.is_empty() || self.neutral.contains(&text.as_str()),
            Value::Array(list) => list.iter().all(Value::is_null),
            Value::Object(map) => map.is_empty(),
        }
    }
}

/// Done; `sample`: JSON that has an effect.
const fn done(name: &'static str, sample: &'static str) -> Field {
    Field { sample, ..Field::new(name, Standing::Done) }
}

const fn partly(name: &'static str, sample: &'static str, but: &'static str) -> Field {
    Field { sample, ..Field::new(name, Standing::Partly(but)) }
}

const fn ignored(name: &'static str, why: &'static str) -> Field {
    Field::new(name, Standing::Ignored(why))
}

const fn refused(name: &'static str, why: &'static str) -> Field {
    Field::new(name, Standing::Refused(why))
}

const fn object(name: &'static str, fields: &'static [Field]) -> Field {
    Field { shape: Shape::Object(fields), ..Field::new(name, Standing::Done) }
}

const fn list(name: &'static str, fields: &'static [Field]) -> Field {
    Field { shape: Shape::List(fields), ..Field::new(name, Standing::Done) }
}

const fn map(name: &'static str, fields: &'static [Field]) -> Field {
    Field { shape: Shape::Map(fields), ..Field::new(name, Standing::Done) }
}

/// A parameter of a query that a handler reads.
const fn query(name: &'static str) -> Field {
    Field::new(name, Standing::Done)
}

impl Endpoint {
    /// The one that answers, or why none does.
    pub(crate) fn find(method: &Method, path: &str) -> ApiResult<&'static Self> {
        let found = table::ENDPOINTS
            .iter()
            .find(|endpoint| endpoint.method == method.as_str() && matches(endpoint.path, path));
        let Some(endpoint) = found else {
            return Err(ApiError { status: StatusCode::NOT_FOUND, message: "page not found".into() });
        };
        match endpoint.standing {
            Standing::Done | Standing::Partly(_) | Standing::Ignored(_) => Ok(endpoint),
            Standing::Refused(why) => {
                Err(ApiError::unsupported(format!("{method} {path} is not supported by Cove: {why}")))
            }
            Standing::NoSwarm => Err(ApiError {
                status: StatusCode::SERVICE_UNAVAILABLE,
                message: "This node is not part of a swarm; Cove has none".into(),
            }),
        }
    }

    /// The query as the handler may read it: what is refused is refused, what has no effect is taken out.
    pub(crate) fn settle_query(&self, query: &str, minor: u32) -> ApiResult<String> {
        let mut left = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name);
            let mut known = self.query.iter().filter(|field| field.is_known_to(minor));
            let Some(field) = known.find(|field| field.name == name) else { continue };
            let value = decode(value);
            let is_set = !matches!(value.trim().to_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
                && !field.neutral.contains(&value.as_str());
            if let Some(refusal) = field.refusal("query parameter ").filter(|_| is_set) {
                return Err(refusal);
            }
            if matches!(field.standing, Standing::Done | Standing::Partly(_)) {
                left.push(pair);
            }
        }
        Ok(left.join("&"))
    }

    /// The body as the handler may read it, with names in the case that Docker documents.
    pub(crate) fn settle_body(&self, body: &mut Value, minor: u32) -> ApiResult<()> {
        settle(body, self.body, minor, "")
    }
}

fn settle(value: &mut Value, fields: &'static [Field], minor: u32, place: &str) -> ApiResult<()> {
    let Value::Object(given) = value else { return Ok(()) };
    let mut left = serde_json::Map::new();
    for (name, mut value) in std::mem::take(given) {
        // As Go does, whatever the case.
        let mut known = fields.iter().filter(|field| field.is_known_to(minor));
        let exact = known.clone().find(|field| field.name == name);
        let Some(field) = exact.or_else(|| known.find(|field| field.name.eq_ignore_ascii_case(&name))) else {
            continue;
        };
        match field.standing {
            Standing::Refused(_) | Standing::NoSwarm => {
                if let Some(refusal) = field.refusal(place).filter(|_| !field.is_neutral(&value)) {
                    return Err(refusal);
                }
                continue;
            }
            Standing::Ignored(_) => continue,
            Standing::Done | Standing::Partly(_) => {}
        }
        match (field.shape, &mut value) {
            (Shape::Object(inner), value) => {
                settle(value, inner, minor, &format!("{place}{}.", field.name))?;
            }
            (Shape::List(inner), Value::Array(list)) => {
                for one in list {
                    settle(one, inner, minor, &format!("{place}{}[].", field.name))?;
                }
            }
            (Shape::Map(inner), Value::Object(map)) => {
                for one in map.values_mut() {
                    settle(one, inner, minor, &format!("{place}{}.*.", field.name))?;
                }
            }
            (Shape::Value | Shape::List(_) | Shape::Map(_), _) => {}
        }
        if exact.is_some() || !left.contains_key(field.name) {
            left.insert(field.name.to_owned(), value);
        }
    }
    *given = left;
    Ok(())
}

/// Whether a path is one of those that a template stands for.
fn matches(template: &str, path: &str) -> bool {
    let fits =
        |wanted: &str, word: &str| if wanted.starts_with('{') { !word.is_empty() } else { wanted == word };
    if !template.contains("...}") {
        // Most of them, for every request.
        let (mut wanted, mut words) = (template.split('/'), path.split('/'));
        return loop {
            match (wanted.next(), words.next()) {
                (Some(wanted), Some(word)) if fits(wanted, word) => {}
                (None, None) => break true,
                _ => break false,
            }
        };
    }
    let mut words: Vec<&str> = path.split('/').collect();
    let mut wanted: Vec<&str> = template.split('/').collect();
    let many = wanted.iter().position(|word| word.ends_with("...}"));
    if let Some(at) = many {
        // What stands behind a name with slashes decides where it ends.
        let behind = wanted.split_off(at + 1);
        let Some(start) = words.len().checked_sub(behind.len()).filter(|start| *start > at) else {
            return false;
        };
        let tail = words.split_off(start);
        let name = words.split_off(at);
        wanted.pop();
        if tail != behind || name.iter().any(|word| word.is_empty()) {
            return false;
        }
    }
    words.len() == wanted.len() && wanted.iter().zip(&words).all(|(wanted, word)| fits(wanted, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_endpoints() {
        let find = |method: Method, path: &str| Endpoint::find(&method, path).map(|endpoint| endpoint.path);
        assert_eq!(find(Method::GET, "/containers/json").unwrap(), "/containers/json");
        assert_eq!(find(Method::GET, "/containers/json/json").unwrap(), "/containers/{id}/json");
        assert_eq!(find(Method::GET, "/images/a/b/json").unwrap(), "/images/{name...}/json");
        assert_eq!(find(Method::GET, "/images/json").unwrap(), "/images/json");
        assert_eq!(find(Method::DELETE, "/images/h:1/a/b@sha256:0").unwrap(), "/images/{name...}");
        for path in ["/", "/nothing", "/containers//json", "/images//json", "/containers/a/b/c", "//"] {
            assert_eq!(find(Method::GET, path).unwrap_err().status, StatusCode::NOT_FOUND, "{path}");
        }
        assert_eq!(find(Method::GET, "/swarm").unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(find(Method::POST, "/build").unwrap_err().status, StatusCode::NOT_IMPLEMENTED);
    }

    #[test]
    fn queries_lose_what_nobody_reads_and_refuse_what_nobody_does() {
        let endpoint = Endpoint::find(&Method::POST, "/containers/a/stop").unwrap();
        assert_eq!(endpoint.settle_query("t=3&signal=INT&x=%zz&=", 51).unwrap(), "t=3&signal=INT");
        assert_eq!(endpoint.settle_query("t=3&signal=INT", 41).unwrap(), "t=3");
        let endpoint = Endpoint::find(&Method::POST, "/containers/a/start").unwrap();
        assert_eq!(endpoint.settle_query("checkpoint=", 51).unwrap(), "");
        let refused = endpoint.settle_query("checkpoint=one", 51).unwrap_err();
        assert!(refused.message.starts_with("query parameter checkpoint is not supported"), "{refused:?}");
    }

    #[test]
    fn bodies_keep_what_is_read_in_the_documented_case() {
        let endpoint = Endpoint::find(&Method::POST, "/containers/create").unwrap();
        let settle = |text: &str, minor: u32| {
            let mut value: Value = serde_json::from_str(text).unwrap();
            endpoint.settle_body(&mut value, minor).map(|()| value.to_string())
        };
        assert_eq!(
            settle(r#"{"image":"a","Nobody":1,"hostconfig":{"MEMORY":5}}"#, 51).unwrap(),
            r#"{"HostConfig":{"Memory":5},"Image":"a"}"#
        );
        assert_eq!(
            settle(r#"{"HostConfig":{"StorageOpt":{},"Isolation":"default"}}"#, 51).unwrap(),
            r#"{"HostConfig":{}}"#
        );
        let refused = settle(r#"{"HostConfig":{"StorageOpt":{"size":"1g"}}}"#, 51).unwrap_err();
        assert!(refused.message.starts_with("HostConfig.StorageOpt is not supported"), "{refused:?}");
        let mount = r#"{"HostConfig":{"Mounts":[{"Type":"bind","BindOptions":{"CreateMountpoint":true}}]}}"#;
        assert!(settle(mount, 42).unwrap().contains("CreateMountpoint"));
        assert!(!settle(mount, 41).unwrap().contains("CreateMountpoint"));
    }
}
