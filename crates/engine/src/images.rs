//! Images as the engine offers them: the store's operations, with the containers in mind.

use std::collections::BTreeMap;

use image_store::{CommitOptions, ImageConfig, ImageRecord, ImportOptions, Removed};
use model::{Digest, Platform, Reference};

use crate::engine::{Engine, now};
use crate::error::{Error, Result};
use crate::events::{Event, Subject};
use crate::lifecycle::State;

/// What an image made of a container is to be.
#[derive(Debug, Default)]
pub struct Commit {
    /// Its name.
    pub reference: Option<Reference>,
    /// Who made it.
    pub author: String,
    /// Free text.
    pub comment: String,
    /// Its configuration; the container's where there is none.
    pub config: Option<ImageConfig>,
    /// Dockerfile instructions applied to that.
    pub changes: Vec<String>,
    /// Whether the container is paused, so that nothing changes meanwhile.
    pub pauses: bool,
}

/// What an image made of an archive is to be.
#[derive(Debug, Default)]
pub struct Import {
    /// Its name.
    pub reference: Option<Reference>,
    /// Free text.
    pub comment: String,
    /// Dockerfile instructions that make its configuration.
    pub changes: Vec<String>,
    /// What its programs are for; this machine where unset.
    pub platform: Option<Platform>,
}

impl Engine {
    /// Removes an image, or one of its names.
    ///
    /// # Errors
    /// Where a container uses it, or there is none.
    pub fn remove_image(&self, name: &str, is_forced: bool) -> Result<Vec<Removed>> {
        let in_use: Vec<(String, Digest, bool)> = self
            .containers
            .all()
            .iter()
            .filter_map(|container| {
                let digest: Digest = container.image_id.parse().ok()?;
                Some((container.id.clone(), digest, container.state().run().is_some()))
            })
            .collect();
        let removed = self.images.remove(name, is_forced, &in_use)?;
        for part in &removed {
            let (action, id) = match part {
                Removed::Untagged(name) => ("untag", name.clone()),
                Removed::Deleted(digest) => ("delete", digest.to_string()),
            };
            self.image_event(action, &id, &id);
        }
        Ok(removed)
    }

    /// Gives an image another name.
    ///
    /// # Errors
    /// Where there is no such image.
    pub fn tag_image(&self, source: &str, target: &Reference) -> Result<()> {
        self.images.tag(source, target)?;
        let image = self.images.resolve(source)?;
        self.image_event("tag", &image.id.to_string(), &target.to_string());
        Ok(())
    }

    /// Removes images without a name, or with `is_all` every image no container uses; of both only
    /// what `matches` says yes to.
    ///
    /// # Errors
    /// Where the store refuses.
    pub fn prune_images(
        &self,
        is_all: bool,
        matches: impl Fn(&ImageRecord) -> bool,
    ) -> Result<(Vec<Removed>, u64)> {
        let in_use: Vec<Digest> =
            self.containers.all().iter().filter_map(|container| container.image_id.parse().ok()).collect();
        Ok(self.images.prune(is_all, &in_use, matches)?)
    }

    /// Makes an image of a container's file system.
    ///
    /// # Errors
    /// Where there is no such container, it has no image of its own, or a change is malformed.
    pub async fn commit(&self, name: &str, wanted: Commit) -> Result<String> {
        let container = self.containers.find(name)?;
        if container.image_id.is_empty() {
            return Err(Error::unsupported("a container that runs a directory has no layers to commit"));
        }
        let mut config = wanted.config.unwrap_or_else(|| config_of(&container.spec()));
        for change in &wanted.changes {
            image_store::instructions::apply(&mut config, change)?;
        }
        let is_running = matches!(container.state(), State::Running(_));
        let has_paused = wanted.pauses && is_running && self.pause(name).await.is_ok();
        let options = CommitOptions {
            config,
            reference: wanted.reference,
            author: wanted.author,
            comment: wanted.comment,
            base: container.image_id.parse().ok(),
        };
        let committed = self.images.commit(&container.id, options).await;
        if has_paused {
            match self.resume(name).await {
                // It ended, or somebody let it go on, meanwhile.
                Ok(()) | Err(Error::State { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let image = committed?;
        self.container_event(&container, "commit", &[("imageID", &image.id.to_string())]);
        Ok(image.id.to_string())
    }

    /// Makes an image of a file system's archive. Blocking.
    ///
    /// # Errors
    /// Where a change or the archive is malformed, or the store refuses.
    pub fn import_image(&self, from: impl std::io::Read, wanted: Import) -> Result<String> {
        let mut config = ImageConfig::default();
        for change in &wanted.changes {
            image_store::instructions::apply(&mut config, change)?;
        }
        let options = ImportOptions {
            config,
            reference: wanted.reference,
            comment: wanted.comment,
            platform: wanted.platform,
        };
        let id = self.images.import(from, options)?.id.to_string();
        self.image_event("import", &id, &id);
        Ok(id)
    }

    /// The image a container was made from.
    #[must_use]
    pub fn image_of(&self, id: &str) -> Option<std::sync::Arc<ImageRecord>> {
        self.images.resolve(id).ok()
    }

    /// Tells that something happened to an image.
    pub fn image_event(&self, action: &str, id: &str, name: &str) {
        self.events.send(Event {
            subject: Subject::Image,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes: BTreeMap::from([("name".to_owned(), name.to_owned())]),
            at: now(),
        });
    }
}

/// The image configuration that makes a container like this one.
fn config_of(spec: &model::container::ContainerSpec) -> ImageConfig {
    ImageConfig {
        env: spec.env.clone(),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        working_dir: spec.working_dir.clone(),
        user: spec.user.clone(),
        exposed_ports: spec.exposed_ports.clone(),
        volumes: spec.volumes.clone(),
        labels: spec.labels.clone(),
        healthcheck: spec.healthcheck.clone(),
        stop_signal: spec.stop_signal.clone(),
        shell: spec.shell.clone(),
        on_build: spec.on_build.clone(),
        ..ImageConfig::default()
    }
}
