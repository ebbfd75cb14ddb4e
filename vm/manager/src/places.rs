//! Where a machine's files are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::config::{Config, check_name};

/// The folders of all machines: what is kept, and what a reboot may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folders {
    /// Configurations, disks, images: `/var/lib/cove/machines`, or `$XDG_DATA_HOME/cove/machines`.
    pub data: PathBuf,
    /// Sockets: `/run/cove/machines`, or `$XDG_RUNTIME_DIR/cove/machines`.
    pub run: PathBuf,
}

/// One machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Its name.
    pub name: String,
    /// Its folder below [`Folders::data`].
    pub data: PathBuf,
    /// Its folder below [`Folders::run`].
    pub run: PathBuf,
    /// Guest images that machines have been started with, by digest.
    pub images: PathBuf,
}

impl Folders {
    /// The places of machine `name`.
    ///
    /// # Errors
    /// It can't be a name.
    pub fn machine(&self, name: &str) -> Result<Places, Error> {
        check_name(name)?;
        Ok(Places {
            name: name.to_owned(),
            data: self.data.join(name),
            run: self.run.join(name),
            images: self.images(),
        })
    }

    /// Where guest images are kept that machines have been started with, by digest.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.data.join(".images")
    }

    /// The names of all machines, sorted.
    ///
    /// # Errors
    /// The folder can't be read; one that is not there holds none.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.data) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::file("read", &self.data))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check_name(name).is_ok() && self.data.join(name).join(CONFIG).is_file())
            .collect();
        names.sort();
        Ok(names)
    }
}

const CONFIG: &str = "machine.json";

impl Places {
    /// What the machine is.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.data.join(CONFIG)
    }

    /// Its data disk, a sparse file.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.data.join("data.img")
    }

    /// Its data disk where Hyper-V has it, a file of the form VHDX.
    #[must_use]
    pub fn vhdx(&self) -> PathBuf {
        self.data.join("data.vhdx")
    }

    /// The folder that is a distribution's of WSL's, with its disk.
    #[must_use]
    pub fn disk_folder(&self) -> PathBuf {
        self.data.join("wsl2")
    }

    /// The data disk as it was before a newer image was booted, where the file system can share blocks.
    #[must_use]
    pub fn disk_before(&self) -> PathBuf {
        self.data.join("data.before.img")
    }

    /// What it wakes up from, while it sleeps ([`crate::saved`]).
    #[must_use]
    pub fn saved(&self) -> PathBuf {
        self.data.join("saved")
    }

    /// What starts begin from: a guest that has just booted ([`crate::saved`]).
    #[must_use]
    pub fn template(&self) -> PathBuf {
        self.data.join("template")
    }

    /// Who it is to its hypervisor ([`crate::identity`]).
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.data.join("identity.json")
    }

    /// Which images it was started with.
    #[must_use]
    pub fn image_record(&self) -> PathBuf {
        self.data.join("image.json")
    }

    /// What the guest's console said.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.data.join("console.log")
    }

    /// What the supervisor said.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.data.join("machine.log")
    }

    /// How it stood when its supervisor ended.
    #[must_use]
    pub fn last_status(&self) -> PathBuf {
        self.data.join("status.json")
    }

    /// Held by the supervisor for as long as it lives.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    /// Where the supervisor is asked.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        ipc::address(&self.run, "control")
    }

    /// The engine's API.
    #[must_use]
    pub fn engine(&self) -> PathBuf {
        ipc::address(&self.run, "engine")
    }

    /// A socket of a device of ours.
    #[must_use]
    pub fn device(&self, name: &str) -> PathBuf {
        self.run.join(format!("{name}.sock"))
    }

    /// Makes a new machine.
    ///
    /// # Errors
    /// There is one of that name, or the disk's.
    pub fn create(&self, config: &Config) -> Result<(), Error> {
        config.check()?;
        if self.config().exists() {
            return Err(Error::Exists { name: self.name.clone() });
        }
        make_private(&self.data)?;
        config.write(self)
    }

    /// Removes everything of the machine; the record goes first, so that half a removal is no machine.
    ///
    /// # Errors
    /// The disk's.
    pub fn remove(&self) -> Result<(), Error> {
        let config = self.config();
        fs::remove_file(&config).map_err(Error::file("remove", &config))?;
        for folder in [&self.data, &self.run] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::file("remove", folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes a folder that nobody else can look into, and those above it.
///
/// # Errors
/// The disk's.
pub fn make_private(path: &Path) -> Result<(), Error> {
    stdx::fs::make_private_dir(path).map_err(Error::file("make", path))
}
