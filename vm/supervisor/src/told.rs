//! Changes of shares whose server is another's, told to the layer in the guest that stands in front of each, as this system
//! tells of them (`platform::tree`).

/// Used on macOS, tested everywhere.
#[cfg(any(target_os = "macos", test))]
pub(crate) mod merged;
/// Used on Windows, tested everywhere.
#[cfg(any(windows, test))]
pub(crate) mod records;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vm_proto::change::{Change, Deed};
use vm_proto::stream::Open;

use crate::execute;
use crate::platform::{Channel, tree};

/// Changes on their way to the guest; beyond, it is told that some were lost.
const WAITING: usize = 1 << 16;
/// How many are sent at once.
const BATCH: usize = 1024;

/// Takes in what the system tells.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    sender: mpsc::Sender<Change>,
    has_lost: Arc<AtomicBool>,
}

impl Notes {
    fn new() -> (Self, Told) {
        let (sender, changes) = mpsc::channel(WAITING);
        let has_lost = Arc::new(AtomicBool::new(false));
        (Self { sender, has_lost: Arc::clone(&has_lost) }, Told { changes, has_lost })
    }

    /// A change. Never blocks.
    pub(crate) fn tell(&self, path: Vec<u8>, deed: Deed) {
        if path.len() < vm_proto::change::PATH_MAX && self.sender.try_send(Change { path, deed }).is_err() {
            self.lose();
        }
    }

    /// Some were not told.
    pub(crate) fn lose(&self) {
        if !self.has_lost.swap(true, Ordering::AcqRel) {
            // Where there is no room, whoever takes out looks after what there is.
            let _ = self.sender.try_send(all_lost());
        }
    }

    /// Whether nobody takes them any more.
    pub(crate) fn is_over(&self) -> bool {
        self.sender.is_closed()
    }
}

fn all_lost() -> Change {
    Change { path: Vec::new(), deed: Deed::Lost }
}

/// What was told.
struct Told {
    changes: mpsc::Receiver<Change>,
    has_lost: Arc<AtomicBool>,
}

impl Told {
    /// Waits for the next; as they are sent.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut changes = Vec::new();
        if self.changes.recv_many(&mut changes, BATCH).await == 0 {
            return None;
        }
        if self.has_lost.swap(false, Ordering::AcqRel) {
            // All of it is found by looking.
            while self.changes.try_recv().is_ok() {}
            changes = vec![all_lost()];
        }
        Some(changes.iter().flat_map(Change::encode).collect())
    }
}

/// Those of a machine's shares that are to be told of.
#[derive(Debug)]
pub(crate) struct Tellers {
    /// Folders of this computer's, and where the guest has them.
    shares: Vec<(PathBuf, String)>,
    open: Mutex<CancellationToken>,
}

impl Tellers {
    pub(crate) fn new(shares: Vec<(PathBuf, String)>) -> Self {
        Self { shares, open: Mutex::default() }
    }

    /// Tells the guest of all of them until that is cancelled, from anew.
    pub(crate) fn begin(&self, channel: &Arc<Channel>, cancelled: &CancellationToken) {
        let until = cancelled.child_token();
        let before =
            std::mem::replace(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner), until.clone());
        before.cancel();
        for (here, there) in self.shares.clone() {
            let channel = Arc::clone(channel);
            let telling = async move {
                if let Err(error) = tell(&channel, here, there).await {
                    tracing::warn!("the guest does not hear of changes in a share: {error:#}");
                }
            };
            tokio::runtime::Handle::current().spawn(until.clone().run_until_cancelled_owned(telling));
        }
    }

    /// Tells no more, so that the guest lets go of the shares.
    pub(crate) fn end(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

async fn tell(channel: &Arc<Channel>, here: PathBuf, there: String) -> Result<()> {
    let (notes, mut told) = Notes::new();
    let watched = here.clone();
    // What happens from here on is kept.
    let begin = move || anyhow::Ok((tree::watch(&watched, notes)?, tree::is_complete(&watched)));
    let (_watcher, is_complete) = tokio::task::spawn_blocking(begin)
        .await?
        .with_context(|| format!("failed to watch {}", here.display()))?;
    let mut stream = execute::open(channel, &Open::Told { path: there, is_complete }).await?;
    while let Some(bytes) = told.next().await {
        stream.write_all(&bytes).await.context("the guest no longer listens")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_many_are_lost_together_and_that_is_told_once() {
        let (notes, mut told) = Notes::new();
        for number in 0..=WAITING {
            notes.tell(number.to_string().into_bytes(), Deed::Touched);
        }
        assert_eq!(told.next().await, Some(all_lost().encode()));
        notes.tell(b"a".to_vec(), Deed::Touched);
        assert_eq!(told.next().await, Some(Change { path: b"a".to_vec(), deed: Deed::Touched }.encode()));
    }
}
