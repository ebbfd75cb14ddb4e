//! Credentials: given, or from Docker's configuration and its credential helpers.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde::Deserialize;

/// What a registry is told of who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// The user.
    pub username: String,
    /// The password or access token.
    pub password: String,
    /// A token that stands for both (`docker login` at some registries).
    pub identity_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Auth {{ username: {:?}, password: *** }}", self.username)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: std::collections::BTreeMap<String, Entry>,
    cred_helpers: std::collections::BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The name Docker Hub has in configurations.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The credentials for a registry in `~/.docker/config.json` (or `$DOCKER_CONFIG`), its helpers
/// asked. Blocking, where a helper is.
#[must_use]
pub fn docker_config_auth(registry: &str) -> Option<Auth> {
    let dir = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
    let text = std::fs::read_to_string(dir.join("config.json")).ok()?;
    let config: DockerConfig = serde_json::from_str(&text).ok()?;
    let key = if registry == "docker.io" { HUB_KEY } else { registry };
    let helper =
        config.cred_helpers.get(key).or(Some(&config.creds_store)).filter(|helper| !helper.is_empty());
    helper.and_then(|helper| ask_helper(helper, key)).or_else(|| {
        let plain = |known: &String| {
            let host = known.trim_start_matches("https://").trim_start_matches("http://");
            known == key || host.split('/').next() == Some(registry)
        };
        let entry = config.auths.iter().find(|(known, _)| plain(known))?.1;
        from_entry(entry)
    })
}

fn from_entry(entry: &Entry) -> Option<Auth> {
    let (mut username, mut password) = (entry.username.clone(), entry.password.clone());
    if !entry.auth.is_empty() {
        let text = String::from_utf8(decode_base64(&entry.auth)?).ok()?;
        let (name, secret) = text.split_once(':')?;
        (username, password) = (name.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    let is_empty = username.is_empty() && entry.identitytoken.is_empty();
    (!is_empty).then(|| Auth { username, password, identity_token: entry.identitytoken.clone() })
}

/// Asks `docker-credential-HELPER get`; the answer of one that knows nothing is an error, and none.
fn ask_helper(helper: &str, key: &str) -> Option<Auth> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    if helper.contains('/') {
        return None;
    }
    let mut command = stdx::process::command(format!("docker-credential-{helper}"));
    stdx::process::pass(&mut command, stdx::process::CREDENTIAL_HELPER);
    let mut child =
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    child.stdin.take()?.write_all(key.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let answer: Answer = serde_json::from_slice(&output.stdout).ok()?;
    let is_token = answer.username == "<token>";
    Some(Auth {
        username: if is_token { String::new() } else { answer.username },
        password: if is_token { String::new() } else { answer.secret.clone() },
        identity_token: if is_token { answer.secret } else { String::new() },
    })
}

/// Standard base64, padded or not.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes().filter(|b| !b.is_ascii_whitespace() && *b != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).unwrap_or(0));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_in_each_form() {
        let entry = Entry { auth: "dXNlcjpwYTpzcw==".into(), ..Entry::default() };
        let auth = from_entry(&entry).unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("user", "pa:ss"));
        assert!(from_entry(&Entry::default()).is_none());
        assert!(!format!("{auth:?}").contains("pa:ss"));
    }
}
