//! The flags that say what a container is to be, as the engine takes them.

use std::collections::BTreeMap;

use api::container::{
    ContainerConfig, CreateContainer, DeviceMapping, HealthConfig, HostConfig, LogConfig, PortBinding,
    Resources, RestartPolicy, Ulimit,
};
use clap::Args;

use crate::exit::{Failure, Outcome, USAGE};
use crate::mounts::{parse_mount, parse_volumes};
use crate::networks::NetworkFlags;
use crate::terminal;
use crate::units::{parse_cpus, parse_duration, parse_size};

/// What `run` and `create` have in common.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct SpecArgs {
    /// Keep its input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Remove it when it ends
    #[arg(long)]
    rm: bool,
    /// NAME=value; a bare NAME takes the value from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// A file of NAME=value lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// Where it starts
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Name or id, and perhaps :group
    #[arg(short, long)]
    user: Option<String>,
    /// What runs in place of the image's entrypoint
    #[arg(long)]
    entrypoint: Option<String>,
    /// PATH:TARGET[:ro] binds a path, NAME:TARGET mounts a volume, TARGET alone a volume without a name
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// type=bind|volume|tmpfs|image,source=…,target=…[,readonly][,volume-subpath=…]…
    #[arg(long)]
    mount: Vec<String>,
    /// CONTAINER[:ro]: its mounts are this one's too
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// The driver of volumes that --volume makes
    #[arg(long, value_name = "DRIVER")]
    volume_driver: Option<String>,
    /// TARGET[:options]
    #[arg(long)]
    tmpfs: Vec<String>,
    #[command(flatten)]
    networks: NetworkFlags,
    /// [[ADDRESS:]HOST-PORT:]PORT[/tcp|udp], ranges too: 8080:80, 127.0.0.1:5353:53/udp, 8000-8009:8000-8009
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Publish every port the image exposes, at free ports of this computer
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// A port that it listens on, as the image would name it
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// The name inside
    #[arg(long)]
    hostname: Option<String>,
    /// The NIS domain inside
    #[arg(long)]
    domainname: Option<String>,
    /// no, always, unless-stopped or on-failure[:times]
    #[arg(long, default_value = "no")]
    restart: String,
    /// KEY=value
    #[arg(short, long)]
    label: Vec<String>,
    /// Processors, such as 1.5
    #[arg(long)]
    cpus: Option<String>,
    /// Relative weight
    #[arg(short, long)]
    cpu_shares: Option<i64>,
    /// Microseconds
    #[arg(long)]
    cpu_period: Option<i64>,
    /// Microseconds in each period
    #[arg(long)]
    cpu_quota: Option<i64>,
    /// Which processors: 0-2,5
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Which memory nodes
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Memory, such as 512m
    #[arg(short, long)]
    memory: Option<String>,
    /// Memory and swap together; -1 is no limit
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// What is kept for it when memory is short
    #[arg(long)]
    memory_reservation: Option<String>,
    /// How many processes at most
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// 10..1000
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// name=soft[:hard]
    #[arg(long)]
    ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    shm_size: Option<String>,
    /// A capability on top of the default ones
    #[arg(long)]
    cap_add: Vec<String>,
    /// A capability taken from the default ones
    #[arg(long)]
    cap_drop: Vec<String>,
    /// All capabilities, all devices, nothing hidden
    #[arg(long)]
    privileged: bool,
    /// A small init as its first process: passes signals on and reaps what is left to it
    #[arg(long)]
    init: bool,
    /// Its root can't be written
    #[arg(long)]
    read_only: bool,
    /// no-new-privileges, seccomp=FILE or unconfined, …
    #[arg(long)]
    security_opt: Vec<String>,
    /// HOST[:CONTAINER[:rwm]]
    #[arg(long)]
    device: Vec<String>,
    /// 'c 1:3 rwm'
    #[arg(long)]
    device_cgroup_rule: Vec<String>,
    /// name=value
    #[arg(long)]
    sysctl: Vec<String>,
    /// host or container:NAME
    #[arg(long)]
    pid: Option<String>,
    /// private, shareable, host, none or container:NAME
    #[arg(long)]
    ipc: Option<String>,
    /// host
    #[arg(long)]
    uts: Option<String>,
    /// private or host
    #[arg(long)]
    cgroupns: Option<String>,
    /// The parent of its cgroup
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// A group besides the user's own
    #[arg(long)]
    group_add: Vec<String>,
    /// name:address
    #[arg(long)]
    add_host: Vec<String>,
    /// A name server
    #[arg(long)]
    dns: Vec<String>,
    /// A search domain
    #[arg(long)]
    dns_search: Vec<String>,
    /// A resolver option
    #[arg(long)]
    dns_option: Vec<String>,
    /// json-file, local or none
    #[arg(long)]
    log_driver: Option<String>,
    /// max-size=10m, max-file=3
    #[arg(long)]
    log_opt: Vec<String>,
    /// A command that tells whether it is healthy
    #[arg(long)]
    health_cmd: Option<String>,
    /// Between two checks
    #[arg(long)]
    health_interval: Option<String>,
    /// For one check
    #[arg(long)]
    health_timeout: Option<String>,
    /// Failures don't count so long after the start
    #[arg(long)]
    health_start_period: Option<String>,
    /// How many failures make it unhealthy
    #[arg(long)]
    health_retries: Option<i64>,
    /// No health check, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
    /// How stop asks
    #[arg(long)]
    stop_signal: Option<String>,
    /// Seconds that stop waits
    #[arg(long)]
    stop_timeout: Option<i64>,
    /// -1000..1000
    #[arg(long, allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// key=value for the runtime
    #[arg(long)]
    annotation: Vec<String>,
    /// Write the id to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<String>,
    /// Run in a directory tree instead of an image
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<String>,
    /// The image (none with --rootfs), and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    words: Vec<String>,
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(message).with_code(USAGE)
}

impl SpecArgs {
    /// What is published, by the container's port.
    fn port_bindings(&self) -> Outcome<BTreeMap<String, Option<Vec<PortBinding>>>> {
        let mut bindings: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
        for text in &self.publish {
            for (inner, binding) in published(text)? {
                bindings.entry(inner).or_default().get_or_insert_default().push(binding);
            }
        }
        Ok(bindings)
    }

    /// Exposed by name, or because they are published.
    fn exposed_ports(&self) -> Outcome<Option<BTreeMap<String, api::container::Empty>>> {
        let mut ports = BTreeMap::new();
        for text in &self.expose {
            let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            for port in range_of(range).ok_or_else(|| bad(format!("invalid port: '{text}'")))? {
                ports.insert(format!("{port}/{protocol}"), api::container::Empty::default());
            }
        }
        for inner in self.port_bindings()?.into_keys() {
            ports.insert(inner, api::container::Empty::default());
        }
        Ok((!ports.is_empty()).then_some(ports))
    }

    /// The image, where one is given.
    pub(crate) fn image(&self) -> &str {
        if self.rootfs.is_some() { "" } else { self.words.first().map_or("", String::as_str) }
    }

    /// The command and its arguments.
    fn command(&self) -> &[String] {
        let at = usize::from(self.rootfs.is_none());
        self.words.get(at..).unwrap_or_default()
    }

    /// The request, but for what only `cove` knows.
    pub(crate) fn container(&self, is_attached: bool) -> Outcome<CreateContainer> {
        if self.tty && self.interactive && is_attached && !terminal::is_input() {
            return Err(bad("the input device is not a TTY"));
        }
        // What is no flag of ours is taken for the first word, which no image and no program begins so.
        if let Some(flag) = self.words.first().filter(|word| word.starts_with('-')) {
            return Err(bad(format!("unknown flag: {flag} (see 'cove run --help')")));
        }
        let image = if self.rootfs.is_some() { String::new() } else { self.image().to_owned() };
        let command = self.command().to_vec();
        Ok(CreateContainer {
            config: ContainerConfig {
                image,
                hostname: self.hostname.clone().unwrap_or_default(),
                domainname: self.domainname.clone().unwrap_or_default(),
                user: self.user.clone().unwrap_or_default(),
                attach_stdin: self.interactive && is_attached,
                attach_stdout: is_attached,
                attach_stderr: is_attached,
                tty: self.tty,
                open_stdin: self.interactive,
                stdin_once: self.interactive && is_attached,
                env: self.environment()?,
                cmd: (!command.is_empty()).then_some(command),
                entrypoint: self.entrypoint.clone().map(|program| vec![program]),
                working_dir: self.workdir.clone().unwrap_or_default(),
                exposed_ports: self.exposed_ports()?,
                volumes: Some(parse_volumes(&self.volume)?.1).filter(|volumes| !volumes.is_empty()),
                labels: pairs(&self.label),
                healthcheck: self.health()?,
                stop_signal: self.stop_signal.clone(),
                stop_timeout: self.stop_timeout,
                ..ContainerConfig::default()
            },
            host_config: self.host_config()?,
            networking_config: self.networks.endpoints()?,
        })
    }

    fn host_config(&self) -> Outcome<HostConfig> {
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let size = |text: &Option<String>| text.as_deref().map_or(Ok(0), parse_size);
        let (rows, columns) = terminal::size().filter(|_| self.tty).unwrap_or((0, 0));
        Ok(HostConfig {
            binds: list(&parse_volumes(&self.volume)?.0),
            volumes_from: list(&self.volumes_from),
            volume_driver: self.volume_driver.clone().unwrap_or_default(),
            mounts: if self.mount.is_empty() {
                None
            } else {
                Some(self.mount.iter().map(|text| parse_mount(text)).collect::<Outcome<_>>()?)
            },
            tmpfs: (!self.tmpfs.is_empty()).then(|| {
                let split = |text: &String| {
                    text.split_once(':').map_or((text.clone(), String::new()), |(a, b)| (a.into(), b.into()))
                };
                self.tmpfs.iter().map(split).collect()
            }),
            log_config: LogConfig {
                r#type: self.log_driver.clone().unwrap_or_default(),
                config: pairs(&self.log_opt),
            },
            port_bindings: self.port_bindings()?,
            publish_all_ports: self.publish_all,
            network_mode: self.networks.mode()?,
            links: self.networks.links(),
            restart_policy: parse_restart(&self.restart)?,
            auto_remove: self.rm,
            console_size: [rows, columns],
            annotations: (!self.annotation.is_empty()).then(|| pairs(&self.annotation)),
            cap_add: list(&self.cap_add),
            cap_drop: list(&self.cap_drop),
            cgroupns_mode: self.cgroupns.clone().unwrap_or_default(),
            dns: list(&self.dns),
            dns_options: list(&self.dns_option),
            dns_search: list(&self.dns_search),
            extra_hosts: list(&self.add_host),
            group_add: list(&self.group_add),
            ipc_mode: self.ipc.clone().unwrap_or_default(),
            pid_mode: self.pid.clone().unwrap_or_default(),
            uts_mode: self.uts.clone().unwrap_or_default(),
            oom_score_adj: self.oom_score_adj.unwrap_or(0),
            privileged: self.privileged,
            init: self.init.then_some(true),
            readonly_rootfs: self.read_only,
            security_opt: self.security_options()?,
            shm_size: size(&self.shm_size)?,
            sysctls: (!self.sysctl.is_empty()).then(|| pairs(&self.sysctl)),
            container_id_file: self.cidfile.clone().unwrap_or_default(),
            resources: Resources {
                cpu_shares: self.cpu_shares.unwrap_or(0),
                nano_cpus: self.cpus.as_deref().map_or(Ok(0), parse_cpus)?,
                cgroup_parent: self.cgroup_parent.clone().unwrap_or_default(),
                blkio_weight: self.blkio_weight.unwrap_or(0),
                cpu_period: self.cpu_period.unwrap_or(0),
                cpu_quota: self.cpu_quota.unwrap_or(0),
                cpuset_cpus: self.cpuset_cpus.clone().unwrap_or_default(),
                cpuset_mems: self.cpuset_mems.clone().unwrap_or_default(),
                devices: (!self.device.is_empty())
                    .then(|| self.device.iter().map(|text| parse_device(text)).collect()),
                device_cgroup_rules: list(&self.device_cgroup_rule),
                memory: size(&self.memory)?,
                memory_reservation: size(&self.memory_reservation)?,
                memory_swap: size(&self.memory_swap)?,
                pids_limit: self.pids_limit,
                ulimits: if self.ulimit.is_empty() {
                    None
                } else {
                    Some(self.ulimit.iter().map(|text| parse_ulimit(text)).collect::<Outcome<_>>()?)
                },
                ..Resources::default()
            },
            ..HostConfig::default()
        })
    }

    /// Files first, so that flags win.
    fn environment(&self) -> Outcome<Vec<String>> {
        let mut all = Vec::new();
        for file in &self.env_file {
            let text = std::fs::read_to_string(file).map_err(|error| bad(format!("{file}: {error}")))?;
            let lines =
                text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
            all.extend(lines.map(str::to_owned));
        }
        all.extend(self.env.iter().cloned());
        Ok(all
            .into_iter()
            .filter_map(|pair| {
                if pair.contains('=') {
                    return Some(pair);
                }
                std::env::var(&pair).ok().map(|value| format!("{pair}={value}"))
            })
            .collect())
    }

    /// A profile named by its file is sent whole.
    fn security_options(&self) -> Outcome<Option<Vec<String>>> {
        let read = |option: &String| -> Outcome<String> {
            match option.strip_prefix("seccomp=") {
                Some(file) if file != "unconfined" && file != "builtin" => {
                    let text =
                        std::fs::read_to_string(file).map_err(|error| bad(format!("{file}: {error}")))?;
                    Ok(format!("seccomp={text}"))
                }
                _ => Ok(option.clone()),
            }
        };
        let all = self.security_opt.iter().map(read).collect::<Outcome<Vec<_>>>()?;
        Ok((!all.is_empty()).then_some(all))
    }

    fn health(&self) -> Outcome<Option<HealthConfig>> {
        let time = |text: &Option<String>| text.as_deref().map_or(Ok(0), parse_duration);
        if self.no_healthcheck {
            return Ok(Some(HealthConfig { test: vec!["NONE".into()], ..HealthConfig::default() }));
        }
        let config = HealthConfig {
            test: self.health_cmd.clone().map(|line| vec!["CMD-SHELL".into(), line]).unwrap_or_default(),
            interval: time(&self.health_interval)?,
            timeout: time(&self.health_timeout)?,
            start_period: time(&self.health_start_period)?,
            retries: self.health_retries.unwrap_or(0),
            ..HealthConfig::default()
        };
        Ok((config != HealthConfig::default()).then_some(config))
    }
}

/// A list for the wire: none where there is nothing in it.
pub(crate) fn list(list: &[String]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// `KEY=value`s.
pub(crate) fn pairs(list: &[String]) -> BTreeMap<String, String> {
    let split = |text: &String| {
        text.split_once('=').map_or((text.clone(), String::new()), |(a, b)| (a.into(), b.into()))
    };
    list.iter().map(split).collect()
}

/// `on-failure:3`.
pub(crate) fn parse_restart(text: &str) -> Outcome<RestartPolicy> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    let count = count.parse().map_err(|_| bad(format!("invalid restart policy: '{text}'")))?;
    Ok(RestartPolicy { name: name.into(), maximum_retry_count: count })
}

fn parse_device(text: &str) -> DeviceMapping {
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default().to_owned();
    let second = parts.next().map(str::to_owned);
    let third = parts.next().map(str::to_owned);
    let is_mode = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let (container, permissions) = match (second, third) {
        (Some(mode), None) if is_mode(&mode) => (host.clone(), mode),
        (Some(path), mode) => (path, mode.unwrap_or_else(|| "rwm".into())),
        (None, _) => (host.clone(), "rwm".into()),
    };
    DeviceMapping { path_on_host: host, path_in_container: container, cgroup_permissions: permissions }
}

fn parse_ulimit(text: &str) -> Outcome<Ulimit> {
    let invalid = || bad(format!("invalid ulimit argument: {text}"));
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| if text == "unlimited" { Ok(-1) } else { text.parse().map_err(|_| invalid()) };
    Ok(Ulimit { name: name.into(), soft: number(soft)?, hard: number(hard)? })
}

/// One `--publish`, a binding a port.
fn published(text: &str) -> Outcome<Vec<(String, PortBinding)>> {
    let invalid = || bad(format!("invalid port specification: '{text}'"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (before, inner) = ports.rsplit_once(':').unwrap_or(("", ports));
    // An IPv6 address has colons of its own, in brackets.
    let (address, outer) = match before.rsplit_once(':') {
        Some((address, outer)) => (address.trim_matches(['[', ']']), outer),
        None => ("", before),
    };
    let inner: Vec<u16> = range_of(inner).ok_or_else(invalid)?.collect();
    let binding = |host_port: String| PortBinding { host_ip: address.to_owned(), host_port };
    if outer.is_empty() {
        return Ok(inner
            .into_iter()
            .map(|port| (format!("{port}/{protocol}"), binding(String::new())))
            .collect());
    }
    let hosts: Vec<u16> = range_of(outer).ok_or_else(invalid)?.collect();
    match inner.as_slice() {
        // Any one of a range.
        [port] if hosts.len() > 1 => Ok(vec![(format!("{port}/{protocol}"), binding(outer.to_owned()))]),
        _ if hosts.len() == inner.len() => Ok(inner
            .iter()
            .zip(hosts)
            .map(|(port, host)| (format!("{port}/{protocol}"), binding(host.to_string())))
            .collect()),
        _ => Err(bad(format!("invalid ranges specified for container and host ports: '{text}'"))),
    }
}

/// `80` or `8000-8010`.
fn range_of(text: &str) -> Option<std::ops::RangeInclusive<u16>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse::<u16>().ok()?, to.parse::<u16>().ok()?);
    (from > 0 && from <= to).then_some(from..=to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_limits_are_read_as_docker_reads_them() {
        assert_eq!(parse_device("/dev/fuse:r").cgroup_permissions, "r");
        assert_eq!(parse_device("/dev/a:/dev/b").path_in_container, "/dev/b");
        assert_eq!(parse_ulimit("nofile=10:20").unwrap().hard, 20);
        assert_eq!(parse_restart("on-failure:3").unwrap().maximum_retry_count, 3);
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let shown = |text: &str| {
            published(text).map(|list| {
                let each =
                    list.into_iter().map(|(inner, to)| format!("{}:{}->{inner}", to.host_ip, to.host_port));
                each.collect::<Vec<_>>().join(" ")
            })
        };
        for (text, expected) in [
            ("80", ":->80/tcp"),
            ("8080:80", ":8080->80/tcp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353->53/udp"),
            ("127.0.0.1::80", "127.0.0.1:->80/tcp"),
            ("[::1]:8080:80", "::1:8080->80/tcp"),
            ("8000-8001:80-81", ":8000->80/tcp :8001->81/tcp"),
            ("8000-8010:80", ":8000-8010->80/tcp"),
        ] {
            assert_eq!(shown(text).ok().as_deref(), Some(expected), "{text}");
        }
        for text in ["", "x", "80:", "0:0", "8000-8002:80-81", "9-8:80", "70000"] {
            assert!(published(text).is_err(), "{text}");
        }
    }
}
