//! One blob, or a manifest, on its way to a registry: looked for, mounted, or sent piece by piece.
//!
//! ```text
//! HEAD blob ── 200 ──────────────────────────────────────────► there before
//!   │ 404
//! POST uploads?mount=… ── 201 ───────────────────────────────► mounted
//!   │ 202: a place for the upload
//! PUT (small), or PATCH, PATCH, … PUT ── 201 ────────────────► uploaded
//!   │ a break: GET the place tells how much has come; go on from there, or anew where it is gone
//! ```

mod body;

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::Digest;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio::sync::watch;

use super::Auth;
use super::client::{Asked, Client};
use super::pace::backoff;
use super::proof::encode_form;
use crate::error::{Error, Result};
use body::Gauge;

pub(super) use body::{Blob, Content};

/// A blob of at most so many bytes goes in one request.
const MONOLITHIC: u64 = 8 << 20;
/// A larger one goes in pieces of so many: no more has to be sent again after a break, where the
/// registry keeps whole pieces only.
const PIECE: u64 = 16 << 20;
/// How often a step that gets nowhere is tried.
const TRIES: u32 = 5;
/// How many other repositories are tried to be mounted from.
const MOUNTS: usize = 3;
/// What a registry is given to store in a second once it has all bytes of a blob: it may hash them anew.
const STORES: u64 = 4 << 20;

/// Told of the bytes sent so far.
pub(super) type TellSent = Arc<dyn Fn(u64) + Send + Sync>;

/// Asks uploads to end, when another of the same image has failed: what they have begun at the registry is
/// taken back.
#[derive(Debug, Clone)]
pub(super) struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    pub(super) fn ask(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    async fn asked(&self) {
        // There is a sender: this one.
        let _ = self.0.subscribe().wait_for(|is_asked| *is_asked).await;
    }

    pub(super) fn error() -> Error {
        Error::Unavailable { what: "the push was given up".into() }
    }
}

/// How a blob came to be at the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Existed,
    Mounted(String),
    Uploaded,
}

/// Where things are pushed to.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) client: &'a Client,
    pub(super) repository: &'a str,
    pub(super) auth: Option<&'a Auth>,
}

/// An upload that the registry has begun.
struct Session {
    place: Place,
    /// How much it has.
    offset: u64,
    /// Whether it is known to have that; after a break it is asked.
    is_certain: bool,
    /// The least it takes in one piece but the last.
    least: u64,
}

/// Where an upload's bytes go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Path and query at the registry.
    Path(String),
    /// An address at another host, which is told no password of the registry's.
    Foreign(String),
}

impl Target<'_> {
    /// Sees to it that the registry has a blob. `sources`: repositories of the same registry that have it.
    pub(super) async fn send_blob(
        &self,
        blob: &Blob,
        what: &str,
        sources: &[String],
        stop: &Stop,
        tell: &TellSent,
    ) -> Result<Outcome> {
        let mut session = None;
        let mut sources = sources.iter().take(MOUNTS);
        let (mut attempt, mut furthest) = (0, 0);
        loop {
            let step = tokio::select! {
                step = self.step(blob, what, &mut sources, &mut session, tell) => step,
                () = stop.asked() => Err(Stop::error()),
            };
            let offset = session.as_ref().map_or(0, |session: &Session| session.offset);
            if offset > furthest {
                // Progress makes up for failures before it.
                (attempt, furthest) = (0, offset);
            }
            let failed = match step {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => continue,
                Err(failed) => failed,
            };
            let Error::Unavailable { what: why } = failed else {
                self.cancel(session).await;
                return Err(failed);
            };
            attempt += 1;
            if attempt >= TRIES || stop.is_asked() {
                self.cancel(session).await;
                return Err(Error::Unavailable {
                    what: format!("{what} can't be pushed to {}: {why}", self.name()),
                });
            }
            tracing::info!(what, why, "a push broke off and is gone on with");
            tokio::time::sleep(backoff(attempt - 1)).await;
        }
    }

    /// Whether the registry has a blob, or takes it from one of `sources`, without a byte sent.
    pub(super) async fn find_blob(
        &self,
        digest: &Digest,
        what: &str,
        sources: &[String],
    ) -> Result<Option<Outcome>> {
        if self.exists(digest, what).await? {
            return Ok(Some(Outcome::Existed));
        }
        for source in sources.iter().take(MOUNTS) {
            match self.mount(digest, source).await? {
                Mount::Mounted => return Ok(Some(Outcome::Mounted(source.clone()))),
                Mount::Begun(begun) => self.cancel(Some(begun)).await,
                Mount::Refused => {}
            }
        }
        Ok(None)
    }

    /// One request or a few; `None` where there is more to do.
    async fn step(
        &self,
        blob: &Blob,
        what: &str,
        sources: &mut impl Iterator<Item = &String>,
        session: &mut Option<Session>,
        tell: &TellSent,
    ) -> Result<Option<Outcome>> {
        let Some(current) = session else {
            // Also where an upload was lost: it may be the answer to its end that was.
            if self.exists(&blob.digest, what).await? {
                return Ok(Some(Outcome::Existed));
            }
            for source in sources {
                match self.mount(&blob.digest, source).await {
                    Ok(Mount::Mounted) => return Ok(Some(Outcome::Mounted(source.clone()))),
                    Ok(Mount::Begun(begun)) => {
                        *session = Some(begun);
                        return Ok(None);
                    }
                    // It is a favour: where it is refused, the bytes are sent.
                    Ok(Mount::Refused) | Err(Error::Denied { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            *session = Some(self.begin(what).await?);
            return Ok(None);
        };
        if !current.is_certain {
            *session = self.status(current).await?;
            return Ok(None);
        }
        current.is_certain = false;
        let rest = blob.size - current.offset;
        let is_whole = current.offset == 0 && rest <= MONOLITHIC.max(current.least);
        if is_whole || rest == 0 {
            return self.finish(blob, what, session, tell).await;
        }
        let length = rest.min(PIECE.max(current.least));
        let (start, end) = (current.offset, current.offset + length);
        let place = current.place.clone();
        let gauge = Gauge::new(length, self.client.stall);
        let response = self
            .at(&place, &gauge, &|url| {
                let request = self.client.uploads.request(Method::PATCH, url);
                let request = request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, length)
                    .header("content-range", format!("{start}-{}", end - 1));
                request.body(blob.body(start, length, &gauge, tell))
            })
            .await?;
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED | StatusCode::OK => {
                let taken = taken(response.headers()).unwrap_or(end);
                if taken <= start || taken > end {
                    return Err(Error::Unavailable {
                        what: format!(
                            "it says to have {taken} bytes, after bytes {start} to {end} were sent"
                        ),
                    });
                }
                if let Some(next) = self.place(response.headers()) {
                    current.place = next;
                }
                (current.offset, current.is_certain) = (taken, true);
                Ok(None)
            }
            _ => self.lost_or_refused(response, what, session).await,
        }
    }

    /// Sends what is left, and says what the whole is.
    async fn finish(
        &self,
        blob: &Blob,
        what: &str,
        session: &mut Option<Session>,
        tell: &TellSent,
    ) -> Result<Option<Outcome>> {
        let Some(current) = session else { return Ok(None) };
        let (start, length) = (current.offset, blob.size - current.offset);
        let query = encode_form(&[("digest", blob.digest.to_string())]);
        let place = current.place.with_query(&query);
        let patience = self.client.stall + Duration::from_secs(blob.size / STORES);
        let gauge = Gauge::new(length, patience);
        let response = self
            .at(&place, &gauge, &|url| {
                let request = self.client.uploads.request(Method::PUT, url);
                let request =
                    request.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_LENGTH, length);
                if length == 0 { request } else { request.body(blob.body(start, length, &gauge, tell)) }
            })
            .await?;
        if !response.status().is_success() {
            return self.lost_or_refused(response, what, session).await;
        }
        self.check_digest(response.headers(), &blob.digest, what)?;
        Ok(Some(Outcome::Uploaded))
    }

    /// An upload that the registry no longer knows, or not so, is begun again; another refusal is the end.
    async fn lost_or_refused(
        &self,
        response: Response,
        what: &str,
        session: &mut Option<Session>,
    ) -> Result<Option<Outcome>> {
        match response.status() {
            StatusCode::NOT_FOUND => {
                *session = None;
                Err(Error::Unavailable { what: "the registry lost the upload".into() })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(Error::Unavailable { what: "the registry has other bytes of it than were sent".into() })
            }
            _ => Err(self.refused(response, what).await),
        }
    }

    /// Whether the registry has a blob.
    async fn exists(&self, digest: &Digest, what: &str) -> Result<bool> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let response = self.plain(Method::HEAD, &path, &self.scope()).await?;
        match response.status() {
            // Some hide what is not there behind a refusal; whether pushing is allowed, the next step tells.
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(false),
            status if status.is_success() => {
                self.check_digest(response.headers(), digest, what)?;
                Ok(true)
            }
            _ => Err(self.refused(response, what).await),
        }
    }

    async fn mount(&self, digest: &Digest, source: &str) -> Result<Mount> {
        let query = encode_form(&[("mount", digest.to_string()), ("from", source.to_owned())]);
        let path = format!("/v2/{}/blobs/uploads/?{query}", self.repository);
        let scope = format!("{} repository:{source}:pull", self.scope());
        let response = self.plain(Method::POST, &path, &scope).await?;
        match response.status() {
            StatusCode::CREATED => {
                self.check_digest(response.headers(), digest, "a blob mounted from another repository")?;
                Ok(Mount::Mounted)
            }
            StatusCode::ACCEPTED => Ok(self.session(response.headers()).map_or(Mount::Refused, Mount::Begun)),
            status if status.is_server_error() => Err(self.refused(response, "a mount").await),
            _ => Ok(Mount::Refused),
        }
    }

    async fn begin(&self, what: &str) -> Result<Session> {
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let response = self.plain(Method::POST, &path, &self.scope()).await?;
        if !response.status().is_success() {
            return Err(self.refused(response, what).await);
        }
        self.session(response.headers()).ok_or_else(|| {
            Error::corrupt(format!("{} begins an upload, but does not say where", self.client.host))
        })
    }

    fn session(&self, headers: &HeaderMap) -> Option<Session> {
        let least = headers.get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
        Some(Session { place: self.place(headers)?, offset: 0, is_certain: true, least: least.unwrap_or(0) })
    }

    /// Asks how much of an upload has come; `None` where it has to begin anew.
    async fn status(&self, session: &Session) -> Result<Option<Session>> {
        let gauge = Gauge::new(0, self.client.stall);
        let response = self.at(&session.place, &gauge, &|url| self.client.http.get(url)).await?;
        if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.refused(response, "the state of an upload").await);
        }
        let taken = taken(response.headers());
        let Some(offset) = taken.filter(|_| response.status().is_success()) else {
            self.cancel(Some(Session { place: session.place.clone(), ..*session })).await;
            return Ok(None);
        };
        let place = self.place(response.headers()).unwrap_or_else(|| session.place.clone());
        Ok(Some(Session { place, offset, is_certain: true, least: session.least }))
    }

    /// Has the registry forget an upload. Where it does not hear of that, it forgets in time.
    async fn cancel(&self, session: Option<Session>) {
        let Some(session) = session else { return };
        let gauge = Gauge::new(0, self.client.stall);
        let build = |url: &str| self.client.http.delete(url);
        let asked = self.at(&session.place, &gauge, &build);
        let _ = tokio::time::timeout(self.client.stall, asked).await;
    }

    /// Names a manifest at the registry, by a tag or its digest. Whether the registry itself keeps account of
    /// what the manifest refers to.
    pub(super) async fn send_manifest(
        &self,
        tag: &str,
        media_type: &str,
        bytes: &bytes::Bytes,
        digest: &Digest,
    ) -> Result<bool> {
        let place = Place::Path(format!("/v2/{}/manifests/{tag}", self.repository));
        let what = format!("the manifest of {}:{tag}", self.name());
        let mut attempt = 0;
        loop {
            let gauge = Gauge::new(0, self.client.stall);
            let build =
                |url: &str| self.client.http.put(url).header(CONTENT_TYPE, media_type).body(bytes.clone());
            let outcome = match self.at(&place, &gauge, &build).await {
                Ok(response) if response.status().is_success() => {
                    self.check_digest(response.headers(), digest, &what)?;
                    return Ok(response.headers().contains_key("oci-subject"));
                }
                Ok(response) => self.refused(response, &what).await,
                Err(error) => error,
            };
            attempt += 1;
            if attempt >= TRIES || !matches!(outcome, Error::Unavailable { .. }) {
                return Err(outcome);
            }
            tokio::time::sleep(backoff(attempt - 1)).await;
        }
    }

    /// A request without a body.
    async fn plain(&self, method: Method, path: &str, scope: &str) -> Result<Response> {
        let build = |base: &str| {
            let request = self.client.http.request(method.clone(), format!("{base}{path}"));
            // An empty body is told of: some proxies want it so.
            Ok(if method == Method::POST { request.header(CONTENT_LENGTH, 0) } else { request })
        };
        match self.client.ask(scope, self.auth, &build).await? {
            Asked::Answered(response) => Ok(response),
            Asked::WantsLogin => Err(self.wants_login()),
        }
    }

    /// A request to a place, given up when neither bytes go there nor an answer comes.
    async fn at(
        &self,
        place: &Place,
        gauge: &Gauge,
        build: &(dyn Fn(&str) -> RequestBuilder + Sync),
    ) -> Result<Response> {
        let asking = async {
            match place {
                Place::Foreign(url) => build(url).send().await.map_err(|error| self.client.broke(&error)),
                Place::Path(path) => {
                    let build = |base: &str| Ok(build(&format!("{base}{path}")));
                    match self.client.ask(&self.scope(), self.auth, &build).await? {
                        Asked::Answered(response) => Ok(response),
                        Asked::WantsLogin => Err(self.wants_login()),
                    }
                }
            }
        };
        let mut asking = std::pin::pin!(asking);
        let (mut seen, mut since) = (gauge.moved(), Instant::now());
        loop {
            tokio::select! {
                answer = &mut asking => return answer,
                () = tokio::time::sleep(self.client.stall / 4) => {}
            }
            let moved = gauge.moved();
            if moved != seen {
                (seen, since) = (moved, Instant::now());
            }
            let patience = if gauge.is_empty() { gauge.patience() } else { self.client.stall };
            if since.elapsed() > patience {
                let why = if gauge.is_empty() { "does not answer" } else { "takes no more bytes" };
                return Err(Error::Unavailable {
                    what: format!(
                        "the registry {} {why} for {} seconds",
                        self.client.host,
                        patience.as_secs_f32()
                    ),
                });
            }
        }
    }

    /// Where an answer says that an upload goes on.
    fn place(&self, headers: &HeaderMap) -> Option<Place> {
        let location = headers.get(LOCATION)?.to_str().ok()?;
        Place::parse(location, self.client.chosen().as_deref().unwrap_or_default())
    }

    /// Pushing to the repository; pulling too, to look for blobs.
    fn scope(&self) -> String {
        format!("repository:{}:pull,push", self.repository)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.client.host, self.repository)
    }

    /// A registry that names what it stored by another digest has stored something else.
    fn check_digest(&self, headers: &HeaderMap, ours: &Digest, what: &str) -> Result<()> {
        let theirs = headers.get("docker-content-digest").and_then(|value| value.to_str().ok());
        match theirs {
            Some(theirs) if theirs != ours.to_string() => Err(Error::corrupt(format!(
                "{} says that {what} has the digest {theirs} there, not {ours}: it does not keep what it is sent",
                self.client.host
            ))),
            _ => Ok(()),
        }
    }

    fn wants_login(&self) -> Error {
        Error::Denied {
            what: format!(
                "unauthorized: authentication required: {} lets only known users push to {} (cove login {0}, or docker login {0})",
                self.client.host, self.repository
            ),
        }
    }

    async fn refused(&self, response: Response, what: &str) -> Error {
        let status = response.status();
        let said = self.client.said(response).await;
        let (host, repository) = (&self.client.host, self.repository);
        match status {
            StatusCode::UNAUTHORIZED => Error::Denied {
                what: format!(
                    "unauthorized: {host} does not accept the login for a push to {repository} (cove login {host}, or docker login {host}): {said}"
                ),
            },
            StatusCode::FORBIDDEN => Error::Denied {
                what: format!(
                    "denied: requested access to the resource is denied: {host} lets this login not push to {repository}: {said}"
                ),
            },
            StatusCode::NOT_FOUND => Error::NotFound {
                what: format!("{host} has no repository {repository} to push to, and makes none: {said}"),
            },
            StatusCode::METHOD_NOT_ALLOWED => {
                Error::Unsupported { what: format!("{host} takes no pushes; it may be a mirror: {said}") }
            }
            StatusCode::TOO_MANY_REQUESTS => Error::Unavailable {
                what: format!("toomanyrequests: {host} limits how often it may be asked: {said}"),
            },
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Error::Unavailable { what: format!("{host} answered {status}: {said}") }
            }
            status => Error::Denied { what: format!("{host} refuses {what}: {status}: {said}") },
        }
    }
}

/// What came of asking for a mount.
enum Mount {
    Mounted,
    /// The registry has it not there, and expects its bytes.
    Begun(Session),
    Refused,
}

impl Place {
    /// `base`: the registry's own address.
    fn parse(location: &str, base: &str) -> Option<Self> {
        let Some((_, rest)) = location.split_once("://") else {
            return location.starts_with('/').then(|| Self::Path(location.to_owned()));
        };
        let (host, path) = rest.split_at(rest.find('/')?);
        // Behind a proxy that ends TLS, some name themselves by http.
        let is_own = base.split_once("://").is_some_and(|(_, own)| own.eq_ignore_ascii_case(host));
        Some(if is_own { Self::Path(path.to_owned()) } else { Self::Foreign(location.to_owned()) })
    }

    fn with_query(&self, query: &str) -> Self {
        let join = |text: &str| format!("{text}{}{query}", if text.contains('?') { '&' } else { '?' });
        match self {
            Self::Path(path) => Self::Path(join(path)),
            Self::Foreign(url) => Self::Foreign(join(url)),
        }
    }
}

/// How many bytes an answer says to have: `Range: 0-99` is 100. None where it does not say; `0-0` stands
/// for nothing as well as for one byte, so nothing can be built on it.
fn taken(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let (start, end) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    let end: u64 = end.parse().ok()?;
    (start == "0" && end > 0).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_ranges_are_read_in_each_form() {
        let path = |text: &str| Some(Place::Path(text.to_owned()));
        assert_eq!(Place::parse("/v2/a?x=1", "https://reg"), path("/v2/a?x=1"));
        assert_eq!(Place::parse("http://reg:5000/v2/a", "https://reg:5000"), path("/v2/a"));
        let foreign = Place::Foreign("https://cdn.example/u?sig=1".into());
        assert_eq!(Place::parse("https://cdn.example/u?sig=1", "https://reg"), Some(foreign.clone()));
        assert_eq!(Place::parse("uploads/1", "https://reg"), None);
        assert_eq!(
            foreign.with_query("digest=x"),
            Place::Foreign("https://cdn.example/u?sig=1&digest=x".into())
        );
        let taken = |text: &str| taken(&HeaderMap::from_iter([(RANGE, text.parse().unwrap())]));
        assert_eq!(taken("0-99"), Some(100));
        assert_eq!(taken("bytes=0-1"), Some(2));
        assert_eq!(taken("0-0"), None);
        assert_eq!(taken("5-9"), None);
    }
}
