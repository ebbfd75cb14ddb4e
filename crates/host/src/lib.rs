//! What runs on the user's machine beside the window: finding or starting an engine, preparing its
//! data for a UI, and serving that UI to a browser.
//!
//! Nothing about containers is decided here, and nothing is drawn: the engine does the one, `ui/`
//! the other. Start with [`engine`] for how an engine is found and started, with [`ui::Session`] for
//! what a window talks to, and with [`web`] for the browser.

pub mod engine;
mod error;
pub mod machine;
pub mod service;
mod sys;
pub mod ui;
pub mod web;

pub use error::Error;
