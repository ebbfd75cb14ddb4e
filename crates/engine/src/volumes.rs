//! Volumes: files that outlive the containers they are mounted in.
//!
//! A volume is a record in the database and a directory `volumes/NAME` of the engine's root. The record
//! comes last and goes first, so a directory without one is what a crash left. Whoever makes, fills or
//! removes a volume holds its turn; those who hold several take them in the order of their names.

pub(crate) mod fill;
pub(crate) mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use crate::engine::{Engine, make_private_dir, now};
use crate::error::{Doing, Error, Result};
use crate::events::{Event, Subject};
use crate::mount_points::VolumeWish;
use fill::Place;
use local::Device;

/// Docker's mark of a volume that nobody named.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// One volume as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeRecord {
    pub(crate) name: String,
    /// Nanoseconds since the epoch.
    pub(crate) created: u64,
    pub(crate) labels: BTreeMap<String, String>,
    /// The driver's: `type`, `o`, `device`.
    pub(crate) options: BTreeMap<String, String>,
}

impl VolumeRecord {
    pub(crate) fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// A volume, for those who ask.
#[derive(Debug, Clone)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// The driver's.
    pub options: BTreeMap<String, String>,
    /// Where its files are. A file system of its own shows only inside containers.
    pub mountpoint: PathBuf,
    /// Ids of the containers it is mounted in when they run.
    pub users: Vec<String>,
}

impl VolumeInfo {
    /// The one driver there is.
    pub const DRIVER: &str = local::DRIVER;
}

/// A volume that is to be.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// Empty: a random one.
    pub name: String,
    /// Empty is `local`.
    pub driver: String,
    /// The driver's: `type`, `o`, `device`.
    pub options: BTreeMap<String, String>,
    /// The user's.
    pub labels: BTreeMap<String, String>,
}

/// Every volume by its name.
#[derive(Debug, Default)]
pub(crate) struct Volumes(Mutex<BTreeMap<String, Arc<Volume>>>);

/// One volume in memory.
#[derive(Debug)]
pub(crate) struct Volume {
    name: String,
    /// Held by whoever makes, fills or removes it.
    turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<VolumeState>,
}

#[derive(Debug)]
struct VolumeState {
    life: Life,
    /// Ids of containers.
    users: BTreeSet<String>,
}

#[derive(Debug)]
enum Life {
    /// Its name is taken; whoever has the turn makes it.
    Wanted,
    There(VolumeRecord),
    Gone,
}

impl Volume {
    fn new(name: &str, life: Life) -> Self {
        let state = Mutex::new(VolumeState { life, users: BTreeSet::new() });
        Self { name: name.to_owned(), turn: Arc::default(), state }
    }

    fn state(&self) -> MutexGuard<'_, VolumeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self) -> Option<VolumeRecord> {
        match &self.state().life {
            Life::There(record) => Some(record.clone()),
            Life::Wanted | Life::Gone => None,
        }
    }
}

impl Volumes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Volume>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, name: &str) -> Option<Arc<Volume>> {
        self.lock().get(name).cloned()
    }

    fn get_or_want(&self, name: &str) -> Arc<Volume> {
        let mut all = self.lock();
        let wanted = || Arc::new(Volume::new(name, Life::Wanted));
        Arc::clone(all.entry(name.to_owned()).or_insert_with(wanted))
    }

    /// Ends a volume in memory; the caller holds its turn.
    fn forget(&self, volume: &Volume) {
        volume.state().life = Life::Gone;
        self.lock().remove(&volume.name);
    }

    fn all(&self) -> Vec<Arc<Volume>> {
        self.lock().values().cloned().collect()
    }
}

/// What a container that is being created has of a volume: it can't be removed meanwhile.
#[derive(Debug)]
pub(crate) struct Claim {
    volume: Arc<Volume>,
    record: VolumeRecord,
    /// Whether it is made for this, and has no record on disk yet.
    is_new: bool,
    _turn: OwnedMutexGuard<()>,
}

/// All volumes of a container that is being created. Dropped, what was made for it goes.
#[derive(Debug)]
pub(crate) struct Claims {
    engine: Engine,
    user: String,
    all: Vec<Claim>,
    is_kept: bool,
}

impl Claims {
    /// Records of what was made, to be written with the container's.
    pub(crate) fn new_records(&self) -> Vec<VolumeRecord> {
        self.all.iter().filter(|claim| claim.is_new).map(|claim| claim.record.clone()).collect()
    }

    pub(crate) fn record(&self, name: &str) -> Option<&VolumeRecord> {
        self.all.iter().map(|claim| &claim.record).find(|record| record.name == name)
    }

    /// From here on the volumes stay: their records are on their way to the disk, or there.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// The records were refused.
    pub(crate) fn give_up(&mut self) {
        self.is_kept = false;
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        for claim in &self.all {
            let volume = &claim.volume;
            if self.is_kept {
                volume.state().life = Life::There(claim.record.clone());
                if claim.is_new {
                    self.engine.volume_event(&volume.name, "create", &[]);
                }
                continue;
            }
            volume.state().users.remove(&self.user);
            if claim.is_new {
                self.engine.images.discard(&self.engine.volume_dir(&volume.name));
                self.engine.volumes.forget(volume);
            }
        }
    }
}

impl Engine {
    pub(crate) fn volume_dir(&self, name: &str) -> PathBuf {
        self.config.root.join("volumes").join(name)
    }

    /// Makes a volume, or finds the one that has the name already.
    ///
    /// # Errors
    /// Where the name or an option is malformed, or the driver is another than `local`.
    pub async fn create_volume(&self, wanted: NewVolume) -> Result<VolumeInfo> {
        let mut wish = VolumeWish { driver: wanted.driver, options: wanted.options, labels: wanted.labels };
        let name = if wanted.name.is_empty() {
            wish.labels.insert(ANONYMOUS.into(), String::new());
            crate::create::new_id()
        } else {
            wanted.name
        };
        let mut claim = self.claim_one(&name, Some(&wish)).await?;
        if claim.is_new {
            let dir = self.volume_dir(&name);
            let written = match self.sync_volume(&dir) {
                Ok(()) => self.store.put_volume(claim.record.clone()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                self.images.discard(&dir);
                self.volumes.forget(&claim.volume);
                return Err(error);
            }
            claim.is_new = false;
            claim.volume.state().life = Life::There(claim.record.clone());
            self.volume_event(&name, "create", &[]);
        }
        Ok(self.volume_info(&claim.volume, claim.record.clone()))
    }

    /// Holds every volume of `wanted` for the container `user`, in the order of their names; those that
    /// are missing are made, unless there is no wish what they are to be.
    pub(crate) async fn claim(
        &self,
        user: &str,
        wanted: &BTreeMap<String, Option<VolumeWish>>,
    ) -> Result<Claims> {
        let mut claims =
            Claims { engine: self.clone(), user: user.to_owned(), all: Vec::new(), is_kept: false };
        for (name, wish) in wanted {
            let claim = self.claim_one(name, wish.as_ref()).await?;
            claim.volume.state().users.insert(user.to_owned());
            claims.all.push(claim);
        }
        Ok(claims)
    }

    async fn claim_one(&self, name: &str, wish: Option<&VolumeWish>) -> Result<Claim> {
        if let Some(wish) = wish {
            local::check_driver(name, &wish.driver)?;
        }
        local::check_name(name)?;
        loop {
            let volume = self.volumes.get_or_want(name);
            let turn = Arc::clone(&volume.turn).lock_owned().await;
            let found = match &volume.state().life {
                Life::There(record) => Some(record.clone()),
                Life::Wanted => None,
                Life::Gone => continue,
            };
            if let Some(record) = found {
                return Ok(Claim { volume, record, is_new: false, _turn: turn });
            }
            let made = match wish {
                Some(wish) => self.make_volume(name, wish),
                None => Err(no_such(name)),
            };
            return match made {
                Ok(record) => Ok(Claim { volume, record, is_new: true, _turn: turn }),
                Err(error) => {
                    self.volumes.forget(&volume);
                    Err(error)
                }
            };
        }
    }

    /// Makes the directory; the caller has the turn.
    fn make_volume(&self, name: &str, wish: &VolumeWish) -> Result<VolumeRecord> {
        Device::parse(&wish.options)?;
        let dir = self.volume_dir(name);
        make_private_dir(&dir)?;
        make_data(&dir)?;
        Ok(VolumeRecord {
            name: name.to_owned(),
            created: now(),
            labels: wish.labels.clone(),
            options: wish.options.clone(),
        })
    }

    /// Has the directory itself outlive a power cut, as its record will.
    pub(crate) fn sync_volume(&self, dir: &Path) -> Result<()> {
        let parent = self.config.root.join("volumes");
        [dir, &parent]
            .into_iter()
            .try_for_each(|dir| stdx::fs::sync_dir(dir).doing(|| format!("sync {}", dir.display())))
    }

    /// Every volume, by name.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let all = self.volumes.all().into_iter();
        all.filter_map(|volume| Some(self.volume_info(&volume, volume.record()?))).collect()
    }

    /// One volume.
    ///
    /// # Errors
    /// Where there is none of the name.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo> {
        let found = self.volumes.get(name).and_then(|volume| Some((volume.record()?, volume)));
        let (record, volume) = found.ok_or_else(|| no_such(name))?;
        Ok(self.volume_info(&volume, record))
    }

    fn volume_info(&self, volume: &Volume, record: VolumeRecord) -> VolumeInfo {
        VolumeInfo {
            mountpoint: self.volume_dir(&record.name).join("_data"),
            users: volume.state().users.iter().cloned().collect(),
            name: record.name,
            created: record.created,
            labels: record.labels,
            options: record.options,
        }
    }

    /// Bytes in a volume's files. Blocking.
    #[must_use]
    pub fn volume_size(&self, name: &str) -> u64 {
        fill::usage(&self.volume_dir(name).join("_data"))
    }

    /// Removes a volume that no container has. With `is_forced`, one that is not there is fine.
    ///
    /// # Errors
    /// Where a container has it, or there is none.
    pub async fn remove_volume(&self, name: &str, is_forced: bool) -> Result<()> {
        let removed = self.remove_unused(name).await;
        match removed {
            Err(Error::NoSuchVolume { .. }) if is_forced => Ok(()),
            other => other,
        }
    }

    async fn remove_unused(&self, name: &str) -> Result<()> {
        let volume = self.volumes.get(name).ok_or_else(|| no_such(name))?;
        let _turn = volume.turn.lock().await;
        {
            let state = volume.state();
            if !matches!(state.life, Life::There(_)) {
                return Err(no_such(name));
            }
            if !state.users.is_empty() {
                let users: Vec<&str> = state.users.iter().map(String::as_str).collect();
                return Err(Error::Conflict {
                    what: format!("remove {name}: volume is in use - [{}]", users.join(", ")),
                });
            }
        }
        self.store.remove_volume(name).await?;
        self.volume_is_gone(&volume);
        Ok(())
    }

    /// Takes apart what a removed record leaves; the caller has the turn.
    fn volume_is_gone(&self, volume: &Volume) {
        self.images.discard(&self.volume_dir(&volume.name));
        self.volumes.forget(volume);
        self.volume_event(&volume.name, "destroy", &[]);
    }

    /// Removes every volume that no container has and that `matches` says yes to. Returns their names
    /// and the bytes freed.
    ///
    /// # Errors
    /// The first failure; what was removed before it stays removed.
    pub async fn prune_volumes(&self, matches: impl Fn(&VolumeInfo) -> bool) -> Result<(Vec<String>, u64)> {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        // What a volume with options keeps is elsewhere, and no leftover: Docker too never prunes it.
        let is_left = |info: &VolumeInfo| info.users.is_empty() && info.options.is_empty() && matches(info);
        for info in self.volumes().into_iter().filter(is_left) {
            let (engine, name) = (self.clone(), info.name.clone());
            let size = tokio::task::spawn_blocking(move || engine.volume_size(&name))
                .await
                .map_err(|_| Error::ShuttingDown)?;
            match self.remove_unused(&info.name).await {
                Ok(()) => {
                    removed.push(info.name);
                    bytes += size;
                }
                // Taken or removed by somebody else meanwhile.
                Err(Error::Conflict { .. } | Error::NoSuchVolume { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.events.send(Event {
            subject: Subject::Volume,
            action: "prune".into(),
            id: String::new(),
            attributes: BTreeMap::from([("reclaimed".to_owned(), bytes.to_string())]),
            at: now(),
        });
        Ok((removed, bytes))
    }

    /// Tells that something happened to a volume.
    pub(crate) fn volume_event(&self, name: &str, action: &str, more: &[(&str, &str)]) {
        let driver = [("driver", local::DRIVER)];
        let attributes =
            driver.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.events.send(Event {
            subject: Subject::Volume,
            action: action.to_owned(),
            id: name.to_owned(),
            attributes: attributes.collect(),
            at: now(),
        });
    }

    /// Takes the volumes of the database in, repairs what a crash left of them, and removes directories
    /// without a record. A database that was lost takes no files along: what a new one finds is kept.
    pub(crate) fn restore_volumes(&self, records: Vec<VolumeRecord>, is_new: bool) {
        for record in records {
            self.repair_volume(&record);
            let volume = Volume::new(&record.name.clone(), Life::There(record));
            self.volumes.lock().insert(volume.name.clone(), Arc::new(volume));
        }
        for name in crate::reconcile::names_in(&self.config.root.join("volumes")) {
            if self.volumes.get(&name).is_some() {
                continue;
            }
            let dir = self.volume_dir(&name);
            if is_new && local::check_name(&name).is_ok() && dir.join("_data").is_dir() {
                let record = VolumeRecord { name: name.clone(), created: now(), ..VolumeRecord::default() };
                tracing::warn!(name, "found a volume that the database does not know; it is kept");
                let (engine, volume) = (self.clone(), Volume::new(&name, Life::There(record.clone())));
                self.volumes.lock().insert(name, Arc::new(volume));
                self.spawn(async move {
                    if let Err(error) = engine.store.put_volume(record).await {
                        tracing::warn!(error = error.chain(), "failed to keep a volume that was found");
                    }
                });
            } else {
                self.images.discard(&dir);
            }
        }
    }

    fn repair_volume(&self, record: &VolumeRecord) {
        let dir = self.volume_dir(&record.name);
        let repaired = if dir.join("_data").is_dir() {
            Place::beside(&dir).and_then(|place| place.recover())
        } else {
            tracing::warn!(name = record.name, "a volume's directory is missing and made anew, empty");
            make_private_dir(&dir).and_then(|()| make_data(&dir)).map_err(std::io::Error::other)
        };
        if let Err(error) = repaired {
            tracing::warn!(%error, name = record.name, "failed to repair a volume");
        }
    }

    /// Notes that a container has volumes: at start-up, from its record.
    pub(crate) fn use_volumes<'a>(&self, user: &str, names: impl Iterator<Item = &'a str>) {
        for volume in names.filter_map(|name| self.volumes.get(name)) {
            volume.state().users.insert(user.to_owned());
        }
    }

    /// The volumes that go when `user` does, each with its turn: those without a name that nobody else has.
    pub(crate) async fn doomed_volumes<'a>(
        &self,
        user: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Doomed {
        let mut doomed = Vec::new();
        let names: BTreeSet<&str> = names.collect();
        for volume in names.into_iter().filter_map(|name| self.volumes.get(name)) {
            let turn = Arc::clone(&volume.turn).lock_owned().await;
            let is_last = {
                let state = volume.state();
                matches!(state.life, Life::There(_)) && state.users.iter().all(|other| other == user)
            };
            if is_last {
                doomed.push((volume, turn));
            }
        }
        Doomed(doomed)
    }

    /// A container uses volumes no longer.
    pub(crate) fn leave_volumes<'a>(&self, user: &str, names: impl Iterator<Item = &'a str>) {
        for volume in names.filter_map(|name| self.volumes.get(name)) {
            volume.state().users.remove(user);
        }
    }

    /// A container is gone from the database, and with it `doomed`.
    pub(crate) fn release_volumes<'a>(
        &self,
        user: &str,
        names: impl Iterator<Item = &'a str>,
        doomed: &Doomed,
    ) {
        self.leave_volumes(user, names);
        for (volume, _) in &doomed.0 {
            self.volume_is_gone(volume);
        }
    }
}

/// Volumes about to be removed.
pub(crate) struct Doomed(Vec<(Arc<Volume>, OwnedMutexGuard<()>)>);

impl Doomed {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(volume, _)| volume.name.clone())
    }
}

fn no_such(name: &str) -> Error {
    Error::NoSuchVolume { what: format!("get {name}: no such volume") }
}

/// The directory of its files, open to whoever is in the container.
fn make_data(dir: &Path) -> Result<()> {
    let data = dir.join("_data");
    std::fs::create_dir_all(&data)
        .and_then(|()| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)))
        .doing(|| format!("make {}", data.display()))
}
