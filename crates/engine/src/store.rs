//! The engine's state on disk: `engine.db` in its root, written by one thread.
//!
//! A named container is on disk before its creation is acknowledged (`synchronous=FULL`). What a
//! reboot ends anyway (an `--rm` container, that a process runs) only has to outlive `kill -9`
//! (`NORMAL`: in the write-ahead log, which the kernel keeps). Writes that wait together share a
//! commit.
//!
//! A file of a megabyte beside it is given up when the disk is full, so that what makes room, a
//! removal, can still be written.

mod queue;

use std::path::Path;

use model::container::ContainerSpec;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use stdx::reserve::Reserve;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::{Error, Result};
use crate::lifecycle::State;
use queue::{Inbox, Queue};

/// One container as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Nanoseconds since the epoch.
    pub(crate) created: u64,
    /// The image's config digest; empty with a `rootfs`.
    pub(crate) image_id: String,
    pub(crate) spec: ContainerSpec,
    pub(crate) state: State,
    pub(crate) restart_count: u32,
    /// Whether the user stopped it, which `unless-stopped` respects.
    pub(crate) is_stopped_by_user: bool,
}

impl Record {
    fn durability(&self) -> Durability {
        if self.spec.host.auto_remove { Durability::Process } else { Durability::Power }
    }
}

/// What a write has to outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// `kill -9`.
    Process,
    /// A power cut.
    Power,
}

#[derive(Debug)]
enum Write {
    Put(Box<Record>),
    /// As `Put`, of what has happened already and can't be refused.
    Note(Box<Record>),
    Remove(String),
}

impl Write {
    /// The container it is about.
    fn id(&self) -> &str {
        match self {
            Self::Put(record) | Self::Note(record) => &record.id,
            Self::Remove(id) => id,
        }
    }
}

#[derive(Debug)]
struct Job {
    write: Write,
    durability: Durability,
    done: Option<oneshot::Sender<Result<()>>>,
    /// Held until it is written, where somebody waits for it.
    place: Option<OwnedSemaphorePermit>,
}

/// A handle to the writer.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    queue: Queue,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";
const VERSION: i64 = 1;

impl Store {
    /// Opens the database and reads every container.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Record>, String)> {
        let fail = |doing| move |source| Error::Store { doing, source };
        // On a full disk, opening needs the room too: for the log's index, and to read the log back.
        let reserve = Reserve::at(path.with_file_name("reserve"));
        reserve.give_up();
        let connection = Connection::open(path).map_err(fail("open a file"))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail("set the journal"))?;
        connection.pragma_update(None, "cache_size", -512).map_err(fail("set the cache"))?;
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(fail("read the version"))?;
        if version > VERSION {
            return Err(Error::unsupported(format!(
                "{} was written by a newer version of Cove (format {version}, this one knows {VERSION}); update Cove",
                path.display()
            )));
        }
        connection.execute_batch(SCHEMA).map_err(fail("make the tables"))?;
        if version < VERSION {
            connection.pragma_update(None, "user_version", VERSION).map_err(fail("write the version"))?;
        }
        let records = read_all(&connection)?;
        let engine_id = engine_id(&connection)?;
        reserve.take();
        let (queue, inbox) = queue::queue();
        std::thread::Builder::new()
            .name("store".into())
            .stack_size(512 * 1024)
            .spawn(move || serve(&connection, &inbox, &reserve))
            .map_err(|source| Error::Os { doing: "start the store's thread".into(), source })?;
        Ok((Self { queue }, records, engine_id))
    }

    /// Writes a container and waits until that outlives what it has to.
    pub(crate) async fn put(&self, record: Record) -> Result<()> {
        let durability = record.durability();
        self.queue.submit(Write::Put(Box::new(record)), durability).await
    }

    /// Writes a change that a crash may undo: start-up finds the truth by itself.
    pub(crate) fn put_later(&self, record: Record) {
        self.queue.note(record);
    }

    /// Writes what has happened, and waits until that outlives a crash.
    pub(crate) async fn note(&self, record: Record) -> Result<()> {
        self.queue.submit(Write::Note(Box::new(record)), Durability::Process).await
    }

    /// Forgets a container.
    pub(crate) async fn remove(&self, id: &str, durability: Durability) -> Result<()> {
        self.queue.submit(Write::Remove(id.to_owned()), durability).await
    }
}

fn read_all(connection: &Connection) -> Result<Vec<Record>> {
    let fail = |source| Error::Store { doing: "read the containers", source };
    let mut statement = connection.prepare("SELECT id, record FROM containers").map_err(fail)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(fail)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    rows.into_iter()
        .map(|(id, text)| {
            serde_json::from_str(&text)
                .map_err(|error| Error::invalid(format!("the record of container {id}: {error}")))
        })
        .collect()
}

/// This engine's own id, made once.
fn engine_id(connection: &Connection) -> Result<String> {
    let fail = |source| Error::Store { doing: "read the settings", source };
    let known: Option<String> = connection
        .query_row("SELECT value FROM settings WHERE name = 'id'", [], |row| row.get(0))
        .optional()
        .map_err(fail)?;
    if let Some(id) = known {
        return Ok(id);
    }
    let bytes: [u8; 16] = rand::random();
    let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    let id = format!("{a}-{b}-{c}-{d}-{e}");
    connection.execute("INSERT INTO settings VALUES ('id', ?1)", params![id]).map_err(fail)?;
    Ok(id)
}

impl Job {
    /// Whether nobody waits for it, so that a later one of the same container may stand for it.
    fn is_unawaited(&self) -> bool {
        self.done.is_none()
    }

    /// Whether it makes room, or notes what has happened already.
    fn is_essential(&self) -> bool {
        matches!(self.write, Write::Remove(_) | Write::Note(_))
    }
}

fn is_disk_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

/// Tells each who waits how the transaction that they shared has ended.
fn answer(jobs: Vec<Job>, outcome: &rusqlite::Result<()>) {
    if let Err(error) = outcome
        && !jobs.is_empty()
    {
        tracing::error!(%error, "failed to write the state database");
    }
    for job in jobs {
        drop(job.place);
        let Some(done) = job.done else { continue };
        let told = match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::Store { doing: "write", source: copy(error) }),
        };
        // The asker may have gone; the write stands.
        let _ = done.send(told);
    }
}

/// Takes whatever waits, writes it in one transaction, and answers.
fn serve(connection: &Connection, inbox: &Inbox, reserve: &Reserve) {
    let mut is_full = None;
    while let Some(mut jobs) = inbox.next() {
        let needs_full = jobs.iter().any(|job| job.durability == Durability::Power);
        if is_full != Some(needs_full) {
            // Fails only inside a transaction, and there is none here.
            let _ = connection.pragma_update(None, "synchronous", if needs_full { "FULL" } else { "NORMAL" });
            is_full = Some(needs_full);
        }
        let mut outcome = commit(connection, &jobs);
        if outcome.as_ref().is_err_and(is_disk_full) {
            let (essential, refused): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(Job::is_essential);
            answer(refused, &outcome);
            jobs = essential;
            if jobs.is_empty() {
                continue;
            }
            reserve.give_up();
            outcome = commit(connection, &jobs);
            if outcome.is_ok() {
                // Into the database's own pages, so that the log's room is there for the next.
                let _ = connection.pragma_query(None, "wal_checkpoint", |_| Ok(()));
            }
        } else {
            reserve.take();
        }
        answer(jobs, &outcome);
    }
}

fn commit(connection: &Connection, jobs: &[Job]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    for job in jobs {
        match &job.write {
            Write::Put(record) | Write::Note(record) => {
                let text = serde_json::to_string(record)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                transaction
                    .prepare_cached(
                        "INSERT INTO containers VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2",
                    )?
                    .execute(params![record.id, text])?;
            }
            Write::Remove(id) => {
                transaction.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute(params![id])?;
            }
        }
    }
    transaction.commit()
}

/// The same failure for each that shared the transaction.
fn copy(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(1), Some(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record(id: &str) -> Record {
        Record {
            id: id.into(),
            name: id.into(),
            created: 1,
            image_id: String::new(),
            spec: ContainerSpec::default(),
            state: State::Created { failure: None },
            restart_count: 0,
            is_stopped_by_user: false,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_read_back_and_what_was_removed_is_gone() {
        let dir = std::env::temp_dir().join(format!("engine-store-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("engine.db");
        let (store, records, engine_id) = Store::open(&path).unwrap();
        assert!(records.is_empty());
        store.put(record("a")).await.unwrap();
        store.put(record("b")).await.unwrap();
        store.remove("a", Durability::Power).await.unwrap();
        let (_, records, again) = Store::open(&path).unwrap();
        assert_eq!(records.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(engine_id, again);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
