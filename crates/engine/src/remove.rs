//! Removing containers, and renaming them.

use std::sync::Arc;

use model::mount::MountPoint;

use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lifecycle::{Decision, Denied, Request, State};
use crate::names;
use crate::start::refusal;
use crate::store::Durability;

/// Whether those who wait for a removal hear of it before or after its files are gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// Nobody can find it any more, so `run --rm` need not wait for the disk. Its record may outlive a crash, and with it
    /// the monitor's word of its end: the next start removes it.
    First,
    /// Who asks for a removal may count on the space.
    Last,
}

/// What a removal may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removal {
    /// Kill it first, if it runs.
    pub is_forced: bool,
    /// Its volumes without a name go too, as far as no other container has them.
    pub takes_volumes: bool,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    /// Where it runs, or is being removed already.
    pub async fn remove(&self, name: &str, removal: Removal) -> Result<()> {
        let Removal { is_forced, takes_volumes } = removal;
        let container = self.containers.find(name)?;
        if is_forced {
            {
                let _turn = container.turn.lock().await;
                container.dynamic().is_stopped_by_user = true;
                self.cancel_restart(&container);
            }
            self.kill_and_wait(&container).await?;
        }
        let _turn = container.turn.lock().await;
        match container.state().decide(Request::Remove) {
            Ok(Decision::Act) => self.remove_now(&container, Answers::Last, takes_volumes).await,
            Ok(Decision::Nothing) if is_forced => Ok(()),
            Ok(Decision::Nothing) => {
                Err(Error::state(format!("removal of container {name} is already in progress")))
            }
            Err(Denied::IsRunning) if container.spec().host.auto_remove && is_forced => Ok(()),
            Err(denied) => Err(refusal(&container, denied, "remov")),
        }
    }

    /// The end of an `--rm` container; the caller holds the turn.
    pub(crate) async fn remove_ended(&self, container: &Arc<Container>) {
        if let Err(error) = self.remove_now(container, Answers::First, true).await {
            tracing::warn!(
                id = container.id,
                error = error.chain(),
                "failed to remove a container that ended"
            );
        }
    }

    /// As [`Self::remove_ended`], once the caller has let go of the turn.
    pub(crate) fn remove_later(&self, container: &Arc<Container>) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        self.spawn(async move {
            let _turn = container.turn.lock().await;
            engine.remove_ended(&container).await;
        });
    }

    /// Forgets it first, on disk, then takes apart what it had: start-up sweeps what a crash leaves.
    async fn remove_now(
        &self,
        container: &Arc<Container>,
        answers: Answers,
        takes_volumes: bool,
    ) -> Result<()> {
        let spec = container.spec();
        let points = spec.mount_points.as_deref().unwrap_or_default();
        let nameless = points.iter().filter(|point| takes_volumes && point.is_anonymous_volume());
        let doomed = self.doomed_volumes(&container.id, nameless.filter_map(MountPoint::volume)).await;
        // Volumes that go with it can be found until they are gone from the database.
        let answers = if doomed.is_empty() { answers } else { Answers::Last };
        let before = {
            let mut dynamic = container.dynamic();
            std::mem::replace(&mut dynamic.state, State::Removing)
        };
        let is_short_lived = spec.host.auto_remove;
        let durability = if is_short_lived { Durability::Process } else { Durability::Power };
        // On its way before anybody hears of it, so that nothing that follows is on disk before.
        let forgotten = self.store.remove_soon(&container.id, doomed.names(), durability).await;
        if forgotten.is_ok() && answers == Answers::First {
            self.containers.remove(container);
            self.leave_volumes(&container.id, points.iter().filter_map(MountPoint::volume));
            self.is_gone(container);
            // Whoever waited runs before what follows, not behind it on this thread.
            tokio::task::yield_now().await;
        }
        let forgotten = match forgotten {
            Ok(written) => written.done().await,
            Err(error) => Err(error),
        };
        if let Err(error) = forgotten {
            container.dynamic().state = before;
            return Err(error);
        }
        self.release_volumes(&container.id, points.iter().filter_map(MountPoint::volume), &doomed);
        drop(doomed);
        self.forget_execs(container);
        if answers == Answers::Last {
            self.containers.remove(container);
        }
        if let Err(error) = self.images.remove_snapshot(&container.id) {
            tracing::warn!(id = container.id, %error, "failed to remove a container's file system");
        }
        self.release_images(&container.id, points);
        for dir in [self.state_dir(&container.id), self.container_dir(&container.id)] {
            if let Err(error) = std::fs::remove_dir_all(&dir)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, dir = %dir.display(), "failed to remove a container's directory");
            }
        }
        if answers == Answers::Last {
            self.is_gone(container);
        }
        Ok(())
    }

    /// Tells everyone who waits for that.
    fn is_gone(&self, container: &Arc<Container>) {
        self.container_event(container, "destroy", &[]);
        container.progress.send_modify(|progress| {
            progress.is_removed = true;
            progress.is_running = false;
        });
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// Where the name is taken or malformed.
    pub async fn rename(&self, name: &str, wanted: &str) -> Result<()> {
        let container = self.containers.find(name)?;
        let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
        if !names::is_valid(wanted) {
            return Err(Error::invalid(format!(
                "Invalid container name ({wanted}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        let _turn = container.turn.lock().await;
        let old = container.name();
        if old == wanted {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        self.containers.reserve(wanted, &container.id)?;
        container.set_name(wanted);
        if let Err(error) = self.store.put(container.record()).await {
            container.set_name(&old);
            self.containers.release(wanted);
            return Err(error);
        }
        self.containers.release(&old);
        if container.state().run().is_some() {
            let wanted = self.wanted(&container.spec())?;
            self.let_find(&container, &wanted);
        }
        self.container_event(&container, "rename", &[("oldName", &format!("/{old}"))]);
        Ok(())
    }
}
