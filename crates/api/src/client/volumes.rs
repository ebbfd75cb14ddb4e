//! Operations on volumes.

use super::Client;
use super::error::Error;
use super::request::Filters;
use crate::volume::{CreateVolume, ListVolumesResponse, PruneVolumesResponse, Volume};

impl Client {
    /// Lists volumes.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn list_volumes(&self, filters: &Filters) -> Result<ListVolumesResponse, Error> {
        self.get("/volumes").filters(filters).fetch().await
    }

    /// Makes a volume, or finds the one that has the name.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn create_volume(&self, volume: &CreateVolume) -> Result<Volume, Error> {
        self.post("/volumes/create").json(volume).fetch().await
    }

    /// One volume.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume, Error> {
        self.get(&format!("/volumes/{name}")).fetch().await
    }

    /// Removes a volume; with `force`, one that is not there is fine.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        self.delete(&format!("/volumes/{name}")).flag("force", force).send().await?;
        Ok(())
    }

    /// Removes volumes no container has: those without a name, or with the filter `all` every one.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<PruneVolumesResponse, Error> {
        self.post("/volumes/prune").filters(filters).fetch().await
    }
}
