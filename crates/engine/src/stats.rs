//! What a container uses, now.

use oci_runtime::cgroup::Stats as CgroupStats;

use crate::engine::{Engine, now};
use crate::error::Result;

pub use oci_runtime::cgroup::{IoStat, Stats as Usage};

/// One reading.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub at: u64,
    /// What its cgroups count; all zero when it does not run.
    pub usage: CgroupStats,
    /// CPU time of the whole machine, nanoseconds.
    pub system_cpu: u64,
    /// Processors.
    pub cpus: u32,
    /// Memory of the machine: the limit of a container without one.
    pub memory_total: u64,
    /// Whether it runs.
    pub is_running: bool,
    /// Bytes and packets per interface, where it has a network of its own.
    pub networks: Vec<Interface>,
}

/// What went through one interface.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    /// Its name inside.
    pub name: String,
    /// Receive: bytes, packets, errors, dropped; then the same for transmit.
    pub counters: [u64; 8],
}

impl Engine {
    /// Reads a container's use of the machine.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn stats(&self, name: &str) -> Result<Sample> {
        let container = self.containers.find(name)?;
        let run = container.state().run().cloned();
        let usage = if run.is_some() { self.cgroups_of(&container).stats() } else { CgroupStats::default() };
        let networks = run.as_ref().map(|run| interfaces(run.pid)).unwrap_or_default();
        Ok(Sample {
            id: container.id.clone(),
            name: container.name(),
            at: now(),
            usage,
            system_cpu: system_cpu(),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory_total: memory_total(),
            is_running: run.is_some(),
            networks,
        })
    }
}

/// The sum of the first line of `/proc/stat`, guest times left out, as Docker counts.
fn system_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: u64 = line.split_whitespace().skip(1).take(7).filter_map(|n| n.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every architecture Linux runs containers on.
    ticks * 10_000_000
}

pub(crate) fn memory_total() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn interfaces(pid: i32) -> Vec<Interface> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    text.lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, rest)| (name.trim(), rest))
        .filter(|(name, _)| *name != "lo")
        .map(|(name, rest)| {
            let all: Vec<u64> = rest.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let at = |n: usize| all.get(n).copied().unwrap_or(0);
            Interface {
                name: name.to_owned(),
                counters: [at(0), at(1), at(2), at(3), at(8), at(9), at(10), at(11)],
            }
        })
        .collect()
}
