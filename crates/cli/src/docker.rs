//! `docker use` and `docker back`: lets Docker's own programs speak to this engine, and lets go again.
//!
//! Docker's clients take their engine from a context: `contexts/meta/SHA256-OF-NAME/meta.json` beside their
//! `config.json`, whose `currentContext` names it. What was current before is kept in ours.

use std::path::{Path, PathBuf};

use api::client::Endpoint;
use clap::{Args, Subcommand};
use host::engine::{Surroundings, Target};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use stdx::fs::Durability;

use crate::exit::{Failure, Outcome};
use crate::printer;

/// The context's name.
const NAME: &str = "cove";
/// Where Docker's programs look that know of no contexts.
const SOCKET: &str = "/var/run/docker.sock";

/// What `docker` is followed by.
#[derive(Subcommand, Debug)]
pub(crate) enum DockerVerb {
    /// Let Docker's own programs speak to this engine: docker, Compose, Testcontainers, editors
    #[command(after_help = "\
Examples:
  cove docker use              docker, Compose and others speak to Cove from now on
  sudo cove docker use --socket    also programs that know /var/run/docker.sock alone
  cove docker back             as it was before")]
    Use(UseArgs),
    /// Let them speak to whom they spoke before
    Back,
}

/// Flags of `docker use`.
#[derive(Args, Debug)]
pub(crate) struct UseArgs {
    /// Also at /var/run/docker.sock, for programs that know no other place; until the next start of the computer
    #[arg(long)]
    socket: bool,
}

pub(crate) fn dispatch(host: Option<&str>, verb: &DockerVerb) -> Outcome {
    let dir = config_dir()?;
    match verb {
        DockerVerb::Use(args) => {
            let target = Target::find(host, &Surroundings::of_this_process())?;
            use_context(&dir, &target.endpoint)?;
            printer::line(format_args!("Docker's programs now speak to {}.", target.endpoint));
            if std::env::var_os("DOCKER_HOST").is_some() {
                printer::note("DOCKER_HOST is set here, and counts for more: unset it.");
            }
            if args.socket {
                link_socket(&target.endpoint)?;
                printer::line(format_args!("{SOCKET} leads there too."));
            }
            printer::note("'cove docker back' undoes this.");
        }
        DockerVerb::Back => {
            let before = back(&dir)?;
            if std::fs::read_link(SOCKET)
                .is_ok_and(|to| to.file_name().is_some_and(|name| name == "cove.sock"))
            {
                std::fs::remove_file(SOCKET)
                    .map_err(|error| Failure::new(format!("failed to remove {SOCKET}: {error}")))?;
            }
            let before =
                if before.is_empty() { "their default".to_owned() } else { format!("context {before:?}") };
            printer::line(format_args!("Docker's programs speak to {before} again."));
        }
    }
    Ok(0)
}

fn config_dir() -> Outcome<PathBuf> {
    let given = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
    given.or(home).ok_or_else(|| Failure::new("neither DOCKER_CONFIG nor HOME is set"))
}

fn meta_dir(dir: &Path) -> PathBuf {
    let digest: String = Sha256::digest(NAME).iter().map(|byte| format!("{byte:02x}")).collect();
    dir.join("contexts/meta").join(digest)
}

/// Docker's configuration, whatever else is in it.
fn read_config(dir: &Path) -> Outcome<Map<String, Value>> {
    let path = dir.join("config.json");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        other => {
            other.map_err(|error| Failure::new(format!("failed to read {}: {error}", path.display())))?
        }
    };
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("{} is damaged: {error}", path.display())))
}

fn write(path: &Path, value: &Value) -> Outcome<()> {
    let text = serde_json::to_vec_pretty(value).unwrap_or_default();
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir)
        .and_then(|()| stdx::fs::write_atomic(path, &text, Durability::Power))
        .map_err(|error| Failure::new(format!("failed to write {}: {error}", path.display())))
}

fn use_context(dir: &Path, endpoint: &Endpoint) -> Outcome<()> {
    let mut config = read_config(dir)?;
    let current = config.get("currentContext").and_then(Value::as_str).unwrap_or_default().to_owned();
    let meta = meta_dir(dir).join("meta.json");
    let before = if current == NAME { previous(&meta) } else { current };
    // The context first: a current one that is not there would stop every docker command.
    write(
        &meta,
        &json!({
            "Name": NAME,
            "Metadata": { "Description": "Cove", "Previous": before },
            "Endpoints": { "docker": { "Host": endpoint.to_string(), "SkipTLSVerify": false } },
        }),
    )?;
    config.insert("currentContext".into(), NAME.into());
    write(&dir.join("config.json"), &Value::from(config))
}

/// What was current before ours.
fn previous(meta: &Path) -> String {
    let value: Value =
        std::fs::read(meta).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    value.pointer("/Metadata/Previous").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Takes our context away; what is current then.
fn back(dir: &Path) -> Outcome<String> {
    let mut config = read_config(dir)?;
    let meta = meta_dir(dir);
    let before = previous(&meta.join("meta.json"));
    let current = config.get("currentContext").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut now = current.clone();
    if current == NAME {
        if before.is_empty() {
            config.remove("currentContext");
        } else {
            config.insert("currentContext".into(), before.clone().into());
        }
        write(&dir.join("config.json"), &Value::from(config))?;
        now = before;
    }
    match std::fs::remove_dir_all(&meta) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("failed to remove {}: {error}", meta.display())))
        }
        _ => Ok(now),
    }
}

/// Makes Docker's place of the socket lead to ours; whoever answers there stays.
fn link_socket(endpoint: &Endpoint) -> Outcome<()> {
    let Endpoint::Unix(path) = endpoint else {
        return Err(Failure::new(format!("{endpoint} is no socket of this computer: --socket needs one")));
    };
    let socket = Path::new(SOCKET);
    let is_ours = std::fs::read_link(socket).is_ok_and(|to| to == *path);
    if is_ours {
        return Ok(());
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(Failure::new(format!("another engine answers at {SOCKET}: stop it first")));
    }
    let fail =
        |error: std::io::Error| Failure::new(format!("failed to make {SOCKET}: {error}; it needs root"));
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    std::os::unix::fs::symlink(path, socket).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_current_comes_back_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let endpoint: Endpoint = "unix:///run/cove/cove.sock".parse().unwrap();
        std::fs::write(dir.join("config.json"), r#"{"auths":{"r":{}},"currentContext":"other"}"#).unwrap();
        // Twice is as good as once.
        use_context(dir, &endpoint).unwrap();
        use_context(dir, &endpoint).unwrap();
        let config = read_config(dir).unwrap();
        assert_eq!(
            (config.get("currentContext").unwrap(), config.contains_key("auths")),
            (&json!("cove"), true)
        );
        let meta: Value =
            serde_json::from_slice(&std::fs::read(meta_dir(dir).join("meta.json")).unwrap()).unwrap();
        assert_eq!(meta.pointer("/Endpoints/docker/Host"), Some(&json!("unix:///run/cove/cove.sock")));
        assert_eq!(back(dir).unwrap(), "other");
        assert_eq!(read_config(dir).unwrap().get("currentContext"), Some(&json!("other")));
        assert!(!meta_dir(dir).exists());
        // Where there was nothing, there is nothing again; somebody else's choice stays.
        std::fs::write(dir.join("config.json"), "{}").unwrap();
        use_context(dir, &endpoint).unwrap();
        assert_eq!(back(dir).unwrap(), "");
        assert!(read_config(dir).unwrap().is_empty());
        std::fs::write(dir.join("config.json"), "{").unwrap();
        assert!(use_context(dir, &endpoint).is_err());
        assert_eq!(std::fs::read_to_string(dir.join("config.json")).unwrap(), "{");
    }
}
