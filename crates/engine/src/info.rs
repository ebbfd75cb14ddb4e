//! What there is to know of containers and of the engine.

use std::sync::{Arc, Mutex, PoisonError};

use model::container::ContainerSpec;
use model::mount::{MountPoint, MountSource};
use model::network::EndpointSpec;

use crate::container::{Container, Shown};
use crate::engine::Engine;
use crate::error::Result;
use crate::health::Health;
use crate::lifecycle::State;
use crate::networks::{Attachments, dns_names, is_predefined};
use crate::oci;

/// One container.
#[derive(Debug, Clone)]
pub struct ContainerInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Nanoseconds since the epoch.
    pub created: u64,
    /// The image's id; empty with a directory as root.
    pub image_id: String,
    /// What it was asked to be, the image's defaults merged in.
    pub spec: Arc<ContainerSpec>,
    /// Where it is in its life.
    pub state: State,
    /// What its health checks say.
    pub health: Option<Health>,
    /// How often its policy started it again.
    pub restart_count: u32,
    /// The user's mounts.
    pub mounts: Vec<MountInfo>,
    /// Processes running beside the first.
    pub exec_ids: Vec<String>,
    /// The name inside.
    pub hostname: String,
    /// What it has on its networks while it runs.
    pub network: Attachments,
    /// Its networks by name: the id, what it asks of it, and what others find it by there.
    pub networks: Vec<MemberOf>,
    /// What is told of one container alone; empty in a list.
    pub details: ContainerDetails,
    /// What somebody made of it.
    pub memo: Memo,
}

/// A text made of a [`ContainerInfo`] and a key, kept with it: as long as nothing of the container changes, it
/// need not be made again.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Option<(String, Arc<[u8]>)>>);

impl Memo {
    /// What was kept under this key, else what `make` makes.
    pub fn get(&self, key: &str, make: impl FnOnce() -> Vec<u8>) -> Arc<[u8]> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, text)) = kept.as_ref().filter(|(had, _)| had == key) {
            return Arc::clone(text);
        }
        let text: Arc<[u8]> = make().into();
        *kept = Some((key.to_owned(), Arc::clone(&text)));
        text
    }
}

impl Clone for Memo {
    /// The other may be changed: it has nothing yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What is told of one container alone.
#[derive(Debug, Clone, Default)]
pub struct ContainerDetails {
    /// Where its log is.
    pub log_path: String,
    /// Files bound over its `/etc`: resolv.conf, hostname, hosts.
    pub host_files: [String; 3],
    /// Paths hidden from it.
    pub masked_paths: Vec<String>,
    /// Paths it can't write.
    pub readonly_paths: Vec<String>,
}

/// A network that a container is on whenever it runs.
#[derive(Debug, Clone)]
pub struct MemberOf {
    /// The network's name.
    pub name: String,
    /// Its id; empty where it has been removed.
    pub id: String,
    /// What is asked of it.
    pub endpoint: EndpointSpec,
    /// What others find the container by; empty in a list.
    pub dns_names: Vec<String>,
}

impl ContainerInfo {
    /// Program and arguments.
    #[must_use]
    pub fn command_line(&self) -> Vec<String> {
        oci::command_line(&self.spec)
    }
}

/// A mount of a container, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// `bind`, `volume`, `tmpfs` or `image`.
    pub kind: &'static str,
    /// The volume's name; empty where it is none.
    pub name: String,
    /// Path on the host, or the image's name; empty for a tmpfs.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// The volume's driver.
    pub driver: &'static str,
    /// The options as written.
    pub mode: String,
    /// Whether it can be written.
    pub is_writable: bool,
    /// `rprivate` and the like.
    pub propagation: String,
}

/// The engine and its machine.
#[derive(Debug, Clone)]
pub struct SystemInfo {
    /// The engine's own id.
    pub id: String,
    /// Whether it is a user's, without root.
    pub is_rootless: bool,
    /// Where it keeps what outlives a reboot.
    pub root: String,
    /// Running, paused, and other containers.
    pub containers: [usize; 3],
    /// Images.
    pub images: usize,
    /// 1 or 2; the hybrid counts as 1.
    pub cgroup_version: u8,
    /// Controllers that limits can be set with.
    pub controllers: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Bytes.
    pub memory_total: u64,
    /// Processors.
    pub cpus: usize,
}

impl Engine {
    /// Every container, the newest first; each is looked at when its turn comes.
    pub fn list(&self) -> impl Iterator<Item = Arc<ContainerInfo>> + '_ {
        self.containers.all().into_iter().map(|container| self.shown(&container))
    }

    /// What a container was shown as before, if nothing of it has changed.
    fn shown(&self, container: &Container) -> Arc<ContainerInfo> {
        // Read before what they count.
        let versions = (container.version(), self.networks.version());
        let mut shown = container.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shown) = shown.as_ref().filter(|shown| shown.versions == versions) {
            return Arc::clone(&shown.info);
        }
        let info = Arc::new(self.info_of(container));
        *shown = Some(Shown { versions, info: Arc::clone(&info) });
        info
    }

    /// One container.
    ///
    /// # Errors
    /// Where there is none of this name or id.
    pub fn inspect(&self, name: &str) -> Result<ContainerInfo> {
        let container = self.containers.find(name)?;
        let mut info = self.info_of(&container);
        info.details = self.details_of(&container, &info.spec);
        for member in info.networks.iter_mut().filter(|member| !is_predefined(&member.name)) {
            member.dns_names = dns_names(&container, &member.endpoint);
        }
        Ok(info)
    }

    /// Bytes a container has written to its own layer.
    #[must_use]
    pub fn written(&self, id: &str) -> u64 {
        self.images.snapshot_usage(id)
    }

    fn mount_info(&self, point: &MountPoint) -> MountInfo {
        let (name, source, driver) = match &point.source {
            MountSource::Bind { path, .. } => (String::new(), path.clone(), ""),
            MountSource::Volume { name, .. } => {
                let data = self.volume_dir(name).join("_data");
                (name.clone(), data.display().to_string(), crate::VolumeInfo::DRIVER)
            }
            MountSource::Tmpfs { .. } => (String::new(), String::new(), ""),
            MountSource::Image { name, .. } => (String::new(), name.clone(), ""),
        };
        MountInfo {
            kind: point.source.kind(),
            name,
            source,
            driver,
            target: point.target.clone(),
            mode: point.mode.clone(),
            is_writable: point.is_writable,
            propagation: point.propagation.clone(),
        }
    }

    fn memberships(&self, spec: &ContainerSpec) -> Vec<MemberOf> {
        let shared = matches!(spec.host.network_mode.as_str(), "host" | "none")
            .then(|| spec.host.network_mode.clone());
        let asked = spec.host.networks.iter().map(|(name, endpoint)| (name.clone(), endpoint.clone()));
        let all = asked.chain(shared.map(|name| (name, EndpointSpec::default())));
        all.map(|(name, endpoint)| {
            let id = self.networks.find(&name).map(|record| record.id.clone()).unwrap_or_default();
            MemberOf { name, id, endpoint, dns_names: Vec::new() }
        })
        .collect()
    }

    fn details_of(&self, container: &Container, spec: &ContainerSpec) -> ContainerDetails {
        let state_dir = self.state_dir(&container.id);
        let file = |name: &str| state_dir.join(name).display().to_string();
        let log = crate::logs::target(spec, &self.container_dir(&container.id), &container.id);
        let is_open = spec.host.privileged;
        let list = |given: &Option<Vec<String>>, default: &[&str]| match given {
            _ if is_open => Vec::new(),
            Some(given) => given.clone(),
            None => default.iter().map(ToString::to_string).collect(),
        };
        ContainerDetails {
            log_path: log
                .ok()
                .filter(|target| target.format == oci_runtime::monitor::protocol::LogFormat::JsonFile)
                .map(|target| target.path.display().to_string())
                .unwrap_or_default(),
            host_files: [file("resolv.conf"), file("hostname"), file("hosts")],
            masked_paths: list(&spec.host.masked_paths, oci::MASKED_PATHS),
            readonly_paths: list(&spec.host.readonly_paths, oci::READONLY_PATHS),
        }
    }

    pub(crate) fn info_of(&self, container: &Container) -> ContainerInfo {
        let spec = container.spec();
        let (state, health, restart_count, exec_ids, network) = {
            let dynamic = container.dynamic();
            let execs = dynamic.execs.keys().cloned().collect();
            let network = dynamic.network.kept.clone();
            (dynamic.state.clone(), dynamic.health.clone(), dynamic.restart_count, execs, network)
        };
        ContainerInfo {
            id: container.id.clone(),
            name: container.name(),
            created: container.created,
            image_id: container.image_id.clone(),
            mounts: spec.mount_points.iter().flatten().map(|point| self.mount_info(point)).collect(),
            network,
            networks: self.memberships(&spec),
            hostname: oci::hostname(&spec, &container.id),
            details: ContainerDetails::default(),
            memo: Memo::default(),
            spec,
            state,
            health,
            restart_count,
            exec_ids,
        }
    }

    /// The engine and its machine.
    ///
    /// # Errors
    /// Where the images can't be listed.
    pub fn system(&self) -> Result<SystemInfo> {
        let mut counts = [0; 3];
        for container in self.containers.all() {
            let at = match container.state() {
                State::Running(_) => 0,
                State::Paused(_) => 1,
                State::Created { .. } | State::Restarting(_) | State::Exited(_) | State::Removing => 2,
            };
            counts[at] += 1;
        }
        let known = ["memory", "cpu", "cpuset", "pids", "blkio", "devices", "hugetlb"];
        Ok(SystemInfo {
            id: self.id.clone(),
            is_rootless: self.config.is_rootless,
            root: self.config.root.display().to_string(),
            containers: counts,
            images: self.images.list()?.len(),
            cgroup_version: if self.cgroups.is_unified() { 2 } else { 1 },
            controllers: known
                .iter()
                .filter(|name| self.cgroups.has_controller(name))
                .map(ToString::to_string)
                .collect(),
            warnings: self
                .networks
                .warning()
                .map(str::to_owned)
                .into_iter()
                .chain(self.limits_warning())
                .collect(),
            memory_total: crate::stats::memory_total(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        })
    }
}
