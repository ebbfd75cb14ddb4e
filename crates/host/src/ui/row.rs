//! A container as one row of a list.

use api::container::{ContainerInspect, ContainerSummary, EndpointSettings};
use serde::{Deserialize, Serialize};

/// One row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct ContainerRow {
    /// The whole id.
    pub id: String,
    /// As the command line takes it.
    pub name: String,
    /// As the list shows it: a Compose service's own name inside its project.
    pub title: String,
    /// The Compose project it belongs to.
    pub project: Option<String>,
    /// The image's reference as people write it.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// What runs.
    pub command: String,
    /// How to draw its state.
    pub shape: Shape,
    /// Docker's word for its state.
    pub state: String,
    /// Checks that failed in a row.
    pub failing_streak: u32,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
    /// Why the engine could not start it.
    pub error: Option<String>,
    /// Whether it has a health check, and what that says.
    pub health: Option<String>,
    /// Milliseconds since the epoch, as the next two.
    pub created_at: u64,
    /// When it was last started.
    pub started_at: Option<u64>,
    /// When it last ended.
    pub finished_at: Option<u64>,
    /// Where it can be reached.
    pub ports: Vec<Port>,
    /// Docker's network mode.
    pub network: String,
    /// The networks it is on, or will be when it runs, by name.
    pub networks: Vec<String>,
    /// What it is called there, and its addresses while it runs.
    pub endpoints: Vec<Endpoint>,
    /// The volumes it has.
    pub volumes: Vec<VolumeUse>,
    /// Whether it goes away when it ends.
    pub auto_remove: bool,
}

/// A container's place on a network; texts are empty where there is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// Names by which others there find it besides its own.
    pub aliases: Vec<String>,
    /// Without the network's prefix.
    pub ipv4: String,
    /// Likewise.
    pub ipv6: String,
    /// The hardware's address.
    pub mac: String,
}

/// A state as a shape and a colour; the drawings name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the drawings describe them")]
pub enum Shape {
    Running,
    Starting,
    Paused,
    #[default]
    Exited,
    Unhealthy,
    Failed,
}

/// A port that can be opened from here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// On this computer.
    pub host: u16,
    /// In the container.
    pub container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// What a browser opens, for TCP.
    pub url: Option<String>,
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct VolumeUse {
    /// The volume's name.
    pub name: String,
    /// Where the container has it.
    pub target: String,
    /// Whether it can't be changed from there.
    pub read_only: bool,
}

impl ContainerRow {
    /// What the list tells. Exact times come with [`Self::enrich`].
    #[must_use]
    pub fn of(summary: ContainerSummary) -> Self {
        let name = summary.names.first().map_or("", |name| name.trim_start_matches('/')).to_owned();
        let label = |key: &str| summary.labels.get(key).filter(|value| !value.is_empty()).cloned();
        let project = label("com.docker.compose.project");
        let title = match (&project, label("com.docker.compose.service")) {
            (Some(_), Some(service)) => match label("com.docker.compose.container-number").as_deref() {
                None | Some("1") => service,
                Some(number) => format!("{service} {number}"),
            },
            _ => name.clone(),
        };
        let health = health_of(&summary.status);
        let exit_code = (summary.state == "exited").then(|| exit_code_of(&summary.status)).flatten();
        let mut ports: Vec<_> = summary
            .ports
            .iter()
            .filter_map(|port| Some(Port::new(port.public_port?, port.private_port, &port.r#type)))
            .collect();
        ports.sort();
        ports.dedup();
        let networks = summary.network_settings.networks;
        let volumes = summary
            .mounts
            .into_iter()
            .filter(|mount| mount.r#type == "volume")
            .map(|mount| VolumeUse { name: mount.name, target: mount.destination, read_only: !mount.rw });
        Self {
            title: if title.is_empty() { summary.id.chars().take(12).collect() } else { title },
            shape: shape_of(&summary.state, health.as_deref(), exit_code, false, false),
            image: short_image(&summary.image),
            created_at: u64::try_from(summary.created).unwrap_or(0) * 1000,
            id: summary.id,
            image_id: summary.image_id,
            command: summary.command,
            state: summary.state,
            network: summary.host_config.network_mode,
            networks: networks.keys().cloned().collect(),
            endpoints: networks.into_iter().map(|(name, place)| Endpoint::of(name, place)).collect(),
            volumes: volumes.collect(),
            name,
            project,
            exit_code,
            health,
            ports,
            ..Self::default()
        }
    }

    /// Adds what only a container's own page tells: exact times, why it ended, the ports of one on
    /// the computer's own network.
    pub fn enrich(&mut self, page: &ContainerInspect) {
        let state = &page.state;
        self.started_at = millis(&state.started_at);
        self.finished_at = millis(&state.finished_at);
        self.oom_killed = state.oom_killed;
        self.error = (!state.error.is_empty()).then(|| state.error.clone());
        self.auto_remove = page.host_config.auto_remove;
        // The list's may lack the names.
        let networks = &page.network_settings.networks;
        if !networks.is_empty() {
            self.networks = networks.keys().cloned().collect();
            let places = networks.clone().into_iter();
            self.endpoints = places.map(|(name, place)| Endpoint::of(name, place)).collect();
        }
        if let Some(health) = &state.health {
            self.failing_streak = u32::try_from(health.failing_streak).unwrap_or(0);
        }
        // The page is newer than the list: its state is the one that counts.
        if !state.status.is_empty() {
            self.state.clone_from(&state.status);
        }
        self.exit_code = (self.state == "exited" || self.state == "dead")
            .then(|| i32::try_from(state.exit_code).ok())
            .flatten();
        let failed = self.error.is_some() && self.started_at.is_none();
        self.shape = shape_of(&self.state, self.health.as_deref(), self.exit_code, state.oom_killed, failed);
        if self.network == "host" && self.state == "running" {
            self.ports = exposed(page);
        } else if self.network == "host" {
            self.ports.clear();
        }
    }
}

impl Endpoint {
    fn of(network: String, settings: EndpointSettings) -> Self {
        Self {
            network,
            aliases: settings.aliases.unwrap_or_default(),
            ipv4: settings.ip_address,
            ipv6: settings.global_ipv6_address,
            mac: settings.mac_address,
        }
    }
}

impl Port {
    fn new(host: u16, container: u16, protocol: &str) -> Self {
        let url = (protocol == "tcp").then(|| match host {
            443 | 8443 => format!("https://localhost:{host}"),
            _ => format!("http://localhost:{host}"),
        });
        Self { host, container, protocol: protocol.to_owned(), url }
    }
}

/// On the computer's own network a container listens where its image says it does.
fn exposed(page: &ContainerInspect) -> Vec<Port> {
    let names = page.config.exposed_ports.iter().flat_map(|ports| ports.keys());
    let mut ports: Vec<_> = names
        .filter_map(|name| {
            let (port, protocol) = name.split_once('/').unwrap_or((name, "tcp"));
            let port = port.parse().ok()?;
            Some(Port::new(port, port, protocol))
        })
        .collect();
    ports.sort();
    ports
}

fn shape_of(state: &str, health: Option<&str>, exit: Option<i32>, oom: bool, failed: bool) -> Shape {
    match state {
        "running" => match health {
            Some("unhealthy") => Shape::Unhealthy,
            Some("starting") => Shape::Starting,
            _ => Shape::Running,
        },
        "restarting" | "removing" => Shape::Starting,
        "paused" => Shape::Paused,
        "dead" => Shape::Failed,
        _ if oom || failed => Shape::Failed,
        _ => match exit {
            // Ended by SIGINT, SIGKILL or SIGTERM: that is how a stop ends.
            None | Some(0 | 130 | 137 | 143) => Shape::Exited,
            Some(_) => Shape::Failed,
        },
    }
}

/// `Up 3 minutes (healthy)`
fn health_of(status: &str) -> Option<String> {
    let (_, rest) = status.split_once('(')?;
    match rest.trim_end_matches(')') {
        "healthy" => Some("healthy".to_owned()),
        "unhealthy" => Some("unhealthy".to_owned()),
        "health: starting" => Some("starting".to_owned()),
        _ => None,
    }
}

/// `Exited (137) 5 minutes ago`
fn exit_code_of(status: &str) -> Option<i32> {
    status.strip_prefix("Exited (")?.split_once(')')?.0.parse().ok()
}

/// A reference without what every reference of its kind begins with.
pub(crate) fn short_image(reference: &str) -> String {
    let rest = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let rest = rest.strip_prefix("library/").unwrap_or(rest);
    if let Some(id) = rest.strip_prefix("sha256:") {
        return id.chars().take(12).collect();
    }
    rest.split_once('@').map_or(rest, |(name, _)| name).to_owned()
}

/// An RFC 3339 time in milliseconds since the epoch; Docker's year 1 means never.
pub(crate) fn millis(time: &str) -> Option<u64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().filter(|millis| *millis > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::container::PortSummary;

    fn row(state: &str, status: &str) -> ContainerRow {
        ContainerRow::of(ContainerSummary {
            id: "4f1c9a72e0b34f1c9a72e0b3".into(),
            names: vec!["/storefront-api-1".into()],
            image: "docker.io/library/nginx:1.27".into(),
            state: state.into(),
            status: status.into(),
            ..ContainerSummary::default()
        })
    }

    #[test]
    fn a_state_is_a_shape() {
        let check = |state, status, shape| assert_eq!(row(state, status).shape, shape, "{state} {status}");
        check("running", "Up 3 minutes", Shape::Running);
        check("running", "Up 3 minutes (healthy)", Shape::Running);
        check("running", "Up 3 seconds (health: starting)", Shape::Starting);
        check("running", "Up 3 minutes (unhealthy)", Shape::Unhealthy);
        check("paused", "Up 3 minutes (Paused)", Shape::Paused);
        check("exited", "Exited (0) 3 hours ago", Shape::Exited);
        check("exited", "Exited (143) 3 hours ago", Shape::Exited);
        check("exited", "Exited (1) 3 hours ago", Shape::Failed);
        check("created", "Created", Shape::Exited);
        check("restarting", "Restarting (1) 2 seconds ago", Shape::Starting);
    }

    #[test]
    fn a_page_adds_times_and_the_reason_of_an_end() {
        let mut row = row("exited", "Exited (137) 5 minutes ago");
        let mut page = ContainerInspect::default();
        page.state.status = "exited".into();
        page.state.started_at = "2026-11-24T11:00:00.5Z".into();
        page.state.finished_at = "0001-01-01T00:00:00Z".into();
        page.state.exit_code = 137;
        page.state.oom_killed = true;
        row.enrich(&page);
        assert_eq!((row.started_at, row.finished_at), (Some(1_795_518_000_500), None));
        assert_eq!((row.shape, row.exit_code), (Shape::Failed, Some(137)));
    }

    #[test]
    fn a_page_adds_the_names_a_container_has_on_its_networks() {
        let mut row = row("running", "Up 3 minutes");
        let place = EndpointSettings {
            aliases: Some(vec!["store".into()]),
            ip_address: "172.18.0.2".into(),
            ..EndpointSettings::default()
        };
        let mut page = ContainerInspect::default();
        page.network_settings.networks.insert("backend".into(), place);
        row.enrich(&page);
        assert_eq!(row.networks, ["backend"]);
        assert_eq!((&*row.endpoints[0].ipv4, &*row.endpoints[0].aliases[0]), ("172.18.0.2", "store"));
    }

    #[test]
    fn a_service_goes_by_its_own_name_inside_its_project() {
        let labels = |number: &str| {
            [("project", "storefront"), ("service", "api"), ("container-number", number)]
                .map(|(key, value)| (format!("com.docker.compose.{key}"), value.to_owned()))
                .into_iter()
                .collect()
        };
        let title = |number| {
            ContainerRow::of(ContainerSummary { labels: labels(number), ..Default::default() }).title
        };
        assert_eq!(title("1"), "api");
        assert_eq!(title("2"), "api 2");
    }

    #[test]
    fn published_ports_are_links_once_for_both_families() {
        let port = |ip: &str, r#type: &str| PortSummary {
            ip: ip.into(),
            private_port: 80,
            public_port: Some(8080),
            r#type: r#type.into(),
        };
        let row = ContainerRow::of(ContainerSummary {
            ports: vec![port("0.0.0.0", "tcp"), port("::", "tcp"), port("0.0.0.0", "udp")],
            ..ContainerSummary::default()
        });
        assert_eq!(row.ports.len(), 2);
        assert_eq!(row.ports[0].url.as_deref(), Some("http://localhost:8080"));
        assert_eq!(row.ports[1].url, None);
    }

    #[test]
    fn volumes_are_told_apart_from_folders() {
        use api::container::MountPoint;
        let mount = |r#type: &str, name: &str, rw| MountPoint {
            r#type: r#type.into(),
            name: name.into(),
            destination: "/data".into(),
            rw,
            ..MountPoint::default()
        };
        let row = ContainerRow::of(ContainerSummary {
            mounts: vec![mount("volume", "pgdata", false), mount("bind", "", true)],
            ..ContainerSummary::default()
        });
        let wanted = VolumeUse { name: "pgdata".into(), target: "/data".into(), read_only: true };
        assert_eq!(row.volumes, [wanted]);
    }

    #[test]
    fn an_image_is_named_as_people_write_it() {
        assert_eq!(short_image("docker.io/library/nginx:1.27"), "nginx:1.27");
        assert_eq!(short_image("ghcr.io/acme/api:dev@sha256:0123"), "ghcr.io/acme/api:dev");
        assert_eq!(short_image("sha256:4f1c9a72e0b34f1c9a72"), "4f1c9a72e0b3");
    }
}
