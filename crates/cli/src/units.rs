//! Figures for reading: sizes, ages; and figures as people write them.

use crate::exit::{Failure, Outcome};

/// `1.24MB`, in units of 1000, three digits, as Docker prints sizes.
pub(crate) fn size(bytes: i64) -> String {
    decimal(bytes, 1000, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// `1.2GiB`, in units of 1024.
pub(crate) fn memory(bytes: u64) -> String {
    decimal(i64::try_from(bytes).unwrap_or(i64::MAX), 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn decimal(bytes: i64, base: i64, units: &[&str]) -> String {
    // Tenths of thousandths keep the arithmetic whole.
    let mut scaled = bytes.max(0).saturating_mul(1000);
    let mut unit = 0;
    while scaled >= base * 1000 && unit + 1 < units.len() {
        scaled /= base;
        unit += 1;
    }
    let (whole, thousandths) = (scaled / 1000, scaled % 1000);
    let name = units.get(unit).copied().unwrap_or_default();
    match (unit, whole) {
        (0, _) => format!("{whole}{name}"),
        (_, 100..) => format!("{whole}{name}"),
        (_, 10..) => format!("{whole}.{}{name}", thousandths / 100),
        _ => format!("{whole}.{:02}{name}", thousandths / 10),
    }
}

/// `3 minutes ago` for a time in seconds since the epoch.
pub(crate) fn ago(at: i64) -> String {
    let seconds = jiff::Timestamp::now().as_second().saturating_sub(at).max(0);
    let hours = (seconds + 1800) / 3600;
    let text = match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 168),
        _ if hours < 24 * 730 => format!("{} months", hours / 720),
        _ => format!("{} years", hours / 8760),
    };
    format!("{text} ago")
}

/// `64m`, `1.5g`, `500`: bytes, units of 1024.
pub(crate) fn parse_size(text: &str) -> Outcome<i64> {
    let bad = || Failure::new(format!("invalid size: '{text}'")).with_code(crate::exit::USAGE);
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, factor) = match plain.chars().last() {
        Some('k') => (&plain[..plain.len() - 1], 1_i64 << 10),
        Some('m') => (&plain[..plain.len() - 1], 1 << 20),
        Some('g') => (&plain[..plain.len() - 1], 1 << 30),
        Some('t') => (&plain[..plain.len() - 1], 1 << 40),
        _ => (plain, 1),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i64 = whole.parse().map_err(|_| bad())?;
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let thousandths: i64 = digits.parse().map_err(|_| bad())?;
    if whole < 0 {
        return Err(bad());
    }
    whole.checked_mul(factor).and_then(|n| n.checked_add(thousandths * factor / 1000)).ok_or_else(bad)
}

/// `1.5` processors as billionths.
pub(crate) fn parse_cpus(text: &str) -> Outcome<i64> {
    let bad = || Failure::new(format!("invalid value for --cpus: '{text}'")).with_code(crate::exit::USAGE);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    let nanos: i64 = digits.parse().map_err(|_| bad())?;
    if whole < 0 { Err(bad()) } else { Ok(whole * 1_000_000_000 + nanos) }
}

/// Go's durations, `1m30s`, `100ms`, as nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Outcome<i64> {
    let bad = || {
        Failure::new(format!("invalid duration: '{text}' (examples: 10s, 1m30s)"))
            .with_code(crate::exit::USAGE)
    };
    let mut total = 0_i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let units =
            [("ms", 1_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)];
        let tail = rest.get(digits..).unwrap_or_default();
        let (unit, nanos) = units.into_iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(bad)?;
        total = total.saturating_add(number.saturating_mul(nanos));
        rest = tail.get(unit.len()..).unwrap_or_default();
    }
    if total > 0 { Ok(total) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_dockers() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1410, "1.41kB"),
            (1_980_000, "1.98MB"),
            (278_000_000, "278MB"),
            (12_340_000, "12.3MB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!(memory(3 << 29), "1.50GiB");
    }

    #[test]
    fn figures_are_read_as_people_write_them() {
        assert_eq!(parse_size("64m").unwrap(), 64 << 20);
        assert_eq!(parse_size("1.5g").unwrap(), 3 << 29);
        assert_eq!(parse_size("512").unwrap(), 512);
        assert!(parse_size("lots").is_err());
        assert_eq!(parse_cpus("1.5").unwrap(), 1_500_000_000);
        assert_eq!(parse_cpus(".25").unwrap(), 250_000_000);
        assert_eq!(parse_duration("1m30s").unwrap(), 90_000_000_000);
        assert!(parse_duration("soon").is_err());
    }
}
