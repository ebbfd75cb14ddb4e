//! `docker use` and `docker back`: lets Docker's own programs speak to this engine, and lets go again.
//!
//! Docker's clients take their engine from a context: `contexts/meta/SHA256-OF-NAME/meta.json` beside their
//! `config.json`, whose `currentContext` names it. What was current before is kept in ours.

use std::path::{Path, PathBuf};

use api::client::Endpoint;
use clap::{Args, Subcommand};
use credentials::DockerConfig;
use host::engine::{Surroundings, Target};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stdx::fs::Durability;

use crate::exit::{Failure, Outcome};
use crate::printer;
use crate::sys;

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
    let mut config = DockerConfig::load()?;
    match verb {
        DockerVerb::Use(args) => {
            let target = Target::find(host, &Surroundings::of_this_process())?;
            use_context(&mut config, &target.endpoint)?;
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
            let before = back(&mut config)?;
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

fn meta_dir(dir: &Path) -> PathBuf {
    let digest: String = Sha256::digest(NAME).iter().map(|byte| format!("{byte:02x}")).collect();
    dir.join("contexts/meta").join(digest)
}

fn use_context(config: &mut DockerConfig, endpoint: &Endpoint) -> Outcome<()> {
    let meta = meta_dir(config.dir()).join("meta.json");
    let current = config.current_context();
    let before = if current == NAME { previous(&meta) } else { current.to_owned() };
    let value = json!({
        "Name": NAME,
        "Metadata": { "Description": "Cove", "Previous": before },
        "Endpoints": { "docker": { "Host": endpoint.to_string(), "SkipTLSVerify": false } },
    });
    // The context first: a current one that is not there would stop every docker command.
    let text = serde_json::to_vec_pretty(&value).unwrap_or_default();
    std::fs::create_dir_all(meta.parent().unwrap_or(&meta))
        .and_then(|()| stdx::fs::write_atomic(&meta, &text, Durability::Power))
        .map_err(|error| Failure::new(format!("failed to write {}: {error}", meta.display())))?;
    Ok(config.set_current_context(NAME)?)
}

/// What was current before ours.
fn previous(meta: &Path) -> String {
    let value: Value =
        std::fs::read(meta).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    value.pointer("/Metadata/Previous").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Takes our context away; what is current then.
fn back(config: &mut DockerConfig) -> Outcome<String> {
    let meta = meta_dir(config.dir());
    if config.current_context() == NAME {
        config.set_current_context(&previous(&meta.join("meta.json")))?;
    }
    match std::fs::remove_dir_all(&meta) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(format!("failed to remove {}: {error}", meta.display())))
        }
        _ => Ok(config.current_context().to_owned()),
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
    if sys::is_answered(socket) {
        return Err(Failure::new(format!("another engine answers at {SOCKET}: stop it first")));
    }
    let fail =
        |error: std::io::Error| Failure::new(format!("failed to make {SOCKET}: {error}; it needs root"));
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    sys::link(path, socket).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_current_comes_back_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let load = || DockerConfig::load_from(dir.path()).unwrap();
        let fields = || serde_json::from_slice::<Value>(&std::fs::read(&file).unwrap()).unwrap();
        let endpoint: Endpoint = "unix:///run/cove/cove.sock".parse().unwrap();
        std::fs::write(&file, r#"{"auths":{"r":{}},"currentContext":"other"}"#).unwrap();
        // Twice is as good as once.
        use_context(&mut load(), &endpoint).unwrap();
        use_context(&mut load(), &endpoint).unwrap();
        assert_eq!(fields(), json!({ "auths": { "r": {} }, "currentContext": "cove" }));
        let meta: Value =
            serde_json::from_slice(&std::fs::read(meta_dir(dir.path()).join("meta.json")).unwrap()).unwrap();
        assert_eq!(meta.pointer("/Endpoints/docker/Host"), Some(&json!("unix:///run/cove/cove.sock")));
        assert_eq!(back(&mut load()).unwrap(), "other");
        assert_eq!(fields().get("currentContext"), Some(&json!("other")));
        assert!(!meta_dir(dir.path()).exists());
        // Where there was nothing, there is nothing again.
        std::fs::write(&file, "{}").unwrap();
        use_context(&mut load(), &endpoint).unwrap();
        assert_eq!(back(&mut load()).unwrap(), "");
        assert_eq!(fields(), json!({}));
    }
}
