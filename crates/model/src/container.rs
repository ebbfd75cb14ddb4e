//! What a container is asked to be. The engine keeps these as store records.
//!
//! The fields are those of Docker's `Config` and `HostConfig`, named and typed our way; `api-server`
//! converts. A value the caller left out is `None`, an empty list or the type's default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::EndpointSpec;

/// Everything a container is made from, the image's defaults merged in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// As the caller wrote it.
    pub image: String,
    /// A directory to run in place of an image.
    pub rootfs: Option<PathBuf>,
    /// Empty: the short id.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `name|uid[:group|gid]`; empty is root.
    pub user: String,
    /// Which streams the creating client means to attach.
    pub attach: AttachedStreams,
    /// Whether the process gets a terminal.
    pub tty: bool,
    /// Whether stdin stays open.
    pub open_stdin: bool,
    /// Whether stdin ends with the first client that attached it.
    pub stdin_once: bool,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// What runs before `command`; `None` leaves the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The command or the entrypoint's arguments; `None` leaves the image's.
    pub command: Option<Vec<String>>,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that get anonymous volumes.
    pub volumes: Vec<String>,
    /// Empty is `/`.
    pub working_dir: String,
    /// User's key and value pairs.
    pub labels: BTreeMap<String, String>,
    /// How `stop` asks; `None` is SIGTERM.
    pub stop_signal: Option<String>,
    /// How long `stop` waits, in seconds; -1 for ever; `None` is ten.
    pub stop_timeout: Option<i64>,
    /// How its health is found.
    pub healthcheck: Option<Healthcheck>,
    /// The image's shell for `CMD-SHELL`.
    pub shell: Option<Vec<String>>,
    /// Triggers of the image, kept for `commit`.
    pub on_build: Vec<String>,
    /// The host's side.
    pub host: HostSpec,
    /// What is mounted, settled at creation; `None` before.
    pub mount_points: Option<Vec<crate::mount::MountPoint>>,
}

/// Streams a client attaches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachedStreams {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Error output.
    pub stderr: bool,
}

/// A command that tells whether the container is healthy. Times are nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`; empty inherits.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: i64,
    /// For one check.
    pub timeout: i64,
    /// Failures don't count so long after the start.
    pub start_period: i64,
    /// Between two checks in the start period.
    pub start_interval: i64,
    /// Consecutive failures that make it unhealthy.
    pub retries: i64,
}

/// How the host treats the container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSpec {
    /// `source:target[:options]`.
    pub binds: Vec<String>,
    /// `--mount`s.
    pub mounts: Vec<MountSpec>,
    /// `container[:ro|rw]`, whose mounts are this one's too.
    pub volumes_from: Vec<String>,
    /// The driver of volumes that `binds` and `volumes` make; empty is `local`.
    pub volume_driver: String,
    /// Path and options.
    pub tmpfs: BTreeMap<String, String>,
    /// Log driver; empty is `json-file`.
    pub log_driver: String,
    /// The driver's options.
    pub log_options: BTreeMap<String, String>,
    /// `none`, `host`, `default`, `bridge`, a network's name or `container:ID`.
    pub network_mode: String,
    /// What it asks of each of its networks, by their names.
    pub networks: BTreeMap<String, EndpointSpec>,
    /// Ports to be reached from outside.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// Whether every exposed port is, too.
    #[serde(default)]
    pub publishes_all: bool,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// What the runtime was called; ours answers to runc's name too. Empty is ours.
    pub runtime: String,
    /// Free-form, handed to the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Capabilities on top of the default ones; `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default ones; `ALL`.
    pub cap_drop: Vec<String>,
    /// `private` or `host`; empty is private.
    pub cgroup_namespace: String,
    /// Parent of its cgroup; empty is the engine's.
    pub cgroup_parent: String,
    /// Name servers.
    pub dns: Vec<String>,
    /// resolv.conf options.
    pub dns_options: Vec<String>,
    /// resolv.conf search domains.
    pub dns_search: Vec<String>,
    /// `name:address` lines of `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Groups besides the user's own.
    pub group_add: Vec<String>,
    /// `private`, `shareable`, `host`, `none` or `container:ID`.
    pub ipc_mode: String,
    /// `host` or `container:ID`; empty is its own.
    pub pid_mode: String,
    /// `host`; empty is its own.
    pub uts_mode: String,
    /// `host`; empty is the engine's.
    pub userns_mode: String,
    /// -1000..1000.
    pub oom_score_adj: i32,
    /// All capabilities, all devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// Whether its root can't be written.
    pub readonly_rootfs: bool,
    /// `no-new-privileges`, `seccomp=…`, …
    pub security_opt: Vec<String>,
    /// Bytes of `/dev/shm`; 0 is 64 MiB.
    pub shm_size: i64,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Limits.
    pub resources: ResourceLimits,
    /// `None` is Docker's list.
    pub masked_paths: Option<Vec<String>>,
    /// `None` is Docker's list.
    pub readonly_paths: Option<Vec<String>>,
    /// Whether a small init is its first process.
    pub init: bool,
    /// Rows and columns of the first terminal.
    pub console_size: (u16, u16),
    /// Where the client keeps the id; only shown.
    pub container_id_file: String,
}

/// One `--mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountSpec {
    /// `bind`, `tmpfs`, `volume` or `image`.
    pub kind: String,
    /// Path on the host, or the name of a volume or an image.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// Whether it can't be written.
    pub is_readonly: bool,
    /// `rprivate` and the like.
    pub propagation: String,
    /// Without what is mounted below the source.
    pub is_non_recursive: bool,
    /// Make the source if missing.
    pub creates_source: bool,
    /// Read-only does not reach what is mounted below.
    pub is_readonly_non_recursive: bool,
    /// Read-only must reach what is mounted below.
    pub is_readonly_force_recursive: bool,
    /// Bytes of a tmpfs; 0 is no limit.
    pub tmpfs_size: i64,
    /// Mode of a tmpfs.
    pub tmpfs_mode: Option<u32>,
    /// Further options of a tmpfs: a word, or a key and its value.
    pub tmpfs_options: Vec<Vec<String>>,
    /// What of the volume or the image; empty is all.
    pub subpath: String,
    /// Whether the volume does without the image's files.
    pub is_nocopy: bool,
    /// Labels of a volume that is made for this.
    pub volume_labels: BTreeMap<String, String>,
    /// Driver of a volume that is made for this; empty is `local`.
    pub volume_driver: String,
    /// The driver's options.
    pub volume_options: BTreeMap<String, String>,
}

/// A port that is to be reached from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortSpec {
    /// The container's, as in `80/tcp`.
    pub inner: String,
    /// The host's address; empty is every one.
    pub address: String,
    /// The host's port, a range of which one will do, or nothing: any that is free.
    pub outer: String,
}

/// When a container that ended is started again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// Which ends count.
    pub mode: RestartMode,
    /// How often at most; 0 is no bound.
    pub max_retries: i64,
}

/// Which ends lead to a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// None.
    #[default]
    No,
    /// All; also when the engine starts.
    Always,
    /// All, unless the user stopped it.
    UnlessStopped,
    /// Exit codes other than 0.
    OnFailure,
}

/// Limits of a container. 0 or empty is none, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceLimits {
    /// Relative weight.
    pub cpu_shares: i64,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds.
    pub cpu_realtime_runtime: i64,
    /// `0-2,5`.
    pub cpuset_cpus: String,
    /// `0-1`.
    pub cpuset_mems: String,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap: i64,
    /// 0..100.
    pub memory_swappiness: Option<i64>,
    /// Whether the kernel waits instead of killing (cgroup v1).
    pub oom_kill_disable: Option<bool>,
    /// -1 or 0 is none.
    pub pids_limit: Option<i64>,
    /// 10..1000.
    pub blkio_weight: u16,
    /// Device path and weight.
    pub blkio_weight_device: Vec<(String, u16)>,
    /// Device path and bytes a second.
    pub blkio_read_bps: Vec<(String, u64)>,
    /// Device path and bytes a second.
    pub blkio_write_bps: Vec<(String, u64)>,
    /// Device path and operations a second.
    pub blkio_read_iops: Vec<(String, u64)>,
    /// Device path and operations a second.
    pub blkio_write_iops: Vec<(String, u64)>,
    /// Devices of the host.
    pub devices: Vec<DeviceMapping>,
    /// `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Per-process limits.
    pub ulimits: Vec<Ulimit>,
}

/// A device of the host in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceMapping {
    /// Path on the host.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Of `rwm`.
    pub permissions: String,
}

/// A per-process limit; -1 is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ulimit {
    /// `nofile` and the like.
    pub name: String,
    /// What the process starts with.
    pub soft: i64,
    /// How far it may raise it.
    pub hard: i64,
}
