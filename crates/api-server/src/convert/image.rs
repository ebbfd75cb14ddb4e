//! Images on the wire.

use api::container::{ContainerConfig, Empty, GraphDriver, HealthConfig};
use api::image::{
    DistributionPlatform, ImageInspect, ImageMetadata, ImageSummary, ManifestAttestation, ManifestImage,
    ManifestSize, ManifestSummary, PlatformDescriptor, RootFs, UnpackedSize,
};
use image_store::{ImageConfig, ImageRecord, ManifestKind};
use model::Digest;

use super::int;

/// One row of `GET /images/json`.
pub(crate) fn image_summary(
    image: &ImageRecord,
    shared: Option<u64>,
    containers: Option<usize>,
) -> ImageSummary {
    let created = image.created.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
    ImageSummary {
        id: image.id.to_string(),
        parent_id: parent(image),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        created,
        size: int(image.size),
        shared_size: shared.map_or(-1, int),
        labels: image.config.labels.clone(),
        containers: containers.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
        ..ImageSummary::default()
    }
}

/// One entry of the index that an image came by. `users`: the containers of an image.
pub(crate) fn manifest_summary(
    entry: &image_store::ManifestSummary,
    users: impl Fn(&Digest) -> Vec<String>,
) -> ManifestSummary {
    let platform = entry.platform.as_ref().map(|platform| DistributionPlatform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
    });
    let mut summary = ManifestSummary {
        id: entry.digest.to_string(),
        available: entry.is_available,
        size: ManifestSize { total: int(entry.content_size), content: int(entry.content_size) },
        ..ManifestSummary::default()
    };
    match &entry.kind {
        ManifestKind::Image { id, unpacked } => {
            summary.kind = "image".into();
            summary.size.total = summary.size.total.saturating_add(int(*unpacked));
            summary.image_data = Some(ManifestImage {
                platform: platform.clone().unwrap_or_default(),
                containers: id.as_ref().map(users).unwrap_or_default(),
                size: UnpackedSize { unpacked: int(*unpacked) },
            });
        }
        ManifestKind::Attestation { of } => {
            summary.kind = "attestation".into();
            summary.attestation_data = of.map(|of| ManifestAttestation { r#for: of.to_string() });
        }
        ManifestKind::Unknown => summary.kind = "unknown".into(),
    }
    let (media_type, digest, size) = (entry.media_type.clone(), entry.digest.to_string(), entry.size);
    summary.descriptor = PlatformDescriptor { media_type, digest, size, platform };
    summary
}

/// The answer of `GET /images/{name}/json`.
pub(crate) fn image_inspect(image: &ImageRecord) -> ImageInspect {
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: parent(image),
        comment: image.comment.clone(),
        created: (!image.created.is_empty()).then(|| image.created.clone()),
        docker_version: image.docker_version.clone(),
        author: image.author.clone(),
        config: config(&image.config),
        architecture: image.architecture.clone(),
        variant: image.variant.clone(),
        os: image.os.clone(),
        size: int(image.size),
        graph_driver: GraphDriver { data: None, name: "overlay2".into() },
        root_fs: RootFs {
            r#type: "layers".into(),
            layers: image.diff_ids.iter().map(ToString::to_string).collect(),
        },
        metadata: ImageMetadata { last_tag_time: "0001-01-01T00:00:00Z".into() },
        ..ImageInspect::default()
    }
}

/// The id of the image it was made from; empty where it was not made here.
fn parent(image: &ImageRecord) -> String {
    image.parent.map(|parent| parent.to_string()).unwrap_or_default()
}

fn config(config: &ImageConfig) -> ContainerConfig {
    let set = |list: &[String]| {
        (!list.is_empty()).then(|| list.iter().map(|key| (key.clone(), Empty {})).collect())
    };
    ContainerConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.as_ref().map(|health| HealthConfig {
            test: health.test.clone(),
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        }),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone(),
        on_build: (!config.on_build.is_empty()).then(|| config.on_build.clone()),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone(),
        args_escaped: config.args_escaped,
        ..ContainerConfig::default()
    }
}
