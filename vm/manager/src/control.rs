//! What a supervisor is asked on its socket: one line of JSON, answered by lines of JSON.

use serde::{Deserialize, Serialize};
use vm_proto::message::Mode;

use crate::status::Status;

/// The longest line either side reads.
pub const LINE_MAX: u64 = 1 << 20;

/// A request, the first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Answered by one [`Answer::Status`].
    Status,
    /// Answered by [`Answer::Status`] now and whenever it changes.
    Follow,
    /// Start, if it does not run. Answered by [`Answer::Done`] when it is under way.
    Start {
        /// How.
        mode: Mode,
    },
    /// Stop cleanly. Answered by [`Answer::Done`] when it is under way; the supervisor ends with the machine.
    Stop,
    /// Save its state and end it; the next start, or the first call of its engine or of a port, goes on from there. Answered by
    /// [`Answer::Done`] when it is under way; followers see it asleep, or running again with the cause in its detail.
    Sleep,
    /// End it at once, as a power cut would.
    Kill,
    /// A program in the guest: after [`Answer::Done`] the connection carries pieces (`vm_proto::stream::Piece`).
    Execute {
        /// Empty for a shell.
        command: Vec<String>,
        /// Rows and columns.
        terminal: Option<(u16, u16)>,
    },
    /// Make it as large as its configuration says now, as far as that can be done while it runs. Answered by
    /// [`Answer::Resized`].
    Resize {
        /// Bytes of memory.
        memory: u64,
        /// Bytes of the disk.
        disk: u64,
    },
    /// Have the guest give back memory and disk that it does not use.
    GiveBack,
}

/// An answer, one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It is done, or under way.
    Done,
    /// It is not, and this is why.
    Refused {
        /// In words.
        cause: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Whether it has these sizes now; else it has at its next start.
    Resized {
        /// Its memory is that.
        memory: bool,
        /// Its disk is that.
        disk: bool,
    },
    /// How it stands.
    Status(Box<Status>),
}
