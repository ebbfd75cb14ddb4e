//! What the daemon and a monitor take, alone and with many containers.

use anyhow::{Context, Result};
use support::daemon::Daemon;

use super::clients::Client;
use super::{Figure, Table};

/// How many containers are added.
const COUNT: usize = 200;

/// Comes first: a heap that many starts have grown hides what the next take.
pub(super) fn bench(table: &mut Table, daemon: &Daemon, ours: &Client) -> Result<()> {
    let pss = || of_daemon(daemon).context("coved is not to be found");
    let before = pss()?;
    ours.run_many(COUNT, "none")?;
    let after = pss()?;
    let monitor = memory(&["cove-runtime", "monitor"], "Private_").context("no monitor is to be found")?;
    ours.remove_many(COUNT)?;
    let each = after.saturating_sub(before) / u64::try_from(COUNT)?;
    table.alone("daemon with one container, PSS", Figure::Bytes(before), "≤ 20480 KiB");
    table.alone("daemon for each of 200 more, PSS", Figure::Bytes(each), "≤ 60 KiB");
    table.alone("monitor, private", Figure::Bytes(monitor), "≤ 512 KiB");
    Ok(())
}

/// What the daemon takes, in bytes.
pub(super) fn of_daemon(daemon: &Daemon) -> Option<u64> {
    memory(&["coved", &daemon.socket().display().to_string()], "Pss:")
}

/// The sum of the fields of `smaps_rollup` that begin so, of a process whose command line has all
/// these words.
fn memory(words: &[&str], field: &str) -> Option<u64> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("xtask") || !words.iter().all(|word| line.contains(word)) {
            return None;
        }
        let rollup = std::fs::read_to_string(entry.path().join("smaps_rollup")).ok()?;
        let kib = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
        let fields: Vec<u64> =
            rollup.lines().filter(|line| line.starts_with(field)).filter_map(kib).collect();
        (!fields.is_empty()).then(|| fields.iter().sum::<u64>() << 10)
    })
}
