//! The topics that follow the hub: engine, containers, images, networks, volumes.

use tokio::sync::broadcast::error::RecvError;

use super::hub::{Change, Hub, snapshot};
use super::topic::{Closed, Feed, Update};

pub(crate) async fn engine(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    let mut changes = hub.subscribe();
    let mut last = None;
    loop {
        let state = hub.engine();
        if last.as_ref() != Some(&state) {
            feed.update(Update::Engine(state.clone())).await?;
            last = Some(state);
        }
        until(&mut changes, feed, |change| matches!(change, Change::Engine)).await?;
    }
}

pub(crate) async fn images(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    let mut changes = hub.subscribe();
    loop {
        if let Some(rows) = hub.images() {
            feed.update(Update::Images { rows }).await?;
        }
        until(&mut changes, feed, |change| matches!(change, Change::Images)).await?;
    }
}

pub(crate) async fn networks(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    let mut changes = hub.subscribe();
    loop {
        if let Some(rows) = hub.networks() {
            feed.update(Update::Networks { rows }).await?;
        }
        until(&mut changes, feed, |change| matches!(change, Change::Networks)).await?;
    }
}

pub(crate) async fn volumes(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    let mut changes = hub.subscribe();
    loop {
        if let Some(rows) = hub.volumes() {
            feed.update(Update::Volumes { rows }).await?;
        }
        until(&mut changes, feed, |change| matches!(change, Change::Volumes)).await?;
    }
}

pub(crate) async fn containers(hub: &Hub, feed: &Feed) -> Result<(), Closed> {
    'anew: loop {
        let (rows, mut changes) = hub.containers();
        if let Some(update) = snapshot(rows) {
            feed.update(update).await?;
        }
        loop {
            let change = tokio::select! {
                () = feed.cancelled.cancelled() => return Err(Closed),
                change = changes.recv() => change,
            };
            match change {
                Ok(Change::Rows { rows, removed }) => {
                    let update = Update::Changed { rows: rows.to_vec(), removed: removed.to_vec() };
                    feed.update(update).await?;
                }
                Ok(Change::Engine | Change::Images | Change::Networks | Change::Volumes) => {}
                // Too far behind for single changes, or the list was read anew: a snapshot instead.
                Ok(Change::Containers) | Err(RecvError::Lagged(_)) => continue 'anew,
                Err(RecvError::Closed) => return Err(Closed),
            }
        }
    }
}

/// Waits for a change of interest, or for having missed some.
pub(crate) async fn until(
    changes: &mut tokio::sync::broadcast::Receiver<Change>,
    feed: &Feed,
    wanted: impl Fn(&Change) -> bool,
) -> Result<(), Closed> {
    loop {
        let change = tokio::select! {
            () = feed.cancelled.cancelled() => return Err(Closed),
            change = changes.recv() => change,
        };
        match change {
            Ok(change) if wanted(&change) => return Ok(()),
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return Ok(()),
            Err(RecvError::Closed) => return Err(Closed),
        }
    }
}
