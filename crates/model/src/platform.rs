//! Operating system and processor that an image is for.

use std::fmt;
use std::str::FromStr;

/// A platform in Go's terms: `linux/amd64`, `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub architecture: String,
    /// Its variant; empty where there is but one.
    pub variant: String,
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: expected os/architecture, such as linux/amd64")]
pub struct InvalidPlatform {
    /// The text.
    pub text: String,
}

impl Platform {
    /// Linux on this machine's processor.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: String::new() }
    }

    /// Whether an image for `other` is what this asks for.
    #[must_use]
    pub fn accepts(&self, other: &Self) -> bool {
        // arm64 has one variant in use, which most leave out.
        let variant = |p: &Self| {
            if p.architecture == "arm64" && p.variant == "v8" { String::new() } else { p.variant.clone() }
        };
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_empty() || variant(self) == variant(other))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, InvalidPlatform> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_word =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let (os, architecture, variant) = match parts.as_slice() {
            [architecture] => ("linux", *architecture, ""),
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return Err(InvalidPlatform { text: text.to_owned() }),
        };
        if !parts.iter().all(is_word) {
            return Err(InvalidPlatform { text: text.to_owned() });
        }
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
    }
}
