//! The part of a scripted registry that takes pushes, as an honest one does; tests put lies before it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Answer, Request};
use crate::image::sha256;

/// What a registry has been given.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By `sha256:…`, with the repositories that have them.
    blobs: HashMap<String, (Vec<u8>, Vec<String>)>,
    /// By path.
    sessions: HashMap<String, Vec<u8>>,
    /// By path, with their types.
    manifests: HashMap<String, Vec<u8>>,
    count: usize,
}

impl Uploads {
    /// A blob of a digest like `sha256:…`.
    #[must_use]
    pub fn blob(&self, digest: &str) -> Option<Vec<u8>> {
        self.kept().blobs.get(digest).map(|(bytes, _)| bytes.clone())
    }

    /// A manifest by repository and tag.
    #[must_use]
    pub fn manifest(&self, repository: &str, tag: &str) -> Option<Vec<u8>> {
        self.kept().manifests.get(&format!("/v2/{repository}/manifests/{tag}")).cloned()
    }

    /// How many uploads were begun and not ended.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.kept().sessions.len()
    }

    /// Forgets the uploads that are under way.
    pub fn lose(&self) {
        self.kept().sessions.clear();
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an honest registry answers.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Answer {
        let mut kept = self.kept();
        let missing = || Answer::status("404 Not Found");
        let Some((repository, rest)) = split(&request.path) else { return Answer::new(Vec::new()) };
        match (request.method.as_str(), rest) {
            ("PUT", rest) if rest.starts_with("manifests/") => {
                let digest = format!("sha256:{}", sha256(&request.bytes));
                let by_digest = format!("/v2/{repository}/manifests/{digest}");
                kept.manifests.insert(request.path.clone(), request.bytes.clone());
                kept.manifests.insert(by_digest, request.bytes.clone());
                Answer::status("201 Created").with("Docker-Content-Digest", digest)
            }
            ("GET" | "HEAD", rest) if rest.starts_with("manifests/") => {
                kept.manifests.get(&request.path).map_or_else(missing, |bytes| Answer::new(bytes.clone()))
            }
            ("POST", "blobs/uploads/") => {
                let parameter = |name: &str| {
                    let pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
                    let value = pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value);
                    value.map(|value| value.replace("%3A", ":").replace("%2F", "/"))
                };
                if let (Some(digest), Some(from)) = (parameter("mount"), parameter("from"))
                    && let Some((_, repositories)) = kept.blobs.get_mut(&digest)
                    && repositories.contains(&from)
                {
                    repositories.push(repository.to_owned());
                    return Answer::status("201 Created");
                }
                kept.count += 1;
                let place = format!("/v2/{repository}/blobs/uploads/{}", kept.count);
                kept.sessions.insert(place.clone(), Vec::new());
                Answer::status("202 Accepted").with("Location", place)
            }
            ("GET", rest) if rest.starts_with("blobs/uploads/") => match kept.sessions.get(&request.path) {
                None => missing(),
                Some(bytes) => Answer::status("204 No Content")
                    .with("Range", format!("0-{}", bytes.len().saturating_sub(1)))
                    .with("Location", request.path.clone()),
            },
            ("PATCH", _) => {
                let Some(bytes) = kept.sessions.get_mut(&request.path) else { return missing() };
                if request.sent_from.is_some_and(|from| from != bytes.len() as u64) {
                    return Answer::status("416 Range Not Satisfiable");
                }
                bytes.extend(&request.bytes);
                let range = format!("0-{}", bytes.len().saturating_sub(1));
                Answer::status("202 Accepted").with("Range", range).with("Location", request.path.clone())
            }
            ("PUT", _) => {
                let Some(bytes) = kept.sessions.get_mut(&request.path) else { return missing() };
                bytes.extend(&request.bytes);
                if request.is_cut {
                    return missing();
                }
                let bytes = kept.sessions.remove(&request.path).unwrap_or_default();
                let digest = format!("sha256:{}", sha256(&bytes));
                if !request.query.replace("%3A", ":").contains(&digest) {
                    let body = br#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}"#;
                    return Answer { status: "400 Bad Request", ..Answer::new(body.to_vec()) };
                }
                let entry = kept.blobs.entry(digest.clone()).or_default();
                entry.0 = bytes;
                entry.1.push(repository.to_owned());
                Answer::status("201 Created").with("Docker-Content-Digest", digest)
            }
            ("DELETE", _) => {
                kept.sessions.remove(&request.path);
                Answer::status("204 No Content")
            }
            (_, rest) => {
                let digest = rest.trim_start_matches("blobs/");
                let blob = kept.blobs.get(digest);
                let blob = blob.filter(|(_, repositories)| repositories.iter().any(|one| one == repository));
                blob.map_or_else(missing, |(bytes, _)| Answer::new(bytes.clone()))
            }
        }
    }
}

/// Repository and the rest of a path.
fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("/v2/")?;
    let at = path.find("/blobs/").or_else(|| path.find("/manifests/"))?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}
