//! From a created container to a running one, and what follows when it ends.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image_store::Snapshot;
use model::container::{ContainerSpec, RestartMode};
use oci_runtime::monitor::protocol::{EXIT_FILE, Event, Exit, Failure, StartRequest, Streams};
use tokio_util::sync::CancellationToken;

use crate::container::{Container, Progress, Starting};
use crate::engine::{Engine, make_private_dir, now};
use crate::error::{Doing, Error, Result};
use crate::lifecycle::{Decision, Denied, End, Request, Run, State};
use crate::link::Link;
use crate::networks::{host_names, resolv_conf};
use crate::oci::{self, Context, HostFiles};

/// The first and the longest pause before a restart by policy (Docker's).
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// How long after a start a monitor is made in place of the one it took.
const REFILL_AFTER: Duration = Duration::from_millis(5);
/// A container that ran so long starts its pauses anew.
const STABLE_AFTER: u64 = 10_000_000_000;

/// The layers, when nobody copies to or from them any more.
async fn layers_of(container: &Container) -> Result<Starting<'_>> {
    /// How long that is waited for.
    const PATIENCE: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    let taken = container.take_layers();
    while container.are_layers_shared() {
        if begun.elapsed() > PATIENCE {
            return Err(Error::Conflict {
                what: format!(
                    "files are being copied to or from container {}: it can be started after that",
                    container.short_id()
                ),
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(taken)
}

impl Engine {
    /// Starts a container. `false`: it runs already.
    ///
    /// # Errors
    /// Where it is paused or being removed, or the process can't be started.
    pub async fn start(&self, name: &str) -> Result<bool> {
        let container = self.containers.find(name)?;
        let _turn = container.turn.lock().await;
        match container.state().decide(Request::Start) {
            Ok(Decision::Nothing) => return Ok(false),
            Ok(Decision::Act) => {}
            Err(denied) => return Err(refusal(&container, denied, "start")),
        }
        self.cancel_restart(&container);
        {
            let mut dynamic = container.dynamic();
            dynamic.is_stopped_by_user = false;
            dynamic.restart_delay = Duration::ZERO;
            dynamic.restart_count = 0;
        }
        self.start_now(&container).await?;
        Ok(true)
    }

    /// Starts it; the caller holds its turn.
    pub(crate) async fn start_now(&self, container: &Arc<Container>) -> Result<()> {
        match self.try_start(container).await {
            Ok((link, pid)) => {
                self.volume_events(container, "mount");
                self.is_running(container, link, pid, now());
                Ok(())
            }
            Err(error) => {
                self.detach_networks(container).await;
                let (code, message) = match &error {
                    Error::Start { exit_code, message, .. } => (*exit_code, message.clone()),
                    other => (128, other.chain()),
                };
                let was_never_started = {
                    let mut dynamic = container.dynamic();
                    // Attached clients see the end of their stream.
                    dynamic.waiting.clear();
                    let is_first = matches!(dynamic.state, State::Created { .. });
                    dynamic.state = if is_first {
                        State::Created { failure: Some((code, message)) }
                    } else {
                        let at = now();
                        State::Exited(End {
                            code,
                            started_at: at,
                            finished_at: at,
                            error: message,
                            is_oom: false,
                        })
                    };
                    is_first
                };
                // What a failed start leaves is of no use to the next.
                let _ = std::fs::remove_dir_all(self.state_dir(&container.id));
                container.progress.send_modify(|progress| {
                    *progress = Progress { ends: progress.ends + 1, code, is_running: false, ..*progress };
                });
                self.store.put_later(container.record());
                if was_never_started && container.spec().host.auto_remove {
                    self.remove_later(container);
                }
                Err(error)
            }
        }
    }

    async fn try_start(&self, container: &Arc<Container>) -> Result<(Arc<Link>, i32)> {
        let _layers = layers_of(container).await?;
        let spec = container.spec();
        let state_dir = self.state_dir(&container.id);
        make_private_dir(&state_dir)?;
        let network = self.attach_networks(container, &state_dir).await?;
        let linked = crate::networks::link_environment(self, container, &spec)?;
        let spec = if linked.is_empty() {
            spec
        } else {
            let mut spec = (*spec).clone();
            // In front, so that what the user says counts.
            spec.env.splice(0..0, linked);
            Arc::new(spec)
        };
        let files = self.write_host_files(&spec, container, &state_dir)?;
        let (rootfs, overlay) = self.root_of(container, &spec)?;
        let joined = |other: &str| self.pid_of(other);
        let points = spec.mount_points.as_deref().unwrap_or_default();
        let user_mounts = self.user_mounts(&container.id, points).await?;
        let resources = oci::runtime_resources(&spec.host.resources)?;
        let wants_limits = resources.memory.is_some()
            || resources.cpu.is_some()
            || resources.block_io.is_some()
            || resources.pids.as_ref().is_some_and(|pids| pids.limit > 0);
        let bundle = oci::bundle(
            &spec,
            &Context {
                id: &container.id,
                files: &files,
                rootfs: &rootfs,
                is_rootless: self.config.is_rootless,
                joined: &joined,
                has_limits: wants_limits || !self.config.is_rootless,
                user_mounts: &user_mounts,
            },
        )?;
        let filter = oci::filter(&spec)?;
        let (fds, attach): (Vec<OwnedFd>, Vec<Streams>) =
            std::mem::take(&mut container.dynamic().waiting).into_iter().unzip();
        let request = StartRequest {
            id: container.id.clone(),
            state_dir,
            rootfs,
            overlay,
            cgroup_path: self.cgroup_path(container),
            cgroup_root: self.delegation.clone(),
            tolerates_missing_cgroups: self.config.is_rootless,
            spec: bundle,
            filter: filter.as_ref().map(Into::into),
            log: crate::logs::target(&spec, &self.container_dir(&container.id), &container.id)?,
            has_init: spec.host.init,
            has_network: network.is_some(),
            opens_stdin: spec.open_stdin,
            closes_stdin_once: spec.stdin_once,
            attach,
        };
        let link = self.monitors.take()?;
        let started = link.start(&request, network.as_ref(), &fds).await?;
        self.refill_monitors();
        match started {
            Ok(pid) => Ok((link, pid)),
            Err(failure) => Err(start_error(container, failure)),
        }
    }

    /// Starts monitors for the containers to come, a moment later: now the processors are wanted for
    /// the program that has just been started.
    fn refill_monitors(&self) {
        if self.monitors.is_to_be_refilled() {
            let engine = self.clone();
            self.spawn(async move {
                tokio::time::sleep(REFILL_AFTER).await;
                engine.monitors.refill();
            });
        }
    }

    /// Notes that it runs, and follows it from now on.
    pub(crate) fn is_running(&self, container: &Arc<Container>, link: Arc<Link>, pid: i32, started_at: u64) {
        {
            let mut dynamic = container.dynamic();
            dynamic.state = State::Running(Run { pid, started_at });
            dynamic.link = Some(Arc::clone(&link));
        }
        container.progress.send_modify(|progress| progress.is_running = true);
        self.store.put_later(container.record());
        self.container_event(container, "start", &[]);
        self.start_health(container);
        let (engine, container) = (self.clone(), Arc::clone(container));
        self.spawn(async move { engine.follow(container, link).await });
    }

    /// The root and what is mounted on it.
    fn root_of(
        &self,
        container: &Container,
        spec: &ContainerSpec,
    ) -> Result<(PathBuf, Option<oci_runtime::Overlay>)> {
        if let Some(rootfs) = &spec.rootfs {
            return Ok((rootfs.clone(), None));
        }
        let snapshot = self.images.snapshot(&container.id).ok_or_else(|| Error::State {
            what: format!("the file system of container {} is missing", container.short_id()),
        })?;
        Ok(match snapshot {
            Snapshot::Copy { rootfs } => (rootfs, None),
            Snapshot::Overlay { lowers, upper, work, is_userxattr } => {
                // What an `--rm` container writes goes with it, so nothing of it need reach the disk.
                let is_volatile = spec.host.auto_remove;
                if is_volatile {
                    // The kernel's mark of an earlier run; a crash of the machine removes the container.
                    let _ = std::fs::remove_dir_all(work.join("work/incompat"));
                }
                // Any directory will do to mount on: the mount exists only inside.
                let point = upper.clone();
                (point, Some(oci_runtime::Overlay { lowers, upper, work, is_userxattr, is_volatile }))
            }
        })
    }

    /// The first process of a running container, whose namespace another joins.
    fn pid_of(&self, other: &str) -> Result<i32> {
        let container = self.containers.find(other)?;
        let state = container.state();
        state.run().map(|run| run.pid).ok_or_else(|| {
            Error::state(format!(
                "cannot join the namespace of a container that does not run: {}",
                container.short_id()
            ))
        })
    }

    /// Hears from the monitor until the container has ended.
    pub(crate) async fn follow(&self, container: Arc<Container>, link: Arc<Link>) {
        let exit = loop {
            match link.next().await {
                Ok(Some((Event::Exited(exit), _))) => break exit,
                Ok(Some((Event::ExecExited { id, code }, _))) => self.exec_ended(&container, &id, code),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break self.exit_without_word(&container),
            }
        };
        link.close();
        self.has_ended(&container, exit).await;
    }

    /// The monitor went without a word: what it wrote down counts; else it was killed, and what it
    /// watched over is ended.
    pub(crate) fn exit_without_word(&self, container: &Container) -> Exit {
        let file = self.state_dir(&container.id).join(EXIT_FILE);
        if let Some(exit) = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return exit;
        }
        let cgroups = self.cgroups_of(container);
        let is_oom = cgroups.oom_kills() > 0;
        // As far as cgroups reach; without any, the pid namespace goes with its first process.
        let _ = cgroups.kill();
        if let Some(run) = container.state().run() {
            let _ = oci_runtime::sys::kill(run.pid, libc::SIGKILL);
        }
        if let Err(error) = cgroups.delete() {
            tracing::warn!(
                id = container.id,
                error = error.chain(),
                "failed to remove a container's cgroups"
            );
        }
        Exit { code: 137, is_oom, at: now() }
    }

    /// Takes note of the end, and does what the container's policy asks.
    pub(crate) async fn has_ended(&self, container: &Arc<Container>, exit: Exit) {
        let _turn = container.turn.lock().await;
        let spec = container.spec();
        self.stop_health(container);
        let (restarts_in, ran) = {
            let mut dynamic = container.dynamic();
            let started_at = dynamic.state.run().map_or(0, |run| run.started_at);
            let end = End {
                code: exit.code,
                is_oom: exit.is_oom,
                started_at,
                finished_at: exit.at,
                error: String::new(),
            };
            let ran = exit.at.saturating_sub(started_at);
            let restarts = restarts(&spec, &end, dynamic.restart_count, dynamic.is_stopped_by_user);
            dynamic.link = None;
            dynamic.state = if restarts { State::Restarting(end) } else { State::Exited(end) };
            if ran > STABLE_AFTER {
                dynamic.restart_delay = Duration::ZERO;
            }
            dynamic.restart_delay = (dynamic.restart_delay * 2).clamp(FIRST_DELAY, LONGEST_DELAY);
            (restarts.then_some(dynamic.restart_delay), ran)
        };
        self.end_execs(container);
        self.detach_networks(container).await;
        // The monitor's own word of the end goes only once ours is kept. One that is about to be removed
        // needs none.
        let is_kept = spec.host.auto_remove
            || match self.store.note(container.record()).await {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(
                        id = container.id,
                        error = error.chain(),
                        "failed to note a container's end"
                    );
                    false
                }
            };
        let is_removed_next = spec.host.auto_remove && restarts_in.is_none();
        let state_dir = self.state_dir(&container.id);
        if is_kept
            && !is_removed_next
            && let Err(error) = std::fs::remove_dir_all(&state_dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, dir = %state_dir.display(), "failed to remove a container's state");
        }
        if exit.is_oom {
            self.container_event(container, "oom", &[]);
        }
        let (code, seconds) = (exit.code.to_string(), (ran / 1_000_000_000).to_string());
        self.container_event(container, "die", &[("exitCode", &code), ("execDuration", &seconds)]);
        self.volume_events(container, "unmount");
        container.progress.send_modify(|progress| {
            progress.ends += 1;
            progress.code = exit.code;
            progress.is_running = restarts_in.is_some();
        });
        if let Some(delay) = restarts_in {
            self.restart_after(container, delay);
        } else if is_removed_next {
            self.remove_ended(container).await;
        }
    }

    /// Starts it again after a pause, unless that is cancelled.
    pub(crate) fn restart_after(&self, container: &Arc<Container>, delay: Duration) {
        let token = CancellationToken::new();
        container.dynamic().cancel_restart = Some(token.clone());
        let (engine, container) = (self.clone(), Arc::clone(container));
        self.spawn(async move {
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            let _turn = container.turn.lock().await;
            if token.is_cancelled() {
                return;
            }
            {
                let mut dynamic = container.dynamic();
                dynamic.cancel_restart = None;
                dynamic.restart_count += 1;
            }
            if let Err(error) = engine.start_now(&container).await {
                tracing::warn!(id = container.id, error = error.chain(), "failed to restart a container");
            }
        });
    }

    /// Ends a restart that waits; the caller holds the turn. Whether there was one.
    pub(crate) fn cancel_restart(&self, container: &Arc<Container>) -> bool {
        let mut dynamic = container.dynamic();
        let Some(token) = dynamic.cancel_restart.take() else { return false };
        token.cancel();
        if let State::Restarting(end) = &dynamic.state {
            dynamic.state = State::Exited(end.clone());
        }
        true
    }
}

/// Whether the policy asks for another run.
fn restarts(spec: &ContainerSpec, end: &End, count: u32, is_stopped_by_user: bool) -> bool {
    let policy = &spec.host.restart;
    match policy.mode {
        _ if is_stopped_by_user => false,
        RestartMode::No => false,
        RestartMode::Always | RestartMode::UnlessStopped => true,
        RestartMode::OnFailure => {
            end.code != 0 && (policy.max_retries == 0 || i64::from(count) < policy.max_retries)
        }
    }
}

/// A refusal in Docker's words.
pub(crate) fn refusal(container: &Container, denied: Denied, what: &str) -> Error {
    let id = &container.id;
    let text = match denied {
        Denied::NotRunning => format!("container {id} is not running"),
        Denied::NotPaused => format!("Container {id} is not paused"),
        Denied::IsPaused if what == "start" => "cannot start a paused container, try unpause instead".into(),
        Denied::IsPaused if what == "pause" => format!("Container {id} is already paused"),
        Denied::IsPaused => format!("Container {id} is paused, unpause the container before {what}"),
        Denied::IsRunning => format!(
            "cannot remove container \"/{}\": container is running: stop the container before removing or force remove",
            container.name()
        ),
        Denied::IsRemoving => format!("container is marked for removal and cannot be {what}ed"),
    };
    Error::state(text)
}

fn start_error(container: &Container, failure: Failure) -> Error {
    if failure.is_unsupported {
        return Error::Unsupported { what: failure.message };
    }
    let exit_code = match (failure.is_exec, failure.errno) {
        (true, libc::ENOENT | 0) => 127,
        (true, _) => 126,
        (false, _) => 128,
    };
    Error::Start { id: container.short_id().to_owned(), message: failure.message, exit_code }
}

impl Engine {
    /// The files that name the container and its hosts.
    fn write_host_files(&self, spec: &ContainerSpec, container: &Container, dir: &Path) -> Result<HostFiles> {
        let of = |dir: &Path| HostFiles {
            hostname: dir.join("hostname"),
            hosts: dir.join("hosts"),
            resolv_conf: dir.join("resolv.conf"),
        };
        if let Some(other) = spec.host.network_mode.strip_prefix("container:") {
            // Who shares a network shares its names.
            return Ok(of(&self.state_dir(&self.containers.find(other)?.id)));
        }
        let files = of(dir);
        let write =
            |path: &PathBuf, text: &str| std::fs::write(path, text).doing(|| format!("write {path:?}"));
        let hostname = oci::hostname(spec, &container.id);
        write(&files.hostname, &format!("{hostname}\n"))?;
        let shares_host = spec.host.network_mode == "host";
        let mut hosts = if shares_host {
            std::fs::read_to_string("/etc/hosts").unwrap_or_default()
        } else {
            LOCALHOST.into()
        };
        hosts.push_str(&crate::networks::linked(self, container, spec)?);
        let (own, gateways, resolv_conf) = {
            let dynamic = container.dynamic();
            let way_out = dynamic.network.kept.way_out().or(dynamic.network.kept.endpoints.first());
            let address = way_out.and_then(|endpoint| endpoint.addresses.first().copied());
            let gateway =
                address.map(|address| address.gateway.unwrap_or_else(|| address.subnet.first_host()));
            let own = host_names(&dynamic.network, &hostname, &spec.domainname);
            let kernel = self.networks.kernel.as_ref();
            let host = gateway.and_then(|gateway| kernel.and_then(|kernel| kernel.host_address(gateway)));
            let mut hosts = self.config.host_gateways.clone();
            if !shares_host && !dynamic.network.kept.endpoints.iter().any(|endpoint| endpoint.v6().is_some())
            {
                // Programs that try one address alone might take the one that leads nowhere.
                hosts.retain(IpAddr::is_ipv4);
            }
            if hosts.is_empty() {
                hosts.extend(host);
            }
            (own, hosts, resolv_conf(spec, &dynamic.network))
        };
        for entry in &spec.host.extra_hosts {
            // Addresses of IPv6 have colons of their own.
            let (name, address) = entry
                .split_once([':', '='])
                .ok_or_else(|| Error::invalid(format!("bad format for add-host: {entry:?}")))?;
            if address == "host-gateway" && !gateways.is_empty() {
                hosts.extend(gateways.iter().map(|gateway| format!("{gateway}\t{name}\n")));
                continue;
            }
            let address = match address {
                "host-gateway" if shares_host => "127.0.0.1",
                "host-gateway" => {
                    return Err(Error::unsupported("--add-host …:host-gateway needs a bridge network"));
                }
                address => address.trim_start_matches('[').trim_end_matches(']'),
            };
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        // In the engine's own network they are in its /etc/hosts.
        let is_apart = !shares_host && spec.host.network_mode != "none";
        if is_apart && !self.config.host_gateways.is_empty() {
            let line = |host| format!("{host}\thost.docker.internal gateway.docker.internal\n");
            hosts.extend(gateways.iter().map(line));
        }
        hosts.push_str(&own);
        write(&files.hosts, &hosts)?;
        write(&files.resolv_conf, &resolv_conf)?;
        Ok(files)
    }
}

const LOCALHOST: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";
