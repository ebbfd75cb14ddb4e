//! Why no engine could be reached.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use api::client::Endpoint;
use model::ErrorKind;

use crate::sys;

/// An engine that could not be found, started or reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address, or talking to what is there.
    #[error(transparent)]
    Client(#[from] api::client::Error),
    /// A machine it is in.
    #[error(transparent)]
    Machine(#[from] crate::machine::Error),
    /// There is no place for a user's socket.
    #[error("failed to find a place for the engine's socket: {} is not set", sys::RUNTIME_DIR)]
    NoRuntimeDir,
    /// An engine somebody named does not answer; a named one is never started.
    #[error("no engine answers at {endpoint}")]
    NotRunning {
        /// Where it was looked for.
        endpoint: Endpoint,
        /// What connecting said.
        #[source]
        source: api::client::Error,
    },
    /// Nothing to start.
    #[error("failed to find the program coved: looked beside this program and in PATH")]
    NoProgram,
    /// A folder or file that starting needs.
    #[error("failed to prepare {path}", path = path.display())]
    Prepare {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be executed.
    #[error("failed to start {program}", program = program.display())]
    Spawn {
        /// What was executed.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The engine ended instead of listening.
    #[error("the engine ended while starting ({status})")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        tail: String,
        /// Its log.
        log: PathBuf,
    },
    /// There is no engine here but in a machine.
    #[error("engines run on {} in machines alone", std::env::consts::OS)]
    NotHere,
    /// Nobody keeps services here whom we know.
    #[error("failed to find who starts services here: systemd does not run")]
    NoServiceManager,
    /// Whoever keeps services refuses.
    #[error("{command:?} failed: {said}")]
    ServiceManager {
        /// What it was told.
        command: String,
        /// Its answer.
        said: String,
    },
    /// The engine runs but does not answer.
    #[error("the engine did not answer within {} s of being started", after.as_secs())]
    Silent {
        /// How long was waited.
        after: Duration,
        /// The end of its log.
        tail: String,
        /// Its log.
        log: PathBuf,
    },
}

impl Error {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Client(source) => source.kind(),
            Self::Machine(source) => source.kind(),
            Self::NoRuntimeDir => ErrorKind::InvalidArgument,
            Self::NoProgram => ErrorKind::NotFound,
            Self::NoServiceManager | Self::NotHere => ErrorKind::Unsupported,
            Self::NotRunning { source, .. } if source.kind() == ErrorKind::Permission => {
                ErrorKind::Permission
            }
            Self::Prepare { source, .. } | Self::Spawn { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                ErrorKind::Permission
            }
            Self::NotRunning { .. }
            | Self::Prepare { .. }
            | Self::Spawn { .. }
            | Self::Ended { .. }
            | Self::ServiceManager { .. } => ErrorKind::Unavailable,
            Self::Silent { .. } => ErrorKind::Timeout,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Client(_) => return None,
            Self::Machine(source) => return source.hint(),
            Self::NoRuntimeDir => {
                "log in through a session manager, or set COVE_HOST=unix:///path/to/cove.sock".to_owned()
            }
            Self::NotRunning { endpoint, source } if source.kind() == ErrorKind::Permission => {
                format!("{endpoint} belongs to another user: add yourself to its group, or unset COVE_HOST")
            }
            Self::NotRunning { .. } if !sys::HAS_ENGINES => {
                "engines run in machines here: 'cove machine init' makes one, and COVE_HOST=machine://default is it"
                    .to_owned()
            }
            Self::NotRunning { endpoint, .. } => {
                format!("start it with: coved --listen {endpoint}, or unset COVE_HOST to use your own engine")
            }
            Self::NoServiceManager => {
                "have whatever starts services here run coved, in the foreground, as root or as yourself"
                    .to_owned()
            }
            Self::ServiceManager { .. } | Self::NotHere => return None,
            Self::NoProgram => "install coved beside cove, or put it into PATH".to_owned(),
            Self::Prepare { path, .. } => format!("check who owns {}", path.display()),
            Self::Spawn { program, .. } => format!("check that {} can be executed", program.display()),
            Self::Ended { log, .. } | Self::Silent { log, .. } => {
                format!("its log is {}; cove doctor checks this computer", log.display())
            }
        })
    }

    /// The end of the engine's log, where it says why.
    #[must_use]
    pub fn log_tail(&self) -> Option<&str> {
        match self {
            Self::Ended { tail, .. } | Self::Silent { tail, .. } if !tail.is_empty() => Some(tail),
            Self::Machine(source) => source.console(),
            _ => None,
        }
    }
}
