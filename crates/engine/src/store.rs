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
use crate::networks::NetworkRecord;
use crate::volumes::VolumeRecord;
pub(crate) use queue::Written;
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
    PutNetwork(Box<NetworkRecord>),
    RemoveNetwork(String),
    PutVolume(Box<VolumeRecord>),
    RemoveVolume(String),
    /// All of them or none.
    All(Vec<Write>),
}

impl Write {
    /// The container it is about, if it is about one.
    fn container(&self) -> Option<&str> {
        match self {
            Self::Put(record) | Self::Note(record) => Some(&record.id),
            Self::Remove(id) => Some(id),
            Self::All(writes) => writes.iter().find_map(Self::container),
            Self::PutNetwork(_) | Self::RemoveNetwork(_) | Self::PutVolume(_) | Self::RemoveVolume(_) => None,
        }
    }

    /// Whether it makes room, or notes what has happened already.
    fn is_essential(&self) -> bool {
        match self {
            Self::Remove(_) | Self::RemoveNetwork(_) | Self::RemoveVolume(_) | Self::Note(_) => true,
            Self::Put(_) | Self::PutNetwork(_) | Self::PutVolume(_) => false,
            Self::All(writes) => writes.iter().all(Self::is_essential),
        }
    }
}

/// What the database had when it was opened.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) containers: Vec<Record>,
    pub(crate) networks: Vec<NetworkRecord>,
    pub(crate) volumes: Vec<VolumeRecord>,
    /// This engine's own.
    pub(crate) engine_id: String,
    /// Whether the database was made just now.
    pub(crate) is_new: bool,
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
    CREATE TABLE IF NOT EXISTS networks (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS volumes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";
const VERSION: i64 = 2;

impl Store {
    /// Opens the database and reads what is in it.
    pub(crate) fn open(path: &Path) -> Result<Opened> {
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
        let containers = read_all(&connection, "containers")?;
        let networks = read_all(&connection, "networks")?;
        let volumes = read_all(&connection, "volumes")?;
        let engine_id = engine_id(&connection)?;
        reserve.take();
        let (queue, inbox) = queue::queue();
        std::thread::Builder::new()
            .name("store".into())
            .stack_size(512 * 1024)
            .spawn(move || serve(&connection, &inbox, &reserve))
            .map_err(|source| Error::Os { doing: "start the store's thread".into(), source })?;
        let is_new = version == 0;
        Ok(Opened { store: Self { queue }, containers, networks, volumes, engine_id, is_new })
    }

    /// Writes a container and waits until that outlives what it has to.
    pub(crate) async fn put(&self, record: Record) -> Result<()> {
        let durability = record.durability();
        self.queue.submit(Write::Put(Box::new(record)), durability).await
    }

    /// As [`Self::put`], and lets the caller wait.
    pub(crate) async fn put_soon(&self, record: Record) -> Result<Written> {
        let durability = record.durability();
        self.queue.begin(Write::Put(Box::new(record)), durability).await
    }

    /// As [`Self::put`], with the volumes that are made for it: all of it or nothing is there afterwards.
    pub(crate) async fn put_with(&self, record: Record, volumes: Vec<VolumeRecord>) -> Result<()> {
        // A volume with a name outlives the container, whatever that is.
        let has_named = volumes.iter().any(|volume| !volume.is_anonymous());
        let durability = if has_named { Durability::Power } else { record.durability() };
        if volumes.is_empty() {
            return self.queue.submit(Write::Put(Box::new(record)), durability).await;
        }
        let volumes = volumes.into_iter().map(|volume| Write::PutVolume(Box::new(volume)));
        self.queue
            .submit(Write::All(volumes.chain([Write::Put(Box::new(record))]).collect()), durability)
            .await
    }

    /// Writes a volume and waits until that outlives a power cut.
    pub(crate) async fn put_volume(&self, record: VolumeRecord) -> Result<()> {
        self.queue.submit(Write::PutVolume(Box::new(record)), Durability::Power).await
    }

    /// Forgets a volume.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<()> {
        self.queue.submit(Write::RemoveVolume(name.to_owned()), Durability::Power).await
    }

    /// Writes a change that a crash may undo: start-up finds the truth by itself.
    pub(crate) fn put_later(&self, record: Record) {
        self.queue.note(record);
    }

    /// Writes what has happened, and waits until that outlives a crash.
    pub(crate) async fn note(&self, record: Record) -> Result<()> {
        self.queue.submit(Write::Note(Box::new(record)), Durability::Process).await
    }

    /// Forgets a container and the volumes that go with it; the caller waits.
    pub(crate) async fn remove_soon(
        &self,
        id: &str,
        volumes: impl Iterator<Item = String>,
        durability: Durability,
    ) -> Result<Written> {
        let writes = [Write::Remove(id.to_owned())].into_iter().chain(volumes.map(Write::RemoveVolume));
        self.queue.begin(Write::All(writes.collect()), durability).await
    }

    /// Writes a network, and waits until that outlives a power cut.
    pub(crate) async fn put_network(&self, record: NetworkRecord) -> Result<()> {
        self.queue.submit(Write::PutNetwork(Box::new(record)), Durability::Power).await
    }

    /// Forgets a network.
    pub(crate) async fn remove_network(&self, id: &str) -> Result<()> {
        self.queue.submit(Write::RemoveNetwork(id.to_owned()), Durability::Power).await
    }
}

fn read_all<T: serde::de::DeserializeOwned>(connection: &Connection, table: &str) -> Result<Vec<T>> {
    let fail = |source| Error::Store { doing: "read the records", source };
    let mut statement = connection.prepare(&format!("SELECT id, record FROM {table}")).map_err(fail)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(fail)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    rows.into_iter()
        .map(|(id, text)| {
            serde_json::from_str(&text)
                .map_err(|error| Error::invalid(format!("the record {id} of {table}: {error}")))
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
            let (essential, refused): (Vec<Job>, Vec<Job>) =
                jobs.into_iter().partition(|job| job.write.is_essential());
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
        write(&transaction, &job.write)?;
    }
    transaction.commit()
}

fn write(transaction: &Connection, what: &Write) -> rusqlite::Result<()> {
    match what {
        Write::Put(record) | Write::Note(record) => put(transaction, "containers", &record.id, record),
        Write::Remove(id) => remove(transaction, "containers", id),
        Write::PutNetwork(record) => put(transaction, "networks", &record.id, record),
        Write::RemoveNetwork(id) => remove(transaction, "networks", id),
        Write::PutVolume(record) => put(transaction, "volumes", &record.name, record),
        Write::RemoveVolume(name) => remove(transaction, "volumes", name),
        Write::All(writes) => writes.iter().try_for_each(|one| write(transaction, one)),
    }
}

fn put(connection: &Connection, table: &str, id: &str, record: &impl Serialize) -> rusqlite::Result<()> {
    let text = serde_json::to_string(record)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let line = format!("INSERT INTO {table} VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET record = ?2");
    connection.prepare_cached(&line)?.execute(params![id, text]).map(drop)
}

fn remove(connection: &Connection, table: &str, id: &str) -> rusqlite::Result<()> {
    let line = format!("DELETE FROM {table} WHERE id = ?1");
    connection.prepare_cached(&line)?.execute(params![id]).map(drop)
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
        let Opened { store, containers, engine_id, is_new, .. } = Store::open(&path).unwrap();
        assert!(containers.is_empty() && is_new);
        let volume = |name: &str| VolumeRecord { name: name.into(), ..VolumeRecord::default() };
        let network = NetworkRecord { id: "n".into(), ..NetworkRecord::default() };
        store.put_network(network.clone()).await.unwrap();
        store.put_network(NetworkRecord { id: "m".into(), ..network }).await.unwrap();
        store.remove_network("m").await.unwrap();
        store.put_with(record("a"), vec![volume("v"), volume("w")]).await.unwrap();
        store.put_volume(volume("x")).await.unwrap();
        store.remove_volume("x").await.unwrap();
        store.put(record("b")).await.unwrap();
        let removed = store.remove_soon("a", ["v".to_owned()].into_iter(), Durability::Power).await;
        removed.unwrap().done().await.unwrap();
        let again = Store::open(&path).unwrap();
        assert_eq!(again.containers.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(again.networks.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["n"]);
        assert_eq!(again.volumes.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["w"]);
        assert_eq!((engine_id, false), (again.engine_id, again.is_new));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
