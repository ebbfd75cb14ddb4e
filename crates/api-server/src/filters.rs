//! The `filters` parameter: `{"label":["a=b"]}`, or Docker's older `{"label":{"a=b":true}}`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::error::{ApiError, ApiResult};
use crate::query::{Query, parse_time};

/// Values by name.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(BTreeMap<String, bool>),
}

/// More than anybody means: each is compared with each object.
const MAX: usize = 10_000;

impl Filters {
    /// Reads them; a name that is not in `known` is refused.
    pub(crate) fn parse(query: &Query, known: &[&str]) -> ApiResult<Self> {
        let Some(text) = query.get("filters") else { return Ok(Self::default()) };
        let map: BTreeMap<String, Values> =
            serde_json::from_str(text).map_err(|_| ApiError::bad("invalid filter"))?;
        let mut filters = BTreeMap::new();
        let mut count = 0;
        for (name, values) in map {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::bad(format!("invalid filter '{name}'")));
            }
            let values = match values {
                Values::List(list) => list,
                Values::Set(set) => {
                    set.into_iter().filter(|(_, is_set)| *is_set).map(|(value, _)| value).collect()
                }
            };
            count += values.len();
            filters.insert(name, values);
        }
        if count > MAX {
            return Err(ApiError::bad(format!("invalid filter: {count} values, {MAX} are allowed")));
        }
        Ok(Self(filters))
    }

    /// A value more.
    pub(crate) fn add(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_default().push(value.to_owned());
    }

    pub(crate) fn get(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether any value of the filter fits, or there is none.
    pub(crate) fn any(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        let values = self.get(name);
        values.is_empty() || values.iter().any(|value| fits(value))
    }

    /// Whether every `label` filter (`key` or `key=value`) fits, and no `label!` does.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }

    /// A filter of truth values.
    pub(crate) fn flag(&self, name: &str) -> ApiResult<Option<bool>> {
        match self.get(name).first().map(String::as_str) {
            None => Ok(None),
            Some("1" | "true" | "True" | "TRUE") => Ok(Some(true)),
            Some("0" | "false" | "False" | "FALSE") => Ok(Some(false)),
            Some(other) => Err(ApiError::bad(format!("invalid filter '{name}={other}'"))),
        }
    }

    /// The `until` filter as nanoseconds since the epoch: a time, or how long ago (`24h`).
    pub(crate) fn until(&self, now: u64) -> ApiResult<Option<u64>> {
        let text = match self.get("until") {
            [] => return Ok(None),
            [text] => text,
            _ => return Err(ApiError::bad("more than one until filter specified")),
        };
        if let Some(ago) = parse_duration(text) {
            return Ok(Some(now.saturating_sub(ago)));
        }
        let at = parse_time(text).or_else(|| local_time(text));
        at.map(Some).ok_or_else(|| ApiError::bad(format!("invalid filter 'until={text}'")))
    }
}

/// A day or a time without a zone, which Docker takes as the daemon's own (`2026-01-31`,
/// `2026-01-31T15:04:05`); to nanoseconds since the epoch.
fn local_time(text: &str) -> Option<u64> {
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let at = civil.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp();
    u64::try_from(at.as_nanosecond()).ok()
}

/// Go's durations: `1h30m`, `10s`; to nanoseconds.
fn parse_duration(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let units =
            [("ms", 1_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)];
        let (unit, nanos) =
            units.into_iter().find(|(unit, _)| rest.get(digits..).is_some_and(|r| r.starts_with(unit)))?;
        total = total.checked_add(number.checked_mul(nanos)?)?;
        rest = rest.get(digits + unit.len()..)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_unknown_names_refused() {
        let parse = |text: &str| {
            let escaped: String = text.bytes().map(|b| format!("%{b:02X}")).collect();
            Filters::parse(&Query::parse(&format!("filters={escaped}")), &["label", "name"])
        };
        assert_eq!(parse(r#"{"label":["a","b=c"]}"#).unwrap().get("label"), ["a", "b=c"]);
        assert_eq!(parse(r#"{"label":{"a":true,"b":false}}"#).unwrap().get("label"), ["a"]);
        assert!(parse(r#"{"nope":["a"]}"#).is_err());
        assert!(parse("[").is_err());
        assert_eq!(parse_duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(parse_duration("tomorrow"), None);
    }

    #[test]
    fn until_is_an_age_or_a_time_and_only_one() {
        let until = |values: &[&str]| {
            let list = values.iter().map(ToString::to_string).collect();
            Filters(BTreeMap::from([("until".to_owned(), list)])).until(10_000_000_000)
        };
        assert_eq!(until(&["4s"]).unwrap(), Some(6_000_000_000));
        assert_eq!(until(&["1.5"]).unwrap(), Some(1_500_000_000));
        assert_eq!(until(&["1970-01-01T02:00:02+02:00"]).unwrap(), Some(2_000_000_000));
        let day = until(&["2026-01-31"]).unwrap().unwrap();
        assert_eq!(until(&["2026-01-31T00:00:05"]).unwrap(), Some(day + 5_000_000_000));
        assert!(until(&["tomorrow"]).is_err());
        assert!(until(&["1h", "2h"]).is_err());
    }
}
