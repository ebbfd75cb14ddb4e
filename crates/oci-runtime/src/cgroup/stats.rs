//! What a container has used, read from its cgroup files.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Cgroups, read};

/// One reading. Times are nanoseconds, sizes bytes; `None` where the kernel does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time in all.
    pub cpu_total: u64,
    /// Of it, in user mode.
    pub cpu_user: u64,
    /// Of it, in the kernel.
    pub cpu_system: u64,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Of them, those the group was held back in.
    pub throttled_periods: u64,
    /// How long it was held back.
    pub throttled_time: u64,
    /// Memory now, page cache included.
    pub memory_usage: Option<u64>,
    /// The most it ever was.
    pub memory_max_usage: Option<u64>,
    /// The limit; `None` for none.
    pub memory_limit: Option<u64>,
    /// How often the limit was hit.
    pub memory_failures: Option<u64>,
    /// `memory.stat`, as the kernel names its lines.
    pub memory_stat: BTreeMap<String, u64>,
    /// Processes and threads now.
    pub pids: Option<u64>,
    /// The most there may be; `None` for no limit.
    pub pids_limit: Option<u64>,
    /// Bytes and operations per device.
    pub io: Vec<IoStat>,
}

/// What went to and from one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoStat {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

pub(super) fn read_all(cgroups: &Cgroups) -> Stats {
    let mut stats = Stats::default();
    cpu(cgroups, &mut stats);
    memory(cgroups, &mut stats);
    if let Some(dir) = cgroups.v1_dir("pids").or_else(|| unified(cgroups)) {
        stats.pids = number(&dir.join("pids.current"));
        stats.pids_limit = number(&dir.join("pids.max"));
    }
    if let Some(dir) = cgroups.v1_dir("blkio") {
        blkio(dir, &mut stats.io);
    } else if let Some(dir) = unified(cgroups) {
        io_stat(&read(&dir.join("io.stat")).unwrap_or_default(), &mut stats.io);
    }
    stats
}

pub(super) fn oom_kills(cgroups: &Cgroups) -> u64 {
    let file = match (cgroups.v1_dir("memory"), unified(cgroups)) {
        (Some(dir), _) => dir.join("memory.oom_control"),
        (None, Some(dir)) => dir.join("memory.events"),
        (None, None) => return 0,
    };
    fields(&file).get("oom_kill").copied().unwrap_or(0)
}

/// The v2 directory, where v2 has the controllers.
fn unified(cgroups: &Cgroups) -> Option<&Path> {
    if cgroups.layout.is_unified() { cgroups.v2.as_deref() } else { None }
}

fn cpu(cgroups: &Cgroups, stats: &mut Stats) {
    if let Some(dir) = &cgroups.v2 {
        let values = fields(&dir.join("cpu.stat"));
        let micros = |name: &str| values.get(name).copied().unwrap_or(0) * 1000;
        stats.cpu_total = micros("usage_usec");
        stats.cpu_user = micros("user_usec");
        stats.cpu_system = micros("system_usec");
        stats.periods = values.get("nr_periods").copied().unwrap_or(0);
        stats.throttled_periods = values.get("nr_throttled").copied().unwrap_or(0);
        stats.throttled_time = micros("throttled_usec");
    } else if let Some(dir) = cgroups.v1_dir("cpuacct") {
        stats.cpu_total = number(&dir.join("cpuacct.usage")).unwrap_or(0);
        stats.cpu_user = number(&dir.join("cpuacct.usage_user")).unwrap_or(0);
        stats.cpu_system = number(&dir.join("cpuacct.usage_sys")).unwrap_or(0);
    }
    if let Some(dir) = cgroups.v1_dir("cpu") {
        let values = fields(&dir.join("cpu.stat"));
        stats.periods = values.get("nr_periods").copied().unwrap_or(0);
        stats.throttled_periods = values.get("nr_throttled").copied().unwrap_or(0);
        stats.throttled_time = values.get("throttled_time").copied().unwrap_or(0);
    }
}

fn memory(cgroups: &Cgroups, stats: &mut Stats) {
    if let Some(dir) = cgroups.v1_dir("memory") {
        stats.memory_usage = number(&dir.join("memory.usage_in_bytes"));
        stats.memory_max_usage = number(&dir.join("memory.max_usage_in_bytes"));
        // v1 writes "no limit" as the largest page-aligned number.
        stats.memory_limit = number(&dir.join("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 62);
        stats.memory_failures = number(&dir.join("memory.failcnt"));
        stats.memory_stat = fields(&dir.join("memory.stat"));
    } else if let Some(dir) = unified(cgroups) {
        stats.memory_usage = number(&dir.join("memory.current"));
        stats.memory_max_usage = number(&dir.join("memory.peak"));
        stats.memory_limit = number(&dir.join("memory.max"));
        stats.memory_stat = fields(&dir.join("memory.stat"));
    }
}

fn blkio(dir: &Path, io: &mut Vec<IoStat>) {
    for (file, is_bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in read(&dir.join(file)).unwrap_or_default().lines() {
            let mut parts = line.split_whitespace();
            let (Some(device), Some(what), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let (Some(entry), Ok(value)) = (device_entry(device, io), value.parse::<u64>()) else { continue };
            match (what, is_bytes) {
                ("Read", true) => entry.read_bytes = value,
                ("Write", true) => entry.write_bytes = value,
                ("Read", false) => entry.reads = value,
                ("Write", false) => entry.writes = value,
                _ => {}
            }
        }
    }
}

fn io_stat(text: &str, io: &mut Vec<IoStat>) {
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let Some(entry) = parts.next().and_then(|device| device_entry(device, io)) else { continue };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => entry.read_bytes = value,
                "wbytes" => entry.write_bytes = value,
                "rios" => entry.reads = value,
                "wios" => entry.writes = value,
                _ => {}
            }
        }
    }
}

fn device_entry<'a>(device: &str, io: &'a mut Vec<IoStat>) -> Option<&'a mut IoStat> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let at = io.iter().position(|entry| (entry.major, entry.minor) == (major, minor)).unwrap_or_else(|| {
        io.push(IoStat { major, minor, ..IoStat::default() });
        io.len() - 1
    });
    io.get_mut(at)
}

fn number(file: &Path) -> Option<u64> {
    read(file).ok()?.trim().parse().ok()
}

/// A file of `name value` lines.
fn fields(file: &Path) -> BTreeMap<String, u64> {
    let text = read(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}
