//! The guest's end: containers are asked to stop, everything else follows, and the data disk is left clean.

use std::fs;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::{disk, tell};

/// How long containers may take to end when asked (Docker's default for `stop`).
const GRACE: Duration = Duration::from_secs(10);
/// How long what was killed may take to be gone, and what is told of it to be written.
const AFTER: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The bit of SIGTERM in `SigCgt` of proc(5)'s status.
const TERM_BIT: u64 = 1 << (15 - 1);

/// Ends containers first, by their first processes, so that their monitors can write how they ended; then the rest.
pub(crate) async fn end_processes() {
    for first in firsts() {
        // The first process of a namespace never gets a signal that it does not handle.
        let signal = if first.handles_term { Signal::TERM } else { Signal::KILL };
        let _ = kill_process(first.pid, signal);
    }
    wait_until(GRACE, || firsts().is_empty()).await;
    for first in firsts() {
        let _ = kill_process(first.pid, Signal::KILL);
    }
    // The engine and the monitors end by themselves now.
    wait_until(AFTER, || others().is_empty()).await;
    for pid in others() {
        let _ = kill_process(pid, Signal::KILL);
    }
    wait_until(AFTER, || others().is_empty()).await;
}

async fn wait_until(deadline: Duration, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() && begin.elapsed() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Everything to the disk, and the disk let go of.
pub(crate) fn flush() {
    rustix::fs::sync();
    // A mount that is kept busy is made read-only by the kernel's own end; what is synced stays.
    if let Err(error) = unmount(disk::DATA, UnmountFlags::empty()) {
        tell(format_args!("cove-agent: the data disk is still in use at the end: {error}"));
        let _ = unmount(disk::DATA, UnmountFlags::DETACH);
        rustix::fs::sync();
    }
}

struct First {
    pid: Pid,
    handles_term: bool,
}

/// The first processes of pid namespaces below this one: those whose last number in `NSpid` is 1.
fn firsts() -> Vec<First> {
    processes()
        .filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
            let numbers: Vec<&str> = field(&status, "NSpid:")?.split_whitespace().collect();
            let caught = u64::from_str_radix(field(&status, "SigCgt:")?.trim(), 16).ok()?;
            let is_first = numbers.len() > 1
                && numbers.last() == Some(&"1")
                && !field(&status, "State:")?.trim().starts_with('Z');
            is_first.then_some(First { pid, handles_term: caught & TERM_BIT != 0 })
        })
        .collect()
}

/// Every process with a program but this one; the kernel's own threads have none.
fn others() -> Vec<Pid> {
    let has_program = |pid: &Pid| {
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        command.is_ok_and(|bytes| !bytes.is_empty())
    };
    processes().filter(|pid| *pid != Pid::INIT).filter(has_program).collect()
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}
