//! Referrers at a registry that keeps no account of them: the index under the tag `sha256-HEX` that stands
//! for the subject (OCI distribution-spec 1.1, "Pushing Manifests with Subject").

use model::Digest;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::upload::Target;
use crate::config::OCI_INDEX;
use crate::error::{Error, Result};
use crate::store::Node;

impl Target<'_> {
    /// Lists a manifest among what refers to `subject`.
    pub(super) async fn note_referrer(&self, subject: &Digest, referrer: &Node) -> Result<()> {
        let tag = format!("sha256-{}", subject.hex());
        let known = match self.client.manifest(self.repository, &tag, None, self.auth).await {
            Ok((_, bytes)) => Some(bytes),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(index) = with_referrer(known.as_deref(), &tag, referrer)? else { return Ok(()) };
        let bytes = bytes::Bytes::from(index);
        let digest = Digest::sha256(Sha256::digest(&bytes).into());
        self.send_manifest(&tag, OCI_INDEX, &bytes, &digest).await.map(drop)
    }
}

/// The index with one more entry; `None` where it has that already.
fn with_referrer(known: Option<&[u8]>, tag: &str, referrer: &Node) -> Result<Option<Vec<u8>>> {
    let mut index: Map<String, Value> = match known {
        None => Map::from_iter([
            ("schemaVersion".to_owned(), json!(2)),
            ("mediaType".to_owned(), json!(OCI_INDEX)),
            ("manifests".to_owned(), json!([])),
        ]),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| {
            Error::corrupt(format!("the index {tag} at the registry is malformed: {error}"))
        })?,
    };
    let entries = index.get_mut("manifests").and_then(Value::as_array_mut);
    let entries = entries.ok_or_else(|| {
        Error::corrupt(format!(
            "the registry has something else than an index of referrers under the tag {tag}"
        ))
    })?;
    let digest = referrer.digest.to_string();
    if entries.iter().any(|entry| entry.get("digest").and_then(Value::as_str) == Some(&digest)) {
        return Ok(None);
    }
    let manifest = &referrer.manifest;
    let of_config = || manifest.config.as_ref().map(|config| config.media_type.clone());
    let mut entry = json!({
        "mediaType": manifest.form(),
        "digest": digest,
        "size": referrer.bytes.len(),
    });
    if let Some(kind) = manifest.artifact_type.clone().or_else(of_config) {
        entry["artifactType"] = kind.into();
    }
    let whole: Value = serde_json::from_slice(&referrer.bytes).unwrap_or_default();
    if let Some(annotations) = whole.get("annotations").filter(|annotations| annotations.is_object()) {
        entry["annotations"] = annotations.clone();
    }
    entries.push(entry);
    Ok(Some(Value::from(index).to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_is_listed_once_with_its_type_and_annotations() {
        let bytes = br#"{"schemaVersion":2,"config":{"mediaType":"a/b"},"annotations":{"by":"me"}}"#.to_vec();
        let node = Node::alone(Digest::sha256([7; 32]), bytes).unwrap();
        let first = with_referrer(None, "t", &node).unwrap().unwrap();
        let index: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(index["mediaType"], OCI_INDEX);
        let entry = &index["manifests"][0];
        assert_eq!((&entry["artifactType"], &entry["annotations"]["by"]), (&json!("a/b"), &json!("me")));
        assert_eq!(with_referrer(Some(&first), "t", &node).unwrap(), None);
        let other = Node::alone(Digest::sha256([8; 32]), br#"{"schemaVersion":2}"#.to_vec()).unwrap();
        let second = with_referrer(Some(&first), "t", &other).unwrap().unwrap();
        let index: Value = serde_json::from_slice(&second).unwrap();
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2));
        assert!(with_referrer(Some(b"{}"), "t", &node).is_err());
    }
}
