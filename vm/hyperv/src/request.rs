//! What is asked of whoever may make machines, and how that crosses a pipe to the small service: a request is a length of
//! four bytes, the lowest first, and JSON; an answer is the same.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::guid::Guid;
use crate::hcs::Failure;
use crate::hcs::document::Share;

/// The version of these words. Sides of different versions tell so and part.
pub const VERSION: u32 = 2;
/// The longest request or answer.
const LENGTH_MAX: u32 = 64 << 10;

/// What is asked. All but the first and the last are about the machine that was made by the same connection, which ends
/// with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Whether machines can be made at all.
    Look {
        /// [`VERSION`] of who asks.
        version: u32,
    },
    /// Make one. It does not run yet.
    Make(Wanted),
    /// Have it run.
    Start,
    /// Let it mount one more folder.
    AddShare(Share),
    /// Take a folder away from it.
    RemoveShare {
        /// What the guest asked for.
        tag: String,
    },
    /// Change how much memory it has.
    SetMemory {
        /// In bytes.
        bytes: u64,
    },
    /// Have its processors stand still.
    Pause,
    /// Have them go on.
    Resume,
    /// Write its state to a file that is not there yet; it stands still then, or goes on after a failure.
    Save {
        /// The file.
        file: PathBuf,
    },
    /// End it at once.
    End,
    /// Wait until a machine of the same user's has ended.
    Wait {
        /// Its name.
        name: String,
    },
}

/// A machine that is wanted. What it is beside this, nobody who asks has a say in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name, among its user's.
    pub name: String,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// What it boots.
    pub kernel: PathBuf,
    /// What is in memory at first.
    pub initrd: PathBuf,
    /// What the kernel is told.
    pub options: String,
    /// Its first disk, which it can't write to.
    pub system: PathBuf,
    /// Its second.
    pub data: PathBuf,
    /// The pipe at which its console is heard.
    pub console: String,
    /// The file that it was saved to, to go on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<PathBuf>,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It is so.
    Done,
    /// A machine was made.
    Made {
        /// The id by which it is connected to.
        runtime_id: String,
        /// Why it has no way out, if it has none.
        no_network: Option<String>,
    },
    /// It has ended.
    Ended {
        /// How, in words.
        how: String,
    },
}

/// What a request comes to.
pub type Outcome = Result<Answer, Failure>;

impl Answer {
    /// Of a machine that was made: its id, and why it has no way out.
    pub(crate) fn made(runtime_id: Guid, no_network: Option<Failure>) -> Self {
        let no_network = no_network.map(|failure| failure.to_string());
        Self::Made { runtime_id: runtime_id.to_string(), no_network }
    }
}

/// Reads one; `None` where the other side is gone.
///
/// # Errors
/// It breaks off, is too long, or is none.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        // A pipe whose other end is closed is said to be broken.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
            return Ok(None);
        }
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > LENGTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut bytes)?;
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from)
}

/// Writes one.
///
/// # Errors
/// The other side is gone, or it is too long.
pub fn write(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let bytes = serde_json::to_vec(what)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= LENGTH_MAX);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it is too long"))?;
    to.write_all(&[&length.to_le_bytes(), bytes.as_slice()].concat())?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let share = Share { tag: "share0".into(), path: r"C:\Users\me".into(), read_only: true };
        let mut pipe = Vec::new();
        for request in [Request::Look { version: VERSION }, Request::Start, Request::AddShare(share.clone())]
        {
            pipe.clear();
            write(&mut pipe, &request).unwrap();
            assert_eq!(read::<Request>(&mut pipe.as_slice()).unwrap(), Some(request));
        }
        let outcome: Outcome = Err(Failure::refused(5, "no"));
        pipe.clear();
        write(&mut pipe, &outcome).unwrap();
        assert_eq!(read::<Outcome>(&mut pipe.as_slice()).unwrap(), Some(outcome));
        assert_eq!(read::<Request>(&mut [].as_slice()).unwrap(), None);
    }

    #[test]
    fn what_is_none_ends_the_conversation() {
        for bad in [
            [&u32::MAX.to_le_bytes()[..], b"{}"].concat(),
            [&9_u32.to_le_bytes()[..], b"{}"].concat(),
            [&2_u32.to_le_bytes()[..], b"{}"].concat(),
            [&15_u32.to_le_bytes()[..], br#"{"ask":"format"}"#].concat(),
            [&31_u32.to_le_bytes()[..], br#"{"ask":"set-memory","bytes":-1}"#].concat(),
        ] {
            assert!(read::<Request>(&mut bad.as_slice()).is_err(), "{bad:?}");
        }
        assert!(write(&mut Vec::new(), &"x".repeat(LENGTH_MAX as usize)).is_err());
    }

    #[test]
    fn what_is_wanted_has_no_more_fields_than_there_are() {
        let text = r#"{"ask":"make","name":"dev","cpus":1,"memory":1,"kernel":"a","initrd":"b","options":"","system":"c","data":"d","console":"e"}"#;
        serde_json::from_str::<Request>(text).unwrap();
        let more = text.replace(r#""cpus":1"#, r#""cpus":1,"disk":"\\\\.\\PhysicalDrive0""#);
        assert!(serde_json::from_str::<Request>(&more).is_err());
    }
}
