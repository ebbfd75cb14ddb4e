//! Between the wire's types and the engine's.

mod create;
mod image;
mod inspect;
mod mount;
mod network;
mod summary;

pub(crate) use create::{config_of_image, container_spec, limits, restart_policy};
pub(crate) use image::{image_inspect, image_summary, manifest_summary};
pub(crate) use inspect::container_inspect;
pub(crate) use network::{endpoint_spec, network, network_spec};
pub(crate) use summary::{container_ports, container_summary, status_text};

/// RFC 3339 with nanoseconds, as Go prints times; 0 is Go's zero time.
pub(crate) fn time_text(nanos: u64) -> String {
    if nanos == 0 {
        return "0001-01-01T00:00:00Z".into();
    }
    let at = jiff::Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default();
    format!("{at:.9}")
}

/// Whole seconds since the epoch.
pub(crate) fn seconds(nanos: u64) -> i64 {
    i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX)
}

/// A number of the wire that must not be negative.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
