//! One scope for a daemon and all its containers, delegated to the daemon: what
//! `systemd-run --scope --property=Delegate=yes` makes.
//!
//! It is there as long as any process is in it, so the containers of a daemon that has ended keep it for the next one.
//! To start a container in it asks nothing of systemd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Failure, Owner, Property, Systemd, Value, attach, is_running, property};
use crate::cgroup::{Layout, write};
use crate::error::{Doing, Error, Result};

/// The daemon's directory in the scope; what else is in it are containers.
const DAEMON: &str = "daemon";

/// Moves this process into the scope `name`, which is made where it is not there.
///
/// # Errors
/// Where systemd can't be asked, or refuses. The process may then be anywhere; [`current`] tells.
pub fn enter(owner: Owner, name: &str, description: &str) -> Result<()> {
    let mut last = Ok(());
    // One that is about to end with its last process can neither be entered nor made anew for a moment.
    for _ in 0..20 {
        match start(owner, name, description)? {
            Started::Made => return settle(name),
            Started::IsThere => {}
        }
        last = attach(owner, name, &Path::new("/").join(DAEMON), own_pid());
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    last
}

/// Whether systemd delegates: it runs, and version 2 of the cgroups is all there is.
#[must_use]
pub fn is_possible(layout: &Layout) -> bool {
    layout.is_unified() && is_running()
}

/// The path of the scope `name`, if this process is in it.
#[must_use]
pub fn current(name: &str) -> Option<PathBuf> {
    let text = stdx::fs::read_kernel_text("/proc/self/cgroup").ok()?;
    let path = Path::new(text.lines().find_map(|line| line.strip_prefix("0::"))?);
    let scope = path.parent().filter(|scope| scope.ends_with(name) && path.ends_with(DAEMON))?;
    Some(scope.to_owned())
}

enum Started {
    Made,
    IsThere,
}

fn start(owner: Owner, name: &str, description: &str) -> Result<Started> {
    let slice = match owner {
        Owner::System => "system.slice",
        Owner::User => "user.slice",
    };
    let mut properties: Vec<Property> = vec![
        property("Description", Value::Text(description.to_owned())),
        property("Slice", Value::Text(slice.to_owned())),
        property("Delegate", Value::Bool(true)),
        property("PIDs", Value::Numbers(vec![own_pid().unsigned_abs()])),
        property("CollectMode", Value::Text("inactive-or-failed".into())),
        // Many containers, and not the one program that the default is made for.
        property("TasksMax", Value::U64(u64::MAX)),
    ];
    for accounting in ["MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"] {
        properties.push(property(accounting, Value::Bool(true)));
    }
    let mut systemd = Systemd::connect(owner)?;
    match systemd.try_start_unit(name, &properties) {
        Ok(()) => Ok(Started::Made),
        Err(Failure::Refused { name: error, .. }) if error == super::UNIT_EXISTS => Ok(Started::IsThere),
        Err(failure) => Err(failure.into_io()).doing(|| format!("ask systemd for {name}")),
    }
}

/// Leaves the scope's own directory, which could hand no controllers on with a process in it.
fn settle(name: &str) -> Result<()> {
    let text = stdx::fs::read_kernel_text("/proc/self/cgroup").doing(|| "read /proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).map(Path::new);
    let layout = Layout::detect()?;
    let (Some(path), Some(root)) = (path.filter(|path| path.ends_with(name)), &layout.v2) else {
        return Err(Error::State {
            what: format!("systemd made {name}, but did not move this process into it"),
        });
    };
    let dir = root.join(super::super::relative(path)).join(DAEMON);
    std::fs::create_dir(&dir).doing(|| format!("make the cgroup {dir:?}"))?;
    write(&dir.join("cgroup.procs"), own_pid())
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}
