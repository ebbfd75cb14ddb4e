//! What the guest uses.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use vm_proto::message::Report;

use crate::disk;

/// Looks now. What can't be had is zero.
pub(crate) fn look(engine_runs: bool) -> Report {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let disk = rustix::fs::statvfs(disk::DATA);
    let (disk_total, disk_free) =
        disk.map_or((0, 0), |disk| (disk.f_blocks * disk.f_frsize, disk.f_bfree * disk.f_frsize));
    // Not rustix's: it looks for a function that the vDSO of User Mode Linux lacks, and gives up the program.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (memory_available, memory_ballooned) = (kilobytes(&memory, "MemAvailable:") << 10, ballooned());
    let held = if is_balloon_in_total() { memory_ballooned } else { 0 };
    Report {
        memory_used: (kilobytes(&memory, "MemTotal:") << 10).saturating_sub(memory_available + held),
        memory_available,
        memory_ballooned,
        disk_total,
        disk_used: disk_total.saturating_sub(disk_free + crate::room::taken()),
        cpu_ms: cpu_ms(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        clock_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        engine_runs,
        containers_run: containers_run(),
    }
}

/// Bytes that the balloon holds.
pub(crate) fn ballooned() -> u64 {
    let counts = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    pages_ballooned(&counts).saturating_mul(crate::sys::page_size())
}

/// Whether `MemTotal` has in it what the balloon holds: where the kernel may take that back before it kills
/// (`VIRTIO_BALLOON_F_DEFLATE_ON_OOM`, virtio 1.2 section 5.5.3), it keeps it there.
fn is_balloon_in_total() -> bool {
    const DEFLATES: usize = 2;
    let devices = fs::read_dir("/sys/bus/virtio/drivers/virtio_balloon").into_iter().flatten().flatten();
    let features = devices.filter_map(|device| fs::read_to_string(device.path().join("features")).ok());
    // A letter for each feature.
    features.into_iter().any(|features| features.as_bytes().get(DEFLATES) == Some(&b'1'))
}

/// The kernel counts pages as they go in and as they come out.
fn pages_ballooned(vmstat: &str) -> u64 {
    let count = |name: &str| {
        let line = vmstat.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    count("balloon_inflate ").saturating_sub(count("balloon_deflate "))
}

/// Whether any process is in the engine's part of the cgroups: its containers are, and nothing else.
fn containers_run() -> bool {
    let events = fs::read_to_string("/sys/fs/cgroup/cove/cgroup.events").unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
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

/// Seconds since the kernel's start, in thousandths; the kernel tells hundredths.
pub(crate) fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let (whole, part) =
        text.split_whitespace().next().and_then(|first| first.split_once('.')).unwrap_or_default();
    whole.parse::<u64>().unwrap_or(0) * 1000 + part.parse::<u64>().unwrap_or(0) * 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_kernel_are_read() {
        assert_eq!(kilobytes("MemTotal:       512 kB\nMemAvailable:   300 kB\n", "MemAvailable:"), 300);
        assert_eq!(
            pages_ballooned("pgfault 9\nballoon_inflate 700\nballoon_deflate 200\nballoon_migrate 5\n"),
            500
        );
        assert_eq!(pages_ballooned("pgfault 9\n"), 0, "a kernel without balloons");
        // user nice system idle iowait irq softirq steal guest guest_nice
        assert_eq!(cpu_ms("cpu  1 2 3 400 500 6 7 8 900 900\ncpu0 1\n"), 270);
    }
}
