//! What a machine that sleeps wakes up from: the guest's memory and the state of its devices, in a folder of their own.
//!
//! The folder appears whole or not at all, and is used once: as soon as the guest goes on, its disk changes, and what
//! was saved would no longer fit it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stdx::fs::{Durability, sync_dir, write_atomic};

use crate::Error;
use crate::acceleration::Acceleration;
use crate::config::Config;
use crate::places::{Places, make_private};

/// What has to be the same when it wakes up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What the machine was.
    pub config: Config,
    /// The digest of its image.
    pub image: String,
    /// What ran its instructions.
    pub acceleration: Acceleration,
    /// The program that was the machine, told from newer ones: another one reads what this one wrote wrongly.
    pub program: String,
}

impl Record {
    /// The machine's; `None` where nothing is saved, or what is there can't be understood.
    #[must_use]
    pub fn read(places: &Places) -> Option<Self> {
        serde_json::from_slice(&fs::read(record(&places.saved())).ok()?).ok()
    }

    /// Begins anew: an empty folder, to be filled by whoever saves.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(places: &Places) -> Result<Draft, Error> {
        let folder = places.saved_draft();
        remove(&folder)?;
        make_private(&folder)?;
        Ok(Draft { folder })
    }
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
}

impl Draft {
    /// Where the guest's memory goes.
    #[must_use]
    pub fn memory(&self) -> PathBuf {
        memory(&self.folder)
    }

    /// Where the state of its devices goes.
    #[must_use]
    pub fn devices(&self) -> PathBuf {
        devices(&self.folder)
    }

    /// Makes it what the machine wakes up from; on disk when this returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(self, places: &Places, what: &Record) -> Result<(), Error> {
        for path in [self.memory(), self.devices()] {
            // Windows flushes only what may be written.
            let synced = File::options().write(true).open(&path).and_then(|file| file.sync_all());
            synced.map_err(Error::file("write", &path))?;
        }
        let path = record(&self.folder);
        let text = serde_json::to_vec_pretty(what)
            .map_err(|source| Error::Content { path: path.clone(), source })?;
        write_atomic(&path, &text, Durability::Power).map_err(Error::file("write", &path))?;
        let to = places.saved();
        remove(&to)?;
        let kept = fs::rename(&self.folder, &to).and_then(|()| sync_dir(&places.data));
        kept.map_err(Error::file("make", &to))
    }
}

/// The guest's memory in a folder.
#[must_use]
pub fn memory(folder: &Path) -> PathBuf {
    folder.join("memory")
}

/// The state of its devices in a folder.
#[must_use]
pub fn devices(folder: &Path) -> PathBuf {
    folder.join("devices")
}

fn record(folder: &Path) -> PathBuf {
    folder.join("saved.json")
}

/// Forgets what is saved, and what was on its way; on disk when this returns.
///
/// # Errors
/// The disk's.
pub fn forget(places: &Places) -> Result<(), Error> {
    let (saved, draft) = (places.saved(), places.saved_draft());
    if saved.exists() {
        remove(&draft)?;
        // At once: half of it must not be found.
        let gone = fs::rename(&saved, &draft).and_then(|()| sync_dir(&places.data));
        gone.map_err(Error::file("remove", &saved))?;
    }
    remove(&draft)
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", folder)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Backend;
    use crate::places::Folders;

    fn places(dir: &Path) -> Places {
        let folders = Folders { data: dir.join("data"), run: dir.join("run") };
        let places = folders.machine("m").unwrap();
        make_private(&places.data).unwrap();
        places
    }

    fn what() -> Record {
        let config = Config {
            backend: Backend::Qemu,
            cpus: 1,
            memory: 1 << 30,
            disk: 1 << 30,
            shares: vec![],
            image: None,
            sleep_after: None,
        };
        Record { config, image: "sha256:1".into(), acceleration: Acceleration::Tcg, program: "q".into() }
    }

    #[test]
    fn it_is_there_whole_or_not_at_all_and_used_once() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        let draft = Record::begin(&places).unwrap();
        fs::write(draft.memory(), "m").unwrap();
        assert_eq!(Record::read(&places), None, "it is on its way");
        // Without the devices' state it is none.
        assert!(draft.keep(&places, &what()).is_err());
        assert_eq!(Record::read(&places), None);
        let draft = Record::begin(&places).unwrap();
        assert!(!draft.memory().exists(), "what was left is gone");
        fs::write(draft.memory(), "m").unwrap();
        fs::write(draft.devices(), "d").unwrap();
        draft.keep(&places, &what()).unwrap();
        assert_eq!(Record::read(&places), Some(what()));
        forget(&places).unwrap();
        assert_eq!(Record::read(&places), None);
        assert!(!places.saved().exists() && !places.saved_draft().exists());
        forget(&places).unwrap();
    }
}
