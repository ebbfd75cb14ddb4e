//! bollard, the client of Docker's API for Rust, on its ordinary paths.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ExecConfig, HostConfig, NetworkConnectRequest, NetworkCreateRequest, PortBinding,
    VolumeCreateRequest,
};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, DataUsageOptions, EventsOptionsBuilder,
    InspectNetworkOptions, ListContainersOptionsBuilder, ListVolumesOptions, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveVolumeOptions, StatsOptionsBuilder, UploadToContainerOptionsBuilder,
    WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use support::daemon::Daemon;
use tokio::io::AsyncWriteExt;

const SECONDS: u64 = 60;

fn words(line: &str) -> Option<Vec<String>> {
    Some(line.split(' ').map(str::to_owned).collect())
}

fn named(name: &str) -> Option<bollard::query_parameters::CreateContainerOptions> {
    Some(CreateContainerOptionsBuilder::default().name(name).build())
}

async fn text(
    outputs: impl futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>>,
) -> Result<String> {
    let parts: Vec<LogOutput> = outputs.try_collect().await?;
    Ok(parts.iter().map(ToString::to_string).collect())
}

async fn remove(docker: &Docker, name: &str) -> Result<()> {
    Ok(docker
        .remove_container(name, Some(RemoveContainerOptionsBuilder::default().force(true).build()))
        .await?)
}

#[tokio::test]
async fn a_container_is_made_watched_and_removed() -> Result<()> {
    let daemon = Daemon::start()?;
    let docker = Docker::connect_with_unix(&daemon.address(), SECONDS, bollard::API_DEFAULT_VERSION)?
        .negotiate_version()
        .await?;
    ensure!(docker.ping().await? == "OK");
    ensure!(docker.version().await?.os.as_deref() == Some("linux"));
    let body = ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: words("sh -c"),
        env: Some(vec!["WHO=you".into()]),
        labels: Some(HashMap::from([("of".into(), "bollard".into())])),
        host_config: Some(HostConfig {
            memory: Some(64 << 20),
            network_mode: Some("none".into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let body = ContainerCreateBody {
        cmd: body.cmd.map(|mut words| {
            words.push("echo hello $WHO; echo oh >&2; exit 3".into());
            words
        }),
        ..body
    };
    let id = docker.create_container(named("one"), body).await?.id;
    docker.start_container("one", None).await?;
    // bollard takes a code that is not 0 for an error.
    let ended = docker.wait_container("one", None::<WaitContainerOptions>).try_collect::<Vec<_>>().await;
    ensure!(
        matches!(&ended, Err(bollard::errors::Error::DockerContainerWaitError { code: 3, .. })),
        "{ended:?}"
    );
    let logs = docker.logs("one", Some(LogsOptionsBuilder::default().stdout(true).stderr(true).build()));
    let mut lines: Vec<String> = text(logs).await?.lines().map(str::to_owned).collect();
    lines.sort();
    ensure!(lines == ["hello you", "oh"], "{lines:?}");
    let info = docker.inspect_container("one", None).await?;
    ensure!(info.state.context("no state")?.exit_code == Some(3));
    ensure!(info.host_config.context("no limits")?.memory == Some(64 << 20));
    let filters = HashMap::from([("label", vec!["of=bollard"])]);
    let list = docker
        .list_containers(Some(ListContainersOptionsBuilder::default().all(true).filters(&filters).build()))
        .await?;
    ensure!(
        list.len() == 1 && list.first().and_then(|row| row.id.as_deref()) == Some(id.as_str()),
        "{list:?}"
    );
    remove(&docker, "one").await?;
    let of_containers = HashMap::from([("type", vec!["container"])]);
    let past = EventsOptionsBuilder::default().filters(&of_containers).since("0").build();
    let seen: Vec<_> = docker.events(Some(past)).take(4).try_collect().await?;
    let seen: Vec<_> = seen.iter().filter_map(|event| event.action.as_deref()).collect();
    ensure!(seen == ["create", "start", "die", "destroy"], "{seen:?}");
    let gone = docker.inspect_container("one", None).await;
    ensure!(
        matches!(&gone, Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })),
        "{gone:?}"
    );
    Ok(())
}

#[tokio::test]
async fn streams_go_both_ways() -> Result<()> {
    let daemon = Daemon::start()?;
    let docker = Docker::connect_with_unix(&daemon.address(), SECONDS, bollard::API_DEFAULT_VERSION)?;
    let body = ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: words("cat"),
        open_stdin: Some(true),
        stdin_once: Some(true),
        host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    docker.create_container(named("two"), body).await?;
    let options = AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stream(true).build();
    let mut attached = docker.attach_container("two", Some(options)).await?;
    docker.start_container("two", None).await?;
    let exec = ExecConfig {
        cmd: words("sh -c"),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    };
    let exec = ExecConfig { cmd: exec.cmd.map(|w| [w, vec!["echo in; exit 4".into()]].concat()), ..exec };
    let made = docker.create_exec("two", exec).await?.id;
    let StartExecResults::Attached { output, .. } = docker.start_exec(&made, None).await? else {
        anyhow::bail!("an exec that was to be attached is not");
    };
    ensure!(text(output).await? == "in\n");
    ensure!(docker.inspect_exec(&made).await?.exit_code == Some(4));

    let sample = docker.stats("two", Some(StatsOptionsBuilder::default().stream(false).build())).next().await;
    ensure!(sample.context("no sample")??.memory_stats.and_then(|m| m.usage).is_some_and(|usage| usage > 0));

    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "put", b"ok".as_slice())?;
    let options = UploadToContainerOptionsBuilder::default().path("/").build();
    docker.upload_to_container("two", Some(options), bollard::body_full(tar.into_inner()?.into())).await?;
    let options =
        bollard::query_parameters::DownloadFromContainerOptionsBuilder::default().path("/put").build();
    let back: Vec<_> = docker.download_from_container("two", Some(options)).try_collect().await?;
    let back = back.concat();
    let mut archive = tar::Archive::new(back.as_slice());
    let mut entry = archive.entries()?.next().context("an empty archive")??;
    ensure!(std::io::read_to_string(&mut entry)? == "ok");

    attached.input.write_all(b"to and fro").await?;
    attached.input.shutdown().await?;
    ensure!(text(attached.output).await? == "to and fro");
    docker.wait_container("two", None::<WaitContainerOptions>).try_collect::<Vec<_>>().await?;
    remove(&docker, "two").await
}

#[tokio::test]
async fn networks_volumes_and_ports_are_had() -> Result<()> {
    let daemon = Daemon::start()?;
    let docker = Docker::connect_with_unix(&daemon.address(), SECONDS, bollard::API_DEFAULT_VERSION)?;
    let network = NetworkCreateRequest { name: "net".into(), ..NetworkCreateRequest::default() };
    docker.create_network(network).await?;
    docker
        .create_volume(VolumeCreateRequest { name: Some("vol".into()), ..VolumeCreateRequest::default() })
        .await?;
    let port = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some("0".into()) };
    let body = ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: words("sleep 60"),
        exposed_ports: Some(vec!["80/tcp".into()]),
        host_config: Some(HostConfig {
            network_mode: Some("net".into()),
            binds: Some(vec!["vol:/data".into()]),
            port_bindings: Some(HashMap::from([("80/tcp".into(), Some(vec![port]))])),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    docker.create_container(named("three"), body).await?;
    docker.start_container("three", None).await?;
    let info = docker.inspect_container("three", None).await?;
    let settings = info.network_settings.context("no networks")?;
    let ports = settings.ports.context("no ports")?;
    let bound = ports.get("80/tcp").cloned().flatten().context("the port is not published")?;
    ensure!(bound.first().and_then(|one| one.host_port.clone()).is_some_and(|port| port != "0"), "{bound:?}");
    docker
        .connect_network(
            "bridge",
            NetworkConnectRequest { container: "three".into(), ..NetworkConnectRequest::default() },
        )
        .await?;
    let members = docker
        .inspect_network("net", None::<InspectNetworkOptions>)
        .await?
        .containers
        .context("no members")?;
    ensure!(members.len() == 1);
    ensure!(
        docker
            .list_volumes(None::<ListVolumesOptions>)
            .await?
            .volumes
            .is_some_and(|list| list.iter().any(|one| one.name == "vol"))
    );
    let in_use = docker.remove_volume("vol", None::<RemoveVolumeOptions>).await;
    ensure!(
        matches!(&in_use, Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. })),
        "{in_use:?}"
    );
    remove(&docker, "three").await?;
    docker.remove_volume("vol", None::<RemoveVolumeOptions>).await?;
    docker.remove_network("net").await?;
    ensure!(
        docker.df(None::<DataUsageOptions>).await?.image_usage.is_some()
            && docker.info().await?.images.is_some()
    );
    Ok(())
}
