//! From what a container is asked to be to the bundle the runtime takes: Docker's defaults.

mod defaults;
mod devices;
mod mounts;
mod resources;
mod seccomp_profile;

use std::path::{Path, PathBuf};

use model::container::ContainerSpec;
use oci_runtime::spec::{self, Linux, Namespace, Process, Root, Spec, User};

use crate::error::{Error, Result};

pub(crate) use defaults::{MASKED_PATHS, READONLY_PATHS};
pub(crate) use resources::runtime_resources;

/// Files the engine writes for a container and binds into it.
#[derive(Debug, Clone)]
pub(crate) struct HostFiles {
    pub(crate) hostname: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

/// What the bundle depends on besides the container's own specification.
pub(crate) struct Context<'a> {
    pub(crate) id: &'a str,
    pub(crate) files: &'a HostFiles,
    pub(crate) rootfs: &'a Path,
    /// Whether the engine runs in a user namespace of its user.
    pub(crate) is_rootless: bool,
    /// First process of the container whose namespace is joined, by the kind of namespace.
    pub(crate) joined: &'a dyn Fn(&str) -> Result<i32>,
    pub(crate) has_limits: bool,
    /// What the user has mounted.
    pub(crate) user_mounts: &'a [spec::Mount],
}

/// Security options, parsed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    pub(crate) is_seccomp_unconfined: bool,
    /// A profile given in the request, as JSON.
    pub(crate) seccomp_profile: Option<String>,
    pub(crate) are_paths_unmasked: bool,
}

impl Security {
    /// Reads `--security-opt`s.
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut security = Self::default();
        for option in options {
            let (name, value) =
                option.split_once('=').or_else(|| option.split_once(':')).unwrap_or((option, "true"));
            match (name, value) {
                ("no-new-privileges", "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.is_seccomp_unconfined = true,
                // Docker's CLI sends `builtin` for the engine's own profile.
                ("seccomp", "builtin") => security.is_seccomp_unconfined = false,
                ("seccomp", profile) => security.seccomp_profile = Some(profile.to_owned()),
                ("systempaths", "unconfined") => security.are_paths_unmasked = true,
                ("apparmor", "unconfined" | "") | ("label", "disable") => {}
                ("apparmor", _) => return Err(Error::unsupported("AppArmor profiles are not supported yet")),
                ("label", _) => return Err(Error::unsupported("SELinux labels are not supported yet")),
                _ => return Err(Error::invalid(format!("invalid --security-opt: {option:?}"))),
            }
        }
        Ok(security)
    }
}

/// Builds the bundle.
pub(crate) fn bundle(container: &ContainerSpec, context: &Context<'_>) -> Result<Spec> {
    let host = &container.host;
    let security = Security::parse(&host.security_opt)?;
    let is_open = host.privileged || security.are_paths_unmasked;
    let list = |given: &Option<Vec<String>>, default: &[&str]| match given {
        _ if is_open => Vec::new(),
        Some(given) => given.clone(),
        None => default.iter().map(ToString::to_string).collect(),
    };
    let (mut devices, rules) = devices::devices(container, context.is_rootless)?;
    devices.sort_by(|a, b| a.path.cmp(&b.path));
    let mut resources = resources::runtime_resources(&host.resources)?;
    resources.devices = rules;
    let has_own_uts = host.uts_mode != "host";
    let hostname = if has_own_uts { hostname(container, context.id) } else { String::new() };
    let linux = Linux {
        namespaces: namespaces(container, context)?,
        cgroups_path: String::new(),
        resources: context.has_limits.then_some(resources),
        sysctl: sysctls(container, context.is_rootless),
        masked_paths: list(&host.masked_paths, MASKED_PATHS),
        readonly_paths: list(&host.readonly_paths, READONLY_PATHS),
        devices,
        ..Linux::default()
    };
    Ok(Spec {
        oci_version: oci_runtime::container::OCI_VERSION.into(),
        process: Some(main_process(container, &security)?),
        root: Some(Root { path: context.rootfs.to_owned(), readonly: host.readonly_rootfs }),
        hostname,
        domainname: if has_own_uts { container.domainname.clone() } else { String::new() },
        mounts: mounts::mounts(container, context),
        hooks: None,
        annotations: host.annotations.clone(),
        linux: Some(linux),
    })
}

/// The compiled seccomp filter; `None` where the container is unconfined.
pub(crate) fn filter(container: &ContainerSpec) -> Result<Option<oci_runtime::seccomp::Program>> {
    let security = Security::parse(&container.host.security_opt)?;
    if container.host.privileged || security.is_seccomp_unconfined {
        return Ok(None);
    }
    let capabilities = defaults::capabilities(&container.host)?;
    let profile = match &security.seccomp_profile {
        Some(text) => seccomp_profile::parse(text, &capabilities)?,
        None => return seccomp_profile::compiled(&capabilities).map(Some),
    };
    Ok(Some(oci_runtime::seccomp::compile(&profile)?))
}

/// The name inside: as given, else the short id; with the host's network, the host's.
pub(crate) fn hostname(container: &ContainerSpec, id: &str) -> String {
    if !container.hostname.is_empty() {
        return container.hostname.clone();
    }
    if container.host.network_mode == "host" {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    id.get(..12).unwrap_or(id).to_owned()
}

/// The command line: the entrypoint, then the command.
pub(crate) fn command_line(container: &ContainerSpec) -> Vec<String> {
    let entrypoint = container.entrypoint.iter().flatten();
    entrypoint.chain(container.command.iter().flatten()).cloned().collect()
}

fn main_process(container: &ContainerSpec, security: &Security) -> Result<Process> {
    let args = command_line(container);
    if args.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    let (rows, columns) = container.host.console_size;
    Ok(Process {
        terminal: container.tty,
        console_size: Some(spec::ConsoleSize { height: rows, width: columns }),
        args,
        oom_score_adj: (container.host.oom_score_adj != 0).then_some(container.host.oom_score_adj),
        ..process(container, security, &container.user, container.host.privileged)?
    })
}

/// What the first and every later process of a container have in common.
pub(crate) fn process(
    container: &ContainerSpec,
    security: &Security,
    user: &str,
    is_privileged: bool,
) -> Result<Process> {
    let capabilities =
        if is_privileged { defaults::all_capabilities() } else { defaults::capabilities(&container.host)? };
    // As anybody but root, nothing is held; what a file grants stays within the bounding set.
    let is_root = matches!(user.split(':').next(), Some("" | "0" | "root"));
    let held = if is_root { capabilities.clone() } else { Vec::new() };
    let mut env = vec![defaults::PATH.to_owned()];
    if container.tty {
        env.push("TERM=xterm".into());
    }
    let hostname = (!container.hostname.is_empty()).then(|| format!("HOSTNAME={}", container.hostname));
    env.extend(hostname);
    for pair in &container.env {
        let name = pair.split('=').next().unwrap_or(pair);
        env.retain(|known| known.split('=').next() != Some(name));
        // A bare name takes the variable away.
        if pair.contains('=') {
            env.push(pair.clone());
        }
    }
    Ok(Process {
        user: User {
            lookup: Some(user.to_owned()),
            lookup_groups: container.host.group_add.clone(),
            ..User::default()
        },
        env,
        cwd: if container.working_dir.is_empty() { "/".into() } else { container.working_dir.clone() },
        capabilities: Some(spec::Capabilities {
            bounding: capabilities,
            effective: held.clone(),
            permitted: held,
            inheritable: Vec::new(),
            ambient: Vec::new(),
        }),
        rlimits: resources::rlimits(&container.host.resources.ulimits)?,
        no_new_privileges: security.no_new_privileges,
        ..Process::default()
    })
}

fn sysctls(container: &ContainerSpec, is_rootless: bool) -> std::collections::BTreeMap<String, String> {
    let mut sysctls = container.host.sysctls.clone();
    // With a network of its own, ports below 1024 and ping need no capability (Docker since 20.10).
    if container.host.network_mode != "host" && !container.host.network_mode.starts_with("container:") {
        sysctls.entry("net.ipv4.ip_unprivileged_port_start".into()).or_insert_with(|| "0".into());
        // The kernel takes only groups that the user namespace maps, so not all of them there.
        if !is_rootless {
            sysctls.entry("net.ipv4.ping_group_range".into()).or_insert_with(|| "0 2147483647".into());
        }
    }
    sysctls
}

fn namespaces(container: &ContainerSpec, context: &Context<'_>) -> Result<Vec<Namespace>> {
    let host = &container.host;
    let mut list = vec![new_namespace("mount")];
    if host.uts_mode != "host" {
        list.push(new_namespace("uts"));
    }
    for (kind, file, mode) in [
        ("pid", "pid", &host.pid_mode),
        ("ipc", "ipc", &host.ipc_mode),
        ("network", "net", &host.network_mode),
    ] {
        if mode == "host" {
            continue;
        }
        let mut namespace = new_namespace(kind);
        if let Some(other) = mode.strip_prefix("container:") {
            let pid = (context.joined)(other)?;
            namespace.path = Some(format!("/proc/{pid}/ns/{file}").into());
        }
        list.push(namespace);
    }
    if host.cgroup_namespace != "host" {
        list.push(new_namespace("cgroup"));
    }
    Ok(list)
}

fn new_namespace(kind: &str) -> Namespace {
    Namespace { r#type: kind.into(), path: None }
}
