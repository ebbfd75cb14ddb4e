//! Guest images: found, checked against what they say they are, kept by digest, and rolled back.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use stdx::fs::Durability;

use crate::Error;
use crate::backend;
use crate::config::{Backend, Config};
use crate::places::{Folders, Places, make_private};
use crate::saved;

/// `image.json` of an image's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// The backend it is for.
    pub machine: Backend,
    /// Its kernel.
    pub kernel: Kernel,
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    /// The release of Cove it was made with.
    pub version: String,
    /// Its files, by path below the folder.
    pub files: BTreeMap<String, File>,
    /// How the kernel is executed where it is a program: words, the first a path below the folder.
    #[serde(default)]
    pub command: Vec<String>,
    /// `sha256:` and, in hexadecimal, SHA-256 over a line `DIGEST SIZE NAME` for each file, sorted by name.
    pub digest: String,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `debian` or `own`.
    pub origin: String,
    /// Its release.
    pub version: String,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

/// An image that was checked, in the folder where it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its folder.
    pub folder: PathBuf,
    /// What it says.
    pub manifest: Manifest,
}

/// Which images a machine was started with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The one whose engine answered last.
    pub current: Option<String>,
    /// The one before.
    pub previous: Option<String>,
    /// One that was tried and did not come up: not tried again until there is another.
    pub failed: Option<String>,
}

impl Record {
    /// Reads a machine's; one without has none.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn read(places: &Places) -> Result<Self, Error> {
        let path = places.image_record();
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            other => {
                let bytes = other.map_err(Error::file("read", &path))?;
                serde_json::from_slice(&bytes).map_err(|source| Error::Content { path, source })
            }
        }
    }

    /// Writes a machine's.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, places: &Places) -> Result<(), Error> {
        let path = places.image_record();
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::Content { path: path.clone(), source })?;
        stdx::fs::write_atomic(&path, &text, Durability::Power).map_err(Error::file("write", &path))
    }

    /// The image to start with: what the user chose, else the newest unless it failed, else the one that worked.
    #[must_use]
    pub fn choose(&self, chosen: Option<&str>, newest: Option<&str>) -> Option<String> {
        // One that failed is better than none.
        let is_only = self.current.is_none();
        let newest = newest.filter(|newest| is_only || self.failed.as_deref() != Some(newest));
        chosen.or(newest).or(self.current.as_deref()).map(str::to_owned)
    }

    /// Notes that the engine of `digest` has answered.
    pub fn keep(&mut self, digest: &str) {
        if self.current.as_deref() != Some(digest) {
            self.previous = self.current.replace(digest.to_owned());
        }
        if self.failed.as_deref() == Some(digest) {
            self.failed = None;
        }
    }
}

impl Manifest {
    /// Reads a folder's.
    ///
    /// # Errors
    /// It can't be read, or is of another format.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("image.json");
        let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|source| Error::Content { path, source })?;
        let wrong = |reason: String| Err(Error::WrongImage { file: "image.json".to_owned(), reason });
        if manifest.format != 1 {
            return wrong(format!("its format is {}, this release knows 1", manifest.format));
        }
        let (architecture, here) = (&manifest.architecture, std::env::consts::ARCH);
        if architecture != here && !backend::emulates(manifest.machine, architecture) {
            let machine = manifest.machine;
            return wrong(format!(
                "it is for {architecture}, and {machine} runs here what is for {here} alone"
            ));
        }
        let is_inside = |name: &String| name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if folder_name(&manifest.digest).is_none() || !manifest.files.keys().all(is_inside) {
            return wrong("its digest or its files are none".to_owned());
        }
        Ok(manifest)
    }
}

/// The newest image for `backend` below `folder`: one with a kernel of our own is preferred.
///
/// # Errors
/// There is none.
pub fn newest(folder: &Path, backend: Backend) -> Result<Image, Error> {
    let candidates = ["own", "debian"].map(|origin| folder.join(format!("{backend}-{origin}")));
    let found = candidates.iter().find(|folder| folder.join("image.json").is_file());
    let folder = found.ok_or_else(|| Error::NoImage {
        machine: backend.to_string(),
        looked: candidates.each_ref().map(|folder| folder.display().to_string()).join(", "),
    })?;
    Ok(Image { folder: folder.clone(), manifest: Manifest::read(folder)? })
}

/// The digits of a digest; `None` if it is none.
fn folder_name(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:")?;
    (digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digits)
}

/// One that is kept.
///
/// # Errors
/// It is not.
pub fn kept(places: &Places, digest: &str) -> Result<Image, Error> {
    let Some(name) = folder_name(digest) else {
        return Err(Error::WrongImage { file: digest.to_owned(), reason: "this is no digest".to_owned() });
    };
    let folder = places.images.join(name);
    Ok(Image { manifest: Manifest::read(&folder)?, folder })
}

/// How old an image must be to be removed: one that was just copied may be of a machine that is being started.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes kept images that no machine can be started with any more. Returns their folders.
///
/// # Errors
/// A machine's files can't be read: then nothing is removed, for one of them may be that machine's. Or the disk's.
pub fn sweep(folders: &Folders) -> Result<Vec<PathBuf>, Error> {
    sweep_older(folders, GRACE)
}

fn sweep_older(folders: &Folders, age: Duration) -> Result<Vec<PathBuf>, Error> {
    let mut used = HashSet::new();
    for name in folders.names()? {
        let places = folders.machine(&name)?;
        let Record { current, previous, failed } = Record::read(&places)?;
        used.extend([current, previous, failed, Config::read(&places)?.image].into_iter().flatten());
        used.extend(saved::Record::read(&places, saved::Moment::Sleep).map(|saved| saved.image));
    }
    let used: HashSet<&str> = used.iter().filter_map(|digest| folder_name(digest)).collect();
    let images = folders.images();
    let entries = match fs::read_dir(&images) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::file("read", &images))?,
    };
    let mut gone = Vec::new();
    for entry in entries.flatten() {
        let is_used = entry.file_name().to_str().is_none_or(|name| used.contains(name));
        // What was cut off has no manifest.
        let manifest = fs::metadata(entry.path().join("image.json")).or_else(|_| entry.metadata());
        let modified = manifest.and_then(|metadata| metadata.modified());
        let is_old = modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|since| since >= age));
        if is_used || !is_old {
            continue;
        }
        let folder = entry.path();
        // Without its manifest it is no image, however far the removal gets.
        let manifest = folder.join("image.json");
        match fs::remove_file(&manifest) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &manifest)(error));
            }
            _ => fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?,
        }
        gone.push(folder);
    }
    Ok(gone)
}

impl Image {
    /// Copies it to where it outlives what it was installed with, and is found by its digest.
    ///
    /// # Errors
    /// The disk's.
    pub fn keep(&self, places: &Places) -> Result<Self, Error> {
        let name = folder_name(&self.manifest.digest).unwrap_or_default();
        let folder = places.images.join(name);
        if folder.join("image.json").is_file() {
            // As new, so that nobody removes it while a machine is being started with it. One that can't be touched is as
            // old as it is.
            let manifest = fs::File::options().append(true).open(folder.join("image.json"));
            let _ = manifest.and_then(|manifest| manifest.set_modified(SystemTime::now()));
            return Ok(Self { folder, manifest: self.manifest.clone() });
        }
        make_private(&places.images)?;
        let half = places.images.join(format!("{name}.half-{}", std::process::id()));
        match fs::remove_dir_all(&half) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &half)(error));
            }
            _ => {}
        }
        make_private(&half)?;
        // The manifest last: a folder with one is whole.
        for name in self.manifest.files.keys().map(String::as_str).chain(["image.json"]) {
            let to = half.join(name);
            if let Some(parent) = to.parent() {
                make_private(parent)?;
            }
            fs::copy(self.folder.join(name), &to).map_err(Error::file("copy to", &to))?;
        }
        stdx::fs::sync_dir(&half).map_err(Error::file("write", &half))?;
        match fs::rename(&half, &folder) {
            // Another machine was quicker.
            Err(_) if folder.join("image.json").is_file() => drop(fs::remove_dir_all(&half)),
            other => other.map_err(Error::file("keep", &folder))?,
        }
        Ok(Self { folder, manifest: self.manifest.clone() })
    }

    /// Reads all of it, and compares with what it should be.
    ///
    /// # Errors
    /// [`Error::WrongImage`] names the file.
    pub fn verify(&self) -> Result<(), Error> {
        let mut all = Sha256::new();
        for (name, expected) in &self.manifest.files {
            let wrong = |reason: String| Error::WrongImage { file: name.clone(), reason };
            let path = self.folder.join(name);
            let (sha256, size) = digest(&path).map_err(|error| wrong(error.to_string()))?;
            if size != expected.size {
                return Err(wrong(format!("it has {size} bytes, not {}", expected.size)));
            }
            if sha256 != expected.sha256 {
                return Err(wrong("its digest differs".to_owned()));
            }
            all.update(format!("{sha256} {size} {name}\n"));
        }
        if format!("sha256:{}", hex(&all.finalize())) != self.manifest.digest {
            return Err(Error::WrongImage {
                file: "image.json".to_owned(),
                reason: "its digest differs".to_owned(),
            });
        }
        Ok(())
    }

    /// A file of it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn digest(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut size, mut piece) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok((hex(&hash.finalize()), size));
        }
        hash.update(piece.get(..length).unwrap_or_default());
        size += length as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(folder: &Path, content: &str) -> Image {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("kernel"), content).unwrap();
        let (sha256, size) = digest(&folder.join("kernel")).unwrap();
        let all = format!("sha256:{}", hex(&Sha256::digest(format!("{sha256} {size} kernel\n"))));
        let manifest = Manifest {
            format: 1,
            machine: Backend::Uml,
            kernel: Kernel { origin: "debian".into(), version: "7".into() },
            architecture: std::env::consts::ARCH.into(),
            version: "0".into(),
            files: [("kernel".to_owned(), File { sha256, size })].into(),
            command: vec![],
            digest: all,
        };
        fs::write(folder.join("image.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        newest(folder.parent().unwrap(), Backend::Uml).unwrap()
    }

    #[test]
    fn an_image_that_was_changed_or_cut_off_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(&dir.path().join("uml-debian"), "a kernel");
        image.verify().unwrap();
        fs::write(image.file("kernel"), "A kernel").unwrap();
        let error = image.verify().unwrap_err().to_string();
        assert!(error.contains("kernel") && error.contains("digest differs"), "{error}");
        fs::write(image.file("kernel"), "a").unwrap();
        assert!(image.verify().unwrap_err().to_string().contains("1 bytes, not 8"));
    }

    #[test]
    fn a_kept_image_outlives_the_one_it_was_copied_from() {
        let dir = tempfile::tempdir().unwrap();
        let installed = image(&dir.path().join("uml-debian"), "a kernel");
        let folders = crate::places::Folders { data: dir.path().join("data"), run: dir.path().join("run") };
        let places = folders.machine("dev").unwrap();
        installed.keep(&places).unwrap();
        installed.keep(&places).unwrap();
        fs::remove_dir_all(dir.path().join("uml-debian")).unwrap();
        kept(&places, &installed.manifest.digest).unwrap().verify().unwrap();
        assert!(kept(&places, "../..").is_err());
    }

    #[test]
    fn a_newer_image_is_tried_once_and_the_one_that_worked_is_gone_back_to() {
        let mut record = Record::default();
        assert_eq!(record.choose(None, Some("a")).as_deref(), Some("a"));
        record.keep("a");
        assert_eq!(record.choose(None, Some("b")).as_deref(), Some("b"));
        record.failed = Some("b".into());
        assert_eq!(record.choose(None, Some("b")).as_deref(), Some("a"));
        assert_eq!(record.choose(None, Some("c")).as_deref(), Some("c"));
        record.keep("c");
        assert_eq!((record.current.as_deref(), record.previous.as_deref()), (Some("c"), Some("a")));
        assert_eq!(record.choose(Some("a"), Some("c")).as_deref(), Some("a"));
        // What worked may have been taken away.
        let record = Record { failed: Some("b".into()), ..Record::default() };
        assert_eq!(record.choose(None, Some("b")).as_deref(), Some("b"));
    }

    fn config() -> Config {
        Config {
            backend: Backend::Uml,
            cpus: 1,
            memory: 1 << 29,
            disk: 1 << 30,
            shares: vec![],
            image: None,
            sleep_after: None,
            ssh_agent: false,
            rosetta: false,
        }
    }

    #[test]
    #[cfg_attr(not(target_os = "linux"), ignore = "machines are not built yet for this system")]
    fn only_images_that_no_machine_can_use_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folders = Folders { data: dir.path().join("data"), run: dir.path().join("run") };
        let places = folders.machine("dev").unwrap();
        let kept: Vec<Image> = ["first", "second", "third", "fourth"]
            .iter()
            .map(|kernel| image(&dir.path().join("uml-debian"), kernel).keep(&places).unwrap())
            .collect();
        let digest = |at: usize| kept[at].manifest.digest.clone();
        places.create(&config()).unwrap();
        let record = Record { current: Some(digest(2)), previous: Some(digest(1)), failed: None };
        record.write(&places).unwrap();
        let chosen = Config { image: Some(digest(3)), ..config() };
        chosen.write(&places).unwrap();
        assert_eq!(sweep(&folders).unwrap(), Vec::<PathBuf>::new(), "it may have been copied for a start");
        assert_eq!(sweep_older(&folders, Duration::ZERO).unwrap(), [kept[0].folder.clone()]);
        for image in &kept[1..] {
            image.verify().unwrap();
        }
        fs::write(places.image_record(), "not a record").unwrap();
        sweep_older(&folders, Duration::ZERO).unwrap_err();
        kept[1].verify().unwrap();
    }
}
