//! HTTP to one registry: addresses, certificates, tokens, and what may be asked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::Digest;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::pace::{Interrupted, Pace, backoff};
use super::proof::{ProofKey, basic};
use super::{Auth, Registries};
use crate::config::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::error::{Doing, Error, Result};

/// No honest manifest or configuration is larger.
const MAX_MANIFEST: usize = 4 << 20;
const MAX_CONFIG: u64 = 8 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// How often a request that broke off is made again.
const TRIES: u32 = 4;

/// Makes a request for an address like `https://host`, as often as it has to be sent.
pub(super) type Build<'a> = &'a (dyn Fn(&str) -> Result<RequestBuilder> + Sync);

/// What became of a request.
pub(super) enum Asked {
    Answered(Response),
    /// The registry wants user and password, and there are none.
    WantsLogin,
}

/// A connection to one registry.
#[derive(Debug)]
pub(crate) struct Client {
    /// As named in references: host and port.
    pub(super) host: String,
    /// `https://host` or, for loopback and insecure ones, `http://host`, the likelier first.
    pub(super) bases: Vec<String>,
    pub(super) http: reqwest::Client,
    /// As `http`, but without its deadline for silence: a registry is silent while it is sent to.
    pub(super) uploads: reqwest::Client,
    pub(super) stall: Duration,
    /// What was accepted before, of whom and for what.
    proofs: Mutex<HashMap<ProofKey, String>>,
    chosen: Mutex<Option<String>>,
    pace: Pace,
}

impl Client {
    pub(super) fn new(base: &str, registries: &Registries) -> Result<Self> {
        let (scheme, host) = match base.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest.trim_end_matches('/')),
            None => (None, base),
        };
        let is_insecure = is_loopback(host) || registries.insecure.iter().any(|known| known == host);
        let bases = match scheme {
            Some(scheme) => vec![format!("{scheme}://{host}")],
            None if is_insecure => vec![format!("http://{host}"), format!("https://{host}")],
            None => vec![format!("https://{host}")],
        };
        // One provider for the whole process; another part may have set it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = http_client(host, is_insecure, registries, |b| b.read_timeout(registries.stall))?;
        let uploads = http_client(host, is_insecure, registries, |b| b)?;
        Ok(Self {
            host: host.to_owned(),
            bases,
            http,
            uploads,
            stall: registries.stall,
            proofs: Mutex::default(),
            chosen: Mutex::default(),
            pace: Pace::new(registries),
        })
    }

    /// A manifest or index, its digest checked against what was asked for, or computed.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        version: &str,
        expected: Option<Digest>,
        auth: Option<&Auth>,
    ) -> Result<(Digest, Vec<u8>)> {
        let path = format!("/v2/{repository}/manifests/{version}");
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(&accept).unwrap_or(HeaderValue::from_static("*/*")));
        let what = format!("{}/{repository}:{version}", self.host);
        let bytes = self.read_small(&path, repository, &headers, auth, MAX_MANIFEST, &what).await?;
        let digest = Digest::sha256(Sha256::digest(&bytes).into());
        if expected.is_some_and(|expected| expected != digest) {
            return Err(Error::corrupt(format!(
                "the manifest of {what} has the digest {digest}: the registry sent another"
            )));
        }
        Ok((digest, bytes))
    }

    /// A configuration, checked.
    pub(super) async fn small_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        auth: Option<&Auth>,
    ) -> Result<Vec<u8>> {
        let digest = descriptor.digest()?;
        if descriptor.size > MAX_CONFIG {
            return Err(Error::corrupt(format!(
                "the image's configuration has {} bytes, {MAX_CONFIG} are allowed",
                descriptor.size
            )));
        }
        let path = format!("/v2/{repository}/blobs/{digest}");
        let limit = usize::try_from(MAX_CONFIG).unwrap_or(usize::MAX);
        let bytes = self
            .read_small(&path, repository, &HeaderMap::new(), auth, limit, "the image's configuration")
            .await?;
        let found = Digest::sha256(Sha256::digest(&bytes).into());
        if found != digest {
            return Err(Error::corrupt(format!(
                "the image's configuration has the digest {found}, not {digest}"
            )));
        }
        Ok(bytes)
    }

    /// A blob from an offset on. `true`: the answer starts there; else at the beginning.
    pub(super) async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        offset: u64,
        auth: Option<&Auth>,
    ) -> Result<(Response, bool)> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.get(&path, repository, &headers, auth).await?;
        let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
        Ok((response, is_partial))
    }

    async fn read_small(
        &self,
        path: &str,
        repository: &str,
        headers: &HeaderMap,
        auth: Option<&Auth>,
        limit: usize,
        what: &str,
    ) -> Result<Vec<u8>> {
        let mut attempt = 0;
        loop {
            let read = async {
                let mut response = self.get(path, repository, headers, auth).await?;
                let too_long = || Error::corrupt(format!("{what} is longer than the {limit} bytes allowed"));
                if response.content_length().is_some_and(|length| length > limit as u64) {
                    return Err(too_long());
                }
                let (mut bytes, mut watch) = (Vec::new(), self.pace.watch());
                while let Some(chunk) =
                    watch.chunk(&mut response).await.map_err(|why| self.interrupted(&why))?
                {
                    bytes.extend_from_slice(&chunk);
                    if bytes.len() > limit {
                        return Err(too_long());
                    }
                }
                Ok(bytes)
            };
            match read.await {
                Err(Error::Unavailable { .. }) if attempt + 1 < TRIES => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// GET with whatever proof of identity the registry asks for.
    async fn get(
        &self,
        path: &str,
        repository: &str,
        headers: &HeaderMap,
        auth: Option<&Auth>,
    ) -> Result<Response> {
        let scope = format!("repository:{repository}:pull");
        let build = |base: &str| Ok(self.http.get(format!("{base}{path}")).headers(headers.clone()));
        match self.ask(&scope, auth, &build).await? {
            Asked::Answered(response) => self.check(response, repository).await,
            Asked::WantsLogin => {
                Err(self.denied(repository, "it wants a login (cove login, or docker login)"))
            }
        }
    }

    /// Sends a request with whatever proof of identity the registry asks for. `build` makes it anew for
    /// each try, for an address like `https://host`.
    pub(super) async fn ask(&self, scope: &str, auth: Option<&Auth>, build: Build<'_>) -> Result<Asked> {
        let key = ProofKey::new(scope, auth);
        let known = self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let response = self.send(build, known).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(Asked::Answered(response));
        }
        let challenges: Vec<String> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let bearer = challenges.iter().find_map(|challenge| challenge.strip_prefix("Bearer "));
        let proof = if let Some(challenge) = bearer {
            format!("Bearer {}", self.token(challenge, scope, auth).await?.access)
        } else if let Some(auth) = auth {
            basic(auth)
        } else {
            return Ok(Asked::WantsLogin);
        };
        let response = self.send(build, Some(proof.clone())).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            self.proofs.lock().unwrap_or_else(PoisonError::into_inner).insert(key, proof);
        }
        Ok(Asked::Answered(response))
    }

    /// Sends to the address that answered before, or tries each.
    pub(super) async fn send(&self, build: Build<'_>, proof: Option<String>) -> Result<Response> {
        let chosen = self.chosen();
        let is_chosen = chosen.is_some();
        let bases = chosen.map_or_else(|| self.bases.clone(), |base| vec![base]);
        let mut failure = None;
        for base in bases {
            let mut request = build(&base)?;
            if let Some(proof) = &proof {
                request = request.header(AUTHORIZATION, proof);
            }
            match request.send().await {
                // A TLS server that is spoken to in plain text says so with a 400.
                Ok(response)
                    if response.status() == StatusCode::BAD_REQUEST
                        && base.starts_with("http:")
                        && !is_chosen =>
                {
                    failure =
                        Some(Error::Unavailable { what: format!("{} does not speak plain HTTP", self.host) });
                }
                Ok(response) => {
                    *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(base);
                    return Ok(response);
                }
                Err(error) => drop(failure.get_or_insert(self.broke(&error))),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Unavailable { what: format!("{} has no address", self.host) }))
    }

    /// The address that answered before.
    pub(super) fn chosen(&self) -> Option<String> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn check(&self, response: Response, repository: &str) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = self.said(response).await;
        Err(match status {
            StatusCode::NOT_FOUND => {
                Error::NotFound { what: format!("manifest for {}/{repository} not found: {said}", self.host) }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(repository, &said),
            StatusCode::TOO_MANY_REQUESTS => Error::Unavailable {
                what: format!("toomanyrequests: {} limits how often it may be asked: {said}", self.host),
            },
            status if status.is_server_error() => {
                Error::Unavailable { what: format!("{} answered {status}: {said}", self.host) }
            }
            status => Error::NotFound { what: format!("{} answered {status}: {said}", self.host) },
        })
    }

    fn denied(&self, repository: &str, why: &str) -> Error {
        Error::Denied {
            what: format!(
                "pull access denied for {repository}, repository does not exist or may require a login at {}: {why}",
                self.host
            ),
        }
    }

    /// What has to come in one try for it to count as one that got somewhere.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    pub(super) fn interrupted(&self, why: &Interrupted) -> Error {
        match why {
            Interrupted::Broke(error) => self.broke(error),
            Interrupted::TooSlow(slow) => {
                Error::Unavailable { what: format!("the registry {} is too slow: {slow}", self.host) }
            }
        }
    }

    pub(super) fn broke(&self, error: &reqwest::Error) -> Error {
        let mut why = if error.is_timeout() { "it stopped answering".to_owned() } else { chain(error) };
        // TLS 1.3 tells a missing certificate only after its handshake, which looks like this from here.
        let ends = ["connection closed", "broken pipe", "onnection reset", "CertificateRequired"];
        let is_tls = !self.chosen().is_some_and(|base| base.starts_with("http:"));
        if is_tls && ends.iter().any(|end| why.contains(end)) {
            why += &format!(
                "; it may want a client certificate (client.cert and client.key in certs.d/{})",
                self.host
            );
        }
        Error::Unavailable { what: format!("failed to reach the registry {}: {why}", self.host) }
    }

    /// What the registry says of a failure: its error documents, or the beginning of whatever it sent.
    pub(super) async fn said(&self, response: Response) -> String {
        #[derive(Deserialize)]
        struct Document {
            errors: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let bytes = self.read_limited(response, 16 << 10).await;
        if let Ok(document) = serde_json::from_slice::<Document>(&bytes) {
            let all: Vec<String> =
                document.errors.iter().map(|e| format!("{}: {}", e.code.to_lowercase(), e.message)).collect();
            return all.join("; ");
        }
        String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).take(200).collect()
    }

    /// The beginning of an answer, or what came of it.
    pub(super) async fn read_limited(&self, mut response: Response, limit: usize) -> Vec<u8> {
        let (mut bytes, mut watch) = (Vec::new(), self.pace.watch());
        // Uploads have no deadline of their own for silence.
        while let Ok(Ok(Some(chunk))) = tokio::time::timeout(self.stall, watch.chunk(&mut response)).await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit {
                bytes.truncate(limit);
                break;
            }
        }
        bytes
    }
}

fn http_client(
    host: &str,
    is_insecure: bool,
    registries: &Registries,
    further: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("cove/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .redirect(reqwest::redirect::Policy::limited(5))
        .pool_max_idle_per_host(8)
        .pool_idle_timeout(Duration::from_secs(15));
    if is_insecure {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    for dir in &registries.certs_dirs {
        builder = with_certificates(builder, &dir.join(host))?;
    }
    further(builder).build().map_err(|error| Error::Unavailable {
        what: format!("failed to set up TLS for {host}: {}", chain(&error)),
    })
}

/// The causes of a network failure, innermost last, without its URL (which may hold secrets).
fn chain(error: &reqwest::Error) -> String {
    let mut parts = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        parts.push(cause.to_string());
        source = cause.source();
    }
    parts.dedup();
    if parts.is_empty() { "the answer is no HTTP".into() } else { parts.join(": ") }
}

fn is_loopback(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    name == "localhost"
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Docker's `certs.d/HOST`: authorities in `*.crt`, a client's certificate and key in `*.cert` and `*.key`.
fn with_certificates(mut builder: reqwest::ClientBuilder, dir: &Path) -> Result<reqwest::ClientBuilder> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let bad = |error: reqwest::Error| Error::invalid(format!("{}: {error}", path.display()));
        let read = |path: &Path| std::fs::read(path).doing(|| format!("read {}", path.display()));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                for certificate in reqwest::Certificate::from_pem_bundle(&read(&path)?).map_err(bad)? {
                    builder = builder.add_root_certificate(certificate);
                }
            }
            Some("cert") => {
                let mut pem = read(&path)?;
                pem.extend(read(&path.with_extension("key"))?);
                builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(bad)?);
            }
            _ => {}
        }
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn loopback_is_told_from_other_hosts() {
        assert!(is_loopback("localhost:5000") && is_loopback("127.0.0.1:1") && is_loopback("[::1]:2"));
        assert!(!is_loopback("example.com:5000") && !is_loopback("10.0.0.1"));
    }
}
