//! The topics that follow the hub: engine, containers, images.

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
                Ok(Change::Engine | Change::Images) => {}
                // Too far behind for single changes, or the list was read anew: a snapshot instead.
                Ok(Change::Containers) | Err(RecvError::Lagged(_)) => continue 'anew,
                Err(RecvError::Closed) => return Err(Closed),
            }
        }
    }
}

/// Waits for a change of interest, or for having missed some.
async fn until(
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
