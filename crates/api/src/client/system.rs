//! Operations on the engine itself.

use std::time::Duration;

use super::Client;
use super::body::JsonLines;
use super::error::Error;
use super::request::Filters;
use crate::event::Event;
use crate::system::{DiskUsage, Info, Version};

impl Client {
    /// Whether the engine answers within `deadline`.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn ping(&self, deadline: Duration) -> Result<(), Error> {
        self.get("/_ping").deadline(deadline).send().await?;
        Ok(())
    }

    /// What the engine is and does.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn info(&self) -> Result<Info, Error> {
        self.get("/info").fetch().await
    }

    /// The engine's versions.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn version(&self) -> Result<Version, Error> {
        self.get("/version").fetch().await
    }

    /// What there is occupies; of these kinds (`image`, `container`, `volume`), of all if none is named.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn disk_usage(&self, kinds: &[&str]) -> Result<DiskUsage, Error> {
        let request = self.get("/system/df");
        kinds.iter().fold(request, |request, kind| request.query("type", kind)).fetch().await
    }

    /// What happens, from `since` (now if `None`) to `until` (for ever if `None`). The engine has
    /// begun to collect when this returns, so a list taken afterwards misses nothing.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: &Filters,
    ) -> Result<JsonLines<Event>, Error> {
        let request = self.get("/events").query_opt("since", since).query_opt("until", until);
        Ok(request.filters(filters).send().await?.into_json_lines())
    }
}
