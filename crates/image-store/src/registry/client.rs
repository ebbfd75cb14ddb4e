//! HTTP to one registry: addresses, certificates, tokens, and what may be asked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::Digest;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::pace::{Interrupted, Pace};
use super::{Auth, Registries};
use crate::config::{DOCKER_LIST, DOCKER_MANIFEST, Descriptor, OCI_INDEX, OCI_MANIFEST};
use crate::error::{Doing, Error, Result};

/// No honest manifest or configuration is larger.
const MAX_MANIFEST: usize = 4 << 20;
const MAX_CONFIG: u64 = 8 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// How often a request that broke off is made again.
const TRIES: u32 = 4;

/// A connection to one registry.
#[derive(Debug)]
pub(crate) struct Client {
    /// As named in references: host and port.
    host: String,
    /// `https://host` or, for loopback and insecure ones, `http://host`, the likelier first.
    bases: Vec<String>,
    http: reqwest::Client,
    /// Bearer tokens by scope.
    tokens: Mutex<HashMap<String, String>>,
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
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("cove/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(registries.stall)
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
        let http = builder.build().map_err(|error| Error::Unavailable {
            what: format!("failed to set up TLS for {host}: {}", chain(&error)),
        })?;
        Ok(Self {
            host: host.to_owned(),
            bases,
            http,
            tokens: Mutex::default(),
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
        let token = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&scope).cloned();
        let response =
            self.send(path, headers, token.as_deref().map(|token| format!("Bearer {token}"))).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.check(response, repository).await;
        }
        let challenges: Vec<String> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let bearer = challenges.iter().find_map(|challenge| challenge.strip_prefix("Bearer "));
        let proof = if let Some(challenge) = bearer {
            let token = self.token(challenge, &scope, auth).await?;
            self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(scope, token.clone());
            format!("Bearer {token}")
        } else if let Some(auth) = auth {
            basic(auth)
        } else {
            return Err(self.denied(repository, "it wants a login (cove login, or docker login)"));
        };
        let response = self.send(path, headers, Some(proof)).await?;
        self.check(response, repository).await
    }

    /// Sends to the address that answered before, or tries each.
    async fn send(&self, path: &str, headers: &HeaderMap, proof: Option<String>) -> Result<Response> {
        let chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bases = chosen.map_or_else(|| self.bases.clone(), |base| vec![base]);
        let mut failure = None;
        for base in bases {
            let mut request = self.http.get(format!("{base}{path}")).headers(headers.clone());
            if let Some(proof) = &proof {
                request = request.header(AUTHORIZATION, proof);
            }
            match request.send().await {
                // A TLS server that is spoken to in plain text says so with a 400.
                Ok(response) if response.status() == StatusCode::BAD_REQUEST && base.starts_with("http:") => {
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

    /// A bearer token (distribution's token specification).
    async fn token(&self, challenge: &str, scope: &str, auth: Option<&Auth>) -> Result<String> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Answer {
            token: String,
            access_token: String,
        }
        let fields = parse_challenge(challenge);
        let realm = fields
            .get("realm")
            .ok_or_else(|| Error::corrupt(format!("{} asks for a token, but not where", self.host)))?;
        let is_safe =
            realm.starts_with("https://") || self.bases.iter().any(|base| base.starts_with("http:"));
        if !is_safe {
            return Err(Error::Denied {
                what: format!("{} wants credentials sent unencrypted to {realm}", self.host),
            });
        }
        let mut query = vec![("scope", fields.get("scope").cloned().unwrap_or_else(|| scope.to_owned()))];
        query.extend(fields.get("service").map(|service| ("service", service.clone())));
        let mut request = match auth.filter(|auth| !auth.identity_token.is_empty()) {
            Some(auth) => {
                query.push(("grant_type", "refresh_token".into()));
                query.push(("refresh_token", auth.identity_token.clone()));
                query.push(("client_id", "cove".into()));
                self.http
                    .post(realm)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(encode_form(&query))
            }
            None => self.http.get(format!(
                "{realm}{}{}",
                if realm.contains('?') { '&' } else { '?' },
                encode_form(&query)
            )),
        };
        if let Some(auth) = auth.filter(|auth| auth.identity_token.is_empty()) {
            request = request.header(AUTHORIZATION, basic(auth));
        }
        let response = request.send().await.map_err(|error| self.broke(&error))?;
        if !response.status().is_success() {
            let status = response.status();
            let said = self.said(response).await;
            return Err(Error::Denied { what: format!("unauthorized: {realm} answered {status}: {said}") });
        }
        let bytes = self.read_limited(response, 1 << 20).await;
        let answer: Answer = serde_json::from_slice(&bytes).unwrap_or_default();
        let token = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if token.is_empty() {
            Err(Error::corrupt(format!("{realm} answered without a token")))
        } else {
            Ok(token)
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

    fn broke(&self, error: &reqwest::Error) -> Error {
        let mut why = if error.is_timeout() { "it stopped answering".to_owned() } else { chain(error) };
        // TLS 1.3 tells a missing certificate only after its handshake, which looks like this from here.
        let ends = ["connection closed", "broken pipe", "onnection reset", "CertificateRequired"];
        if ends.iter().any(|end| why.contains(end)) {
            why += &format!(
                "; it may want a client certificate (client.cert and client.key in certs.d/{})",
                self.host
            );
        }
        Error::Unavailable { what: format!("failed to reach the registry {}: {why}", self.host) }
    }

    /// What the registry says of a failure: its error documents, or the beginning of whatever it sent.
    async fn said(&self, response: Response) -> String {
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
    async fn read_limited(&self, mut response: Response, limit: usize) -> Vec<u8> {
        let (mut bytes, mut watch) = (Vec::new(), self.pace.watch());
        while let Ok(Some(chunk)) = watch.chunk(&mut response).await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit {
                bytes.truncate(limit);
                break;
            }
        }
        bytes
    }
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

/// Pauses between tries: 0.2 s, doubling.
pub(super) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(200 << attempt.min(6))
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

fn basic(auth: &Auth) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = format!("{}:{}", auth.username, auth.password);
    let mut out = String::from("Basic ");
    for chunk in text.as_bytes().chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * at) & 63).unwrap_or(0);
            out.push(if at <= chunk.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    out
}

/// `key="value"` pairs of a challenge; values may hold commas.
fn parse_challenge(text: &str) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        if let Some(quoted) = after.strip_prefix('"') {
            let Some((value, next)) = quoted.split_once('"') else { break };
            fields.insert(key, value.to_owned());
            rest = next;
        } else {
            let (value, next) = after.split_once(',').unwrap_or((after, ""));
            fields.insert(key, value.to_owned());
            rest = next;
        }
    }
    fields
}

fn encode_form(pairs: &[(&str, String)]) -> String {
    let escape = |text: &str| {
        text.bytes().fold(String::new(), |out, b| {
            if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
                out + &char::from(b).to_string()
            } else {
                out + &format!("%{b:02X}")
            }
        })
    };
    pairs.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_and_credentials_have_their_forms() {
        let fields = parse_challenge(
            r#"realm="https://auth.example/token",service=reg,scope="repository:a/b:pull,push""#,
        );
        assert_eq!(fields["realm"], "https://auth.example/token");
        assert_eq!(fields["service"], "reg");
        assert_eq!(fields["scope"], "repository:a/b:pull,push");
        let auth =
            |u: &str, p: &str| Auth { username: u.into(), password: p.into(), identity_token: String::new() };
        assert_eq!(basic(&auth("user", "pass")), "Basic dXNlcjpwYXNz");
        assert_eq!(basic(&auth("a", "b")), "Basic YTpi");
        assert_eq!(encode_form(&[("scope", "a:b c".into())]), "scope=a%3Ab%20c");
        assert!(is_loopback("localhost:5000") && is_loopback("127.0.0.1:1") && is_loopback("[::1]:2"));
        assert!(!is_loopback("example.com:5000") && !is_loopback("10.0.0.1"));
    }
}
