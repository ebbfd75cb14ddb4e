//! Docker's wire types, Cove's own (under `/cove/v1`), and the typed client that speaks them.
//!
//! Types here are what crosses a socket and nothing else: the engine has its own, and `api-server`
//! converts. Clients tell `null`, `{}`, `[]` and a missing field apart, so each field says by its
//! type and attributes which of them Docker sends. Start with [`container`].

pub mod client;
pub mod container;
pub mod event;
pub mod exec;
pub mod image;
pub mod network;
pub mod system;
pub mod volume;

/// The newest Docker API version spoken, and the oldest still answered.
pub const API_VERSION: &str = "1.52";
/// The oldest Docker API version still answered.
pub const MIN_API_VERSION: &str = "1.24";

/// What an engine's program exits with where another engine has its folder, which may be about to answer, or to end
/// (`EX_TEMPFAIL` of sysexits.h).
pub const EXIT_IN_USE: u8 = 75;

/// The body of every error answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorBody {
    /// One sentence: what failed, on what, and why.
    pub message: String,
}
