//! What is mounted in a container, settled when it is created.

use serde::{Deserialize, Serialize};

/// A mount of a container: where it is from is settled, and every volume of it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What is mounted.
    pub source: MountSource,
    /// Where: absolute, in the container.
    pub target: String,
    /// The options as written, which `inspect` shows.
    #[serde(default)]
    pub mode: String,
    /// Whether it can be written.
    pub is_writable: bool,
    /// Whether read-only stops at this mount and spares what is mounted below it.
    #[serde(default)]
    pub is_readonly_shallow: bool,
    /// `rprivate` and the like; empty where that means nothing.
    #[serde(default)]
    pub propagation: String,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute.
        path: String,
        /// Whether a missing directory is made.
        creates: bool,
        /// Whether what is mounted below comes along.
        is_recursive: bool,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
        /// A part of it; empty is all.
        subpath: String,
        /// Whether it takes the image's files while it is empty.
        copies_up: bool,
        /// Whether it was made for this container and has no name of the user's.
        is_anonymous: bool,
    },
    /// Memory.
    Tmpfs {
        /// mount(8)'s, of this file system.
        options: Vec<String>,
    },
    /// An image's root, read-only.
    Image {
        /// As the user wrote it.
        name: String,
        /// The snapshot that holds its layers.
        snapshot: String,
        /// A part of it; empty is all.
        subpath: String,
    },
}

impl MountSource {
    /// Docker's word for it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Volume { .. } => "volume",
            Self::Tmpfs { .. } => "tmpfs",
            Self::Image { .. } => "image",
        }
    }
}

impl MountPoint {
    /// Whether it is a volume that nobody named.
    #[must_use]
    pub fn is_anonymous_volume(&self) -> bool {
        matches!(self.source, MountSource::Volume { is_anonymous: true, .. })
    }

    /// The volume's name, where it is one.
    #[must_use]
    pub fn volume(&self) -> Option<&str> {
        match &self.source {
            MountSource::Volume { name, .. } => Some(name),
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } | MountSource::Image { .. } => None,
        }
    }
}
