//! `state`, `list`, `ps` and `events`: what a container is and does.

use super::args::Args;
use super::print;
use crate::cgroup::Stats;
use crate::container::{Record, StateRoot, Status};
use crate::error::{Error, Result};

fn id_of(args: &mut Args) -> Result<String> {
    args.next_word().ok_or_else(|| Error::invalid("a container id is missing"))
}

pub(super) fn state(root: &StateRoot, args: &mut Args) -> Result<()> {
    let id = id_of(args)?;
    let record = root.load(&id)?;
    let status = record.status(&root.file(&id)?);
    print(&format!("{:#}\n", describe(&record, status)));
    Ok(())
}

/// The state as runc prints it: the specification's and three fields more.
fn describe(record: &Record, status: Status) -> serde_json::Value {
    let mut value = serde_json::to_value(record.oci_state(status)).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("pid".into(), record.oci_state(status).pid.into());
        object.insert("rootfs".into(), record.rootfs.display().to_string().into());
        object.insert("created".into(), record.created.clone().into());
        object.insert("owner".into(), "".into());
    }
    value
}

pub(super) fn list(root: &StateRoot, args: &mut Args) -> Result<()> {
    let (mut is_quiet, mut is_json) = (false, false);
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--quiet" | "-q" => is_quiet = true,
            "--format" | "-f" => is_json = args.value(&word)? == "json",
            other => return Err(Error::invalid(format!("flag {other} is unknown"))),
        }
    }
    let mut records = Vec::new();
    for id in root.ids()? {
        // One that is deleted meanwhile is no longer to be listed.
        if let Ok(record) = root.load(&id) {
            let status = record.status(&root.file(&id)?);
            records.push((record, status));
        }
    }
    if is_json {
        let all: Vec<_> = records.iter().map(|(record, status)| describe(record, *status)).collect();
        print(&format!("{}\n", serde_json::Value::from(all)));
        return Ok(());
    }
    let mut text = String::new();
    if !is_quiet {
        text.push_str("ID\tPID\tSTATUS\tBUNDLE\tCREATED\n");
    }
    for (record, status) in records {
        if is_quiet {
            text.push_str(&format!("{}\n", record.id));
        } else {
            let pid = record.oci_state(status).pid;
            let bundle = record.bundle.display();
            text.push_str(&format!(
                "{}\t{pid}\t{}\t{bundle}\t{}\n",
                record.id,
                status.as_str(),
                record.created
            ));
        }
    }
    print(&text);
    Ok(())
}

pub(super) fn ps(root: &StateRoot, args: &mut Args) -> Result<()> {
    let mut is_json = false;
    let mut id = None;
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--format" | "-f" => is_json = args.value(&word)? == "json",
            _ => {
                id = Some(word);
                break;
            }
        }
    }
    let id = id.ok_or_else(|| Error::invalid("ps needs a container id"))?;
    let pids = root.load(&id)?.cgroups()?.pids()?;
    if is_json {
        print(&format!("{}\n", serde_json::Value::from(pids)));
        return Ok(());
    }
    let given = args.rest();
    let flags = if given.is_empty() { vec!["-ef".to_owned()] } else { given };
    let output = stdx::process::command("ps").args(flags).output();
    let output = crate::error::Doing::doing(output, || "run ps (package procps)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header.split_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Error::invalid("ps printed no PID column"))?;
    let mut kept = format!("{header}\n");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            kept.push_str(&format!("{line}\n"));
        }
    }
    print(&kept);
    Ok(())
}

pub(super) fn events(root: &StateRoot, args: &mut Args) -> Result<()> {
    let mut is_once = false;
    let mut interval = std::time::Duration::from_secs(5);
    let mut id = None;
    while let Some(word) = args.next_word() {
        match word.as_str() {
            "--stats" => is_once = true,
            "--interval" => {
                let text = args.value(&word)?;
                let seconds = text.trim_end_matches('s').parse::<f64>().ok().filter(|s| *s > 0.0);
                let seconds =
                    seconds.ok_or_else(|| Error::invalid(format!("--interval {text:?} is no time")))?;
                interval = std::time::Duration::from_secs_f64(seconds);
            }
            _ => id = Some(word),
        }
    }
    let id = id.ok_or_else(|| Error::invalid("events needs a container id"))?;
    let file = root.file(&id)?;
    let mut oom_kills = 0;
    loop {
        let record = root.load(&id)?;
        if record.status(&file) == Status::Stopped {
            return if is_once {
                Err(Error::State { what: format!("container {id} is not running") })
            } else {
                Ok(())
            };
        }
        let cgroups = record.cgroups()?;
        let kills = cgroups.oom_kills();
        if kills > oom_kills {
            print(&format!("{}\n", serde_json::json!({ "type": "oom", "id": id })));
        }
        oom_kills = kills;
        let event = serde_json::json!({ "type": "stats", "id": id, "data": data(&cgroups.stats()) });
        print(&format!("{event}\n"));
        if is_once {
            return Ok(());
        }
        std::thread::sleep(interval);
    }
}

/// Statistics in the shape of `runc events`.
fn data(stats: &Stats) -> serde_json::Value {
    serde_json::json!({
        "cpu": {
            "usage": { "total": stats.cpu_total, "kernel": stats.cpu_system, "user": stats.cpu_user },
            "throttling": {
                "periods": stats.periods,
                "throttledPeriods": stats.throttled_periods,
                "throttledTime": stats.throttled_time,
            },
        },
        "memory": {
            "usage": {
                "usage": stats.memory_usage.unwrap_or(0),
                "max": stats.memory_max_usage.unwrap_or(0),
                "limit": stats.memory_limit.unwrap_or(u64::MAX),
                "failcnt": stats.memory_failures.unwrap_or(0),
            },
            "raw": stats.memory_stat,
        },
        "pids": { "current": stats.pids.unwrap_or(0), "limit": stats.pids_limit.unwrap_or(0) },
        "blkio": {
            "ioServiceBytesRecursive": stats.io.iter().flat_map(|io| [
                serde_json::json!({ "major": io.major, "minor": io.minor, "op": "Read", "value": io.read_bytes }),
                serde_json::json!({ "major": io.major, "minor": io.minor, "op": "Write", "value": io.write_bytes }),
            ]).collect::<Vec<_>>(),
        },
    })
}
