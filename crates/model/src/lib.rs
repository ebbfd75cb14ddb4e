//! The nouns every other package speaks of: ids, digests, references, platforms and error kinds.
//!
//! No I/O and no policy in here. Start with [`mod@reference`] for image names and [`error_kind`] for
//! how failures are sorted.

pub mod container;
pub mod digest;
pub mod drive;
pub mod error_kind;
pub mod holder;
pub mod mount;
pub mod network;
pub mod platform;
pub mod reference;

pub use digest::Digest;
pub use error_kind::ErrorKind;
pub use platform::Platform;
pub use reference::Reference;
