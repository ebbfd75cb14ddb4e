//! One layer: downloaded, hashed, kept and unpacked in one pass.
//!
//! The network side feeds a bounded channel; a thread reads from it, hashes the compressed bytes,
//! appends them to `ingest/HEX.partial` and unpacks them. When the connection breaks, the network
//! side goes on from the byte it has come to; when the program was killed, the thread first reads
//! the partial file back. Only what the digests confirm is kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::pace::backoff;
use super::{LayerTask, Progress, ProgressKind};
use crate::database::LayerRow;
use crate::error::{Doing, Error, Result};
use crate::layer::{self, Unpacked, layer_dir};
use crate::store::ImageStore;

/// How many chunks wait for the unpacking thread.
const QUEUE: usize = 64;
/// How often a download that gets nowhere is tried again.
const TRIES: u32 = 5;
/// Bytes between two words of progress.
const TELL_EVERY: u64 = 512 * 1024;

type Chunk = io::Result<bytes::Bytes>;

/// Fetches it; `turn` is held until the thread is done, even where the pull itself is given up.
pub(super) async fn fetch_layer(
    task: &LayerTask,
    digest: Digest,
    turn: tokio::sync::OwnedMutexGuard<()>,
) -> Result<LayerRow> {
    let (fetched, turn) = fetch_from(task, digest, turn).await?;
    match fetched {
        // Bytes kept from before are damaged now and then, by a power cut for one; they are gone by now.
        Fetched { start, outcome: Err(error) } if start > 0 && error.is_of_content() => {
            tracing::info!(layer = digest.short(), %error, "what was kept of a layer is damaged: it is fetched anew");
            fetch_from(task, digest, turn).await?.0.outcome
        }
        other => other.outcome,
    }
}

/// How a try ended, and from which byte on it had asked the registry.
struct Fetched {
    start: u64,
    outcome: Result<LayerRow>,
}

async fn fetch_from(
    task: &LayerTask,
    digest: Digest,
    turn: tokio::sync::OwnedMutexGuard<()>,
) -> Result<(Fetched, tokio::sync::OwnedMutexGuard<()>)> {
    let total = task.descriptor.size;
    let partial = task.store.config.root.join("ingest").join(format!("{}.partial", digest.hex()));
    let kept = std::fs::metadata(&partial).map_or(0, |metadata| metadata.len());
    if kept > total {
        std::fs::remove_file(&partial).doing(|| "remove a partial download")?;
    }
    let have = if kept > total { 0 } else { kept };
    let blob = task.store.blob_path(&digest);
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = Work {
        store: task.store.clone(),
        partial: if blob.exists() { blob.clone() } else { partial },
        is_kept: blob.exists(),
        blob,
        digest,
        diff_id: task.diff_id,
        total,
    };
    let start = if work.is_kept { total } else { have };
    let unpacking = tokio::task::spawn_blocking(move || (work.run(receiver), turn));
    let downloaded = download(task, &digest, start, &sender).await;
    if let Err(error) = &downloaded {
        // The thread must not take the end of the channel for the end of the blob.
        let _ = sender.send(Err(io::Error::other(error.to_string()))).await;
    }
    drop(sender);
    let (unpacked, turn) = unpacking
        .await
        .map_err(|error| Error::Unavailable { what: format!("unpacking was cut off: {error}") })?;
    // What the network did explains what the thread then missed.
    let outcome = downloaded.and(unpacked).map(|unpacked| LayerRow {
        diff_id: task.diff_id,
        size: unpacked.size,
        blob: digest,
        media_type: task.descriptor.media_type.clone(),
        blob_size: total,
        implied: unpacked.implied,
    });
    Ok((Fetched { start, outcome }, turn))
}

/// Feeds the blob's bytes from `offset` on into the channel, across breaks.
async fn download(
    task: &LayerTask,
    digest: &Digest,
    mut offset: u64,
    sender: &mpsc::Sender<Chunk>,
) -> Result<()> {
    let total = task.descriptor.size;
    let id = digest.short();
    let (mut attempt, mut told) = (0, 0);
    let mut cause = String::from("the registry ends its answer too early");
    while offset < total {
        let before = offset;
        let outcome = stream(task, digest, &mut offset, sender, &mut |current| {
            if current >= told + TELL_EVERY || current == total {
                told = current;
                (task.tell)(Progress { id: id.clone(), kind: ProgressKind::Downloading { current, total } });
            }
        })
        .await;
        match outcome {
            Ok(Stream::Ended) => {}
            Ok(Stream::Unwanted) => return Ok(()),
            Err(Error::Unavailable { what }) => cause = what,
            Err(error) => return Err(error),
        }
        if offset < total {
            // Progress makes up for failures before it, unless it is such that no end would come.
            attempt = if offset - before >= task.client.pace().least() { 0 } else { attempt + 1 };
            if attempt >= TRIES {
                return Err(Error::Unavailable {
                    what: format!("layer {id} can't be had beyond byte {offset} of {total}: {cause}"),
                });
            }
            tokio::time::sleep(backoff(attempt)).await;
        }
    }
    Ok(())
}

enum Stream {
    /// The registry has sent all it would.
    Ended,
    /// The thread has failed and takes no more; it tells why.
    Unwanted,
}

async fn stream(
    task: &LayerTask,
    digest: &Digest,
    offset: &mut u64,
    sender: &mpsc::Sender<Chunk>,
    tell: &mut (impl FnMut(u64) + Send),
) -> Result<Stream> {
    let total = task.descriptor.size;
    let (mut response, is_partial) =
        task.client.blob(&task.repository, digest, *offset, task.auth.as_ref()).await?;
    // A registry without ranges starts over: what is known of it is skipped.
    let mut skip = if is_partial { 0 } else { *offset };
    let mut watch = task.client.pace().watch();
    while let Some(mut chunk) =
        watch.chunk(&mut response).await.map_err(|why| task.client.interrupted(&why))?
    {
        if skip > 0 {
            let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= skipped as u64;
            chunk = chunk.split_off(skipped);
        }
        if chunk.is_empty() {
            continue;
        }
        *offset += chunk.len() as u64;
        if *offset > total {
            return Err(Error::corrupt(format!(
                "layer {} is longer than the {total} bytes its manifest says",
                digest.short()
            )));
        }
        if sender.send(Ok(chunk)).await.is_err() {
            return Ok(Stream::Unwanted);
        }
        tell(*offset);
    }
    Ok(Stream::Ended)
}

/// What the thread does.
struct Work {
    store: ImageStore,
    partial: PathBuf,
    /// Whether `partial` is a whole blob, kept from before.
    is_kept: bool,
    blob: PathBuf,
    digest: Digest,
    diff_id: Digest,
    total: u64,
}

impl Work {
    fn run(self, receiver: mpsc::Receiver<Chunk>) -> Result<Unpacked> {
        let tree = self.store.ingest_path("layer");
        std::fs::create_dir(&tree).doing(|| format!("make {}", tree.display()))?;
        let done = self.unpack(receiver, &tree);
        if let Err(error) = &done {
            let _ = std::fs::remove_dir_all(&tree);
            // What can't be right is not gone on with; nor does a full disk get fuller.
            let is_broken_off = matches!(error, Error::Unavailable { .. });
            // An image that lies about what a blob unpacks to takes it from no other.
            let is_needed = self.is_kept && self.store.needs_blob(&self.digest);
            if !is_broken_off && !is_needed {
                let _ = std::fs::remove_file(&self.partial);
            }
        }
        done
    }

    fn unpack(&self, receiver: mpsc::Receiver<Chunk>, tree: &Path) -> Result<Unpacked> {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.is_kept).create(!self.is_kept).mode(0o600);
        let file = options.open(&self.partial).doing(|| format!("open {}", self.partial.display()))?;
        let mut feed = Feed {
            kept: file.metadata().doing(|| "measure a partial download")?.len(),
            file,
            receiver,
            chunk: bytes::Bytes::new(),
            hasher: Sha256::new(),
            length: 0,
            total: self.total,
            failure: None,
        };
        let unpacked = layer::unpack(&mut feed, tree, self.store.config.is_rootless);
        let unpacked = match unpacked {
            Ok(unpacked) => unpacked,
            Err(error) => return Err(feed.explain(error)),
        };
        // Bytes behind the end of the compressed stream belong to the blob all the same.
        if let Err(source) = io::copy(&mut feed, &mut io::sink()) {
            return Err(feed.explain(Error::Os { doing: "read the layer".into(), source }));
        }
        if feed.length != self.total {
            return Err(Error::Unavailable {
                what: format!(
                    "layer {} ended after {} of {} bytes",
                    self.digest.short(),
                    feed.length,
                    self.total
                ),
            });
        }
        let found = Digest::sha256(feed.hasher.finalize().into());
        if found != self.digest {
            return Err(Error::corrupt(format!(
                "layer {} has the digest {found}: it is not what its manifest names",
                self.digest
            )));
        }
        if unpacked.diff_id != self.diff_id {
            return Err(Error::corrupt(format!(
                "layer {} unpacks to {}, not to {} as its image says",
                self.digest.short(),
                unpacked.diff_id,
                self.diff_id
            )));
        }
        drop(feed.file);
        if !self.is_kept {
            std::fs::rename(&self.partial, &self.blob).doing(|| format!("keep {}", self.blob.display()))?;
        }
        layer::publish(tree, &layer_dir(&self.store.config.root, &self.diff_id))?;
        Ok(unpacked)
    }
}

/// The blob's bytes in order: those kept from before, then those that come, which are kept.
struct Feed {
    file: File,
    /// Bytes of `file` still to be read back.
    kept: u64,
    receiver: mpsc::Receiver<Chunk>,
    chunk: bytes::Bytes,
    hasher: Sha256,
    length: u64,
    total: u64,
    /// Why the stream ended early.
    failure: Option<Error>,
}

impl Feed {
    /// A break of the connection or a full disk shows up as a malformed archive: this is the cause.
    fn explain(&mut self, error: Error) -> Error {
        self.failure.take().unwrap_or(error)
    }

    fn next_chunk(&mut self) -> io::Result<bool> {
        match self.receiver.blocking_recv() {
            None if self.length < self.total => {
                self.failure = Some(Error::Unavailable {
                    what: format!("the layer broke off after {} of {} bytes", self.length, self.total),
                });
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            None => Ok(false),
            Some(Err(error)) => {
                self.failure = Some(Error::Unavailable { what: error.to_string() });
                Err(error)
            }
            Some(Ok(chunk)) => {
                if let Err(error) = self.file.write_all(&chunk) {
                    let again = io::Error::from(error.kind());
                    self.failure = Some(Error::Os { doing: "keep a downloaded layer".into(), source: error });
                    return Err(again);
                }
                self.chunk = chunk;
                Ok(true)
            }
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = if self.kept > 0 {
            let most = usize::try_from(self.kept).unwrap_or(usize::MAX).min(buffer.len());
            let length = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
            self.kept -= length as u64;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            length
        } else {
            if self.chunk.is_empty() && !self.next_chunk()? {
                return Ok(0);
            }
            let length = self.chunk.len().min(buffer.len());
            let part = self.chunk.split_to(length);
            buffer.get_mut(..length).unwrap_or_default().copy_from_slice(&part);
            length
        };
        self.hasher.update(buffer.get(..length).unwrap_or_default());
        self.length += length as u64;
        Ok(length)
    }
}
