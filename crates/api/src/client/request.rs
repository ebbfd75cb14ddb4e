//! Building a request, sending it, and its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Client;
use super::body::{Body, JsonLines, Link};
use super::connect::Socket;
use super::error::Error;
use super::upgrade::Upgraded;
use crate::ErrorBody;

/// What must not stand in a path; `/`, `:` and `@` of image references may.
const PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?');

/// The largest answer that is collected in memory: a list of very many containers.
const COLLECT_LIMIT: usize = 256 << 20;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type RequestBody = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Connection = hyper::client::conn::http1::Connection<TokioIo<Socket>, RequestBody>;

/// Docker's `filters` parameter: each name with the values that pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Lets also pass what has `value` for `name`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.entry(name.to_owned()).or_default().push(value.into());
        self
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A request being put together.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Payload,
    deadline: Option<Duration>,
}

enum Payload {
    Empty,
    Json(Result<Vec<u8>, serde_json::Error>),
    Stream(RequestBody),
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Json(_) => "Json",
            Self::Stream(_) => "Stream",
        })
    }
}

impl<'a> Request<'a> {
    pub(crate) fn new(client: &'a Client, method: Method, path: &str) -> Self {
        Self {
            client,
            method,
            path: utf8_percent_encode(path, PATH).to_string(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Payload::Empty,
            deadline: None,
        }
    }

    /// Adds `name=value` to the query.
    pub fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.query = form_urlencoded::Serializer::new(self.query).append_pair(name, value.as_ref()).finish();
        self
    }

    /// Adds `name=value` if there is a value.
    pub fn query_opt(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value.to_string()),
            None => self,
        }
    }

    /// Adds `name=1` if `set`.
    pub fn flag(self, name: &str, set: bool) -> Self {
        if set { self.query(name, "1") } else { self }
    }

    /// Adds the filters unless they let everything pass.
    pub fn filters(self, filters: &Filters) -> Self {
        if filters.is_empty() {
            return self;
        }
        // A map of strings can't fail to become JSON.
        let json = serde_json::to_string(filters).unwrap_or_default();
        self.query("filters", json)
    }

    /// Adds a header.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sends `value` as JSON.
    pub fn json(mut self, value: &impl Serialize) -> Self {
        self.body = Payload::Json(serde_json::to_vec(value));
        self
    }

    /// Sends a stream of bytes, such as a tar archive, as it comes.
    pub fn stream<S, E>(mut self, content_type: &'static str, stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let frames = futures_util::StreamExt::map(stream, |chunk| chunk.map(Frame::data).map_err(Into::into));
        self.body = Payload::Stream(StreamBody::new(frames).boxed_unsync());
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }

    /// Gives up when the head of the answer is not there after `deadline`.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Sends and waits for the answer's head.
    ///
    /// # Errors
    /// [`Error::Status`] for 4xx and 5xx; the other variants where no answer came.
    pub async fn send(self) -> Result<Response, Error> {
        let what = self.what();
        match self.deadline {
            None => self.send_now(what).await,
            Some(after) => {
                let endpoint = self.client.endpoint.clone();
                match tokio::time::timeout(after, self.send_now(what.clone())).await {
                    Ok(result) => result,
                    Err(_) => Err(Error::Timeout { endpoint, what, after }),
                }
            }
        }
    }

    /// Sends and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`Self::send`], and [`Error::Decode`].
    pub async fn fetch<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.send().await?.json().await
    }

    /// Sends and takes the connection over for raw bytes in both directions.
    ///
    /// # Errors
    /// As [`Self::send`], and [`Error::NotUpgraded`].
    pub async fn upgrade(mut self) -> Result<Upgraded, Error> {
        self.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        self.headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        self.send().await?.into_upgraded().await
    }

    fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    async fn send_now(self, what: String) -> Result<Response, Error> {
        let client = self.client;
        let request = self.into_http(&what)?;
        let socket = client.connect(&what).await?;
        let transport = |source| Error::Transport { what: what.clone(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(transport)?;
        let mut link = Link::new(connection);
        let response = link.drive(sender.send_request(request)).await.map_err(transport)?;
        let (head, incoming) = response.into_parts();
        let response = Response {
            status: head.status,
            headers: head.headers,
            body: Body::new(incoming, link, what.clone()),
            what,
        };
        if response.status.is_client_error() || response.status.is_server_error() {
            return Err(response.into_error().await);
        }
        Ok(response)
    }

    fn into_http(self, what: &str) -> Result<http::Request<RequestBody>, Error> {
        let failed = |source: BoxError| Error::Request { what: what.to_owned(), source };
        let mut target = format!("{}{}", self.client.prefix, self.path);
        if !self.query.is_empty() {
            target.push('?');
            target.push_str(&self.query);
        }
        let full =
            |bytes: Vec<u8>| Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync();
        let mut headers = self.headers;
        let body = match self.body {
            Payload::Empty => full(Vec::new()),
            Payload::Json(json) => {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                full(json.map_err(|error| failed(error.into()))?)
            }
            Payload::Stream(body) => body,
        };
        let mut request = http::Request::builder()
            .method(self.method)
            .uri(target)
            .header(header::HOST, self.client.endpoint.authority())
            .header(header::USER_AGENT, concat!("cove/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| failed(error.into()))?;
        request.headers_mut().extend(headers);
        Ok(request)
    }
}

/// The head of an answer, its body still to come.
#[derive(Debug)]
pub struct Response {
    /// HTTP's status, below 400.
    pub status: StatusCode,
    /// HTTP's headers.
    pub headers: HeaderMap,
    body: Body,
    what: String,
}

impl Response {
    /// The body as it comes.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// The body as values of a JSON stream, one a line.
    #[must_use]
    pub fn into_json_lines<T: DeserializeOwned>(self) -> JsonLines<T> {
        JsonLines::new(self.body, self.what)
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`Error::Transport`], [`Error::TooLarge`].
    pub async fn bytes(self) -> Result<Vec<u8>, Error> {
        self.body.collect_all(COLLECT_LIMIT).await
    }

    /// The whole body as JSON.
    ///
    /// # Errors
    /// As [`Self::bytes`], and [`Error::Decode`].
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        let what = self.what.clone();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { what, source })
    }

    async fn into_error(self) -> Error {
        let status = self.status;
        let text = match self.body.collect_all(1 << 20).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        let message = match serde_json::from_slice::<ErrorBody>(&text) {
            Ok(body) => body.message,
            Err(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        };
        let message = if message.is_empty() { format!("the engine answered {status}") } else { message };
        Error::Status { status, message }
    }

    async fn into_upgraded(self) -> Result<Upgraded, Error> {
        if self.status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::NotUpgraded { what: self.what, status: self.status });
        }
        let multiplexed = self
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value == "application/vnd.docker.multiplexed-stream");
        let (socket, rest) = self.body.into_socket().await?;
        Ok(Upgraded::new(socket, rest, multiplexed))
    }
}
