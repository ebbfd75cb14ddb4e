//! A container's limits, and what its annotations ask for, as properties of its unit.

use std::collections::BTreeMap;

use super::dbus::Value;
use super::{Property, property};
use crate::error::{Error, Result};
use crate::spec::{Cpu, Memory, Resources};

/// What a bundle's annotation for a property begins with (runc's docs/systemd.md).
const ANNOTATION: &str = "org.systemd.property.";

/// No limit.
const INFINITY: u64 = u64::MAX;

/// The limits that systemd knows of. What it does not is set on the container's own cgroup alone.
pub(super) fn of_resources(resources: &Resources, is_unified: bool) -> Vec<Property> {
    let mut all = Vec::new();
    if let Some(memory) = &resources.memory {
        of_memory(memory, is_unified, &mut all);
    }
    if let Some(cpu) = &resources.cpu {
        of_cpu(cpu, is_unified, &mut all);
    }
    match resources.pids.as_ref().map(|pids| pids.limit) {
        Some(limit) if limit != 0 => all.push(property("TasksMax", bytes(limit))),
        _ => {}
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|io| io.weight).filter(|weight| *weight != 0) {
        let weight = u64::from(weight.clamp(10, 1000));
        all.push(if is_unified {
            property("IOWeight", Value::U64(1 + (weight - 10) * 9999 / 990))
        } else {
            property("BlockIOWeight", Value::U64(weight))
        });
    }
    for (file, name) in [
        ("memory.max", "MemoryMax"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("pids.max", "TasksMax"),
        ("cpu.weight", "CPUWeight"),
    ] {
        // What is no number is told by the kernel when it is written.
        let value = resources.unified.get(file).map(|text| text.trim());
        let value = value.and_then(|text| if text == "max" { Some(INFINITY) } else { text.parse().ok() });
        all.extend(value.map(|value| property(name, Value::U64(value))));
    }
    all
}

fn bytes(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(INFINITY))
}

fn of_memory(memory: &Memory, is_unified: bool, all: &mut Vec<Property>) {
    let limit = memory.limit.filter(|limit| *limit != 0);
    all.extend(limit.map(|limit| property("MemoryMax", bytes(limit))));
    let low = memory.reservation.filter(|low| *low != 0);
    all.extend(low.map(|low| property("MemoryLow", bytes(low))));
    // Version 1 has no limit for swap alone, and systemd none for both.
    if let Some(both) = memory.swap.filter(|swap| *swap != 0 && is_unified) {
        let swap = if both < 0 { both } else { (both - limit.unwrap_or(0).max(0)).max(0) };
        all.push(property("MemorySwapMax", bytes(swap)));
    }
}

fn of_cpu(cpu: &Cpu, is_unified: bool, all: &mut Vec<Property>) {
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        all.push(if is_unified {
            property("CPUWeight", Value::U64(super::super::v2::cpu_weight(shares)))
        } else {
            property("CPUShares", Value::U64(shares))
        });
    }
    let period = cpu.period.filter(|period| *period != 0);
    if let Some(period) = period {
        all.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
        let per_second = u64::try_from(quota).map_or(INFINITY, |quota| {
            let micros = quota.saturating_mul(1_000_000) / period.unwrap_or(100_000);
            // systemd takes whole hundredths of a processor. The container's own limit is the exact one.
            micros.div_ceil(10_000).saturating_mul(10_000)
        });
        all.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
    }
}

/// Properties that annotations ask for, in GVariant's text form as far as units have such.
pub(super) fn of_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    annotations
        .iter()
        .filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text)))
        .map(|(name, text)| {
            let is_name = name.len() > 2 && name.bytes().all(|byte| byte.is_ascii_alphabetic());
            let value = parse(text.trim()).filter(|_| is_name).ok_or_else(|| {
                Error::invalid(format!("annotation {ANNOTATION}{name}: {text:?} is no value of a property"))
            })?;
            // As runc does: seconds, where the property has microseconds.
            match (name.strip_suffix("Sec"), value) {
                (Some(stem), value) if !name.ends_with("USec") => {
                    let micros = seconds(&value).and_then(|seconds| seconds.checked_mul(1_000_000));
                    let micros = micros.ok_or_else(|| {
                        Error::invalid(format!(
                            "annotation {ANNOTATION}{name}: {text:?} is no number of seconds"
                        ))
                    })?;
                    Ok((format!("{stem}USec"), Value::U64(micros)))
                }
                (_, value) => Ok((name.to_owned(), value)),
            }
        })
        .collect()
}

fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::I32(value) => (*value).try_into().ok(),
        Value::I64(value) => (*value).try_into().ok(),
        Value::U32(value) => Some((*value).into()),
        Value::U64(value) => Some(*value),
        Value::Bool(_) | Value::Text(_) | Value::Texts(_) | Value::Numbers(_) => None,
    }
}

/// `true`, `7`, `uint64 7`, `'text'`, `['a', 'b']`.
fn parse(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(list) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return list.split(',').map(|part| quoted(part.trim())).collect::<Option<_>>().map(Value::Texts);
    }
    match text.split_once(' ') {
        Some(("int32", number)) => number.trim().parse().ok().map(Value::I32),
        Some(("uint32", number)) => number.trim().parse().ok().map(Value::U32),
        Some(("int64", number)) => number.trim().parse().ok().map(Value::I64),
        Some(("uint64", number)) => number.trim().parse().ok().map(Value::U64),
        _ => text.parse().ok().map(Value::I32).or_else(|| quoted(text).map(Value::Text)),
    }
}

/// A text in quotes, with none and no backslash in it.
fn quoted(text: &str) -> Option<String> {
    let inner = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))?;
    (!inner.contains(['\'', '"', '\\'])).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Pids;

    fn check(resources: &Resources, is_unified: bool, expected: &[(&str, u64)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, value)| property(name, Value::U64(*value))).collect();
        assert_eq!(of_resources(resources, is_unified), expected);
    }

    #[test]
    fn limits_are_properties_in_systemds_units() {
        let resources = Resources {
            memory: Some(Memory {
                limit: Some(64 << 20),
                swap: Some(96 << 20),
                reservation: Some(-1),
                ..Memory::default()
            }),
            cpu: Some(Cpu {
                shares: Some(1024),
                quota: Some(12_345),
                period: Some(50_000),
                ..Cpu::default()
            }),
            pids: Some(Pids { limit: -1 }),
            ..Resources::default()
        };
        let common = |cpu, rest: &[(&'static str, u64)]| {
            let memory = [("MemoryMax", 64 << 20), ("MemoryLow", u64::MAX)];
            let swap = ("MemorySwapMax", 32 << 20);
            let memory = if cpu == "CPUWeight" { [&memory[..], &[swap]].concat() } else { memory.to_vec() };
            [
                &memory,
                rest,
                &[("CPUQuotaPeriodUSec", 50_000), ("CPUQuotaPerSecUSec", 250_000), ("TasksMax", u64::MAX)],
            ]
            .concat()
        };
        check(&resources, true, &common("CPUWeight", &[("CPUWeight", 39)]));
        check(&resources, false, &common("CPUShares", &[("CPUShares", 1024)]));
        check(&Resources::default(), true, &[]);
        let unified =
            [("pids.max", "7"), ("memory.high", "max"), ("io.max", "8:0 rbps=1"), ("memory.low", "x")];
        let unified = unified.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect();
        let resources = Resources { unified, ..Resources::default() };
        check(&resources, true, &[("MemoryHigh", u64::MAX), ("TasksMax", 7)]);
    }

    #[test]
    fn annotations_are_properties() {
        let parse =
            |key: &str, text: &str| of_annotations(&BTreeMap::from([(key.to_owned(), text.to_owned())])).ok();
        let of = |name: &str, value| Some(vec![property(name, value)]);
        assert_eq!(
            parse("org.systemd.property.TimeoutStopUSec", "uint64 9"),
            of("TimeoutStopUSec", Value::U64(9))
        );
        assert_eq!(
            parse("org.systemd.property.TimeoutStopSec", "2"),
            of("TimeoutStopUSec", Value::U64(2_000_000))
        );
        let texts = Value::Texts(vec!["a.service".into(), "b".into()]);
        assert_eq!(parse("org.systemd.property.After", "['a.service', \"b\"]"), of("After", texts));
        let mode = "org.systemd.property.CollectMode";
        assert_eq!(parse(mode, "'inactive'"), of("CollectMode", Value::Text("inactive".into())));
        assert_eq!(parse("org.example", "x"), Some(Vec::new()));
        for text in ["inactive", "'a", "[a]", "uint64 -1", "uint64", "'a\\n'"] {
            assert_eq!(parse(mode, text), None, "{text}");
        }
        assert_eq!(parse("org.systemd.property.A-b", "1"), None);
    }
}
