//! What a machine goes on from: the guest's memory and the state of its devices, in a folder of their own.
//!
//! Of one that sleeps it is used once: as soon as the guest goes on, its disk changes, and what was saved would no
//! longer fit it. That of one that has just booted, and knows nothing of its disk yet, is kept and begun from each
//! time. Either folder appears whole or not at all.

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

/// When a state was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The machine fell asleep.
    Sleep,
    /// It had booted, and was told nothing yet.
    Boot,
}

impl Moment {
    /// Where its state is.
    #[must_use]
    pub fn folder(self, places: &Places) -> PathBuf {
        match self {
            Self::Sleep => places.saved(),
            Self::Boot => places.template(),
        }
    }

    fn draft(self, places: &Places) -> PathBuf {
        self.folder(places).with_extension("new")
    }
}

impl Record {
    /// The machine's; `None` where nothing is saved, or what is there can't be understood.
    #[must_use]
    pub fn read(places: &Places, moment: Moment) -> Option<Self> {
        serde_json::from_slice(&fs::read(record(&moment.folder(places))).ok()?).ok()
    }

    /// Without what a guest that has just booted knows nothing of.
    #[must_use]
    pub fn of_boot(&self) -> Self {
        let config = Config { image: None, sleep_after: None, ssh_agent: false, ..self.config.clone() };
        Self { config, ..self.clone() }
    }

    /// Begins anew: an empty folder, to be filled by whoever saves.
    ///
    /// # Errors
    /// The disk's.
    pub fn begin(places: &Places, moment: Moment) -> Result<Draft, Error> {
        let folder = moment.draft(places);
        remove(&folder)?;
        make_private(&folder)?;
        Ok(Draft { folder, to: moment.folder(places), machine: places.data.clone() })
    }
}

/// A folder that is being filled.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    /// Where it will be, and the folder of its machine.
    to: PathBuf,
    machine: PathBuf,
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

    /// Makes it what the machine goes on from; on disk when this returns.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(self, what: &Record) -> Result<(), Error> {
        for path in [self.memory(), self.devices()] {
            // Windows flushes only what may be written.
            let synced = File::options().write(true).open(&path).and_then(|file| file.sync_all());
            synced.map_err(Error::file("write", &path))?;
        }
        let path = record(&self.folder);
        let text = serde_json::to_vec_pretty(what)
            .map_err(|source| Error::Content { path: path.clone(), source })?;
        write_atomic(&path, &text, Durability::Power).map_err(Error::file("write", &path))?;
        remove(&self.to)?;
        let kept = fs::rename(&self.folder, &self.to).and_then(|()| sync_dir(&self.machine));
        kept.map_err(Error::file("make", &self.to))
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
pub fn forget(places: &Places, moment: Moment) -> Result<(), Error> {
    if moment.folder(places).exists() {
        take(places, moment)?;
    }
    remove(&moment.draft(places))
}

/// Takes what is saved out of use, on disk too when this returns. It stays in the folder that is returned until it is
/// forgotten: for a hypervisor that takes the next step itself as it reads it.
///
/// # Errors
/// The disk's, or nothing is saved.
pub fn take(places: &Places, moment: Moment) -> Result<PathBuf, Error> {
    let (saved, draft) = (moment.folder(places), moment.draft(places));
    remove(&draft)?;
    if !crate::sys::SYNCS_FOLDERS {
        // What is in a file can be on disk for sure, and without it nothing else counts.
        let emptied = File::create(record(&saved)).and_then(|file| file.sync_all());
        emptied.map_err(Error::file("empty", &saved))?;
    }
    // At once: half of it must not be found.
    let gone = fs::rename(&saved, &draft).and_then(|()| sync_dir(&places.data));
    gone.map_err(Error::file("remove", &saved))?;
    Ok(draft)
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
            ssh_agent: false,
            rosetta: false,
        };
        Record { config, image: "sha256:1".into(), acceleration: Acceleration::Tcg, program: "q".into() }
    }

    #[test]
    fn it_is_there_whole_or_not_at_all_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        there_whole_or_not_at_all(&places, Moment::Boot);
        there_whole_or_not_at_all(&places, Moment::Sleep);
    }

    fn there_whole_or_not_at_all(places: &Places, moment: Moment) {
        let draft = Record::begin(places, moment).unwrap();
        fs::write(draft.memory(), "m").unwrap();
        assert_eq!(Record::read(places, moment), None, "it is on its way");
        // Without the devices' state it is none.
        assert!(draft.keep(&what()).is_err());
        assert_eq!(Record::read(places, moment), None);
        let draft = Record::begin(places, moment).unwrap();
        assert!(!draft.memory().exists(), "what was left is gone");
        fs::write(draft.memory(), "m").unwrap();
        fs::write(draft.devices(), "d").unwrap();
        draft.keep(&what()).unwrap();
        assert_eq!(Record::read(places, moment), Some(what()));
        let taken = take(places, moment).unwrap();
        assert_eq!(Record::read(places, moment), None, "it is used once");
        assert_eq!(fs::read(devices(&taken)).unwrap(), b"d");
        assert!(take(places, moment).is_err());
        forget(places, moment).unwrap();
        assert_eq!(Record::read(places, moment), None);
        assert!(!moment.folder(places).exists() && !moment.draft(places).exists());
        forget(places, moment).unwrap();
    }
}
