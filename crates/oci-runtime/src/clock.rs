//! Wall-clock time as text, without a time zone database: everything here is UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Since the epoch.
pub(crate) fn now() -> Duration {
    // A clock before 1970 is as good as the epoch.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// `2026-01-31T23:59:59.123456789Z`.
pub(crate) fn rfc3339(since_epoch: Duration) -> String {
    let mut text = String::with_capacity(30);
    push_seconds(since_epoch.as_secs(), &mut text);
    text.push_str(&format!(".{:09}Z", since_epoch.subsec_nanos()));
    text
}

/// `2026-01-31T23:59:59`: the part that stays the same for a second.
pub(crate) fn push_seconds(seconds: u64, into: &mut String) {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let of_day = seconds % 86_400;
    into.push_str(&format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    ));
}

/// The proleptic Gregorian date of a day since 1970-01-01 (H. Hinnant's days-to-civil).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants_are_written_as_date_1_writes_them() {
        let check = |seconds, expected: &str| assert_eq!(rfc3339(Duration::new(seconds, 5)), expected);
        check(0, "1970-01-01T00:00:00.000000005Z");
        check(951_782_399, "2000-02-28T23:59:59.000000005Z");
        check(951_782_400, "2000-02-29T00:00:00.000000005Z");
        check(4_107_542_399, "2100-02-28T23:59:59.000000005Z");
        check(1_795_522_271, "2026-11-24T12:11:11.000000005Z");
    }
}
