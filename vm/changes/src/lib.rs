//! What a guest knows of a share, and how it is told of what changes there without its help.
//!
//! A guest's kernel tells its watchers of what happens by itself alone. So a thread in the guest acts out what happened on
//! the host, and whoever answers that thread's requests changes nothing: the share's own server (`vm-devices`), or, where
//! that is another's, a layer of ours in front of it in the guest (`vm-agent`). Both decide by what is in here.
//!
//! Knows no files and makes no calls. For Linux only; on others the package is empty. Start reading at `acting.rs`.
#![cfg(target_os = "linux")]

mod acting;
mod event;
mod known;

pub use acting::{Act, Acting};
pub use event::{Event, EventKind};
pub use known::{Difference, Known, Name, Place, ROOT, Seen, Shape, Stamp};

/// A folder in the share's root that the acting thread alone sees, for folders that are not where the guest knew them and live
/// on elsewhere: one that a kernel has removed it never looks into again, wherever it finds it.
pub const AWAY: &str = ".cove-moved-away";
/// Its number.
pub const AWAY_NODE: u64 = SYNTHETIC;

/// Whether it is that folder. Nobody else's kernel may remember that there is none.
#[must_use]
pub fn is_away((folder, name): &Place) -> bool {
    *folder == ROOT && name.as_bytes() == AWAY.as_bytes()
}

/// Numbers of files from here on are of what is gone already, and nobody knows any more.
pub const SYNTHETIC: u64 = 1 << 62;
