//! Creating a container: checks first, then a name, a snapshot, a record, in that order.

use std::path::Path;
use std::sync::Arc;

use image_store::ImageRecord;
use model::container::{ContainerSpec, Healthcheck, RestartMode};
use oci_runtime::cgroup::Layout;

use crate::container::Container;
use crate::engine::{Engine, make_private_dir, now};
use crate::error::{Error, Result};
use crate::lifecycle::State;
use crate::mount_points::Wanted;
use crate::names;
use crate::networks::EngineNetworks;
use crate::oci;
use crate::remove::Removal;
use crate::store::{Record, Written};
use crate::volumes::Claims;

/// A new container.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A container that is created, and about to be started, before its record is on disk.
#[derive(Debug)]
pub struct Begun {
    /// It.
    pub created: Created,
    written: Option<Written>,
}

impl Engine {
    /// Creates a container; it exists, on disk, when this returns.
    ///
    /// # Errors
    /// Where the request is malformed or asks for what is not there, the image is missing, or the
    /// name is taken; nothing is left then.
    pub async fn create(&self, spec: ContainerSpec, name: Option<&str>) -> Result<Created> {
        Ok(self.create_with(spec, name, false).await?.created)
    }

    /// Creates a container that [`Self::start_begun`] starts. One of `--rm` is started while its record is being
    /// written; a crash meanwhile leaves what the next start of the engine sweeps away, and nobody was told of it yet.
    ///
    /// # Errors
    /// As of [`Self::create`].
    pub async fn begin(&self, spec: ContainerSpec, name: Option<&str>) -> Result<Begun> {
        self.create_with(spec, name, true).await
    }

    /// Starts it; it exists, on disk, when this returns.
    ///
    /// # Errors
    /// As of [`Self::start`]; where its record can't be written, it is gone again.
    pub async fn start_begun(&self, begun: Begun) -> Result<bool> {
        let id = &begun.created.id;
        let Some(written) = begun.written else { return self.start(id).await };
        let (started, written) = tokio::join!(self.start(id), written.done());
        if let Err(error) = written {
            // One whose start failed may be gone already.
            let _ = self.remove(id, Removal { is_forced: true, takes_volumes: true }).await;
            return Err(error);
        }
        started
    }

    async fn create_with(
        &self,
        mut spec: ContainerSpec,
        name: Option<&str>,
        may_begin: bool,
    ) -> Result<Begun> {
        let mut warnings = Vec::new();
        let image = if spec.rootfs.is_some() { None } else { Some(self.images.resolve(&spec.image)?) };
        if let Some(image) = &image {
            merge_image(&mut spec, image);
        }
        normalize(&mut spec, &self.networks, &self.cgroups, &mut warnings)?;
        check(&spec)?;
        let wanted = crate::mount_points::wanted(&spec, self.config.paths())?;
        crate::networks::ports(&spec, None)?;
        let id = new_id();
        let name = self.reserve_name(name, &id)?;
        let image_id = image.as_ref().map(|image| image.id.to_string()).unwrap_or_default();
        let mut record = Record {
            id: id.clone(),
            name: name.clone(),
            created: now(),
            image_id,
            spec,
            state: State::Created { failure: None },
            restart_count: 0,
            is_stopped_by_user: false,
        };
        let (claims, written) = match self.make(&mut record, image.as_deref(), wanted, may_begin).await {
            Ok(made) => made,
            Err(error) => {
                self.containers.release(&name);
                // What was made of it is of no use; a leftover is swept at the next start.
                let keys = self.images.snapshot_keys().into_iter();
                for key in keys.filter(|key| key.starts_with(&id)) {
                    let _ = self.images.remove_snapshot(&key);
                }
                let _ = std::fs::remove_dir_all(self.container_dir(&id));
                return Err(error);
            }
        };
        let container = Arc::new(Container::new(record));
        self.containers.insert(Arc::clone(&container));
        drop(claims);
        self.container_event(&container, "create", &[]);
        Ok(Begun { created: Created { id, warnings }, written })
    }

    fn reserve_name(&self, wanted: Option<&str>, id: &str) -> Result<String> {
        let Some(name) =
            wanted.map(|name| name.strip_prefix('/').unwrap_or(name)).filter(|name| !name.is_empty())
        else {
            return Ok(names::generate(|name| self.containers.reserve(name, id).is_ok()));
        };
        if !names::is_valid(name) {
            return Err(Error::invalid(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        self.containers.reserve(name, id)?;
        Ok(name.to_owned())
    }

    /// Makes everything on disk; the record comes last, with those of the volumes. Where it may be waited for later, what
    /// becomes of it is handed back.
    async fn make(
        &self,
        record: &mut Record,
        image: Option<&ImageRecord>,
        wanted: Vec<Wanted>,
        may_begin: bool,
    ) -> Result<(Claims, Option<Written>)> {
        make_private_dir(&self.container_dir(&record.id))?;
        if let Some(image) = image {
            self.images.prepare_snapshot(&record.id, &image.id)?;
        }
        let (points, mut claims) = self.settle_mounts(&record.id, &record.spec, wanted).await?;
        self.copy_up(&record.id, &record.spec, &points, &claims).await?;
        record.spec.mount_points = Some(points);
        let volumes = claims.new_records();
        for volume in volumes.iter().filter(|volume| !volume.is_anonymous()) {
            self.sync_volume(&self.volume_dir(&volume.name))?;
        }
        claims.keep();
        if may_begin && record.spec.host.auto_remove && volumes.is_empty() {
            match self.store.put_soon(record.clone()).await {
                Ok(written) => return Ok((claims, Some(written))),
                Err(error) => {
                    claims.give_up();
                    return Err(error);
                }
            }
        }
        if let Err(error) = self.store.put_with(record.clone(), volumes).await {
            claims.give_up();
            return Err(error);
        }
        Ok((claims, None))
    }
}

/// 64 random hexadecimal digits.
pub(crate) fn new_id() -> String {
    loop {
        let bytes: [u8; 32] = rand::random();
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // A short id of digits alone would pass for a number (as Docker avoids too).
        if !id.bytes().take(12).all(|b| b.is_ascii_digit()) {
            return id;
        }
    }
}

/// The image's configuration where the user said nothing.
fn merge_image(spec: &mut ContainerSpec, image: &ImageRecord) {
    let config = &image.config;
    if spec.user.is_empty() {
        spec.user.clone_from(&config.user);
    }
    if spec.working_dir.is_empty() {
        spec.working_dir.clone_from(&config.working_dir);
    }
    // An entrypoint of the user's own leaves the image's command behind.
    if spec.entrypoint.is_none() {
        if spec.command.as_ref().is_none_or(Vec::is_empty) {
            spec.command.clone_from(&config.cmd);
        }
        spec.entrypoint.clone_from(&config.entrypoint);
    }
    // `--entrypoint ""` is sent as a list of one empty string.
    if spec.entrypoint.as_ref().is_some_and(|list| list.len() == 1 && list.iter().all(String::is_empty)) {
        spec.entrypoint = None;
    }
    let given: Vec<String> = std::mem::take(&mut spec.env);
    let name_of = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    spec.env = config
        .env
        .iter()
        .filter(|pair| !given.iter().any(|g| name_of(g) == name_of(pair)))
        .cloned()
        .collect();
    spec.env.extend(given);
    for (key, value) in &config.labels {
        spec.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    for port in &config.exposed_ports {
        if !spec.exposed_ports.contains(port) {
            spec.exposed_ports.push(port.clone());
        }
    }
    for path in &config.volumes {
        if !spec.volumes.contains(path) {
            spec.volumes.push(path.clone());
        }
    }
    if spec.stop_signal.is_none() {
        spec.stop_signal.clone_from(&config.stop_signal);
    }
    if spec.shell.is_none() {
        spec.shell.clone_from(&config.shell);
    }
    spec.healthcheck = merge_health(spec.healthcheck.take(), config.healthcheck.as_ref());
}

fn merge_health(given: Option<Healthcheck>, image: Option<&Healthcheck>) -> Option<Healthcheck> {
    let (Some(given), Some(image)) = (&given, image) else { return given.or_else(|| image.cloned()) };
    let or = |a: i64, b: i64| if a == 0 { b } else { a };
    Some(Healthcheck {
        test: if given.test.is_empty() { image.test.clone() } else { given.test.clone() },
        interval: or(given.interval, image.interval),
        timeout: or(given.timeout, image.timeout),
        start_period: or(given.start_period, image.start_period),
        start_interval: or(given.start_interval, image.start_interval),
        retries: or(given.retries, image.retries),
    })
}

/// Writes out what was left to the engine.
fn normalize(
    spec: &mut ContainerSpec,
    networks: &EngineNetworks,
    cgroups: &Layout,
    warnings: &mut Vec<String>,
) -> Result<()> {
    crate::networks::normalize(spec, networks, warnings)?;
    if spec.host.log_driver.is_empty() {
        spec.host.log_driver = "json-file".into();
    }
    if spec.host.ipc_mode.is_empty() {
        spec.host.ipc_mode = "private".into();
    }
    if spec.host.cgroup_namespace.is_empty() {
        // As Docker does: who may change all of version 1 sees all of it.
        let is_open = spec.host.privileged && !cgroups.is_unified();
        spec.host.cgroup_namespace = if is_open { "host" } else { "private" }.into();
    }
    if spec.host.shm_size == 0 {
        spec.host.shm_size = 64 << 20;
    }
    Ok(())
}

/// Refuses what can't be done before anything is made.
fn check(spec: &ContainerSpec) -> Result<()> {
    let host = &spec.host;
    if host.auto_remove && host.restart.mode != RestartMode::No {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if host.restart.max_retries > 0 && host.restart.mode != RestartMode::OnFailure {
        return Err(Error::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    if let Some(signal) = spec.stop_signal.as_deref().filter(|signal| !signal.is_empty()) {
        oci_runtime::container::parse_signal(signal)?;
    }
    if oci::command_line(spec).first().is_none_or(String::is_empty) {
        return Err(Error::invalid("no command specified"));
    }
    if !spec.working_dir.is_empty() && !spec.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            spec.working_dir
        )));
    }
    if !matches!(host.pid_mode.as_str(), "" | "host" | "private") && !host.pid_mode.starts_with("container:")
    {
        return Err(Error::invalid(format!("invalid PID mode: {}", host.pid_mode)));
    }
    if !matches!(host.ipc_mode.as_str(), "private" | "shareable" | "host" | "none")
        && !host.ipc_mode.starts_with("container:")
    {
        return Err(Error::invalid(format!("invalid IPC mode: {}", host.ipc_mode)));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if host.uts_mode == "host" && !spec.hostname.is_empty() {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    if !matches!(host.cgroup_namespace.as_str(), "private" | "host") {
        return Err(Error::invalid(format!("invalid cgroup namespace mode: {}", host.cgroup_namespace)));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid USER mode: {}", host.userns_mode)));
    }
    if let Some(rootfs) = &spec.rootfs
        && !Path::new(rootfs).is_dir()
    {
        return Err(Error::invalid(format!("the root directory {} does not exist", rootfs.display())));
    }
    crate::logs::target(spec, Path::new(""), "")?;
    oci::runtime_resources(&host.resources)?;
    oci::Security::parse(&host.security_opt)?;
    oci::filter(spec)?;
    crate::health::check_config(spec.healthcheck.as_ref())
}
