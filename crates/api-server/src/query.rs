//! Query strings as Docker reads them.

use std::collections::HashMap;

use crate::error::{ApiError, ApiResult};

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(HashMap<String, Vec<String>>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let mut all: HashMap<String, Vec<String>> = HashMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            all.entry(decode(key)).or_default().push(decode(value));
        }
        Self(all)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .and_then(|values| values.first())
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Docker's truth: anything but these.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(|values| values.first()).is_some_and(|value| {
            !matches!(value.trim().to_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
        })
    }

    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        if self.0.contains_key(name) { self.flag(name) } else { default }
    }

    pub(crate) fn number(&self, name: &str) -> ApiResult<Option<i64>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| ApiError::bad(format!("invalid value for {name}: {text:?}")))
            })
            .transpose()
    }

    /// Seconds since the epoch with a fraction, or RFC 3339; to nanoseconds. 0 is none.
    pub(crate) fn time(&self, name: &str) -> ApiResult<Option<u64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = || ApiError::bad(format!("invalid value for {name:?}: {text:?}"));
        Ok(Some(parse_time(text).ok_or_else(bad)?).filter(|at| *at > 0))
    }
}

/// Seconds since the epoch with a fraction, or RFC 3339; to nanoseconds. What lies before is 0.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = seconds.parse::<i64>() {
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let nanos: u64 = digits.parse().ok()?;
        let whole = u64::try_from(seconds).unwrap_or(0);
        return Some(whole.saturating_mul(1_000_000_000).saturating_add(nanos));
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(u64::try_from(at.as_nanosecond()).unwrap_or(0))
}

/// Percent escapes and `+`.
pub(crate) fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let pair: Vec<u8> = bytes.by_ref().take(2).collect();
                let digits = std::str::from_utf8(&pair).unwrap_or_default();
                match u8::from_str_radix(digits, 16) {
                    Ok(byte) if pair.len() == 2 => out.push(byte),
                    _ => out.extend([b"%".as_slice(), &pair].concat()),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_docker_reads_them() {
        let query = Query::parse("all=1&size=false&name=a%2Fb+c&x=%zz&n=&t=1.5&r=1970-01-01T00:00:02Z");
        assert!(query.flag("all") && !query.flag("size") && !query.flag("missing"));
        assert_eq!(query.get("name"), Some("a/b c"));
        assert_eq!(query.get("x"), Some("%zz"));
        assert_eq!(query.get("n"), None);
        assert_eq!(query.time("t").unwrap(), Some(1_500_000_000));
        assert_eq!(query.time("r").unwrap(), Some(2_000_000_000));
    }
}
