//! Credential helpers: programs `docker-credential-NAME` that keep logins, asked by one word and standard input.

use std::io::Write;
use std::process::{Output, Stdio};

use serde::{Deserialize, Serialize};

use crate::{Auth, Error};

/// The user's name where the secret is a token that stands for user and password.
const TOKEN_USER: &str = "<token>";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Login {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    username: String,
    secret: String,
}

/// The login a helper has; one that knows none answers with an error.
pub(crate) fn get(helper: &str, key: &str) -> Option<Auth> {
    let output = ask(helper, "get", key, key.as_bytes()).ok()?;
    let login: Login = serde_json::from_slice(&output.stdout).ok()?;
    let is_token = login.username == TOKEN_USER;
    Some(if is_token {
        Auth { identity_token: login.secret, ..Auth::default() }
    } else {
        Auth { username: login.username, password: login.secret, identity_token: String::new() }
    })
}

/// Gives a helper a login to keep.
pub(crate) fn store(helper: &str, key: &str, auth: &Auth) -> Result<(), Error> {
    let has_token = !auth.identity_token.is_empty();
    let login = Login {
        server_url: key.to_owned(),
        username: if has_token { TOKEN_USER.to_owned() } else { auth.username.clone() },
        secret: if has_token { auth.identity_token.clone() } else { auth.password.clone() },
    };
    ask(helper, "store", key, &serde_json::to_vec(&login).unwrap_or_default()).map(drop)
}

/// Has a helper forget a login.
pub(crate) fn erase(helper: &str, key: &str) -> Result<(), Error> {
    ask(helper, "erase", key, key.as_bytes()).map(drop)
}

fn ask(helper: &str, verb: &'static str, key: &str, input: &[u8]) -> Result<Output, Error> {
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| Error::Helper { helper: program.clone(), verb, key: key.to_owned(), why };
    if helper.contains('/') {
        return Err(failed("its name is a path".into()));
    }
    let mut command = stdx::process::command(&program);
    stdx::process::pass(&mut command, stdx::process::CREDENTIAL_HELPER);
    let mut child = command
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    // Dropped at once, which is the end of the input. A helper that reads none of it may have its reasons.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        // Helpers tell of failures on standard output.
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        return Err(failed(if said.is_empty() { output.status.to_string() } else { said }));
    }
    Ok(output)
}
