//! The program that is the machine: started, waited for, ended.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use super::sys;
use crate::console::keep;

/// A running one.
#[derive(Debug)]
pub(crate) struct Vmm {
    pid: Pid,
}

impl Vmm {
    /// Starts it, and tells `ended` how it ended. The thread that starts it waits for it: it ends with that thread.
    pub(crate) fn start(
        mut command: Command,
        memory: Option<&Arc<File>>,
        console: std::path::PathBuf,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        sys::tie(&mut command, memory.map(|memory| memory.as_fd()));
        let memory = memory.cloned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (started, told) = std::sync::mpsc::sync_channel(1);
        let work = move || {
            let spawned = command.spawn();
            // It has a copy of its own now, or never will.
            drop(memory);
            let mut child = match spawned {
                Ok(child) => child,
                Err(error) => {
                    let program = command.get_program().display().to_string();
                    let _ = started
                        .send(Err(anyhow::Error::new(error).context(format!("failed to start {program}"))));
                    return;
                }
            };
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            let _ = started.send(pid.context("it has no process id"));
            let readers: Vec<_> =
                [child.stdout.take().map(Output::Out), child.stderr.take().map(Output::Error)]
                    .into_iter()
                    .flatten()
                    .map(|output| {
                        let path = console.clone();
                        thread::spawn(move || match output {
                            Output::Out(out) => keep(out, &path),
                            Output::Error(error) => keep(error, &path),
                        })
                    })
                    .collect();
            let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            // Processes of its group hold the pipes open until they are gone too.
            if let Some(pid) = pid {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            for reader in readers {
                let _ = reader.join();
            }
            ended(how);
        };
        thread::Builder::new().name("vmm".to_owned()).spawn(work).context("failed to start a thread")?;
        let pid = told.recv().context("the machine's thread ended")??;
        Ok(Self { pid })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.pid.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        // One that is gone needs no signal.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Lets it stand still.
    pub(crate) fn stop(&self) {
        let _ = kill_process_group(self.pid, Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        let _ = kill_process_group(self.pid, Signal::CONT);
    }

    /// Whether it stands still: by us, or by whoever may send it signals.
    pub(crate) fn stands_still(&self) -> bool {
        // The state follows the name, which may hold anything (proc_pid_stat(5)).
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Bytes of memory that it takes, its share of what it shares counted (PSS).
    pub(crate) fn memory(&self) -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
    }
}

enum Output {
    Out(std::process::ChildStdout),
    Error(std::process::ChildStderr),
}
