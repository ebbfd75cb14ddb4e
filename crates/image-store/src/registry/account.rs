//! What is asked of registries beside images: whether a login holds, what a name leads to, and searches.

use model::{Digest, Platform, Reference};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::client::Asked;
use super::proof::{basic, encode_form};
use super::{Auth, known_auth};
use crate::config::{DOCKER_LIST, DOCKER_MANIFEST, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::error::{Error, Result};
use crate::store::{ImageStore, parse_config};

/// A login that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Stands for user and password from now on; empty where the registry gives none.
    pub identity_token: String,
}

/// What a name leads to at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Of the manifest or index.
    pub media_type: String,
    /// Of the manifest or index.
    pub digest: Digest,
    /// Of the manifest or index, in bytes.
    pub size: u64,
    /// What it is for.
    pub platforms: Vec<Platform>,
}

/// A repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// In its owner's words.
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// Whether it is Docker Hub's own.
    pub is_official: bool,
    /// Whether Docker Hub built it.
    pub is_automated: bool,
}

impl ImageStore {
    /// Checks a login at a registry.
    ///
    /// # Errors
    /// Where the registry does not accept it, or can't be reached.
    pub async fn check_login(&self, registry: &str, auth: &Auth) -> Result<Login> {
        let client = self.fetcher.client_of(registry)?;
        let build = |base: &str| Ok(client.http.get(format!("{base}/v2/")));
        // Nothing that was accepted before counts here.
        let response = client.send(&build, None).await?;
        let none = Login { identity_token: String::new() };
        if response.status().is_success() {
            return Ok(none);
        }
        let url = format!("{}/v2/", client.chosen().unwrap_or_default());
        let failed = |status: StatusCode| format!("login attempt to {url} failed with status: {status}");
        if response.status() != StatusCode::UNAUTHORIZED {
            let what = failed(response.status());
            return Err(if response.status().is_server_error() {
                Error::Unavailable { what }
            } else {
                Error::NotFound { what: format!("{what}: there may be no registry at {registry}") }
            });
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<String> =
            challenges.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
        let bearer = challenges.iter().find_map(|challenge| challenge.strip_prefix("Bearer "));
        let (proof, identity_token) = match bearer {
            None => (basic(auth), String::new()),
            Some(challenge) => {
                let token = client.token(challenge, "", Some(auth)).await.map_err(|error| match error {
                    Error::Denied { what } => Error::Denied { what: format!("Get \"{url}\": {what}") },
                    other => other,
                })?;
                (format!("Bearer {}", token.access), token.refresh)
            }
        };
        let response = client.send(&build, Some(proof)).await?;
        match response.status() {
            status if status.is_success() => Ok(Login { identity_token }),
            status if status.is_server_error() => Err(Error::Unavailable { what: failed(status) }),
            status => Err(Error::Denied { what: failed(status) }),
        }
    }

    /// What a name leads to at its registry.
    ///
    /// # Errors
    /// Where the registry has no such image, refuses, or can't be reached.
    pub async fn describe(&self, reference: &Reference, auth: Option<Auth>) -> Result<Described> {
        let client = self.fetcher.client_of(reference.registry())?;
        let auth = known_auth(reference.registry(), auth).await;
        let repository = reference.repository();
        let version = reference
            .digest()
            .map_or_else(|| reference.tag().unwrap_or("latest").to_owned(), |digest| digest.to_string());
        let (digest, bytes) =
            client.manifest(repository, &version, reference.digest(), auth.as_ref()).await?;
        let manifest = Manifest::parse(&bytes)?;
        let platforms = if manifest.is_index() {
            manifest
                .manifests
                .iter()
                .filter_map(|one| one.platform.as_ref())
                .map(|one| one.platform())
                .collect()
        } else if let Ok(config) = manifest.image_config() {
            let raw = client.small_blob(repository, config, auth.as_ref()).await?;
            let config = parse_config(&raw)?;
            vec![Platform { os: config.os, architecture: config.architecture, variant: config.variant }]
        } else {
            // An artifact is for no platform.
            Vec::new()
        };
        // OCI lets a manifest leave its type out.
        let media_type = match (manifest.media_type.as_str(), manifest.is_index()) {
            ("", true) => OCI_INDEX.to_owned(),
            ("", false) => OCI_MANIFEST.to_owned(),
            (stated @ (OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST), _) => stated.to_owned(),
            (other, _) => {
                return Err(Error::Unsupported {
                    what: format!("{} is of the unknown type {other}", reference.familiar()),
                });
            }
        };
        Ok(Described { media_type, digest, size: bytes.len() as u64, platforms })
    }

    /// Searches Docker Hub, or the registry that a term like `host/word` names.
    ///
    /// # Errors
    /// Where it has no search, or can't be reached.
    pub async fn search(&self, term: &str, limit: u32, auth: Option<Auth>) -> Result<Vec<Found>> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Vec<Found>,
        }
        let (host, words) = match term.split_once('/') {
            Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => (host, words),
            _ => ("docker.io", term),
        };
        // The index of Docker Hub lives beside its registry.
        let client = self.fetcher.client(if host == "docker.io" { "index.docker.io" } else { host })?;
        let query = encode_form(&[("q", words.to_owned()), ("n", limit.to_string())]);
        let build =
            |base: &str| Ok(client.http.get(format!("{base}/v1/search?{query}")).headers(HeaderMap::new()));
        let answered = match auth.as_ref().filter(|auth| auth.identity_token.is_empty()) {
            None => client.ask("", None, &build).await?,
            Some(auth) => {
                let build = |base: &str| Ok(build(base)?.header(AUTHORIZATION, basic(auth)));
                Asked::Answered(client.send(&build, None).await?)
            }
        };
        let Asked::Answered(response) = answered else {
            return Err(Error::Denied { what: format!("{host} wants a login for a search") });
        };
        let status = response.status();
        if !status.is_success() {
            let said = client.said(response).await;
            let what = format!("the search at {host} failed: it answered {status}: {said}");
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied { what },
                status if status.is_server_error() => Error::Unavailable { what },
                _ => Error::NotFound { what },
            });
        }
        let bytes = client.read_limited(response, 4 << 20).await;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| {
            Error::corrupt(format!("the search at {host} did not answer as searches do: {error}"))
        })?;
        Ok(answer.results)
    }
}
