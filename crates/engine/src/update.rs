//! Changing the limits and the restart policy of a container, living or not.

use model::container::{ResourceLimits, RestartPolicy};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::oci;

impl Engine {
    /// Changes what `limits` names (0 and empty leave as is), and the policy where one is given.
    ///
    /// # Errors
    /// Where a value is refused; nothing is changed then.
    pub async fn update(
        &self,
        name: &str,
        limits: &ResourceLimits,
        restart: Option<RestartPolicy>,
    ) -> Result<()> {
        let container = self.containers.find(name)?;
        let _turn = container.turn.lock().await;
        let mut spec = (*container.spec()).clone();
        merge(&mut spec.host.resources, limits);
        if let Some(policy) = restart {
            if spec.host.auto_remove && policy.mode != model::container::RestartMode::No {
                return Err(Error::invalid(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            spec.host.restart = policy;
        }
        let resources = oci::runtime_resources(&spec.host.resources)?;
        if container.state().run().is_some() {
            let mut cgroups = self.cgroups_of(&container);
            if cgroups.is_empty() {
                return Err(Error::unsupported("limits need cgroups, and none are delegated to this engine"));
            }
            if let Err(error) = cgroups.update(&resources) {
                // What was taken before the value that was refused goes back; the first error is the one to tell.
                let before = oci::runtime_resources(&container.spec().host.resources)?;
                if let Err(error) = cgroups.update(&before) {
                    tracing::warn!(%error, "failed to put limits back");
                }
                return Err(refused_value(error));
            }
        }
        container.set_spec(spec);
        self.store.put(container.record()).await?;
        self.container_event(&container, "update", &[]);
        Ok(())
    }
}

/// A value that the kernel refuses is the client's mistake, not a failure of ours.
fn refused_value(error: oci_runtime::Error) -> Error {
    const REFUSALS: [i32; 3] = [libc::EINVAL, libc::ERANGE, libc::EBUSY];
    match &error {
        oci_runtime::Error::Os { source, .. }
            if source.raw_os_error().is_some_and(|code| REFUSALS.contains(&code)) =>
        {
            Error::invalid(Error::from(error).chain())
        }
        _ => error.into(),
    }
}

fn merge(into: &mut ResourceLimits, from: &ResourceLimits) {
    let number = |into: &mut i64, from: i64| {
        if from != 0 {
            *into = from;
        }
    };
    number(&mut into.cpu_shares, from.cpu_shares);
    number(&mut into.cpu_realtime_period, from.cpu_realtime_period);
    number(&mut into.cpu_realtime_runtime, from.cpu_realtime_runtime);
    number(&mut into.memory_reservation, from.memory_reservation);
    if from.nano_cpus != 0 {
        (into.nano_cpus, into.cpu_period, into.cpu_quota) = (from.nano_cpus, 0, 0);
    }
    if from.cpu_period != 0 || from.cpu_quota != 0 {
        into.nano_cpus = 0;
        number(&mut into.cpu_period, from.cpu_period);
        number(&mut into.cpu_quota, from.cpu_quota);
    }
    if from.memory != 0 {
        // A swap limit that was only the default moves along.
        if into.memory_swap == 0 || into.memory_swap == into.memory.saturating_mul(2) {
            into.memory_swap = 0;
        }
        into.memory = from.memory;
    }
    number(&mut into.memory_swap, from.memory_swap);
    for (into, from) in
        [(&mut into.cpuset_cpus, &from.cpuset_cpus), (&mut into.cpuset_mems, &from.cpuset_mems)]
    {
        if !from.is_empty() {
            into.clone_from(from);
        }
    }
    if from.pids_limit.is_some_and(|limit| limit != 0) {
        into.pids_limit = from.pids_limit;
    }
    if from.blkio_weight != 0 {
        into.blkio_weight = from.blkio_weight;
    }
    if from.memory_swappiness.is_some() {
        into.memory_swappiness = from.memory_swappiness;
    }
}
