//! Volumes as rows of a list, and what they occupy.

use std::time::Duration;

use api::client::Client;
use api::volume::Volume;
use serde::{Deserialize, Serialize};

use super::error::UiError;
use super::hub::{Change, Hub};
use super::live::until;
use super::row::millis;
use super::topic::{Closed, Feed, Update};

/// How often volumes are measured while somebody looks: what is written into one is no event.
const EVERY: Duration = Duration::from_secs(30);

/// One row. Which containers have it, their own rows tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct VolumeRow {
    /// Its name, which is all the identity it has.
    pub name: String,
    /// Whether nobody chose the name: a container wanted some volume.
    pub anonymous: bool,
    /// The Compose project it belongs to.
    pub project: Option<String>,
    /// Who keeps it.
    pub driver: String,
    /// Where its files are on the engine's computer.
    pub mountpoint: String,
    /// Milliseconds since the epoch.
    pub created_at: u64,
}

/// What one volume occupies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct VolumeSize {
    /// The volume.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
}

impl VolumeRow {
    /// What the list tells.
    #[must_use]
    pub fn of(volume: Volume) -> Self {
        let labels = volume.labels.unwrap_or_default();
        Self {
            anonymous: labels.contains_key("com.docker.volume.anonymous"),
            project: labels.get("com.docker.compose.project").cloned(),
            driver: volume.driver,
            mountpoint: volume.mountpoint,
            created_at: millis(&volume.created_at).unwrap_or(0),
            name: volume.name,
        }
    }
}

/// Measures at once, at each change of the list, and from time to time.
pub(crate) async fn sizes(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    let mut told = None;
    loop {
        // Subscribed anew before each look: what changed until then is in it.
        let mut changes = hub.subscribe();
        // An engine that does not answer is told about elsewhere.
        let sizes = tokio::select! {
            () = feed.cancelled.cancelled() => return Err(Closed),
            sizes = measure(hub.client()) => sizes.ok(),
        };
        if let Some(sizes) = sizes.filter(|sizes| told.as_ref() != Some(sizes)) {
            told = Some(sizes.clone());
            feed.update(Update::VolumeSizes { sizes }).await?;
        }
        let changed = until(&mut changes, feed, |change| matches!(change, Change::Volumes | Change::Engine));
        if let Ok(Err(Closed)) = tokio::time::timeout(EVERY, changed).await {
            return Err(Closed);
        }
    }
}

async fn measure(client: &Client) -> Result<Vec<VolumeSize>, api::client::Error> {
    let usage = client.disk_usage(&["volume"]).await?;
    let size = |volume: Volume| {
        // Docker says −1 where it does not know.
        let bytes = u64::try_from(volume.usage_data?.size).ok()?;
        Some(VolumeSize { name: volume.name, bytes })
    };
    Ok(usage.volumes.into_iter().filter_map(size).collect())
}

/// Why a volume was not removed: containers by their names, and what to do about it.
pub(crate) fn not_removed(mut error: UiError, hub: &Hub) -> UiError {
    for row in hub.containers().0.unwrap_or_default() {
        error.message = error.message.replace(&row.id, &row.name);
    }
    match error.hint {
        None if error.message.contains("volume is in use") => {
            error.with_hint("remove the containers that have it first, also those that don’t run")
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_nobody_named_is_told_apart() {
        let volume = |labels: &[&str]| Volume {
            name: "data".into(),
            created_at: "2026-11-24T11:00:00Z".into(),
            labels: Some(labels.iter().map(|label| ((*label).to_owned(), "storefront".to_owned())).collect()),
            ..Volume::default()
        };
        let row = VolumeRow::of(volume(&["com.docker.volume.anonymous"]));
        assert_eq!((row.anonymous, row.created_at), (true, 1_795_518_000_000));
        let row = VolumeRow::of(volume(&["com.docker.compose.project"]));
        assert_eq!((row.anonymous, row.project.as_deref()), (false, Some("storefront")));
    }
}
