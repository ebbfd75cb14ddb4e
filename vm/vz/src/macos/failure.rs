//! What the framework did not do.

use std::time::Duration;

use objc2_foundation::NSError;

use crate::WrongSpec;

/// A machine that is not as it was to be.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No machine can be that.
    #[error(transparent)]
    Spec(#[from] WrongSpec),
    /// This macOS is older than what is asked for.
    #[error("failed to {doing}: it takes macOS {version} or newer")]
    TooOld {
        /// What was tried.
        doing: &'static str,
        /// Since when it can be had.
        version: u32,
    },
    /// The framework said no.
    #[error("failed to {doing}: {said} ({domain} {code})")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// Why, in the framework's words.
        said: String,
        /// Whose code it is: `VZErrorDomain`.
        domain: String,
        /// The code.
        code: isize,
    },
    /// It has nothing of that kind.
    #[error("failed to {doing}: the machine has no {what}")]
    Lacking {
        /// What was tried.
        doing: &'static str,
        /// What is not there.
        what: &'static str,
    },
    /// The framework said nothing.
    #[error("failed to {doing}: macOS did not answer within {} s", after.as_secs())]
    Silent {
        /// What was tried.
        doing: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// A descriptor could not be had.
    #[error("failed to {doing}")]
    Descriptor {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Failure {
    pub(super) fn refused(doing: &'static str, error: &NSError) -> Self {
        let (said, domain) = (error.localizedDescription().to_string(), error.domain().to_string());
        Self::Refused { doing, said, domain, code: error.code() }
    }
}
