//! Names of images: `alpine`, `ghcr.io/owner/app:1.2`, `name@sha256:…`.
//!
//! The grammar and the short forms are those of Docker's distribution reference: a name without a
//! registry is Docker Hub's, one without a path there is below `library/`, one without a tag or
//! digest means `latest`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Docker Hub, by the name it has in references.
const HUB: &str = "docker.io";

/// An image's name, in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Text that is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {text:?} {why}")]
pub struct InvalidReference {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Reference {
    /// Host and perhaps port: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path at the registry: `library/alpine`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, `latest` where there is neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the name has one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository in the short form people write: `alpine`, `localhost:5000/app`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != HUB {
            return format!("{}/{}", self.registry, self.repository);
        }
        self.repository.strip_prefix("library/").unwrap_or(&self.repository).to_owned()
    }

    /// The short form with tag or digest: `alpine:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        if let Some(tag) = &self.tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = &self.digest {
            text = format!("{text}@{digest}");
        }
        text
    }

    /// The same repository at a digest, without a tag.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference { text: text.chars().take(200).collect(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|_| invalid("has a malformed digest"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash is a port's.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            let mut bytes = tag.bytes();
            let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            let starts = bytes.next().is_some_and(is_word);
            if !starts || tag.len() > 128 || !bytes.all(|b| is_word(b) || b == b'.' || b == b'-') {
                return Err(invalid("has a malformed tag"));
            }
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path))
                if host.contains(['.', ':'])
                    || host == "localhost"
                    || host.chars().any(char::is_uppercase) =>
            {
                (host, path)
            }
            _ => (HUB, name),
        };
        let registry = if registry == "index.docker.io" { HUB } else { registry };
        if !is_host(registry) {
            return Err(invalid("has a malformed registry"));
        }
        if path.is_empty() || name.len() > 255 || !path.split('/').all(is_component) {
            return Err(invalid("must be lower case letters, digits and separators"));
        }
        if registry == HUB && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid("looks like an image id"));
        }
        let repository =
            if registry == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        let tag = match (tag, digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_port = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    let is_v6 = name.starts_with('[') && name.ends_with(']') && name.len() > 2;
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
            && bytes.first().zip(bytes.last()).is_some_and(|(a, b)| *a != b'-' && *b != b'-')
    };
    let is_name = name.split('.').all(is_label);
    is_port && (is_v6 || is_name)
}

/// Lower case letters and digits, divided by `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (first, last) = (part.bytes().next(), part.bytes().last());
    let ends_well = first.is_some_and(is_plain) && last.is_some_and(is_plain);
    ends_well
        && part.bytes().all(|b| is_plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && !part.contains("..")
        && !part.contains("___")
        && !["._", "_.", ".-", "-.", "_-", "-_"].iter().any(|pair| part.contains(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let found = text.parse::<Reference>().ok().map(|reference| reference.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }

    #[test]
    fn short_names_are_written_out() {
        check("alpine", Some("docker.io/library/alpine:latest"));
        check("alpine:3.20", Some("docker.io/library/alpine:3.20"));
        check("owner/app", Some("docker.io/owner/app:latest"));
        check("localhost/app", Some("localhost/app:latest"));
        check("localhost:5000/a/b:v1", Some("localhost:5000/a/b:v1"));
        check("ghcr.io/o/a__b-c.d:x", Some("ghcr.io/o/a__b-c.d:x"));
        let digest = format!("sha256:{}", "ab".repeat(32));
        check(&format!("alpine@{digest}"), Some(&format!("docker.io/library/alpine@{digest}")));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in
            ["", "Alpine", "a//b", "a:", "a:-x", "-a", "a_", "../a", "a@sha256:12", "a b", "host:port/a"]
        {
            check(text, None);
        }
    }

    #[test]
    fn familiar_names_are_as_short_as_they_were() {
        for text in ["alpine:latest", "owner/app:1", "localhost:5000/app:2"] {
            assert_eq!(text.parse::<Reference>().unwrap().familiar(), text);
        }
    }
}
