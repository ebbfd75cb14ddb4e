//! The first command, which starts the daemon.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Figure, Table, median, once};
use crate::shell::output;

/// How often the daemon is started.
const STARTS: usize = 9;

/// Measures in a mount namespace whose engine directories are empty, so that the user's own engine is
/// left alone.
pub(super) fn bench(table: &mut Table) -> Result<()> {
    let this = std::env::current_exe()?.display().to_string();
    let script = "mkdir -p /run/cove /var/lib/cove && mount -t tmpfs tmpfs /run/cove && \
                  mount -t tmpfs tmpfs /var/lib/cove && exec \"$0\" measure-startup";
    let said = output("unshare", &["-m", "sh", "-c", script, &this]).context("the start was not measured")?;
    let nanos = said.parse().with_context(|| format!("{said:?} is no number"))?;
    let what = "first command without a daemon, more than with one";
    table.alone(what, Figure::Time(Duration::from_nanos(nanos)), "≤ 60 ms");
    Ok(())
}

/// `xtask measure-startup`: prints how many nanoseconds longer a command takes that starts the daemon.
pub(crate) fn measure() -> Result<()> {
    let cove = crate::musl::folder().join("cove").display().to_string();
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for at in 0..=STARTS {
        end_daemon();
        let took = once(&cove, &["ps"])?;
        // The first makes its databases.
        if at > 0 {
            cold.push(took);
            warm.push(once(&cove, &["ps"])?);
        }
    }
    end_daemon();
    println!("{}", median(cold).saturating_sub(median(warm)).as_nanos());
    Ok(())
}

/// Ends the daemon of this mount namespace, if there is one, and waits until it is gone.
fn end_daemon() {
    let ours = std::fs::read_link("/proc/self/ns/mnt").ok();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let dir = entry.path();
        let is_coved = std::fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.trim() == "coved");
        if is_coved && std::fs::read_link(dir.join("ns/mnt")).ok() == ours {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let _ = once("kill", &["-TERM", &pid]);
            while dir.join("exe").read_link().is_ok() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}
