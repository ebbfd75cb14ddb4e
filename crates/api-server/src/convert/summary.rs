//! A container as a row of a list.

use api::container::{ContainerSummary, MountPoint, PortSummary, SummaryHostConfig, SummaryNetworks};
use engine::ContainerInfo;
use engine::lifecycle::State;

use super::network::networks;
use super::{int, seconds};

/// One row of `GET /containers/json`. `written`: bytes of its own layer, where asked for.
pub(crate) fn container_summary(
    info: &ContainerInfo,
    written: Option<(u64, u64)>,
    now: u64,
) -> ContainerSummary {
    let command = info.command_line();
    let mut words = vec![];
    for (at, word) in command.iter().enumerate() {
        words.push(if at > 0 && word.contains(' ') { format!("'{word}'") } else { word.clone() });
    }
    ContainerSummary {
        id: info.id.clone(),
        names: vec![format!("/{}", info.name)],
        image: image_name(info),
        image_id: info.image_id.clone(),
        command: words.join(" "),
        created: seconds(info.created),
        ports: container_ports(info),
        size_rw: written.map(|(rw, _)| int(rw)),
        size_root_fs: written.map(|(_, all)| int(all)),
        labels: info.spec.labels.clone(),
        state: info.state.name().into(),
        status: status_text(info, now),
        host_config: SummaryHostConfig {
            network_mode: info.spec.host.network_mode.clone(),
            annotations: (!info.spec.host.annotations.is_empty()).then(|| info.spec.host.annotations.clone()),
        },
        network_settings: SummaryNetworks { networks: networks(info) },
        mounts: mounts(info),
    }
}

/// What a user knows the root by.
pub(super) fn image_name(info: &ContainerInfo) -> String {
    match &info.spec.rootfs {
        Some(rootfs) => rootfs.display().to_string(),
        None => info.spec.image.clone(),
    }
}

/// What it publishes and exposes, as `ps` shows it.
pub(crate) fn container_ports(info: &ContainerInfo) -> Vec<PortSummary> {
    let published = info.network.ports.iter();
    let mut all: Vec<PortSummary> = published
        .map(|port| PortSummary {
            ip: port.address.to_string(),
            private_port: port.inner,
            public_port: Some(port.outer),
            r#type: port.protocol.to_string(),
        })
        .collect();
    if !info.network.endpoints.is_empty() {
        for exposed in &info.spec.exposed_ports {
            let (number, protocol) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
            let Ok(private_port) = number.parse() else { continue };
            if !all.iter().any(|port| port.private_port == private_port && port.r#type == protocol) {
                all.push(PortSummary { private_port, r#type: protocol.into(), ..PortSummary::default() });
            }
        }
    }
    all.sort_by_key(|port| (port.private_port, port.public_port));
    all
}

pub(super) fn mounts(info: &ContainerInfo) -> Vec<MountPoint> {
    info.mounts
        .iter()
        .map(|point| MountPoint {
            r#type: point.kind.into(),
            name: point.name.clone(),
            driver: point.driver.into(),
            source: point.source.clone(),
            destination: point.target.clone(),
            mode: point.mode.clone(),
            rw: point.is_writable,
            propagation: point.propagation.clone(),
        })
        .collect()
}

/// Docker's words: `Up 3 minutes (healthy)`, `Exited (0) 2 hours ago`.
pub(crate) fn status_text(info: &ContainerInfo, now: u64) -> String {
    let since = |at: u64| duration_text(now.saturating_sub(at) / 1_000_000_000);
    match &info.state {
        State::Created { .. } => "Created".into(),
        State::Running(run) => {
            let up = format!("Up {}", since(run.started_at));
            match &info.health {
                Some(health) if health.status.name() == "starting" => format!("{up} (health: starting)"),
                Some(health) => format!("{up} ({})", health.status.name()),
                None => up,
            }
        }
        State::Paused(run) => format!("Up {} (Paused)", since(run.started_at)),
        State::Restarting(end) => format!("Restarting ({}) {} ago", end.code, since(end.finished_at)),
        State::Exited(end) => format!("Exited ({}) {} ago", end.code, since(end.finished_at)),
        State::Removing => "Removal In Progress".into(),
    }
}

/// Go-units' `HumanDuration`.
fn duration_text(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::duration_text;

    #[test]
    fn durations_read_as_dockers() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (180, "3 minutes"),
            (3700, "About an hour"),
            (3600 * 5, "5 hours"),
            (3600 * 24 * 3, "3 days"),
        ] {
            assert_eq!(duration_text(seconds), expected);
        }
    }
}
