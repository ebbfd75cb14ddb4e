//! Docker's multiplexed stream: stdout and stderr of a container without a terminal, in frames of
//! an 8-byte head (`stream, 0, 0, 0, length` big-endian) and a payload.

/// Which of a process's outputs bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Also 0, which Docker reserves for stdin's echo.
    Stdout,
    /// Standard error.
    Stderr,
    /// Docker's own: an error that ended the stream.
    System,
}

/// Takes a stream apart as it comes, whatever its chunks are. Payloads are passed on in the pieces
/// they arrive in, so that no frame's claimed length is ever allocated.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    head: [u8; 8],
    filled: usize,
    left: u32,
}

impl FrameDecoder {
    /// A decoder at the start of a frame.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Feeds `chunk`; `sink` gets each piece of payload, and whether it ends its frame.
    pub fn decode(&mut self, mut chunk: &[u8], mut sink: impl FnMut(Channel, &[u8], FrameEnd)) {
        while !chunk.is_empty() {
            if self.filled < 8 {
                let take = chunk.len().min(8 - self.filled);
                self.head[self.filled..self.filled + take].copy_from_slice(&chunk[..take]);
                self.filled += take;
                chunk = &chunk[take..];
                if self.filled < 8 {
                    return;
                }
                self.left = u32::from_be_bytes([self.head[4], self.head[5], self.head[6], self.head[7]]);
            }
            let take = chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (payload, rest) = chunk.split_at(take);
            // `take` is at most `left`, so it fits.
            self.left -= u32::try_from(take).unwrap_or(self.left);
            let end = if self.left == 0 { FrameEnd::Yes } else { FrameEnd::No };
            if take > 0 {
                sink(self.channel(), payload, end);
            }
            if self.left == 0 {
                self.filled = 0;
            }
            chunk = rest;
        }
    }

    fn channel(&self) -> Channel {
        match self.head[0] {
            2 => Channel::Stderr,
            3 => Channel::System,
            _ => Channel::Stdout,
        }
    }
}

/// Whether a piece of payload is the last one of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameEnd {
    /// The next piece belongs to another frame.
    Yes,
    /// More of the same frame follows.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        out.extend(payload);
        out
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_bytes() {
        let mut wire = frame(1, b"out one\n");
        wire.extend(frame(2, b"err\n"));
        wire.extend(frame(1, b""));
        wire.extend(frame(1, b"out two\n"));
        for size in 1..=wire.len() {
            let mut decoder = FrameDecoder::new();
            let (mut out, mut err, mut frames) = (Vec::new(), Vec::new(), 0);
            for chunk in wire.chunks(size) {
                decoder.decode(chunk, |channel, bytes, end| {
                    match channel {
                        Channel::Stdout => out.extend_from_slice(bytes),
                        Channel::Stderr => err.extend_from_slice(bytes),
                        Channel::System => panic!("no such frame"),
                    }
                    frames += usize::from(end == FrameEnd::Yes);
                });
            }
            assert_eq!(
                (out.as_slice(), err.as_slice(), frames),
                (&b"out one\nout two\n"[..], &b"err\n"[..], 3)
            );
        }
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        let mut decoder = FrameDecoder::new();
        let mut seen = 0;
        decoder.decode(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'x'], |_, bytes, end| {
            seen += bytes.len();
            assert_eq!(end, FrameEnd::No);
        });
        assert_eq!(seen, 1);
    }
}
