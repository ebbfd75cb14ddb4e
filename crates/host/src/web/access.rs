//! Who may come in: `Host`, `Origin`, a token that works once, and the cookie it is exchanged for.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rand::TryRngCore;
use rand::rand_core::OsError;
use rand::rngs::OsRng;
use subtle::ConstantTimeEq;

use super::{Shared, failure};
use crate::ui::UiError;

/// The keys to one server.
#[derive(Debug)]
pub(super) struct Access {
    token: String,
    /// The token until it is used.
    unused: Mutex<Option<String>>,
    secret: String,
    /// Cookies know no ports, so that two servers need two names.
    cookie: String,
    hosts: [String; 2],
}

impl Access {
    pub(super) fn new(address: SocketAddr) -> Result<Self, OsError> {
        let token = random()?;
        let port = address.port();
        Ok(Self {
            unused: Mutex::new(Some(token.clone())),
            token,
            secret: random()?,
            cookie: format!("cove-{port}"),
            hosts: [address.to_string(), format!("localhost:{port}")],
        })
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    fn is_our_host(&self, headers: &HeaderMap) -> bool {
        headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .is_some_and(|host| self.hosts.iter().any(|ours| ours == host))
    }

    fn is_our_origin(&self, headers: &HeaderMap) -> bool {
        headers
            .get(header::ORIGIN)
            .and_then(|origin| origin.to_str().ok()?.strip_prefix("http://"))
            .is_some_and(|host| self.hosts.iter().any(|ours| ours == host))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .any(|(name, value)| name == self.cookie && same(value, &self.secret))
    }

    /// Takes the token out of use if it is the right one.
    fn spend(&self, token: &str) -> bool {
        let mut unused = self.unused.lock().unwrap_or_else(PoisonError::into_inner);
        if unused.as_deref().is_some_and(|unused| same(token, unused)) {
            *unused = None;
            return true;
        }
        false
    }
}

fn same(given: &str, ours: &str) -> bool {
    given.as_bytes().ct_eq(ours.as_bytes()).into()
}

fn random() -> Result<String, OsError> {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes)?;
    let mut text = String::with_capacity(64);
    for byte in bytes {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Refuses what comes under another name, and what acts on behalf of another page.
pub(super) async fn require_origin(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let acts = request.method() != Method::GET || headers.contains_key(header::UPGRADE);
    if !shared.access.is_our_host(headers) {
        return refuse("this address is not served under that name", "open the address cove web printed");
    }
    if acts && !shared.access.is_our_origin(headers) {
        return refuse("another page can't act here", "open the address cove web printed");
    }
    next.run(request).await
}

/// Refuses whoever has not shown the token.
pub(super) async fn require_cookie(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    if !shared.access.has_cookie(request.headers()) {
        return refuse("this browser was not let in", "open the address cove web printed");
    }
    next.run(request).await
}

/// Exchanges the token, the whole body, for a cookie. A browser that has one already keeps it, so
/// that reloading the printed address does no harm.
pub(super) async fn exchange(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let access = &shared.access;
    if access.has_cookie(&headers) {
        return StatusCode::NO_CONTENT.into_response();
    }
    if !access.spend(body.trim()) {
        return refuse(
            "this address was used before, or is not complete",
            "it works once: stop cove web and start it again for a new one",
        );
    }
    let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", access.cookie, access.secret);
    match HeaderValue::from_str(&cookie) {
        Ok(cookie) => (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response(),
        // Hexadecimal digits always make a header.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn refuse(message: &str, hint: &str) -> Response {
    let error = UiError::new(model::ErrorKind::Permission, message).with_hint(hint);
    failure(StatusCode::FORBIDDEN, &error)
}
