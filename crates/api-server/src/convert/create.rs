//! A creation request as the engine's specification.

use std::collections::BTreeMap;

use api::container::{
    ContainerConfig, CreateContainer, HealthConfig, HostConfig, NetworkingConfig, PortBinding, Resources,
};
use image_store::ImageConfig;
use model::container::{
    AttachedStreams, ContainerSpec, DeviceMapping, Healthcheck, HostSpec, PortSpec, ResourceLimits,
    RestartMode, RestartPolicy, Ulimit,
};
use model::network::EndpointSpec;

use super::network::endpoint_spec;
use crate::error::{ApiError, ApiResult};

/// Converts, and refuses fields this engine would have to ignore.
pub(crate) fn container_spec(mut request: CreateContainer, minor: u32) -> ApiResult<ContainerSpec> {
    refuse(&request)?;
    if request.config.network_disabled == Some(true) {
        request.host_config.network_mode = "none".into();
        request.networking_config = NetworkingConfig::default();
    }
    let networks = networks(&request)?;
    let config = request.config;
    Ok(ContainerSpec {
        image: config.image,
        rootfs: None,
        hostname: config.hostname,
        domainname: config.domainname,
        user: config.user,
        attach: AttachedStreams {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
        },
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: config.env,
        entrypoint: config.entrypoint,
        command: config.cmd,
        exposed_ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        working_dir: config.working_dir,
        labels: config.labels,
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.as_ref().map(healthcheck),
        shell: config.shell,
        on_build: config.on_build.unwrap_or_default(),
        host: host_spec(request.host_config, networks, minor)?,
        mount_points: None,
    })
}

/// What can't be had together, or goes by a name that is not there. Fields that are refused as such are in the
/// table of endpoints.
fn refuse(request: &CreateContainer) -> ApiResult<()> {
    let host = &request.host_config;
    if !matches!(host.runtime.as_str(), "" | "cove" | "runc" | "io.containerd.runc.v2") {
        return Err(ApiError::unsupported("only Cove's own runtime is there"));
    }
    if request.config.network_disabled == Some(true) && host.network_mode == "host" {
        return Err(ApiError::unsupported("the network can't be disabled and the host's"));
    }
    Ok(())
}

/// What is asked of each network; what older clients say elsewhere is asked of that of the mode.
fn networks(request: &CreateContainer) -> ApiResult<BTreeMap<String, EndpointSpec>> {
    let mut networks = BTreeMap::new();
    for (name, settings) in &request.networking_config.endpoints_config {
        // Modes that are no network of their own have no endpoint, whatever a client sends with them.
        if !name.starts_with("container:") {
            networks.insert(name.clone(), endpoint_spec(settings.clone().unwrap_or_default())?);
        }
    }
    let mode = &request.host_config.network_mode;
    let links = request.host_config.links.clone().unwrap_or_default();
    let mac = request.config.mac_address.clone().unwrap_or_default();
    if links.is_empty() && mac.is_empty() {
        return Ok(networks);
    }
    if mode.starts_with("container:") || matches!(mode.as_str(), "host" | "none") {
        return Err(ApiError::bad(format!(
            "conflicting options: links and MAC addresses need a network, and the mode is {mode:?}"
        )));
    }
    let name = if mode.is_empty() { "default" } else { mode };
    let endpoint: &mut EndpointSpec = networks.entry(name.to_owned()).or_default();
    endpoint.links.extend(links);
    if endpoint.mac.is_empty() {
        endpoint.mac = mac;
    }
    Ok(networks)
}

fn host_spec(host: HostConfig, networks: BTreeMap<String, EndpointSpec>, minor: u32) -> ApiResult<HostSpec> {
    Ok(HostSpec {
        binds: host.binds.unwrap_or_default(),
        mounts: super::mount::mount_specs(host.mounts.unwrap_or_default(), minor)?,
        volumes_from: host.volumes_from.unwrap_or_default(),
        volume_driver: host.volume_driver,
        tmpfs: host.tmpfs.unwrap_or_default(),
        log_driver: host.log_config.r#type,
        log_options: host.log_config.config,
        network_mode: host.network_mode,
        networks,
        ports: ports(host.port_bindings),
        publishes_all: host.publish_all_ports,
        restart: restart_policy(&host.restart_policy)?,
        auto_remove: host.auto_remove,
        runtime: host.runtime,
        annotations: host.annotations.unwrap_or_default(),
        cap_add: host.cap_add.unwrap_or_default(),
        cap_drop: host.cap_drop.unwrap_or_default(),
        cgroup_namespace: host.cgroupns_mode,
        cgroup_parent: host.resources.cgroup_parent.clone(),
        dns: host.dns.unwrap_or_default(),
        dns_options: host.dns_options.unwrap_or_default(),
        dns_search: host.dns_search.unwrap_or_default(),
        extra_hosts: host.extra_hosts.unwrap_or_default(),
        group_add: host.group_add.unwrap_or_default(),
        ipc_mode: host.ipc_mode,
        pid_mode: host.pid_mode,
        uts_mode: host.uts_mode,
        userns_mode: host.userns_mode,
        oom_score_adj: host.oom_score_adj,
        privileged: host.privileged,
        readonly_rootfs: host.readonly_rootfs,
        security_opt: host.security_opt.unwrap_or_default(),
        shm_size: host.shm_size,
        sysctls: host.sysctls.unwrap_or_default(),
        resources: limits(host.resources),
        masked_paths: host.masked_paths,
        readonly_paths: host.readonly_paths,
        init: host.init == Some(true),
        console_size: (host.console_size[0], host.console_size[1]),
        container_id_file: host.container_id_file,
    })
}

/// Bindings by the container's port, one by one; a port without any is one that is only exposed.
fn ports(bindings: BTreeMap<String, Option<Vec<PortBinding>>>) -> Vec<PortSpec> {
    let each = bindings.into_iter().flat_map(|(inner, list)| {
        list.unwrap_or_default().into_iter().map(move |binding| PortSpec {
            inner: inner.clone(),
            address: binding.host_ip,
            outer: binding.host_port,
        })
    });
    each.collect()
}

/// The policy by Docker's name.
pub(crate) fn restart_policy(policy: &api::container::RestartPolicy) -> ApiResult<RestartPolicy> {
    let mode = match policy.name.as_str() {
        "" | "no" => RestartMode::No,
        "always" => RestartMode::Always,
        "unless-stopped" => RestartMode::UnlessStopped,
        "on-failure" => RestartMode::OnFailure,
        other => {
            return Err(ApiError::bad(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if policy.maximum_retry_count < 0 {
        return Err(ApiError::bad("invalid restart policy: maximum retry count cannot be negative"));
    }
    Ok(RestartPolicy { mode, max_retries: policy.maximum_retry_count })
}

/// Limits, of a creation or an update.
pub(crate) fn limits(resources: Resources) -> ResourceLimits {
    let rates = |list: Option<Vec<api::container::ThrottleDevice>>| {
        list.unwrap_or_default().into_iter().map(|device| (device.path, device.rate)).collect()
    };
    ResourceLimits {
        cpu_shares: resources.cpu_shares,
        nano_cpus: resources.nano_cpus,
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_realtime_period: resources.cpu_realtime_period,
        cpu_realtime_runtime: resources.cpu_realtime_runtime,
        cpuset_cpus: resources.cpuset_cpus,
        cpuset_mems: resources.cpuset_mems,
        memory: resources.memory,
        memory_reservation: resources.memory_reservation,
        memory_swap: resources.memory_swap,
        memory_swappiness: resources.memory_swappiness.filter(|n| *n >= 0),
        oom_kill_disable: resources.oom_kill_disable,
        pids_limit: resources.pids_limit,
        blkio_weight: resources.blkio_weight,
        blkio_weight_device: resources
            .blkio_weight_device
            .unwrap_or_default()
            .into_iter()
            .map(|d| (d.path, d.weight))
            .collect(),
        blkio_read_bps: rates(resources.blkio_device_read_bps),
        blkio_write_bps: rates(resources.blkio_device_write_bps),
        blkio_read_iops: rates(resources.blkio_device_read_iops),
        blkio_write_iops: rates(resources.blkio_device_write_iops),
        devices: resources
            .devices
            .unwrap_or_default()
            .into_iter()
            .map(|d| DeviceMapping {
                host: d.path_on_host,
                container: d.path_in_container,
                permissions: d.cgroup_permissions,
            })
            .collect(),
        device_cgroup_rules: resources.device_cgroup_rules.unwrap_or_default(),
        ulimits: resources
            .ulimits
            .unwrap_or_default()
            .into_iter()
            .map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
            .collect(),
    }
}

fn healthcheck(config: &HealthConfig) -> Healthcheck {
    Healthcheck {
        test: config.test.clone(),
        interval: config.interval,
        timeout: config.timeout,
        start_period: config.start_period,
        start_interval: config.start_interval,
        retries: config.retries,
    }
}

/// A wire configuration as an image's (the body of `commit`).
pub(crate) fn config_of_image(config: ContainerConfig) -> ImageConfig {
    ImageConfig {
        env: config.env,
        cmd: config.cmd,
        entrypoint: config.entrypoint,
        working_dir: config.working_dir,
        user: config.user,
        exposed_ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        labels: config.labels,
        healthcheck: config.healthcheck.as_ref().map(healthcheck),
        stop_signal: config.stop_signal,
        shell: config.shell,
        on_build: config.on_build.unwrap_or_default(),
        args_escaped: config.args_escaped,
    }
}
