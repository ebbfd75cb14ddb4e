//! The engine: what all of it shares.

use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_store::ImageStore;
use oci_runtime::cgroup::{Cgroups, Layout};
use tokio_util::task::TaskTracker;

use crate::container::Container;
use crate::error::{Doing, Error, Result};
use crate::events::{Event, Events, Subject};
use crate::link::Monitors;
use crate::mount_points::Paths;
use crate::networks::EngineNetworks;
use crate::registry::Registry;
use crate::store::{Opened, Store};

/// Where an engine keeps its things and what it runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// What must outlive a reboot: images, containers, logs, the database.
    pub root: PathBuf,
    /// What need not: sockets, files bound into running containers.
    pub state_dir: PathBuf,
    /// The `cove-runtime` program.
    pub runtime: PathBuf,
    /// Whether this process is root only in a user namespace of its user.
    pub is_rootless: bool,
    /// Registries without TLS.
    pub insecure_registries: Vec<String>,
    /// A further directory of registries' certificates.
    pub registry_certs: Option<PathBuf>,
    /// Mirrors of Docker Hub.
    pub mirrors: Vec<String>,
    /// Addresses, one for each version of IP at most, of the computer that people mean by `host-gateway` and
    /// `host.docker.internal`, where that is not the one this runs on: an engine in a machine.
    pub host_gateways: Vec<IpAddr>,
    /// Clients may name folders of their computer by its drives (`C:\src`), which are at `/c` and so on here: an engine in a
    /// machine on Windows.
    pub has_drives: bool,
}

impl Config {
    /// How paths of clients are read.
    pub(crate) fn paths(&self) -> Paths {
        if self.has_drives { Paths::Drives } else { Paths::Unix }
    }
}

/// A container engine. Copies are handles to the same one.
#[derive(Debug, Clone)]
pub struct Engine(Arc<Inner>);

#[derive(Debug)]
/// What all handles share; its parts are private.
pub struct Inner {
    pub(crate) config: Config,
    pub(crate) id: String,
    pub(crate) store: Store,
    pub(crate) images: ImageStore,
    pub(crate) containers: Registry,
    pub(crate) volumes: crate::volumes::Volumes,
    pub(crate) events: Events,
    pub(crate) monitors: Monitors,
    pub(crate) cgroups: Layout,
    /// The scope of systemd's that `cgroups` is below.
    pub(crate) delegation: Option<PathBuf>,
    pub(crate) networks: EngineNetworks,
    pub(crate) tasks: TaskTracker,
    pub(crate) execs: crate::exec::Execs,
    /// Held for as long as the engine lives: one engine per root.
    _lock: std::fs::File,
}

impl std::ops::Deref for Engine {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Engine {
    /// Opens the engine of `config.root`, finds the containers that still run, and repairs what a
    /// crash left.
    ///
    /// # Errors
    /// Where the root is in use, of a newer version, or can't be read or written.
    pub async fn open(config: Config) -> Result<Self> {
        for dir in [
            &config.root,
            &config.state_dir,
            &config.root.join("containers"),
            &config.root.join("volumes"),
            &config.state_dir.join("containers"),
        ] {
            make_private_dir(dir)?;
        }
        let lock = lock(&config.root)?;
        let Opened { store, containers, networks, volumes, engine_id, is_new } =
            Store::open(&config.root.join("engine.db"))?;
        let mut registries = image_store::Registries {
            insecure: config.insecure_registries.clone(),
            mirrors: config.mirrors.clone(),
            ..image_store::Registries::default()
        };
        registries.certs_dirs.extend(config.registry_certs.clone());
        let images = ImageStore::open(image_store::Config {
            root: config.root.clone(),
            registries,
            is_rootless: config.is_rootless,
            forces_copy: false,
        })?;
        let networks = EngineNetworks::open(&config, networks)?;
        let (cgroups, delegation) = crate::delegation::layout(&config.root)?;
        let engine = Self(Arc::new(Inner {
            networks,
            monitors: Monitors::new(config.runtime.clone()),
            config,
            id: engine_id,
            store,
            images,
            containers: Registry::default(),
            volumes: crate::volumes::Volumes::default(),
            events: Events::default(),
            cgroups,
            delegation,
            tasks: TaskTracker::new(),
            execs: crate::exec::Execs::default(),
            _lock: lock,
        }));
        engine.restore_volumes(volumes, is_new);
        engine.reconcile(containers).await;
        Ok(engine)
    }

    /// Finishes what is under way. Containers go on.
    pub async fn close(&self) {
        self.tasks.close();
        // Tasks that follow containers end with them, not with the engine: no waiting for those.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(200), self.tasks.wait()).await;
        self.sweep_networks().await;
        self.leave_networks().await;
    }

    /// What happens, as it happens.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Whether anything keeps the engine from ending when idle: a living container, or one about to restart.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.containers.all().iter().all(|container| {
            let dynamic = container.dynamic();
            dynamic.cancel_restart.is_none() && dynamic.health.is_none()
        })
    }

    /// Runs a task that shutdown knows of.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

impl Inner {
    /// Sockets and bound files of a running container.
    pub(crate) fn state_dir(&self, id: &str) -> PathBuf {
        self.config.state_dir.join("containers").join(id)
    }

    /// Logs of a container.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.config.root.join("containers").join(id)
    }

    pub(crate) fn cgroup_path(&self, container: &Container) -> PathBuf {
        let spec = container.spec();
        let parent = &spec.host.cgroup_parent;
        let parent = if parent.is_empty() { "/cove" } else { parent.as_str() };
        Path::new("/").join(parent.trim_start_matches('/')).join(&container.id)
    }

    pub(crate) fn cgroups_of(&self, container: &Container) -> Cgroups {
        self.open_cgroups(&self.cgroup_path(container))
    }

    pub(crate) fn open_cgroups(&self, path: &Path) -> Cgroups {
        let cgroups = Cgroups::open(&self.cgroups, path);
        if cgroups.is_empty() && self.delegation.is_some() {
            // A daemon before this one may have run without a scope.
            return Cgroups::open(&self.cgroups.clone().below(Path::new("")), path);
        }
        cgroups
    }

    /// Tells that something happened to a container, with the attributes all its events have.
    pub(crate) fn container_event(&self, container: &Container, action: &str, more: &[(&str, &str)]) {
        let spec = container.spec();
        let mut attributes = spec.labels.clone();
        attributes.insert("name".into(), container.name());
        attributes.insert("image".into(), spec.image.clone());
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.events.send(Event {
            subject: Subject::Container,
            action: action.to_owned(),
            id: container.id.clone(),
            attributes,
            at: now(),
        });
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn make_private_dir(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).doing(|| format!("make {dir:?}"))
}

/// Takes the root for this process; the kernel gives it back when the process ends, however it ends.
fn lock(root: &Path) -> Result<std::fs::File> {
    let path = root.join("lock");
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .doing(|| format!("open {path:?}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Conflict {
            what: format!(
                "another engine uses {}: stop it, or give this one a --root of its own",
                root.display()
            ),
        }),
        Err(std::fs::TryLockError::Error(source)) => {
            Err(Error::Os { doing: format!("lock {path:?}"), source })
        }
    }
}
