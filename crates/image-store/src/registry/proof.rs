//! Proofs of identity: passwords sent as they are, and tokens that a registry has its clients fetch elsewhere.

use std::collections::HashMap;

use reqwest::header::AUTHORIZATION;
use serde::Deserialize;

use super::Auth;
use super::client::Client;
use crate::error::{Error, Result};

/// Of whom a proof is, and for what: what was granted to one user is no other's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProofKey {
    scope: String,
    auth: Option<Auth>,
}

impl ProofKey {
    pub(super) fn new(scope: &str, auth: Option<&Auth>) -> Self {
        Self { scope: scope.to_owned(), auth: auth.cloned() }
    }
}

/// What a token server gives.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) access: String,
    /// Stands for user and password from now on; empty where there is none.
    pub(super) refresh: String,
}

impl Client {
    /// A bearer token (distribution's token specification).
    pub(super) async fn token(&self, challenge: &str, scope: &str, auth: Option<&Auth>) -> Result<Token> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Answer {
            token: String,
            access_token: String,
            refresh_token: String,
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
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(fields.get("service").map(|service| ("service", service.clone())));
        let scopes = wanted_scopes(scope, fields.get("scope").map(String::as_str));
        let mut request = match auth.filter(|auth| !auth.identity_token.is_empty()) {
            Some(auth) => {
                if !scopes.is_empty() {
                    query.push(("scope", scopes.join(" ")));
                }
                query.push(("grant_type", "refresh_token".into()));
                query.push(("refresh_token", auth.identity_token.clone()));
                query.push(("client_id", "cove".into()));
                self.http
                    .post(realm)
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(encode_form(&query))
            }
            None => {
                query.extend(scopes.iter().map(|scope| ("scope", (*scope).to_owned())));
                // A login, which is for no repository, asks for a token that lasts.
                if let Some(auth) = auth.filter(|_| scopes.is_empty()) {
                    query.push(("account", auth.username.clone()));
                    query.push(("client_id", "cove".into()));
                    query.push(("offline_token", "true".into()));
                }
                let joint = if realm.contains('?') { '&' } else { '?' };
                self.http.get(format!("{realm}{joint}{}", encode_form(&query)))
            }
        };
        if let Some(auth) = auth.filter(|auth| auth.identity_token.is_empty()) {
            request = request.header(AUTHORIZATION, basic(auth));
        }
        let response = request.send().await.map_err(|error| self.broke(&error))?;
        if !response.status().is_success() {
            let status = response.status();
            let said = self.said(response).await;
            if status.is_server_error() {
                return Err(Error::Unavailable { what: format!("{realm} answered {status}: {said}") });
            }
            return Err(Error::Denied { what: format!("unauthorized: {realm} answered {status}: {said}") });
        }
        let bytes = self.read_limited(response, 1 << 20).await;
        let answer: Answer = serde_json::from_slice(&bytes).unwrap_or_default();
        let access = if answer.token.is_empty() { answer.access_token } else { answer.token };
        if access.is_empty() {
            return Err(Error::corrupt(format!("{realm} answered without a token")));
        }
        Ok(Token { access, refresh: answer.refresh_token })
    }
}

/// The scopes to ask for. A registry names those of one request; who pushes makes several kinds, and
/// asks for all at once.
fn wanted_scopes<'a>(ours: &'a str, challenged: Option<&'a str>) -> Vec<&'a str> {
    let challenged: Vec<&str> = challenged.unwrap_or_default().split_whitespace().collect();
    if challenged.is_empty() || ours.contains("push") {
        let mut scopes: Vec<&str> = ours.split_whitespace().collect();
        // What it says of a repository that we ask for is no more than that.
        let is_asked =
            |one: &&str| ours.split_whitespace().any(|known| repository_of(known) == repository_of(one));
        scopes.extend(challenged.into_iter().filter(|one| !is_asked(one)));
        return scopes;
    }
    challenged
}

/// `repository:a/b` of `repository:a/b:pull`.
fn repository_of(scope: &str) -> &str {
    scope.rsplit_once(':').map_or(scope, |(repository, _)| repository)
}

pub(super) fn basic(auth: &Auth) -> String {
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

pub(super) fn encode_form(pairs: &[(&str, String)]) -> String {
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
        assert_eq!(wanted_scopes("repository:a:pull", None), ["repository:a:pull"]);
        assert_eq!(wanted_scopes("repository:a:pull", Some("repository:p/a:pull")), ["repository:p/a:pull"]);
        let ours = "repository:a:pull,push";
        assert_eq!(wanted_scopes(ours, Some("repository:a:pull")), [ours]);
        assert_eq!(wanted_scopes(ours, Some("repository:b:pull")), [ours, "repository:b:pull"]);
        assert!(wanted_scopes("", None).is_empty());
    }
}
