//! One entry of a log, and how both forms are read.

/// A line, or a part of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// 1 is output, 2 error output: the numbers of Docker's framing.
    pub stream: u8,
    /// Nanoseconds since the epoch.
    pub at: u64,
    /// With its newline, unless the line goes on in the next entry or the container ended without one.
    pub bytes: Vec<u8>,
}

/// Reads one line of `json-file`, without its newline. `None` for what is no entry (a torn write).
pub(super) fn parse_json(line: &[u8]) -> Option<Entry> {
    // The monitor's own form, field by field; what another program wrote goes the general way.
    let quick = || {
        let rest = line.strip_prefix(b"{\"log\":\"")?;
        let (bytes, rest) = unescape(rest)?;
        let rest = rest.strip_prefix(b",\"stream\":\"std")?;
        let (stream, rest) = match rest.strip_prefix(b"out") {
            Some(rest) => (1, rest),
            None => (2, rest.strip_prefix(b"err")?),
        };
        let time = rest.strip_prefix(b"\",\"time\":\"")?.strip_suffix(b"\"}")?;
        Some(Entry { stream, at: parse_time(time)?, bytes })
    };
    quick().or_else(|| {
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        let at = value.get("time")?.as_str().and_then(|time| parse_time(time.as_bytes()))?;
        let stream = if value.get("stream")?.as_str()? == "stderr" { 2 } else { 1 };
        Some(Entry { stream, at, bytes: value.get("log")?.as_str()?.as_bytes().to_vec() })
    })
}

/// The inside of a JSON string up to its closing quote, and what follows the quote.
fn unescape(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut out = Vec::with_capacity(text.len().min(256));
    let mut rest = text;
    loop {
        let stop = memchr::memchr2(b'"', b'\\', rest)?;
        out.extend_from_slice(&rest[..stop]);
        let is_end = rest[stop] == b'"';
        rest = &rest[stop + 1..];
        if is_end {
            return Some((out, rest));
        }
        let (escape, after) = rest.split_first()?;
        rest = after;
        match escape {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'u' => {
                let digits = std::str::from_utf8(rest.get(..4)?).ok()?;
                let unit = u32::from_str_radix(digits, 16).ok()?;
                // A pair of surrogates goes the general way.
                let c = char::from_u32(unit)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[4..];
            }
            other => out.push(*other),
        }
    }
}

/// `2026-01-31T23:59:59.123456789Z`, to nanoseconds since the epoch.
fn parse_time(text: &[u8]) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        text.get(range)?
            .iter()
            .try_fold(0_u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let fraction = match text.get(19) {
        Some(b'.') => {
            let digits = text[20..].iter().take_while(|b| b.is_ascii_digit()).count().min(9);
            number(20..20 + digits)? * 10_u64.pow(9 - u32::try_from(digits).ok()?)
        }
        _ => 0,
    };
    // H. Hinnant's days-from-civil.
    let shifted_year = if month <= 2 { year.checked_sub(1)? } else { year };
    let era = shifted_year / 400;
    let of_era = shifted_year % 400;
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day.checked_sub(1)?;
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000_000 + fraction)
}

/// Reads one `local` record from the front; `None` where it isn't whole.
pub(super) fn parse_local(bytes: &[u8]) -> Option<(Entry, usize)> {
    let length = usize::try_from(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let record = bytes.get(4..4 + length)?;
    let at = u64::from_le_bytes(record.get(..8)?.try_into().ok()?);
    Some((Entry { stream: *record.get(8)?, at, bytes: record.get(10..)?.to_vec() }, 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let line =
            br#"{"log":"a \"b\" \\ \u001b[0m\n","stream":"stderr","time":"2026-11-24T11:31:11.000000005Z"}"#;
        let entry = parse_json(line).unwrap();
        assert_eq!(entry.bytes, b"a \"b\" \\ \x1b[0m\n");
        assert_eq!((entry.stream, entry.at), (2, 1_795_519_871_000_000_005));
        let foreign = br#"{ "stream": "stdout", "log": "\ud83d\ude00\n", "time": "1970-01-01T00:00:01Z" }"#;
        let entry = parse_json(foreign).unwrap();
        assert_eq!((entry.bytes.as_slice(), entry.at), ("\u{1f600}\n".as_bytes(), 1_000_000_000));
        assert_eq!(parse_json(br#"{"log":"torn"#), None);
    }
}
