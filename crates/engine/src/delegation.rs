//! The part of the cgroups that is the engine's: where systemd runs, a scope that it delegates.

use std::path::{Path, PathBuf};

use oci_runtime::cgroup::Layout;
use oci_runtime::cgroup::systemd::{Owner, scope};

use crate::engine::Inner;
use crate::error::Result;
use crate::names::of_place;

/// What a user's containers can be limited in, where it is delegated; by default systemd leaves out some of it.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "blkio", "memory", "pids"];

/// Moves this process, which becomes the engine of `root`, into a scope of systemd's, where its containers will be, too.
/// Does nothing where there is no systemd, or where it manages version 1 of the cgroups, which it can't delegate.
///
/// To be called before there are further processes.
///
/// # Errors
/// Where systemd refuses. The engine can do without, as far as it is allowed to make cgroups elsewhere.
pub fn enter_scope(root: &Path) -> Result<()> {
    if scope::is_possible(&Layout::detect()?) && scope::current(&name(root)).is_none() {
        scope::enter(Owner::of_caller(), &name(root), "Cove's engine and containers")?;
    }
    Ok(())
}

fn name(root: &Path) -> String {
    of_place(root).map_or("coved.scope".into(), |place| format!("coved-{place}.scope"))
}

/// The hierarchies, and the scope that takes the root's place.
pub(crate) fn layout(root: &Path) -> Result<(Layout, Option<PathBuf>)> {
    let layout = Layout::detect()?;
    if !scope::is_possible(&layout) {
        return Ok((layout, None));
    }
    let scope = scope::current(&name(root));
    Ok(match &scope {
        Some(path) => (layout.below(path), scope),
        None => (layout, None),
    })
}

impl Inner {
    /// What a user's containers lack here.
    pub(crate) fn limits_warning(&self) -> Option<String> {
        if !self.config.is_rootless {
            return None;
        }
        if self.delegation.is_none() {
            return Some(
                "Containers can't be limited, paused or measured: a user's engine needs cgroup version 2 alone, and a \
                 systemd of that user's to delegate a part of it."
                    .into(),
            );
        }
        let missing: Vec<&str> =
            CONTROLLERS.into_iter().filter(|name| !self.cgroups.has_controller(name)).collect();
        (!missing.is_empty()).then(|| {
            format!(
                "Containers can't be limited in {}, which systemd does not delegate to users here. To change that, as root: \
                 systemctl edit user@.service, with the lines [Service] and Delegate=cpu cpuset io memory pids.",
                missing.join(", ")
            )
        })
    }
}
