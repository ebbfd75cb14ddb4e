//! The index of images on disk: `images.db`. Everything in it is there before it is acknowledged.
//!
//! A file of a megabyte beside it is given up when the disk is full, so that removals, which make room,
//! can still be written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use model::Digest;
use rusqlite::{Connection, OptionalExtension, params};
use stdx::reserve::Reserve;

use crate::error::{Error, Result};

/// The database.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Mutex<Connection>,
    reserve: Reserve,
}

/// An image as it is kept.
#[derive(Debug)]
pub(crate) struct ImageRow {
    pub(crate) id: Digest,
    pub(crate) config: Vec<u8>,
    /// The image it was made from here, as long as that is there.
    pub(crate) parent: Option<Digest>,
}

/// A layer as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct LayerRow {
    pub(crate) diff_id: Digest,
    /// Bytes of file content, unpacked.
    pub(crate) size: u64,
    /// The compressed blob it came from.
    pub(crate) blob: Digest,
    pub(crate) media_type: String,
    pub(crate) blob_size: u64,
    /// Directories it implies (see [`crate::implied`]); the root is the empty path.
    pub(crate) implied: Arc<[PathBuf]>,
}

/// What is known of a new image.
#[derive(Debug, Default)]
pub(crate) struct NewImage<'a> {
    pub(crate) config: &'a [u8],
    pub(crate) layers: &'a [LayerRow],
    pub(crate) names: &'a [String],
    /// The image it was made from here.
    pub(crate) parent: Option<Digest>,
    /// The manifest it came with, byte for byte.
    pub(crate) manifest: Option<&'a [u8]>,
    /// What its names lead to, where that is more than one manifest.
    pub(crate) root: Option<Digest>,
    /// Indexes and manifests, by their digests.
    pub(crate) contents: &'a [(Digest, Vec<u8>)],
}

/// A name (or `name@digest`) and what it means.
#[derive(Debug)]
pub(crate) struct NameRow {
    pub(crate) name: String,
    pub(crate) image: Digest,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, config BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS layers (diff_id TEXT PRIMARY KEY, size INTEGER NOT NULL, blob TEXT NOT NULL,
                                       media_type TEXT NOT NULL, blob_size INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS implied (diff_id TEXT PRIMARY KEY, paths BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS manifests (image TEXT PRIMARY KEY, manifest BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS contents (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS origins (name TEXT PRIMARY KEY, root TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS parents (image TEXT PRIMARY KEY, parent TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS packed (diff_id TEXT PRIMARY KEY, blob TEXT NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
";
const VERSION: i64 = 1;

impl Database {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fail = |doing| move |source| Error::Database { doing, source };
        // On a full disk, opening needs the room too: for the log's index, and to read the log back.
        let reserve = Reserve::at(path.with_file_name("images.reserve"));
        reserve.give_up();
        let connection = Connection::open(path).map_err(fail("open a file"))?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fail("set the journal"))?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(fail("set the durability"))?;
        connection.pragma_update(None, "cache_size", -256).map_err(fail("set the cache"))?;
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(fail("read the version"))?;
        if version > VERSION {
            return Err(Error::Unsupported {
                what: format!(
                    "{} was written by a newer version of Cove (format {version}, this one knows {VERSION}); update Cove",
                    path.display()
                ),
            });
        }
        connection.execute_batch(SCHEMA).map_err(fail("make the tables"))?;
        if version < VERSION {
            connection.pragma_update(None, "user_version", VERSION).map_err(fail("write the version"))?;
        }
        reserve.take();
        Ok(Self { connection: Mutex::new(connection), reserve })
    }

    fn with<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&connection).map_err(|source| Error::Database { doing, source })
    }

    /// As [`Self::with`], for what makes room: it is done on a full disk too.
    fn make_room(
        &self,
        doing: &'static str,
        work: impl Fn(&Connection) -> rusqlite::Result<()>,
    ) -> Result<()> {
        self.with(doing, |connection| {
            let done = work(connection);
            if !done.as_ref().is_err_and(is_disk_full) {
                self.reserve.take();
                return done;
            }
            self.reserve.give_up();
            work(connection)?;
            // Into the database's own pages, so that the log's room is there for the next.
            let _ = connection.pragma_query(None, "wal_checkpoint", |_| Ok(()));
            Ok(())
        })
    }

    /// What else has to be written before something can be removed, with the reserve where the disk is full.
    pub(crate) fn with_room<T>(&self, write: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
        match write() {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                self.reserve.give_up();
                write()
            }
            other => other,
        }
    }

    pub(crate) fn images(&self) -> Result<Vec<ImageRow>> {
        let rows = self.with("read the images", |connection| {
            let mut statement = connection.prepare(
                "SELECT id, config, parent FROM images LEFT JOIN parents ON parents.image = images.id",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, Vec<u8>, Option<String>)>>>()
        })?;
        let row = |(id, config, parent): (String, _, Option<String>)| {
            let parent = parent.map(|parent| digest(&parent)).transpose()?;
            Ok(ImageRow { id: digest(&id)?, config, parent })
        };
        rows.into_iter().map(row).collect()
    }

    pub(crate) fn names(&self) -> Result<Vec<NameRow>> {
        let rows = self.with("read the names", |connection| {
            let mut statement = connection.prepare("SELECT name, image FROM names")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String)>>>()
        })?;
        rows.into_iter().map(|(name, image)| Ok(NameRow { name, image: digest(&image)? })).collect()
    }

    pub(crate) fn layers(&self) -> Result<Vec<LayerRow>> {
        let rows = self.with("read the layers", |connection| {
            let mut statement =
                connection.prepare(
                    "SELECT diff_id, size, blob, media_type, blob_size, paths FROM layers LEFT JOIN implied USING (diff_id)",
                )?;
            let rows = statement.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<(String, i64, String, String, i64, Option<Vec<u8>>)>>>()
        })?;
        rows.into_iter()
            .map(|(diff_id, size, blob, media_type, blob_size, implied)| {
                Ok(LayerRow {
                    diff_id: digest(&diff_id)?,
                    size: u64::try_from(size).unwrap_or(0),
                    blob: digest(&blob)?,
                    media_type,
                    blob_size: u64::try_from(blob_size).unwrap_or(0),
                    implied: split_paths(&implied.unwrap_or_default()),
                })
            })
            .collect()
    }

    /// What names, and images by their ids, came by.
    pub(crate) fn origins(&self) -> Result<Vec<(String, Digest)>> {
        let rows = self.with("read what images came by", |connection| {
            let mut statement = connection.prepare("SELECT name, root FROM origins")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String)>>>()
        })?;
        rows.into_iter().map(|(name, root)| Ok((name, digest(&root)?))).collect()
    }

    /// The indexes and manifests that are kept.
    pub(crate) fn contents(&self) -> Result<Vec<(Digest, Vec<u8>)>> {
        let rows = self.with("read the kept manifests", |connection| {
            let mut statement = connection.prepare("SELECT digest, bytes FROM contents")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, Vec<u8>)>>>()
        })?;
        rows.into_iter().map(|(of, bytes)| Ok((digest(&of)?, bytes))).collect()
    }

    /// One index or manifest that is kept.
    pub(crate) fn content(&self, of: &Digest) -> Result<Option<Vec<u8>>> {
        self.with("read a kept manifest", |connection| {
            let mut statement = connection.prepare_cached("SELECT bytes FROM contents WHERE digest = ?1")?;
            statement.query_row(params![of.to_string()], |row| row.get(0)).optional()
        })
    }

    pub(crate) fn remove_contents(&self, unneeded: &[Digest]) -> Result<()> {
        self.make_room("remove kept manifests", |connection| {
            let transaction = connection.unchecked_transaction()?;
            for digest in unneeded {
                transaction.execute("DELETE FROM contents WHERE digest = ?1", params![digest.to_string()])?;
            }
            transaction.commit()
        })
    }

    /// Adds an image with its layers and, at once, its names.
    pub(crate) fn add_image(&self, id: &Digest, image: &NewImage<'_>) -> Result<()> {
        self.with("add an image", |connection| {
            let transaction = connection.unchecked_transaction()?;
            for layer in image.layers {
                transaction.execute(
                    "INSERT OR IGNORE INTO layers VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![
                        layer.diff_id.to_string(),
                        i64::try_from(layer.size).unwrap_or(i64::MAX),
                        layer.blob.to_string(),
                        layer.media_type,
                        i64::try_from(layer.blob_size).unwrap_or(i64::MAX)
                    ],
                )?;
                if !layer.implied.is_empty() {
                    transaction.execute(
                        "INSERT OR IGNORE INTO implied VALUES (?1, ?2)",
                        params![layer.diff_id.to_string(), join_paths(&layer.implied)],
                    )?;
                }
            }
            let id = id.to_string();
            transaction
                .execute("INSERT OR REPLACE INTO images VALUES (?1, ?2)", params![id, image.config])?;
            if let Some(parent) = image.parent {
                transaction.execute(
                    "INSERT OR REPLACE INTO parents VALUES (?1, ?2)",
                    params![id, parent.to_string()],
                )?;
            }
            if let Some(manifest) = image.manifest {
                transaction
                    .execute("INSERT OR REPLACE INTO manifests VALUES (?1, ?2)", params![id, manifest])?;
            }
            for (digest, bytes) in image.contents {
                transaction.execute(
                    "INSERT OR IGNORE INTO contents VALUES (?1, ?2)",
                    params![digest.to_string(), bytes],
                )?;
            }
            for name in image.names {
                write_name(&transaction, name, &id, image.root.as_ref())?;
            }
            if let Some(root) = &image.root {
                transaction.execute(
                    "INSERT OR REPLACE INTO origins VALUES (?1, ?2)",
                    params![id, root.to_string()],
                )?;
            }
            transaction.commit()
        })
    }

    /// Gives a name to an image, with what that name leads to beside it.
    pub(crate) fn set_name(&self, name: &str, image: &Digest, root: Option<&Digest>) -> Result<()> {
        self.with("name an image", |connection| {
            let transaction = connection.unchecked_transaction()?;
            write_name(&transaction, name, &image.to_string(), root)?;
            transaction.commit()
        })
    }

    /// The manifest an image came with.
    pub(crate) fn manifest(&self, image: &Digest) -> Result<Option<Vec<u8>>> {
        self.with("read a manifest", |connection| {
            connection
                .query_row(
                    "SELECT manifest FROM manifests WHERE image = ?1",
                    params![image.to_string()],
                    |row| row.get(0),
                )
                .optional()
        })
    }

    /// Notes what a layer that is kept uncompressed was compressed to when it was pushed.
    pub(crate) fn set_packed(&self, diff_id: &Digest, blob: &Digest, size: u64) -> Result<()> {
        self.with("note a compressed layer", |connection| {
            connection
                .execute(
                    "INSERT OR REPLACE INTO packed VALUES (?1, ?2, ?3)",
                    params![diff_id.to_string(), blob.to_string(), i64::try_from(size).unwrap_or(i64::MAX)],
                )
                .map(drop)
        })
    }

    /// What a layer was compressed to, and its size.
    pub(crate) fn packed(&self, diff_id: &Digest) -> Result<Option<(Digest, u64)>> {
        let row: Option<(String, i64)> = self.with("look up a compressed layer", |connection| {
            connection
                .query_row(
                    "SELECT blob, size FROM packed WHERE diff_id = ?1",
                    params![diff_id.to_string()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
        })?;
        row.map(|(blob, size)| Ok((digest(&blob)?, u64::try_from(size).unwrap_or(0)))).transpose()
    }

    /// Takes names, and perhaps the image, away.
    pub(crate) fn remove(&self, names: &[String], image: Option<&Digest>) -> Result<()> {
        self.make_room("remove an image", |connection| {
            let transaction = connection.unchecked_transaction()?;
            for name in names {
                transaction.execute("DELETE FROM names WHERE name = ?1", params![name])?;
                transaction.execute("DELETE FROM origins WHERE name = ?1", params![name])?;
            }
            if let Some(id) = image {
                transaction.execute("DELETE FROM origins WHERE name = ?1", params![id.to_string()])?;
                transaction.execute("DELETE FROM images WHERE id = ?1", params![id.to_string()])?;
                transaction.execute("DELETE FROM manifests WHERE image = ?1", params![id.to_string()])?;
                transaction.execute(
                    "DELETE FROM parents WHERE image = ?1 OR parent = ?1",
                    params![id.to_string()],
                )?;
            }
            transaction.commit()
        })
    }

    pub(crate) fn remove_layer(&self, diff_id: &Digest) -> Result<()> {
        self.make_room("remove a layer", |connection| {
            let transaction = connection.unchecked_transaction()?;
            for statement in [
                "DELETE FROM layers WHERE diff_id = ?1",
                "DELETE FROM implied WHERE diff_id = ?1",
                "DELETE FROM packed WHERE diff_id = ?1",
            ] {
                transaction.execute(statement, params![diff_id.to_string()])?;
            }
            transaction.commit()
        })
    }
}

/// Within a transaction.
fn write_name(
    connection: &Connection,
    name: &str,
    image: &str,
    root: Option<&Digest>,
) -> rusqlite::Result<()> {
    connection.execute("INSERT OR REPLACE INTO names VALUES (?1, ?2)", params![name, image])?;
    match root {
        Some(root) => connection
            .execute("INSERT OR REPLACE INTO origins VALUES (?1, ?2)", params![name, root.to_string()]),
        None => connection.execute("DELETE FROM origins WHERE name = ?1", params![name]),
    }
    .map(drop)
}

/// Paths are any bytes but NUL, which ends each.
fn join_paths(paths: &[PathBuf]) -> Vec<u8> {
    paths.iter().flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([0])).collect()
}

fn split_paths(bytes: &[u8]) -> Arc<[PathBuf]> {
    let Some(ended) = bytes.strip_suffix(&[0]) else { return Arc::default() };
    ended.split(|byte| *byte == 0).map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
}

fn is_disk_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|error| Error::corrupt(format!("the image database holds an {error}")))
}
