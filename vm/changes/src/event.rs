//! What a guest is told of changes on the host.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::known::{Difference, Shape};

/// What happened to a file of a share on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A file is there that was not.
    Created,
    /// A folder is there that was not.
    FolderCreated,
    /// A symbolic link is there that was not.
    LinkCreated,
    /// The content of a file is another.
    Modified,
    /// Permissions or times are others, or what is in a folder.
    AttributesChanged,
    /// A file or link is gone.
    Removed,
    /// A folder is gone.
    FolderRemoved,
    /// A folder is not there any more, and lives on elsewhere.
    FolderMovedAway,
    /// It has another name, in the place of what may have been there.
    Renamed {
        /// The new path from the share's root.
        to: PathBuf,
    },
}

impl From<Difference> for EventKind {
    fn from(difference: Difference) -> Self {
        match difference {
            Difference::Content => EventKind::Modified,
            Difference::Attributes => EventKind::AttributesChanged,
        }
    }
}

impl EventKind {
    /// What is there that was not.
    #[must_use]
    pub fn created(shape: Shape) -> Self {
        match shape {
            Shape::File | Shape::Special => EventKind::Created,
            Shape::Folder => EventKind::FolderCreated,
            Shape::Link => EventKind::LinkCreated,
        }
    }

    /// What is gone that was there, or lives on elsewhere.
    #[must_use]
    pub fn removed(shape: Shape, is_moved: bool) -> Self {
        match (shape, is_moved) {
            (Shape::Folder, true) => EventKind::FolderMovedAway,
            (Shape::Folder, false) => EventKind::FolderRemoved,
            (Shape::File | Shape::Link | Shape::Special, _) => EventKind::Removed,
        }
    }

    /// The letter that stands for it.
    #[must_use]
    pub fn letter(&self) -> u8 {
        match self {
            EventKind::Created => b'c',
            EventKind::FolderCreated => b'f',
            EventKind::LinkCreated => b'l',
            EventKind::Modified => b'm',
            EventKind::AttributesChanged => b'a',
            EventKind::Removed => b'r',
            EventKind::FolderRemoved => b'd',
            EventKind::FolderMovedAway => b'o',
            EventKind::Renamed { .. } => b'n',
        }
    }
}

/// A change on the host that the guest is to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// From the share's root.
    pub path: PathBuf,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// As the guest's half reads it: a letter for the kind, the path, a zero byte; of a rename then the other path and
    /// one more.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.kind.letter()];
        bytes.extend(self.path.as_os_str().as_bytes());
        bytes.push(0);
        if let EventKind::Renamed { to } = &self.kind {
            bytes.extend(to.as_os_str().as_bytes());
            bytes.push(0);
        }
        bytes
    }
}
