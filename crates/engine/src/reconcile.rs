//! Start-up: what the database says against what runs, and a sweep of what a crash left.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use model::container::RestartMode;

use crate::container::Container;
use crate::engine::{Engine, now};
use crate::lifecycle::{Run, State};
use crate::link::Link;
use crate::mount_points::Paths;
use crate::store::Record;

impl Engine {
    /// Takes every recorded container in, connects to the monitors that live, settles the others,
    /// then removes directories, snapshots and cgroups that belong to none.
    pub(crate) async fn reconcile(&self, records: Vec<Record>) {
        let known: HashSet<String> = records.iter().map(|record| record.id.clone()).collect();
        self.sweep(&known).await;
        let mut to_start = Vec::new();
        for mut record in records {
            settle_mounts(&mut record);
            let container = Arc::new(Container::new(record));
            let spec = container.spec();
            let points = spec.mount_points.iter().flatten();
            self.use_volumes(&container.id, points.filter_map(|point| point.volume()));
            self.containers.insert(Arc::clone(&container));
            self.find_again(&container).await;
            if should_start(&container) {
                to_start.push(container);
            }
        }
        self.sweep_networks().await;
        for container in to_start {
            self.restart_after(&container, std::time::Duration::ZERO);
        }
        let engine = self.clone();
        self.spawn(async move { engine.monitors.refill() });
    }

    /// Connects to a container that still runs, or settles how it ended.
    async fn find_again(&self, container: &Arc<Container>) {
        let state_dir = self.state_dir(&container.id);
        let before = container.state();
        if state_dir.exists() {
            match Link::find(&state_dir).await {
                Ok(Some((link, pid))) => {
                    self.adopt_networks(container, &state_dir, pid).await;
                    self.adopt(container, link, pid, &before);
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        id = container.id,
                        error = error.chain(),
                        "failed to reach a container's monitor"
                    );
                }
            }
        }
        // A start or a run was cut off. Without a word of its end it was killed, or the machine was.
        if before.run().is_some() || state_dir.exists() {
            let exit = self.exit_without_word(container);
            let was_running =
                before.run().is_some() || state_dir.join(oci_runtime::monitor::protocol::EXIT_FILE).exists();
            if was_running {
                if before.run().is_none() {
                    container.dynamic().state = State::Running(Run { pid: 0, started_at: exit.at });
                }
                self.has_ended(container, exit).await;
            } else {
                // It never came to run: it is as created as before.
                let _ = std::fs::remove_dir_all(&state_dir);
            }
        } else if matches!(before, State::Restarting(_)) {
            self.restart_after(container, std::time::Duration::ZERO);
        } else if container.spec().host.auto_remove && matches!(before, State::Exited(_)) {
            self.remove_later(container);
        }
    }

    fn adopt(&self, container: &Arc<Container>, link: Link, pid: i32, before: &State) {
        let started_at = before.run().map_or_else(now, |run| run.started_at);
        let is_frozen = self.cgroups_of(container).is_frozen();
        let run = Run { pid, started_at };
        let link = Arc::new(link);
        {
            let mut dynamic = container.dynamic();
            dynamic.state = if is_frozen { State::Paused(run) } else { State::Running(run) };
            dynamic.link = Some(Arc::clone(&link));
        }
        container.progress.send_modify(|progress| progress.is_running = true);
        self.store.put_later(container.record());
        self.start_health(container);
        let (engine, container) = (self.clone(), Arc::clone(container));
        self.spawn(async move { engine.follow(container, link).await });
    }

    /// Removes what no container owns: a crash between two steps of a creation or a removal left it.
    async fn sweep(&self, known: &HashSet<String>) {
        for id in names_in(&self.config.state_dir.join("containers")) {
            if known.contains(&id) {
                continue;
            }
            let dir = self.state_dir(&id);
            self.end_unknown(&id, &dir).await;
            let _ = std::fs::remove_dir_all(dir);
        }
        for id in names_in(&self.config.root.join("containers")) {
            if !known.contains(&id) {
                let _ = std::fs::remove_dir_all(self.container_dir(&id));
            }
        }
        for key in self.images.snapshot_keys() {
            // Those of mounted images have a number behind the container's id.
            if !known.contains(key.split('.').next().unwrap_or_default())
                && let Err(error) = self.images.remove_snapshot(&key)
            {
                tracing::warn!(key, %error, "failed to remove a leftover snapshot");
            }
        }
    }

    /// A container that was being removed, or whose creation was never finished, still has processes.
    async fn end_unknown(&self, id: &str, state_dir: &Path) {
        let cgroups = self.open_cgroups(&Path::new("/cove").join(id));
        let _ = cgroups.kill();
        if let Ok(Some((link, pid))) = Link::find(state_dir).await {
            let _ = oci_runtime::sys::kill(pid, libc::SIGKILL);
            // Its monitor ends with it and clears the cgroups.
            while matches!(link.next().await, Ok(Some(_))) {}
        }
        let _ = cgroups.delete();
    }
}

/// Whether its policy wants it running when the engine starts.
fn should_start(container: &Container) -> bool {
    let dynamic = container.dynamic();
    let has_ended = matches!(dynamic.state, State::Exited(_)) && dynamic.cancel_restart.is_none();
    let policy = container.spec().host.restart.mode;
    has_ended
        && match policy {
            RestartMode::Always => true,
            RestartMode::UnlessStopped => !dynamic.is_stopped_by_user,
            RestartMode::No | RestartMode::OnFailure => false,
        }
}

/// Before there were volumes, mounts were read anew at each start.
fn settle_mounts(record: &mut Record) {
    if record.spec.mount_points.is_none() {
        let wanted = crate::mount_points::wanted(&record.spec, Paths::Unix).unwrap_or_default();
        let points = wanted.into_iter().map(|one| one.point).filter(|point| point.volume().is_none());
        record.spec.mount_points = Some(points.collect());
    }
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
