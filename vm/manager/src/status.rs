//! How a machine stands, as `cove machine status` and the window show it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vm_proto::message::Report;

use crate::config::{Backend, Config};
use crate::stage::{Remedy, Stage};

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It does not run.
    Stopped,
    /// On its way up.
    Starting,
    /// Its engine has answered.
    Running,
    /// Up without an engine, its disk read-only.
    Rescue,
    /// Its state is being saved.
    FallingAsleep,
    /// Its state is on disk: the first call wakes it.
    Asleep,
    /// On its way down.
    Stopping,
    /// It did not come up, or went away by itself.
    Failed,
}

impl Phase {
    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Rescue => "rescue",
            Self::FallingAsleep => "falling asleep",
            Self::Asleep => "asleep",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}

/// All about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// In one word.
    pub phase: Phase,
    /// The stage a start is at.
    pub stage: Option<Stage>,
    /// What is going on in it, in words.
    pub detail: String,
    /// Who it is.
    pub backend: Backend,
    /// What that means on this computer: `KVM`, `TCG: emulated, slow`.
    pub acceleration: String,
    /// As it is to be at the next start.
    pub config: Config,
    /// Stages of this start that are done, with the milliseconds each took.
    pub took: Vec<(Stage, u64)>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What works only in part.
    pub warnings: Vec<String>,
    /// Process of the machine.
    pub pid: Option<u32>,
    /// The digest of the image it runs.
    pub image: Option<String>,
    /// The guest's kernel.
    pub kernel: String,
    /// The engine's socket on this computer.
    pub engine: PathBuf,
    /// Ports of the guest that answer on this computer: `127.0.0.1:8080/tcp`.
    pub ports: Vec<String>,
    /// What the guest uses.
    pub report: Option<Report>,
    /// Bytes of this computer's memory that the machine's process takes.
    pub memory_here: Option<u64>,
    /// Bytes that the data disk's file takes.
    pub disk_here: u64,
}

/// Why a machine failed, and what helps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// During which stage; `None` when it ran.
    pub stage: Option<Stage>,
    /// In words.
    pub cause: String,
    /// The last lines of its console.
    pub console: String,
    /// The one thing to do.
    pub remedy: Remedy,
}

impl Status {
    /// One that does not run.
    #[must_use]
    pub fn stopped(name: &str, config: Config, engine: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            phase: Phase::Stopped,
            stage: None,
            detail: String::new(),
            backend: config.backend,
            acceleration: String::new(),
            config,
            took: Vec::new(),
            failure: None,
            warnings: Vec::new(),
            pid: None,
            image: None,
            kernel: String::new(),
            engine,
            ports: Vec::new(),
            report: None,
            memory_here: None,
            disk_here: 0,
        }
    }
}
