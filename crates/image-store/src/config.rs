//! Image configurations and manifests as they stand in registries and archives (OCI image-spec and
//! Docker schema 2), and the form the rest of Cove uses.

use std::collections::BTreeMap;

use model::container::Healthcheck;
use model::{Digest, Platform};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What an image says of the containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The command, or the entrypoint's arguments.
    pub cmd: Option<Vec<String>>,
    /// What runs before `cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// Empty is `/`.
    pub working_dir: String,
    /// `name|uid[:group|gid]`.
    pub user: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that get anonymous volumes.
    pub volumes: Vec<String>,
    /// Key and value pairs.
    pub labels: BTreeMap<String, String>,
    /// How health is found.
    pub healthcheck: Option<Healthcheck>,
    /// How `stop` asks.
    pub stop_signal: Option<String>,
    /// The shell of `RUN` and `CMD-SHELL`.
    pub shell: Option<Vec<String>>,
    /// Triggers for images built on this one.
    pub on_build: Vec<String>,
    /// Windows' flag, kept.
    pub args_escaped: bool,
}

/// One line of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// A configuration file: `application/vnd.oci.image.config.v1+json` and Docker's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigFile {
    pub(crate) architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
    pub(crate) os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) comment: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) docker_version: String,
    pub(crate) config: Option<RawConfig>,
    pub(crate) rootfs: RootFs,
    pub(crate) history: Vec<History>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    pub(crate) r#type: String,
    pub(crate) diff_ids: Vec<Digest>,
}

/// Go's empty struct.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Empty {}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RawConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<BTreeMap<String, Empty>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<RawHealth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_escaped: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealth {
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

impl From<RawConfig> for ImageConfig {
    fn from(raw: RawConfig) -> Self {
        let keys = |map: Option<BTreeMap<String, Empty>>| map.unwrap_or_default().into_keys().collect();
        Self {
            env: raw.env.unwrap_or_default(),
            cmd: raw.cmd,
            entrypoint: raw.entrypoint,
            working_dir: raw.working_dir.unwrap_or_default(),
            user: raw.user.unwrap_or_default(),
            exposed_ports: keys(raw.exposed_ports),
            volumes: keys(raw.volumes),
            labels: raw.labels.unwrap_or_default(),
            healthcheck: raw.healthcheck.map(|health| Healthcheck {
                test: health.test,
                interval: health.interval,
                timeout: health.timeout,
                start_period: health.start_period,
                start_interval: health.start_interval,
                retries: health.retries,
            }),
            stop_signal: raw.stop_signal.filter(|signal| !signal.is_empty()),
            shell: raw.shell,
            on_build: raw.on_build.unwrap_or_default(),
            args_escaped: raw.args_escaped,
        }
    }
}

impl From<ImageConfig> for RawConfig {
    fn from(config: ImageConfig) -> Self {
        let set = |list: Vec<String>| {
            (!list.is_empty()).then(|| list.into_iter().map(|key| (key, Empty {})).collect())
        };
        let list = |list: Vec<String>| (!list.is_empty()).then_some(list);
        let word = |word: String| (!word.is_empty()).then_some(word);
        Self {
            env: list(config.env),
            cmd: config.cmd,
            entrypoint: config.entrypoint,
            working_dir: word(config.working_dir),
            user: word(config.user),
            exposed_ports: set(config.exposed_ports),
            volumes: set(config.volumes),
            labels: (!config.labels.is_empty()).then_some(config.labels),
            healthcheck: config.healthcheck.map(|health| RawHealth {
                test: health.test,
                interval: health.interval,
                timeout: health.timeout,
                start_period: health.start_period,
                start_interval: health.start_interval,
                retries: health.retries,
            }),
            stop_signal: config.stop_signal,
            shell: config.shell,
            on_build: list(config.on_build),
            args_escaped: config.args_escaped,
        }
    }
}

/// One thing a manifest points to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<RawPlatform>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Tools in Go write `null` for a list or map that is empty.
fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Descriptor {
    pub(crate) fn digest(&self) -> Result<Digest> {
        self.digest
            .parse()
            .map_err(|error| Error::corrupt(format!("the manifest names a blob badly: {error}")))
    }

    /// Whether an index says that this tells of another of its entries, as BuildKit's attestations do.
    pub(crate) fn is_attestation(&self) -> bool {
        let is_unknown = |platform: &RawPlatform| platform.os == "unknown";
        self.annotations.contains_key(REFERENCE_TYPE) || self.platform.as_ref().is_some_and(is_unknown)
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RawPlatform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

impl RawPlatform {
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// An image manifest or an index of several: which one, its fields tell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_default")]
    pub(crate) manifests: Vec<Descriptor>,
    /// What this says something of: a signature names what is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Descriptor>,
}

/// In an index's entry: what it is to another entry, and to which.
pub(crate) const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
pub(crate) const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

impl Manifest {
    /// Reads a manifest or index; deep or alien JSON is refused by the parser's own limits.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::corrupt(format!("the manifest is malformed: {error}")))?;
        if manifest.schema_version == 1 {
            return Err(Error::Unsupported {
                what:
                    "the image has Docker's schema 1, which registries gave up in 2019; push it again with a \
                       newer tool"
                        .into(),
            });
        }
        Ok(manifest)
    }

    pub(crate) fn is_index(&self) -> bool {
        self.config.is_none() && self.layers.is_empty() && !self.manifests.is_empty()
    }

    /// What it is sent as: OCI lets a manifest leave that out.
    pub(crate) fn form(&self) -> &str {
        match self.media_type.as_str() {
            "" if self.is_index() => OCI_INDEX,
            "" => OCI_MANIFEST,
            form => form,
        }
    }

    /// What it names beside manifests.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.config.iter().chain(&self.layers)
    }

    /// The configuration's descriptor; artifacts that are no images are refused.
    pub(crate) fn image_config(&self) -> Result<&Descriptor> {
        let config =
            self.config.as_ref().ok_or_else(|| Error::corrupt("the manifest names no configuration"))?;
        if config.media_type != OCI_CONFIG && config.media_type != DOCKER_CONFIG {
            let what = self.artifact_type.as_deref().unwrap_or(&config.media_type);
            return Err(Error::Unsupported {
                what: format!("this is no container image but an artifact of type {what}"),
            });
        }
        Ok(config)
    }

    /// The manifest of an index for a platform: the first that fits, the exact variant before others.
    pub(crate) fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| {
            !descriptor.is_attestation()
                && descriptor.platform.as_ref().is_none_or(|platform| wanted.accepts(&platform.platform()))
        })
    }
}
