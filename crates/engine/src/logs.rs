//! Reading a container's log back, and following it.
//!
//! Both forms the monitor writes are read in blocks on a blocking thread and handed on in batches,
//! already filtered: a million lines are a few hundred messages, not a million.

mod entry;
mod reader;

use std::path::Path;
use std::time::Duration;

use model::container::ContainerSpec;
use oci_runtime::monitor::protocol::{LogFormat, LogTarget};
use tokio::sync::mpsc;

use crate::engine::Engine;
use crate::error::{Error, Result};

pub use entry::Entry;
use reader::Reader;

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Output.
    pub stdout: bool,
    /// Error output.
    pub stderr: bool,
    /// Whether to wait for more.
    pub follow: bool,
    /// How many lines from the end; `None` is all.
    pub tail: Option<usize>,
    /// Nothing before; nanoseconds since the epoch.
    pub since: Option<u64>,
    /// Nothing after; nanoseconds since the epoch.
    pub until: Option<u64>,
}

/// How many batches wait for a slow client.
const QUEUE: usize = 4;

impl Engine {
    /// Reads a log: batches of entries, until its end or, followed, until the container's.
    ///
    /// # Errors
    /// Where there is no such container, or its driver keeps nothing that can be read.
    pub fn logs(&self, name: &str, query: LogQuery) -> Result<mpsc::Receiver<std::io::Result<Vec<Entry>>>> {
        let container = self.containers.find(name)?;
        let target = target(&container.spec(), &self.container_dir(&container.id), &container.id)?;
        if target.format == LogFormat::None {
            return Err(Error::unsupported("configured logging driver does not support reading"));
        }
        if !query.stdout && !query.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let progress = container.progress.subscribe();
        let ends = progress.borrow().ends;
        let is_over = move || {
            let now = *progress.borrow();
            now.is_removed || !now.is_running || now.ends > ends
        };
        let task = move || {
            let mut reader = Reader::open(&target, query);
            loop {
                // Asked before reading: what was written until the end is read after it.
                let is_last = is_over();
                loop {
                    match reader.next_batch() {
                        Ok(batch) if batch.is_empty() => break,
                        Ok(batch) => {
                            if sender.blocking_send(Ok(batch)).is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            // Gone with its container, or unreadable: either way there is no more.
                            let _ = sender.blocking_send(Err(error));
                            return;
                        }
                    }
                }
                if !reader.follows() || is_last || sender.is_closed() {
                    return;
                }
                reader.wait(Duration::from_millis(100));
            }
        };
        tokio::task::spawn_blocking(task);
        Ok(receiver)
    }
}

/// Where a container's output goes.
pub(crate) fn target(spec: &ContainerSpec, dir: &Path, id: &str) -> Result<LogTarget> {
    let options = &spec.host.log_options;
    let format = match spec.host.log_driver.as_str() {
        "" | "json-file" => LogFormat::JsonFile,
        "local" => LogFormat::Local,
        "none" => LogFormat::None,
        other => {
            return Err(Error::unsupported(format!("logger: no log driver named '{other}' is registered")));
        }
    };
    let mut target = LogTarget {
        format,
        path: dir.join(format!("{id}-{}.log", if format == LogFormat::Local { "local" } else { "json" })),
        max_size: if format == LogFormat::Local { 20 << 20 } else { 0 },
        max_files: if format == LogFormat::Local { 5 } else { 1 },
    };
    for (name, value) in options {
        match name.as_str() {
            "max-size" => {
                target.max_size = if value == "-1" { 0 } else { parse_size(value)? };
            }
            "max-file" => {
                target.max_files =
                    value.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                        Error::invalid(format!("max-file cannot be less than 1: {value:?}"))
                    })?;
            }
            // Docker's way to say that a slow disk must not hold up the container: it never does here.
            "mode" if value == "blocking" || value == "non-blocking" => {}
            "max-buffer-size" => drop(parse_size(value)?),
            other => {
                return Err(Error::invalid(format!(
                    "unknown log opt '{other}' for {} log driver",
                    spec.host.log_driver
                )));
            }
        }
    }
    Ok(target)
}

/// `10m`, `1.5g`, `500`: bytes, units of 1024.
fn parse_size(text: &str) -> Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let plain = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (number, shift) = match plain.chars().last() {
        Some('k') => (&plain[..plain.len() - 1], 10),
        Some('m') => (&plain[..plain.len() - 1], 20),
        Some('g') => (&plain[..plain.len() - 1], 30),
        _ => (plain, 0),
    };
    let bad = || Error::invalid(format!("invalid size: '{text}'"));
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    if !(0.0..1e9).contains(&number) {
        return Err(bad());
    }
    // Whole thousandths are exact enough for a size limit, and stay in integers.
    let thousandths: u64 = format!("{:.0}", number * 1000.0).parse().map_err(|_| bad())?;
    Ok(thousandths.saturating_mul(1 << shift) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_dockers_units() {
        for (text, expected) in [
            ("10", 10),
            ("10k", 10 << 10),
            ("1.5m", 3 << 19),
            ("2G", 2 << 30),
            ("7MiB", 7 << 20),
            ("3kb", 3 << 10),
        ] {
            assert_eq!(parse_size(text).unwrap(), expected, "{text}");
        }
        assert!(parse_size("ten").is_err());
        assert!(parse_size("-1").is_err());
    }
}
