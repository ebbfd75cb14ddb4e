//! Limits as files of cgroup v2.

use std::os::fd::AsFd;
use std::path::Path;

use super::{Layout, Phase, device_filter, v1, with_default_devices, write, write_if_there};
use crate::error::{Doing, Error, Result};
use crate::spec::{BlockIo, Cpu, Memory, Resources};
use crate::sys;

/// Hands the controllers down from the root to the container's parent.
pub(super) fn enable_controllers(
    root: &Path,
    path: &Path,
    is_unified: bool,
    resources: Option<&Resources>,
) -> Result<()> {
    let wants_hugetlb = resources.is_some_and(|resources| !resources.hugepage_limits.is_empty());
    if !is_unified && !wants_hugetlb {
        return Ok(());
    }
    let mut dir = root.to_owned();
    for component in path.parent().unwrap_or(Path::new("")).components().map(Some).chain([None]) {
        hand_down(&dir);
        if let Some(component) = component {
            dir.push(component);
        }
    }
    Ok(())
}

/// Hands the controllers of a unit of systemd's down to the container's directory `dir` in it. systemd has handed
/// those that it knows down to the unit; limits of others need them from the root on.
pub(super) fn enable_controllers_of_unit(
    root: &Path,
    dir: &Path,
    path: &Path,
    layout: &Layout,
    resources: Option<&Resources>,
) -> Result<()> {
    if resources.is_some_and(|resources| !resources.hugepage_limits.is_empty() || !resources.rdma.is_empty())
    {
        return enable_controllers(root, path, layout.is_unified(), resources);
    }
    if layout.is_unified() {
        dir.parent().map(hand_down);
    }
    Ok(())
}

fn hand_down(dir: &Path) {
    let has = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let enabled = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in has.split_whitespace().filter(|c| !enabled.split_whitespace().any(|e| e == *c)) {
        // One by one: a controller that can't be handed down must not hold up the others. A limit
        // that needs it says so when it is written.
        let _ = write(&dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

pub(super) fn apply(dir: &Path, layout: &Layout, resources: &Resources, phase: Phase) -> Result<()> {
    if layout.is_unified() {
        if let Some(memory) = &resources.memory {
            set_memory(dir, memory)?;
        }
        if let Some(cpu) = &resources.cpu {
            set_cpu(dir, cpu)?;
        }
        if let Some(io) = &resources.block_io {
            set_io(dir, io)?;
        }
        match &resources.pids {
            Some(pids) if pids.limit > 0 => write(&dir.join("pids.max"), pids.limit)?,
            Some(pids) if pids.limit < 0 => write(&dir.join("pids.max"), "max")?,
            _ => {}
        }
        if !resources.rdma.is_empty() {
            v1::set_rdma(dir, resources)?;
        }
        if phase == Phase::Create && !resources.devices.is_empty() {
            attach_device_filter(dir, resources)?;
        }
    }
    if !layout.v1.iter().any(|(controller, _)| controller == "hugetlb") {
        for limit in &resources.hugepage_limits {
            write(&dir.join(format!("hugetlb.{}.max", limit.page_size)), limit.limit)?;
        }
    }
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') {
            return Err(Error::invalid(format!("linux.resources.unified {file:?} is no cgroup file")));
        }
        write(&dir.join(file), value)?;
    }
    Ok(())
}

/// `max` for the specification's -1.
fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn set_memory(dir: &Path, memory: &Memory) -> Result<()> {
    if let Some(both) = memory.swap.filter(|swap| *swap != 0) {
        // v2 limits swap alone, the specification memory and swap together.
        let swap = match memory.limit {
            _ if both < 0 => -1,
            Some(limit) if limit > 0 => (both - limit).max(0),
            _ => return Err(Error::invalid("a swap limit needs a memory limit")),
        };
        write_if_there(&dir.join("memory.swap.max"), or_max(swap))?;
    }
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        write(&dir.join("memory.max"), or_max(limit))?;
    }
    if let Some(low) = memory.reservation.filter(|low| *low != 0) {
        write(&dir.join("memory.low"), or_max(low))?;
    }
    Ok(())
}

/// From 2..262144 to 1..10000, as runc and crun map it.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn set_cpu(dir: &Path, cpu: &Cpu) -> Result<()> {
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        write(&dir.join("cpu.weight"), cpu_weight(shares))?;
    }
    if let Some(idle) = cpu.idle {
        write_if_there(&dir.join("cpu.idle"), idle)?;
    }
    if cpu.quota.is_some_and(|quota| quota != 0) || cpu.period.is_some_and(|period| period != 0) {
        let quota = cpu.quota.filter(|quota| *quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
        let period = cpu.period.filter(|period| *period != 0).unwrap_or(100_000);
        write(&dir.join("cpu.max"), format!("{quota} {period}"))?;
    }
    if let Some(burst) = cpu.burst {
        write(&dir.join("cpu.max.burst"), burst)?;
    }
    if cpu.realtime_runtime.is_some_and(|n| n != 0) || cpu.realtime_period.is_some_and(|n| n != 0) {
        return Err(Error::Unsupported { what: "cgroup v2 has no limits for real-time scheduling".into() });
    }
    for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if !value.is_empty() {
            write(&dir.join(file), value)?;
        }
    }
    Ok(())
}

fn set_io(dir: &Path, io: &BlockIo) -> Result<()> {
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        let bfq = dir.join("io.bfq.weight");
        if bfq.exists() {
            write(&bfq, weight)?;
        } else {
            // From 10..1000 to 1..10000, as runc maps it.
            write(&dir.join("io.weight"), 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990)?;
        }
    }
    for device in &io.weight_device {
        if let Some(weight) = device.weight {
            write(&dir.join("io.bfq.weight"), format!("{}:{} {weight}", device.major, device.minor))?;
        }
    }
    let throttles = [
        ("rbps", &io.throttle_read_bps_device),
        ("wbps", &io.throttle_write_bps_device),
        ("riops", &io.throttle_read_iops_device),
        ("wiops", &io.throttle_write_iops_device),
    ];
    for (key, devices) in throttles {
        for device in devices {
            write(&dir.join("io.max"), format!("{}:{} {key}={}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}

fn attach_device_filter(dir: &Path, resources: &Resources) -> Result<()> {
    let program = device_filter::compile(&with_default_devices(&resources.devices))?;
    let attached = sys::bpf_load_device_program(&program).and_then(|program| {
        let cgroup = std::fs::File::open(dir)?;
        sys::bpf_attach_device_program(cgroup.as_fd(), program.as_fd())
    });
    match attached {
        // A user namespace may not load programs; there, no device node can be made either.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) && !crate::process::is_host_root() => Ok(()),
        other => other.doing(|| "attach the device filter"),
    }
}
