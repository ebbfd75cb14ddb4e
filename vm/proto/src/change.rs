//! What a host's system tells of changes in a share, on a stream of [`crate::stream::Open::Told`]: a letter, a path from
//! the share's root, and a zero byte; of a rename one more path; of what is not clear hints before the path.
//!
//! Paths are bytes, with `/` between names, as the guest has them.

use std::io::{self, BufRead};

/// The longest path that is taken.
pub const PATH_MAX: usize = 4096;

/// What is known of a deed that was not told by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// It came to be, some time.
    pub created: bool,
    /// It ended.
    pub removed: bool,
    /// It had another name, or has.
    pub renamed: bool,
    /// Its content changed.
    pub modified: bool,
    /// The host's number of the file; zero where that is not known.
    pub file: u64,
}

/// What happened to a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// It is there, and was not.
    Appeared {
        /// A folder has it.
        is_folder: bool,
    },
    /// It is gone.
    Disappeared {
        /// A folder had it, as far as is known.
        is_folder: bool,
    },
    /// It is another.
    Renamed {
        /// Which.
        to: Vec<u8>,
    },
    /// What has it looks different.
    Touched,
    /// Something, to be found out by a look.
    Unclear(Hints),
    /// Things were lost: all that is in this folder, and below, is to be looked at.
    Lost,
}

/// A change as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From the share's root.
    pub path: Vec<u8>,
    /// What happened.
    pub deed: Deed,
}

impl Change {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let letter = match &self.deed {
            Deed::Appeared { is_folder: false } => b'c',
            Deed::Appeared { is_folder: true } => b'f',
            Deed::Disappeared { is_folder: false } => b'r',
            Deed::Disappeared { is_folder: true } => b'd',
            Deed::Renamed { .. } => b'n',
            Deed::Touched => b't',
            Deed::Unclear(_) => b'u',
            Deed::Lost => b'l',
        };
        let mut bytes = vec![letter];
        if let Deed::Unclear(Hints { created, removed, renamed, modified, file }) = &self.deed {
            let flags = [created, removed, renamed, modified];
            let flags = flags.iter().fold(0, |flags: u8, is_set| flags << 1 | u8::from(**is_set));
            // No byte of these is zero.
            bytes.extend(format!("{flags:01x}{file:016x}").into_bytes());
        }
        bytes.extend(&self.path);
        bytes.push(0);
        if let Deed::Renamed { to } = &self.deed {
            bytes.extend(to);
            bytes.push(0);
        }
        bytes
    }

    /// Reads the next; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream's, or what is no change.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut first = [0];
        match from.read_exact(&mut first) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let [letter] = first;
        let deed = match letter {
            b'c' => Deed::Appeared { is_folder: false },
            b'f' => Deed::Appeared { is_folder: true },
            b'r' => Deed::Disappeared { is_folder: false },
            b'd' => Deed::Disappeared { is_folder: true },
            b'n' => Deed::Renamed { to: Vec::new() },
            b't' => Deed::Touched,
            b'u' => Deed::Unclear(read_hints(from)?),
            b'l' => Deed::Lost,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let path = read_path(from)?;
        let deed = match deed {
            Deed::Renamed { .. } => Deed::Renamed { to: read_path(from)? },
            other => other,
        };
        Ok(Some(Self { path, deed }))
    }
}

fn read_hints(from: &mut impl BufRead) -> io::Result<Hints> {
    let mut text = [0; 17];
    from.read_exact(&mut text)?;
    let number = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).ok()?;
        u64::from_str_radix(digits, 16).ok()
    };
    let (flags, file) = text.split_at(1);
    let (flags, file) = number(flags).zip(number(file)).ok_or(io::ErrorKind::InvalidData)?;
    let [created, removed, renamed, modified] = [8, 4, 2, 1].map(|bit| flags & bit != 0);
    Ok(Hints { created, removed, renamed, modified, file })
}

fn read_path(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut path = Vec::new();
    let limit = u64::try_from(PATH_MAX).unwrap_or(u64::MAX);
    io::Read::take(from, limit).read_until(0, &mut path)?;
    // An end in the middle, or too long.
    if path.pop() != Some(0) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let hints = Hints { created: true, removed: false, renamed: true, modified: false, file: 77 };
        let deeds = [
            Deed::Appeared { is_folder: false },
            Deed::Appeared { is_folder: true },
            Deed::Disappeared { is_folder: false },
            Deed::Disappeared { is_folder: true },
            Deed::Renamed { to: b"b/c".to_vec() },
            Deed::Touched,
            Deed::Unclear(hints),
            Deed::Lost,
        ];
        let changes: Vec<Change> =
            deeds.into_iter().map(|deed| Change { path: b"a/b".to_vec(), deed }).collect();
        let bytes: Vec<u8> = changes.iter().flat_map(Change::encode).collect();
        let mut from = bytes.as_slice();
        let read: Vec<Change> = std::iter::from_fn(|| Change::read(&mut from).unwrap()).collect();
        assert_eq!(read, changes);
    }

    #[test]
    fn what_is_no_change_is_an_error() {
        let long = [&b"c"[..], &[b'a'; PATH_MAX + 1], &[0]].concat();
        for bytes in [&b"x\0"[..], b"ca", b"u1\0", b"na\0b", &long] {
            assert!(Change::read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
