//! Everything about a container.

use std::collections::BTreeMap;

use api::container::{
    ContainerConfig, ContainerInspect, ContainerState, DeviceMapping, Empty, GraphDriver, Health,
    HealthConfig, HealthResult, HostConfig, LogConfig, NetworkSettings, PortBinding, Resources,
    RestartPolicy, ThrottleDevice, Ulimit, WeightDevice,
};
use engine::ContainerInfo;
use engine::lifecycle::State;
use model::container::{ContainerSpec, HostSpec, ResourceLimits, RestartMode};

use super::mount::mount;
use super::network::networks;
use super::summary::mounts;
use super::{int, time_text};

/// The answer of `GET /containers/{id}/json`.
pub(crate) fn container_inspect(info: &ContainerInfo, written: Option<(u64, u64)>) -> ContainerInspect {
    let mut command = info.command_line().into_iter();
    let [resolv_conf_path, hostname_path, hosts_path] = info.details.host_files.clone();
    ContainerInspect {
        id: info.id.clone(),
        created: time_text(info.created),
        path: command.next().unwrap_or_default(),
        args: command.collect(),
        state: state(info),
        image: info.image_id.clone(),
        resolv_conf_path,
        hostname_path,
        hosts_path,
        log_path: info.details.log_path.clone(),
        name: format!("/{}", info.name),
        restart_count: info.restart_count.into(),
        driver: "overlay2".into(),
        platform: "linux".into(),
        exec_ids: (!info.exec_ids.is_empty()).then(|| info.exec_ids.clone()),
        host_config: host_config(info),
        graph_driver: GraphDriver { data: None, name: "overlay2".into() },
        size_rw: written.map(|(rw, _)| int(rw)),
        size_root_fs: written.map(|(_, all)| int(all)),
        mounts: mounts(info),
        config: ContainerConfig { mac_address: asked_mac(info), ..config(&info.spec, &info.hostname) },
        network_settings: network_settings(info),
        ..ContainerInspect::default()
    }
}

/// The hardware address that was asked for on the network of its mode, where older clients look for it.
fn asked_mac(info: &ContainerInfo) -> Option<String> {
    let mode = match info.spec.host.network_mode.as_str() {
        "default" => "bridge",
        mode => mode,
    };
    let member = info.networks.iter().find(|member| member.name == mode)?;
    Some(member.endpoint.mac.clone()).filter(|mac| !mac.is_empty())
}

fn network_settings(info: &ContainerInfo) -> NetworkSettings {
    let networks = networks(info);
    if info.network.endpoints.is_empty() {
        return NetworkSettings { networks, ..NetworkSettings::default() };
    }
    let mut ports: BTreeMap<String, Option<Vec<PortBinding>>> =
        info.spec.exposed_ports.iter().map(|port| (port.clone(), None)).collect();
    for port in &info.network.ports {
        let binding = PortBinding { host_ip: port.address.to_string(), host_port: port.outer.to_string() };
        let list = ports.entry(format!("{}/{}", port.inner, port.protocol)).or_default();
        list.get_or_insert_default().push(binding);
    }
    // Older clients look here; Docker too tells them of the default bridge alone.
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    NetworkSettings {
        sandbox_id: info.id.clone(),
        sandbox_key: info.state.run().map(|run| format!("/proc/{}/ns/net", run.pid)).unwrap_or_default(),
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        mac_address: bridge.mac_address,
        ports,
        networks,
        ..NetworkSettings::default()
    }
}

/// Links of the default bridge, as Docker writes them: `/db:/web/alias`.
fn links(info: &ContainerInfo) -> Option<Vec<String>> {
    let endpoint = info.spec.host.networks.get("bridge").filter(|endpoint| !endpoint.links.is_empty())?;
    let written = endpoint.links.iter().map(|link| {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        format!("/{target}:/{}/{alias}", info.name)
    });
    Some(written.collect())
}

/// Bindings as they were asked for.
fn port_bindings(host: &HostSpec) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    let mut bindings: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for port in &host.ports {
        let binding = PortBinding { host_ip: port.address.clone(), host_port: port.outer.clone() };
        bindings.entry(port.inner.clone()).or_default().get_or_insert_default().push(binding);
    }
    bindings
}

fn state(info: &ContainerInfo) -> ContainerState {
    let health = info.health.as_ref().map(|health| Health {
        status: health.status.name().into(),
        failing_streak: health.failing_streak,
        log: health
            .log
            .iter()
            .map(|entry| HealthResult {
                start: time_text(entry.started_at),
                end: time_text(entry.ended_at),
                exit_code: entry.code.into(),
                output: entry.output.clone(),
            })
            .collect(),
    });
    let mut state = ContainerState {
        status: info.state.name().into(),
        started_at: time_text(0),
        finished_at: time_text(0),
        health,
        ..ContainerState::default()
    };
    match &info.state {
        State::Created { failure } => {
            if let Some((code, message)) = failure {
                state.exit_code = i64::from(*code);
                state.error.clone_from(message);
            }
        }
        State::Running(run) | State::Paused(run) => {
            state.running = true;
            state.paused = matches!(info.state, State::Paused(_));
            state.pid = run.pid.into();
            state.started_at = time_text(run.started_at);
        }
        State::Restarting(end) | State::Exited(end) => {
            state.restarting = matches!(info.state, State::Restarting(_));
            state.running = state.restarting;
            state.exit_code = end.code.into();
            state.oom_killed = end.is_oom;
            state.started_at = time_text(end.started_at);
            state.finished_at = time_text(end.finished_at);
            state.error.clone_from(&end.error);
        }
        State::Removing => {}
    }
    state
}

fn config(spec: &ContainerSpec, hostname: &str) -> ContainerConfig {
    let set = |list: &[String]| {
        (!list.is_empty()).then(|| list.iter().map(|key| (key.clone(), Empty {})).collect())
    };
    ContainerConfig {
        hostname: hostname.to_owned(),
        domainname: spec.domainname.clone(),
        user: spec.user.clone(),
        attach_stdin: spec.attach.stdin,
        attach_stdout: spec.attach.stdout,
        attach_stderr: spec.attach.stderr,
        exposed_ports: set(&spec.exposed_ports),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        stdin_once: spec.stdin_once,
        env: spec.env.clone(),
        cmd: spec.command.clone(),
        healthcheck: spec.healthcheck.as_ref().map(|health| HealthConfig {
            test: health.test.clone(),
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        }),
        image: spec.image.clone(),
        volumes: set(&spec.volumes),
        working_dir: spec.working_dir.clone(),
        entrypoint: spec.entrypoint.clone(),
        on_build: (!spec.on_build.is_empty()).then(|| spec.on_build.clone()),
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec.stop_timeout,
        shell: spec.shell.clone(),
        ..ContainerConfig::default()
    }
}

fn host_config(info: &ContainerInfo) -> HostConfig {
    let host: &HostSpec = &info.spec.host;
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    HostConfig {
        binds: list(&host.binds),
        volumes_from: list(&host.volumes_from),
        volume_driver: host.volume_driver.clone(),
        container_id_file: host.container_id_file.clone(),
        links: links(info),
        log_config: LogConfig { r#type: host.log_driver.clone(), config: host.log_options.clone() },
        network_mode: host.network_mode.clone(),
        port_bindings: port_bindings(host),
        publish_all_ports: host.publishes_all,
        restart_policy: RestartPolicy {
            name: match host.restart.mode {
                RestartMode::No => "no",
                RestartMode::Always => "always",
                RestartMode::UnlessStopped => "unless-stopped",
                RestartMode::OnFailure => "on-failure",
            }
            .into(),
            maximum_retry_count: host.restart.max_retries,
        },
        auto_remove: host.auto_remove,
        console_size: [host.console_size.0, host.console_size.1],
        annotations: (!host.annotations.is_empty()).then(|| host.annotations.clone()),
        cap_add: list(&host.cap_add),
        cap_drop: list(&host.cap_drop),
        cgroupns_mode: host.cgroup_namespace.clone(),
        dns: Some(host.dns.clone()),
        dns_options: Some(host.dns_options.clone()),
        dns_search: Some(host.dns_search.clone()),
        extra_hosts: list(&host.extra_hosts),
        group_add: list(&host.group_add),
        ipc_mode: host.ipc_mode.clone(),
        oom_score_adj: host.oom_score_adj,
        pid_mode: host.pid_mode.clone(),
        privileged: host.privileged,
        readonly_rootfs: host.readonly_rootfs,
        security_opt: list(&host.security_opt),
        tmpfs: (!host.tmpfs.is_empty()).then(|| host.tmpfs.clone()),
        uts_mode: host.uts_mode.clone(),
        userns_mode: host.userns_mode.clone(),
        shm_size: host.shm_size,
        sysctls: (!host.sysctls.is_empty()).then(|| host.sysctls.clone()),
        runtime: if host.runtime.is_empty() { "cove".into() } else { host.runtime.clone() },
        resources: resources(&host.resources, &host.cgroup_parent),
        mounts: (!host.mounts.is_empty()).then(|| host.mounts.iter().map(mount).collect()),
        masked_paths: Some(info.details.masked_paths.clone()),
        readonly_paths: Some(info.details.readonly_paths.clone()),
        init: host.init.then_some(true),
        ..HostConfig::default()
    }
}

fn resources(limits: &ResourceLimits, parent: &str) -> Resources {
    let rates = |list: &[(String, u64)]| {
        Some(list.iter().map(|(path, rate)| ThrottleDevice { path: path.clone(), rate: *rate }).collect())
    };
    Resources {
        cpu_shares: limits.cpu_shares,
        memory: limits.memory,
        nano_cpus: limits.nano_cpus,
        cgroup_parent: parent.to_owned(),
        blkio_weight: limits.blkio_weight,
        blkio_weight_device: Some(
            limits
                .blkio_weight_device
                .iter()
                .map(|(path, weight)| WeightDevice { path: path.clone(), weight: *weight })
                .collect(),
        ),
        blkio_device_read_bps: rates(&limits.blkio_read_bps),
        blkio_device_write_bps: rates(&limits.blkio_write_bps),
        blkio_device_read_iops: rates(&limits.blkio_read_iops),
        blkio_device_write_iops: rates(&limits.blkio_write_iops),
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        cpu_realtime_period: limits.cpu_realtime_period,
        cpu_realtime_runtime: limits.cpu_realtime_runtime,
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        devices: Some(
            limits
                .devices
                .iter()
                .map(|device| DeviceMapping {
                    path_on_host: device.host.clone(),
                    path_in_container: device.container.clone(),
                    cgroup_permissions: device.permissions.clone(),
                })
                .collect(),
        ),
        device_cgroup_rules: (!limits.device_cgroup_rules.is_empty())
            .then(|| limits.device_cgroup_rules.clone()),
        memory_reservation: limits.memory_reservation,
        memory_swap: if limits.memory_swap == 0 && limits.memory > 0 {
            limits.memory * 2
        } else {
            limits.memory_swap
        },
        memory_swappiness: limits.memory_swappiness,
        oom_kill_disable: limits.oom_kill_disable,
        pids_limit: limits.pids_limit,
        ulimits: Some(
            limits
                .ulimits
                .iter()
                .map(|limit| Ulimit { name: limit.name.clone(), hard: limit.hard, soft: limit.soft })
                .collect(),
        ),
        ..Resources::default()
    }
}
