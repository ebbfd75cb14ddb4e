//! Docker's configuration: logins at registries and the current context, where Docker's clients keep them: `config.json` in `~/.docker` or `$DOCKER_CONFIG`,
//! and the credential helpers that it names.
//!
//! It asks no registry. Start with [`DockerConfig`]; [`docker_config_auth`] is for who only reads.

mod helper;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use serde::Serialize;
use serde_json::{Map, Value};
use stdx::fs::{Durability, make_private_dir, write_atomic};

/// What a registry is told of who asks.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
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

impl Auth {
    /// The value of `X-Registry-Auth`: base64 of JSON.
    #[must_use]
    pub fn to_header(&self) -> String {
        #[derive(Serialize)]
        struct Given<'a> {
            username: &'a str,
            password: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            identitytoken: &'a str,
        }
        let given =
            Given { username: &self.username, password: &self.password, identitytoken: &self.identity_token };
        URL_SAFE.encode(serde_json::to_vec(&given).unwrap_or_default())
    }
}

/// The name Docker Hub has in configurations.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";

/// How logins can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is neither `$DOCKER_CONFIG` nor `$HOME`.
    #[error("neither HOME nor DOCKER_CONFIG is set: there is no place for logins")]
    NoHome,
    /// A file refuses.
    #[error("failed to {doing} {path}: {source}")]
    File {
        /// The step.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is no configuration.
    #[error("{path} is malformed: {why}; correct it or move it away")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A credential helper fails.
    #[error("the credential helper {helper} fails to {verb} the login at {key}: {why}")]
    Helper {
        /// The program.
        helper: String,
        /// What it was asked to do.
        verb: &'static str,
        /// The registry, as configurations name it.
        key: String,
        /// What it said.
        why: String,
    },
}

/// Where a login was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Into the file, readable.
    Plain(PathBuf),
    /// Into the store of a helper.
    Helper(String),
}

/// The registry a server's address means: its host, `docker.io` for any of Docker Hub's names.
#[must_use]
pub fn registry_of(address: &str) -> &str {
    let host = address.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// The name a registry has in configurations.
#[must_use]
pub fn key_of(registry: &str) -> &str {
    if registry == "docker.io" { HUB_KEY } else { registry }
}

/// The credentials for a registry in Docker's configuration, its helpers asked. Blocking, where a helper is.
#[must_use]
pub fn docker_config_auth(registry: &str) -> Option<Auth> {
    // Whoever only reads does without a file that is not there or damaged, as Docker's clients do.
    DockerConfig::load().ok()?.find(registry)
}

/// Docker's configuration; what is not about logins is kept as it is.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// As it was asked for; the file itself may be a link to elsewhere.
    dir: PathBuf,
    path: PathBuf,
    fields: Map<String, Value>,
}

impl DockerConfig {
    /// Reads the user's; one that is not there is empty.
    ///
    /// # Errors
    /// Where there is no place for it, or it can't be read.
    pub fn load() -> Result<Self, Error> {
        let dir = std::env::var_os("DOCKER_CONFIG")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .or_else(|| stdx::process::home().map(|home| home.join(".docker")))
            .ok_or(Error::NoHome)?;
        Self::load_from(&dir)
    }

    /// Reads the one of a directory.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn load_from(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        // Kept under the name it has: a link to it stays one when it is written.
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::File { doing: "read", path, source }),
        };
        let fields = if text.trim_ascii().is_empty() {
            Map::new()
        } else {
            serde_json::from_slice(&text)
                .map_err(|error| Error::Malformed { path: path.clone(), why: error.to_string() })?
        };
        Ok(Self { dir: dir.to_owned(), path, fields })
    }

    /// The directory it is in, with what Docker's clients keep beside it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The context that Docker's clients take their engine from; empty is their default.
    #[must_use]
    pub fn current_context(&self) -> &str {
        self.fields.get("currentContext").and_then(Value::as_str).unwrap_or_default()
    }

    /// Has them take it from another.
    ///
    /// # Errors
    /// Where the file can't be written.
    pub fn set_current_context(&mut self, name: &str) -> Result<(), Error> {
        if name.is_empty() {
            self.fields.remove("currentContext");
        } else {
            self.fields.insert("currentContext".into(), name.into());
        }
        self.write()
    }

    /// The login at a registry.
    #[must_use]
    pub fn find(&self, registry: &str) -> Option<Auth> {
        let key = key_of(registry);
        let from_helper = self.helper(key).and_then(|helper| helper::get(helper, key));
        from_helper.or_else(|| {
            let auths = self.fields.get("auths")?.as_object()?;
            let entry = auths.get(key).or_else(|| {
                auths.iter().find(|(known, _)| registry_of(known) == registry).map(|(_, entry)| entry)
            })?;
            from_entry(entry)
        })
    }

    /// Keeps a login.
    ///
    /// # Errors
    /// Where the file or the helper refuses.
    pub fn keep(&mut self, registry: &str, auth: &Auth) -> Result<Kept, Error> {
        let key = key_of(registry);
        if let Some(helper) = self.helper(key).map(str::to_owned) {
            helper::store(&helper, key, auth)?;
            // As Docker's clients do: the file tells that there is a login, not which.
            self.auths()?.insert(key.to_owned(), Value::Object(Map::new()));
            self.write()?;
            return Ok(Kept::Helper(helper));
        }
        self.auths()?.insert(key.to_owned(), to_entry(auth));
        self.write()?;
        Ok(Kept::Plain(self.path.clone()))
    }

    /// Forgets a login, under each name it may have; whether there was one.
    ///
    /// # Errors
    /// Where the file or the helper refuses.
    pub fn forget(&mut self, registry: &str) -> Result<bool, Error> {
        let key = key_of(registry);
        let mut had = false;
        if let Some(helper) = self.helper(key) {
            had = helper::get(helper, key).is_some();
            if had {
                helper::erase(helper, key)?;
            }
        }
        let auths = self.auths()?;
        let before = auths.len();
        auths.retain(|known, _| known != key && registry_of(known) != registry);
        if auths.len() != before {
            self.write()?;
            had = true;
        }
        Ok(had)
    }

    fn helper(&self, key: &str) -> Option<&str> {
        let of_key = self.fields.get("credHelpers").and_then(|helpers| helpers.get(key));
        of_key.or_else(|| self.fields.get("credsStore"))?.as_str().filter(|helper| !helper.is_empty())
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, Error> {
        let path = self.path.clone();
        let auths = self.fields.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if auths.is_null() {
            *auths = Value::Object(Map::new());
        }
        auths.as_object_mut().ok_or(Error::Malformed { path, why: "its auths are no object".into() })
    }

    fn write(&self) -> Result<(), Error> {
        if let Some(dir) = self.path.parent() {
            make_private_dir(dir).map_err(|source| Error::File {
                doing: "make the directory",
                path: dir.to_owned(),
                source,
            })?;
        }
        let mut text = serde_json::to_vec_pretty(&self.fields).unwrap_or_default();
        text.push(b'\n');
        write_atomic(&self.path, &text, Durability::Power).map_err(|source| Error::File {
            doing: "write",
            path: self.path.clone(),
            source,
        })
    }
}

fn from_entry(entry: &Value) -> Option<Auth> {
    let word = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (mut username, mut password) = (word("username"), word("password"));
    let (packed, identity_token) = (word("auth"), word("identitytoken"));
    if !packed.is_empty() {
        // Some tools leave the padding out.
        let packed = packed.trim().trim_end_matches('=');
        let text = String::from_utf8(STANDARD_NO_PAD.decode(packed).ok()?).ok()?;
        let (name, secret) = text.split_once(':')?;
        (username, password) = (name.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    let is_empty = username.is_empty() && identity_token.is_empty();
    (!is_empty).then_some(Auth { username, password, identity_token })
}

fn to_entry(auth: &Auth) -> Value {
    // A token stands for the password, which is not kept beside it.
    let secret = if auth.identity_token.is_empty() { auth.password.as_str() } else { "" };
    let mut entry = Map::new();
    entry.insert("auth".into(), STANDARD.encode(format!("{}:{secret}", auth.username)).into());
    if !auth.identity_token.is_empty() {
        entry.insert("identitytoken".into(), auth.identity_token.clone().into());
    }
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(username: &str, password: &str) -> Auth {
        Auth { username: username.into(), password: password.into(), identity_token: String::new() }
    }

    #[test]
    fn entries_are_read_in_each_form() {
        let found = from_entry(&serde_json::json!({ "auth": "dXNlcjpwYTpzcw==" })).unwrap();
        assert_eq!(found, auth("user", "pa:ss"));
        assert!(from_entry(&serde_json::json!({})).is_none());
        assert!(!format!("{found:?}").contains("pa:ss"));
        let with_token = Auth { identity_token: "tok".into(), ..auth("user", "") };
        assert_eq!(from_entry(&to_entry(&with_token)), Some(with_token));
    }

    #[test]
    fn addresses_mean_registries() {
        for (address, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://example.com/v1/", "example.com"),
            ("http://example.com:80/v2", "example.com:80"),
        ] {
            assert_eq!(registry_of(address), registry, "{address}");
        }
        assert_eq!(key_of("docker.io"), HUB_KEY);
    }

    #[test]
    fn a_login_is_kept_for_the_user_alone_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new");
        let mut config = DockerConfig::load_from(&dir).unwrap();
        assert_eq!(config.find("example.com"), None);
        config.fields.insert("psFormat".into(), "{{.ID}}".into());
        let kept = config.keep("example.com", &auth("user", "secret")).unwrap();
        let path = dir.join("config.json");
        assert_eq!(kept, Kept::Plain(path.clone()));
        #[cfg(unix)]
        {
            let permissions = std::fs::metadata(&path).unwrap().permissions();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&permissions) & 0o777, 0o600);
        }
        let mut config = DockerConfig::load_from(&dir).unwrap();
        assert_eq!(config.find("example.com"), Some(auth("user", "secret")));
        config.keep("docker.io", &auth("hub", "x")).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains(HUB_KEY));
        assert!(config.forget("example.com").unwrap());
        assert!(!config.forget("example.com").unwrap(), "it was forgotten before");
        let config = DockerConfig::load_from(&dir).unwrap();
        assert_eq!(config.find("example.com"), None);
        assert_eq!(config.find("docker.io"), Some(auth("hub", "x")));
        assert_eq!(config.fields["psFormat"], "{{.ID}}");
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{").unwrap();
        let error = DockerConfig::load_from(dir.path()).unwrap_err().to_string();
        assert!(error.contains("config.json is malformed"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.path().join("config.json")).unwrap(), "{");
    }
}
