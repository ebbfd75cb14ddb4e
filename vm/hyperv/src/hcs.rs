//! The Host Compute Service: machines described by a JSON document and run by calls of `computecore.dll`, which is loaded
//! when it is needed, for not every Windows has it.

pub mod document;
mod failure;
mod machine;

use std::path::Path;

pub use crate::sys::{Identity, Library};
pub use failure::{Failure, FailureKind};
pub use machine::{Machine, SWITCHED_OFF};

/// What a machine can be asked for without more words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Run what was created, or was restored.
    Start,
    /// Stop its processors; memory stays.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Write its memory to a file, paused as it is.
    Save,
    /// End it at once.
    Terminate,
}

impl Order {
    /// The call that says it.
    #[must_use]
    pub fn call(self) -> &'static str {
        match self {
            Self::Start => "HcsStartComputeSystem",
            Self::Pause => "HcsPauseComputeSystem",
            Self::Resume => "HcsResumeComputeSystem",
            Self::Save => "HcsSaveComputeSystem",
            Self::Terminate => "HcsTerminateComputeSystem",
        }
    }
}

/// Hears how a machine ended.
pub type EndTold = Box<dyn FnOnce(&str) + Send>;

/// The service. Each call is waited for.
pub trait Service {
    /// A machine of this service's, which ends with the last value that stands for it.
    type System: System;

    /// Makes a machine of a document; it does not run yet.
    ///
    /// # Errors
    /// The service's.
    fn create(&self, id: &str, document: &str) -> Result<Self::System, Failure>;

    /// Lets a machine open a file of the user's; which takes that this thread may change who may.
    ///
    /// # Errors
    /// The service's.
    fn grant(&self, id: &str, file: &Path) -> Result<(), Failure>;

    /// Makes the file that a machine's state is to be written to, as this thread.
    ///
    /// # Errors
    /// The service's; there is one already.
    fn make_state(&self, file: &Path) -> Result<(), Failure>;

    /// All machines there are, as a JSON list. Also tells whether this user may ask at all.
    ///
    /// # Errors
    /// The service's.
    fn enumerate(&self) -> Result<String, Failure>;
}

/// A machine as the service has it.
pub trait System {
    /// Orders something, with options as a JSON document where it takes any.
    ///
    /// # Errors
    /// The service's.
    fn order(&self, order: Order, options: Option<&str>) -> Result<(), Failure>;

    /// Changes something while it runs, for whoever `identity` stands for, or for the service itself.
    ///
    /// # Errors
    /// The service's.
    fn modify(&self, request: &str, identity: Option<&Identity>) -> Result<(), Failure>;

    /// Has `told` hear when it ends, with what the service says of it; at most once.
    ///
    /// # Errors
    /// The service's.
    fn on_end(&self, told: EndTold) -> Result<(), Failure>;

    /// What the service says of it.
    ///
    /// # Errors
    /// The service's.
    fn properties(&self, query: &str) -> Result<String, Failure>;
}
