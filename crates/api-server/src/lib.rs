//! Docker's HTTP API over the engine.
//!
//! Routes parse, call the engine once, and convert; what Docker's clients rely on in form (missing
//! fields, status codes, framing) is decided here, what happens is decided in `engine`. Start with
//! `endpoints`, the table of all there is, and `routes`.

mod convert;
mod endpoints;
mod error;
mod filters;
mod hijack;
pub mod listen;
mod query;
pub mod rootless;
mod routes;
mod sys;
pub mod tls;
mod versions;

pub use routes::Server;
