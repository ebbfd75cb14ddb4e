//! Removing what nobody uses.

use crate::engine::Engine;
use crate::error::Result;
use crate::lifecycle::{Request, State};

impl Engine {
    /// Removes every container that does not run and that `matches` says yes to. Returns their ids
    /// and the bytes freed.
    ///
    /// # Errors
    /// The first failure; what was removed before it stays removed.
    pub async fn prune_containers(
        &self,
        matches: impl Fn(&crate::ContainerInfo) -> bool,
    ) -> Result<(Vec<String>, u64)> {
        let mut removed = Vec::new();
        let mut bytes = 0;
        for container in self.containers.all() {
            let is_removable = matches!(container.state(), State::Created { .. } | State::Exited(_))
                && container.state().decide(Request::Remove).is_ok();
            if !is_removable || !matches(&self.info_of(&container)) {
                continue;
            }
            let size = self.images.snapshot_usage(&container.id);
            match self.remove(&container.id, crate::Removal::default()).await {
                Ok(()) => {
                    removed.push(container.id.clone());
                    bytes += size;
                }
                // Started or removed by somebody else meanwhile.
                Err(error)
                    if matches!(error.kind(), model::ErrorKind::Conflict | model::ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((removed, bytes))
    }
}
