//! Limits from Docker's terms to the runtime specification's.

use std::os::unix::fs::MetadataExt;

use model::container::{ResourceLimits, Ulimit};
use oci_runtime::spec::{BlockIo, Cpu, Memory, Pids, Resources, Rlimit, ThrottleDevice, WeightDevice};

use crate::error::{Error, Result};

/// The smallest memory limit that a container can start with (Docker's).
const MIN_MEMORY: i64 = 6 << 20;

/// The limits as the runtime takes them.
pub(crate) fn runtime_resources(limits: &ResourceLimits) -> Result<Resources> {
    check(limits)?;
    let set = |n: i64| (n != 0).then_some(n);
    let unsigned = |n: i64| set(n).and_then(|n| u64::try_from(n).ok());
    let (quota, period) = if limits.nano_cpus != 0 {
        (Some(limits.nano_cpus / 10_000), Some(100_000))
    } else {
        (set(limits.cpu_quota), unsigned(limits.cpu_period))
    };
    let cpu = Cpu {
        shares: unsigned(limits.cpu_shares),
        quota,
        period,
        realtime_runtime: set(limits.cpu_realtime_runtime),
        realtime_period: unsigned(limits.cpu_realtime_period),
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
        ..Cpu::default()
    };
    // Without a word on swap, Docker allows as much swap as memory.
    let swap = match (limits.memory_swap, limits.memory) {
        (0, memory) if memory > 0 => Some(memory.saturating_mul(2)),
        (swap, _) => set(swap),
    };
    let memory = Memory {
        limit: set(limits.memory),
        reservation: set(limits.memory_reservation),
        swap,
        swappiness: limits.memory_swappiness.filter(|n| *n >= 0).and_then(|n| u64::try_from(n).ok()),
        disable_oom_killer: limits.oom_kill_disable.filter(|is_disabled| *is_disabled),
        ..Memory::default()
    };
    let throttled = |list: &[(String, u64)]| {
        list.iter()
            .map(|(path, rate)| {
                device_number(path).map(|(major, minor)| ThrottleDevice { major, minor, rate: *rate })
            })
            .collect::<Result<Vec<_>>>()
    };
    let weights = limits
        .blkio_weight_device
        .iter()
        .map(|(path, weight)| {
            device_number(path).map(|(major, minor)| WeightDevice {
                major,
                minor,
                weight: Some(*weight),
                leaf_weight: None,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let block_io = BlockIo {
        weight: (limits.blkio_weight != 0).then_some(limits.blkio_weight),
        weight_device: weights,
        throttle_read_bps_device: throttled(&limits.blkio_read_bps)?,
        throttle_write_bps_device: throttled(&limits.blkio_write_bps)?,
        throttle_read_iops_device: throttled(&limits.blkio_read_iops)?,
        throttle_write_iops_device: throttled(&limits.blkio_write_iops)?,
        ..BlockIo::default()
    };
    let has_memory = memory.limit.or(memory.reservation).or(memory.swap).is_some()
        || memory.swappiness.is_some()
        || memory.disable_oom_killer.is_some();
    let has_cpu = cpu.shares.or(cpu.period).or(cpu.realtime_period).is_some()
        || cpu.quota.or(cpu.realtime_runtime).is_some()
        || !cpu.cpus.is_empty()
        || !cpu.mems.is_empty();
    let has_io = block_io.weight.is_some()
        || !(block_io.weight_device.is_empty()
            && block_io.throttle_read_bps_device.is_empty()
            && block_io.throttle_write_bps_device.is_empty()
            && block_io.throttle_read_iops_device.is_empty()
            && block_io.throttle_write_iops_device.is_empty());
    Ok(Resources {
        memory: has_memory.then_some(memory),
        cpu: has_cpu.then_some(cpu),
        block_io: has_io.then_some(block_io),
        pids: limits.pids_limit.map(|limit| Pids { limit: if limit == 0 { -1 } else { limit } }),
        ..Resources::default()
    })
}

/// Refuses what contradicts itself, in Docker's words.
fn check(limits: &ResourceLimits) -> Result<()> {
    let refuse = |what: &str| Err(Error::invalid(what));
    if limits.memory < 0 || (limits.memory != 0 && limits.memory < MIN_MEMORY) {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if limits.memory_swap > 0 && limits.memory == 0 {
        return refuse("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if limits.memory_swap > 0 && limits.memory_swap < limits.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if limits.memory != 0 && limits.memory_reservation > limits.memory {
        return refuse("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if limits.nano_cpus != 0 && (limits.cpu_quota != 0 || limits.cpu_period != 0) {
        return refuse("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set");
    }
    if limits.nano_cpus < 0 {
        return refuse("Range of CPUs is from 0.01 up: a negative number was given");
    }
    if limits.nano_cpus > 0 {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
        if limits.nano_cpus > most {
            return Err(Error::invalid(format!(
                "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
            )));
        }
    }
    if limits.cpu_quota != 0 && limits.cpu_quota > 0 && limits.cpu_quota < 1000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if limits.cpu_period != 0 && !(1000..=1_000_000).contains(&limits.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if limits.blkio_weight != 0 && !(10..=1000).contains(&limits.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    if limits.memory_swappiness.is_some_and(|n| !(-1..=100).contains(&n)) {
        return refuse("Invalid value for memory swappiness; valid range is 0-100");
    }
    Ok(())
}

fn device_number(path: &str) -> Result<(i64, i64)> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| Error::invalid(format!("device {path:?} can't be found: {error}")))?;
    let number = metadata.rdev();
    if number == 0 {
        return Err(Error::invalid(format!("{path:?} is no device")));
    }
    Ok((i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number))))
}

/// `--ulimit`s as rlimits.
pub(super) fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<Rlimit>> {
    const KNOWN: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let is_given = ulimits.iter().any(|limit| limit.name == "nofile");
    // What the daemon has raised is for itself.
    let open_files = stdx::process::open_files().filter(|_| !is_given).map(|(soft, hard)| {
        let bound = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        Ok(Rlimit { r#type: "RLIMIT_NOFILE".into(), soft: bound(soft), hard: bound(hard) })
    });
    ulimits
        .iter()
        .map(|limit| {
            if !KNOWN.contains(&limit.name.as_str()) {
                return Err(Error::invalid(format!("invalid ulimit type: {}", limit.name)));
            }
            if limit.hard >= 0 && (limit.soft > limit.hard || limit.soft < 0) {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                )));
            }
            let bound = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
            Ok(Rlimit {
                r#type: format!("RLIMIT_{}", limit.name.to_ascii_uppercase()),
                soft: bound(limit.soft),
                hard: bound(limit.hard),
            })
        })
        .chain(open_files)
        .collect()
}
