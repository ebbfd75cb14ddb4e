//! `docs/api-coverage.md`, written from the table of endpoints.

use std::fmt::Write;

use super::table::ENDPOINTS;
use super::{Field, Shape, Standing};
use crate::versions::{ANSWERS, ASKED, REQUESTS};

const HEAD: &str = "\
# What there is of Docker's API

Written by `cargo xtask gen-types` from the tables that the server itself asks before it answers
(`crates/api-server/src/endpoints`, `crates/api-server/src/versions.rs`); a test fails when it is not current, and another
when a field that is called done has no effect. Endpoints and fields are those of Docker's Engine API, NEWEST being the
newest version spoken and OLDEST the oldest.

- **done**: as Docker does it.
- **partly**: but for what is said.
- **ignored**: taken and without effect, with the reason.
- **refused**: answered with an error that says so, unless it is null, false, zero or empty.
- **no swarm**: answered as Docker does outside a swarm (503).

A field or parameter that is in no table is nobody's, and is passed over as Docker does. A number in brackets is the
version a field came with: to clients of older ones it does not exist.
";

fn standing(standing: Standing) -> (&'static str, &'static str) {
    match standing {
        Standing::Done => ("done", ""),
        Standing::Partly(but) => ("partly", but),
        Standing::Ignored(why) => ("ignored", why),
        Standing::Refused(why) => ("refused", why),
        Standing::NoSwarm => ("no swarm", ""),
    }
}

fn versions(first: Option<u32>, last: Option<u32>) -> String {
    match (first, last) {
        (None, None) => String::new(),
        (Some(first), None) => format!("1.{first} on"),
        (None, Some(last)) => format!("to 1.{last}"),
        (Some(first), Some(last)) => format!("1.{first} to 1.{last}"),
    }
}

fn name(field: &Field) -> String {
    let (first, last) =
        ((field.since > 0).then_some(field.since), (field.until < u32::MAX).then_some(field.until));
    match versions(first, last) {
        none if none.is_empty() => format!("`{}`", field.name),
        some => format!("`{}` ({some})", field.name),
    }
}

fn document() -> String {
    let mut text = HEAD.replace("NEWEST", api::API_VERSION).replace("OLDEST", api::MIN_API_VERSION);
    text.push_str("\n## Endpoints\n\n| endpoint | | |\n|---|---|---|\n");
    for endpoint in ENDPOINTS {
        let (word, why) = standing(endpoint.standing);
        writeln!(text, "| `{} {}` | {word} | {why} |", endpoint.method, endpoint.path.replace("...", ""))
            .unwrap();
    }
    text.push_str("\n## Parameters\n\n");
    for endpoint in ENDPOINTS.iter().filter(|endpoint| !endpoint.query.is_empty()) {
        write!(text, "- `{} {}`: ", endpoint.method, endpoint.path.replace("...", "")).unwrap();
        let all = endpoint.query.iter().map(|field| match standing(field.standing) {
            ("done", _) => name(field),
            (word, why) => format!("{} *{word}* ({why})", name(field)),
        });
        text.push_str(&all.collect::<Vec<_>>().join(", "));
        if !endpoint.filters.is_empty() {
            write!(text, "; filters: {}", endpoint.filters.join(", ")).unwrap();
        }
        text.push('\n');
    }
    for endpoint in ENDPOINTS.iter().filter(|endpoint| !endpoint.body.is_empty()) {
        write!(text, "\n## Body of `{} {}`\n\n", endpoint.method, endpoint.path).unwrap();
        text.push_str("| field | | |\n|---|---|---|\n");
        rows(endpoint.body, "", &mut text);
    }
    text.push_str(
        "\n## What differs between versions\n\nBeside the fields and parameters that came and went:\n\n",
    );
    text.push_str("| endpoint | versions | difference |\n|---|---|---|\n");
    for change in REQUESTS.iter().chain(ANSWERS) {
        let (endpoint, first, last) = change.scope();
        writeln!(text, "| `{endpoint}` | {} | {} |", versions(first, last), change.what).unwrap();
    }
    for (what, difference) in ASKED {
        writeln!(text, "| {what} | | {difference} |").unwrap();
    }
    text
}

fn rows(fields: &[Field], place: &str, text: &mut String) {
    for field in fields {
        let (word, why) = standing(field.standing);
        let inner = match field.shape {
            Shape::Object(inner) => Some((inner, ".")),
            Shape::List(inner) => Some((inner, "[].")),
            Shape::Map(inner) => Some((inner, ".*.")),
            Shape::Value => None,
        };
        let shown = name(field).replacen('`', &format!("`{place}"), 1);
        if let Some((inner, between)) = inner.filter(|(inner, _)| !inner.is_empty()) {
            rows(inner, &format!("{place}{}{between}", field.name), text);
        } else {
            writeln!(text, "| {shown} | {word} | {why} |").unwrap();
        }
    }
}

#[test]
fn the_document_of_what_there_is_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api-coverage.md");
    let current = document();
    if std::env::var_os("COVE_GEN_TYPES").is_some() {
        std::fs::write(path, current).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == current, "docs/api-coverage.md is not current: run cargo xtask gen-types");
}
