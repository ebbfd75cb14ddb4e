//! What the guest uses.

use std::fs;

use rustix::time::{ClockId, clock_gettime};
use vm_proto::message::Report;

use crate::disk;

/// Looks now. What can't be had is zero.
pub(crate) fn look(engine_runs: bool) -> Report {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let disk = rustix::fs::statvfs(disk::DATA);
    let (disk_total, disk_free) =
        disk.map_or((0, 0), |disk| (disk.f_blocks * disk.f_frsize, disk.f_bfree * disk.f_frsize));
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Report {
        memory_total: kilobytes(&memory, "MemTotal:") << 10,
        memory_available: kilobytes(&memory, "MemAvailable:") << 10,
        disk_total,
        disk_used: disk_total.saturating_sub(disk_free),
        cpu_ms: cpu_ms(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        clock_ns: seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0),
        engine_runs,
    }
}

fn kilobytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// All but what was idle or waited, of the first line: hundredths of a second.
fn cpu_ms(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let spent = fields.iter().enumerate().filter(|(at, _)| !matches!(at, 3 | 4 | 8 | 9));
    spent.map(|(_, hundredths)| hundredths * 10).sum()
}

/// Seconds since the kernel's start, in thousandths.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel_are_read() {
        assert_eq!(kilobytes("MemTotal:       512 kB\nMemAvailable:   300 kB\n", "MemAvailable:"), 300);
        // user nice system idle iowait irq softirq steal guest guest_nice
        assert_eq!(cpu_ms("cpu  1 2 3 400 500 6 7 8 900 900\ncpu0 1\n"), 270);
    }
}
