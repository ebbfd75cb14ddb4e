//! The first words of a stream, and what a shell's stream carries.

use serde::{Deserialize, Serialize};

/// What a stream that the host opens at [`crate::port::STREAM`] is for; the first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "kebab-case")]
pub enum Open {
    /// A TCP connection from inside the guest: what is published or listens there.
    Tcp {
        /// Where to.
        address: std::net::IpAddr,
        /// Its port.
        port: u16,
        /// Who connects to the host: whoever is spoken to sees this address, where that can be.
        client: std::net::SocketAddr,
    },
    /// UDP packets to there, each as a frame of bytes: two of length, little endian, then the packet.
    Udp {
        /// Where to.
        address: std::net::IpAddr,
        /// Its port.
        port: u16,
        /// Whose packets they are, as with [`Self::Tcp`].
        client: std::net::SocketAddr,
    },
    /// Changes of a share on the host, as they happen (`vm_changes::Event::encode`): the agent acts each out, so that
    /// watchers in the guest hear of it.
    Changes {
        /// Where the share is mounted.
        path: String,
        /// The name whose look-up tells the share's server who acts out (`vm_devices::Events::next_trigger`).
        trigger: String,
    },
    /// What the host's system tells of a share that is another's to serve, as it tells it ([`crate::change`]): the guest's
    /// layer in front of the share leaves out what the guest did itself, and has the rest acted out.
    Told {
        /// Where the share is mounted.
        path: String,
        /// Every change of what is in it is told: nobody but the host's own system makes any.
        is_complete: bool,
    },
    /// A program in the guest; afterwards both sides speak in [`Piece`]s.
    Execute {
        /// The program and its arguments; empty for a shell.
        command: Vec<String>,
        /// Rows and columns; `None` without a terminal.
        terminal: Option<(u16, u16)>,
    },
}

/// The guest's answer, the first frame back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Opened {
    /// From here on it is what was asked for.
    Ready,
    /// It is not, and the stream ends.
    Refused {
        /// Why.
        cause: String,
    },
}

/// A piece of a program's stream: one byte of kind, four of length (little endian), and the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// To the program's input; an empty one ends it.
    Input,
    /// From its output.
    Output,
    /// From its error output.
    Error,
    /// New rows and columns, two bytes each, little endian.
    Resize,
    /// It ended: its exit code, four bytes, little endian.
    Exit,
}

impl Piece {
    /// Bytes of a piece's head.
    pub const HEAD: usize = 5;
    /// The longest piece either side may send.
    pub const MAX: usize = 64 << 10;

    const ALL: [(Self, u8); 5] =
        [(Self::Input, 0), (Self::Output, 1), (Self::Error, 2), (Self::Resize, 3), (Self::Exit, 4)];

    /// The head of a piece of that many bytes, which are at most [`Self::MAX`].
    #[must_use]
    pub fn head(self, length: usize) -> [u8; Self::HEAD] {
        let kind = Self::ALL.iter().find(|(piece, _)| *piece == self).map_or(0, |(_, kind)| *kind);
        let [a, b, c, d] = u32::try_from(length.min(Self::MAX)).unwrap_or(0).to_le_bytes();
        [kind, a, b, c, d]
    }

    /// What a head announces; `None` for a kind or a length that can't be.
    #[must_use]
    pub fn parse(head: [u8; Self::HEAD]) -> Option<(Self, usize)> {
        let [kind, a, b, c, d] = head;
        let (piece, _) = Self::ALL.into_iter().find(|(_, known)| *known == kind)?;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        (length <= Self::MAX).then_some((piece, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_written_and_lies_are_refused() {
        for (piece, _) in Piece::ALL {
            assert_eq!(Piece::parse(piece.head(77)), Some((piece, 77)));
        }
        assert_eq!(Piece::parse([9, 1, 0, 0, 0]), None);
        assert_eq!(Piece::parse([0, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
