//! Limits as files of cgroup v1.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::{Cgroups, Phase, read, with_default_devices, write, write_if_there};
use crate::error::{Doing, Error, Result};
use crate::spec::{BlockIo, Cpu, DeviceRule, Memory, Resources};

pub(super) fn apply(cgroups: &Cgroups, resources: &Resources, phase: Phase) -> Result<()> {
    for (controller, dir) in &cgroups.v1 {
        match controller.as_str() {
            "memory" => resources.memory.as_ref().map_or(Ok(()), |memory| set_memory(dir, memory))?,
            "cpu" => resources.cpu.as_ref().map_or(Ok(()), |cpu| set_cpu(dir, cpu))?,
            "cpuset" => set_cpuset(dir, resources.cpu.as_ref())?,
            "pids" => set_pids(dir, resources)?,
            "blkio" => resources.block_io.as_ref().map_or(Ok(()), |io| set_block_io(dir, io))?,
            "devices" if phase == Phase::Create || !resources.devices.is_empty() => {
                set_devices(dir, &resources.devices)?;
            }
            "hugetlb" => {
                for limit in &resources.hugepage_limits {
                    write(&dir.join(format!("hugetlb.{}.limit_in_bytes", limit.page_size)), limit.limit)?;
                }
            }
            "net_cls" | "net_prio" => set_network(controller, dir, resources)?,
            "rdma" => set_rdma(dir, resources)?,
            _ => {}
        }
    }
    Ok(())
}

fn set_pids(dir: &Path, resources: &Resources) -> Result<()> {
    match &resources.pids {
        None => Ok(()),
        Some(pids) if pids.limit > 0 => write(&dir.join("pids.max"), pids.limit),
        Some(pids) if pids.limit < 0 => write(&dir.join("pids.max"), "max"),
        Some(_) => Ok(()),
    }
}

fn set_memory(dir: &Path, memory: &Memory) -> Result<()> {
    let limit = dir.join("memory.limit_in_bytes");
    let both = dir.join("memory.memsw.limit_in_bytes");
    let current =
        |file: &Path| read(file).ok().and_then(|text| text.trim().parse::<i64>().ok()).unwrap_or(i64::MAX);
    // Memory may never exceed memory and swap: when both grow, the larger bound moves first.
    let grows = memory.swap.is_some_and(|swap| swap < 0 || swap > current(&both));
    if grows && let Some(swap) = memory.swap {
        write_if_there(&both, swap)?;
    }
    if let Some(bytes) = memory.limit.filter(|bytes| *bytes != 0) {
        write(&limit, bytes)?;
    }
    if !grows && let Some(swap) = memory.swap.filter(|swap| *swap != 0) {
        write_if_there(&both, swap)?;
    }
    if let Some(bytes) = memory.reservation.filter(|bytes| *bytes != 0) {
        write(&dir.join("memory.soft_limit_in_bytes"), bytes)?;
    }
    if let Some(bytes) = memory.kernel_tcp {
        write(&dir.join("memory.kmem.tcp.limit_in_bytes"), bytes)?;
    }
    if let Some(swappiness) = memory.swappiness {
        if swappiness > 100 {
            return Err(Error::invalid(format!("memory swappiness {swappiness} is over 100")));
        }
        write(&dir.join("memory.swappiness"), swappiness)?;
    }
    if let Some(is_disabled) = memory.disable_oom_killer {
        write_if_there(&dir.join("memory.oom_control"), u8::from(is_disabled))?;
    }
    Ok(())
}

fn set_cpu(dir: &Path, cpu: &Cpu) -> Result<()> {
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        write(&dir.join("cpu.shares"), shares)?;
    }
    if let Some(idle) = cpu.idle {
        write_if_there(&dir.join("cpu.idle"), idle)?;
    }
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        write(&dir.join("cpu.cfs_period_us"), period)?;
    }
    if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
        write(&dir.join("cpu.cfs_quota_us"), quota)?;
    }
    if let Some(burst) = cpu.burst {
        write(&dir.join("cpu.cfs_burst_us"), burst)?;
    }
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        write(&dir.join("cpu.rt_period_us"), period)?;
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
        write(&dir.join("cpu.rt_runtime_us"), runtime)?;
    }
    Ok(())
}

/// A new cpuset is empty and takes no process: what isn't limited comes from its parent.
fn set_cpuset(dir: &Path, cpu: Option<&Cpu>) -> Result<()> {
    for (file, wanted) in
        [("cpuset.cpus", cpu.map(|cpu| &cpu.cpus)), ("cpuset.mems", cpu.map(|cpu| &cpu.mems))]
    {
        if let Some(wanted) = wanted.filter(|value| !value.is_empty()) {
            inherit(dir.parent(), file)?;
            write(&dir.join(file), wanted)?;
        } else {
            inherit(Some(dir), file)?;
        }
    }
    Ok(())
}

/// Fills an empty cpuset file from the nearest ancestor that has a value.
fn inherit(dir: Option<&Path>, file: &str) -> Result<String> {
    let Some(dir) = dir else { return Ok(String::new()) };
    match read(&dir.join(file)) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => {
            let value = inherit(dir.parent(), file)?;
            write(&dir.join(file), &value)?;
            Ok(value)
        }
        Err(_) => Ok(String::new()),
    }
}

fn set_block_io(dir: &Path, io: &BlockIo) -> Result<()> {
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        // The scheduler that is running decides which of the two exists.
        let bfq = dir.join("blkio.bfq.weight");
        write(if bfq.exists() { &bfq } else { return write(&dir.join("blkio.weight"), weight) }, weight)?;
    }
    for device in &io.weight_device {
        if let Some(weight) = device.weight {
            let value = format!("{}:{} {weight}", device.major, device.minor);
            let bfq = dir.join("blkio.bfq.weight_device");
            write(&if bfq.exists() { bfq } else { dir.join("blkio.weight_device") }, value)?;
        }
    }
    let throttles = [
        ("blkio.throttle.read_bps_device", &io.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &io.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &io.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &io.throttle_write_iops_device),
    ];
    for (file, devices) in throttles {
        for device in devices {
            write(&dir.join(file), format!("{}:{} {}", device.major, device.minor, device.rate))?;
        }
    }
    Ok(())
}

fn set_devices(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    let open = |name: &str| {
        let file = dir.join(name);
        OpenOptions::new().write(true).open(&file).doing(|| format!("open {}", file.display()))
    };
    let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in with_default_devices(rules) {
        let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".to_owned(), |n| n.to_string());
        let kind = if rule.kind.is_empty() { "a" } else { &rule.kind };
        let access = if rule.access.is_empty() { "rwm" } else { &rule.access };
        let line = format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor));
        // Each write is a rule.
        let file = if rule.allow { &mut allow } else { &mut deny };
        file.write_all(line.as_bytes()).doing(|| format!("set the device rule {line:?} of {dir:?}"))?;
    }
    Ok(())
}

fn set_network(controller: &str, dir: &Path, resources: &Resources) -> Result<()> {
    let Some(network) = &resources.network else { return Ok(()) };
    if controller == "net_cls" {
        return network.class_id.map_or(Ok(()), |id| write(&dir.join("net_cls.classid"), id));
    }
    network
        .priorities
        .iter()
        .try_for_each(|p| write(&dir.join("net_prio.ifpriomap"), format!("{} {}", p.name, p.priority)))
}

pub(super) fn set_rdma(dir: &Path, resources: &Resources) -> Result<()> {
    for (device, limit) in &resources.rdma {
        let mut value = device.clone();
        if let Some(handles) = limit.hca_handles {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects {
            value.push_str(&format!(" hca_object={objects}"));
        }
        write(&dir.join("rdma.max"), value)?;
    }
    Ok(())
}
