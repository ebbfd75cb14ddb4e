//! Frames in a stream of bytes: cut on the way in, packed on the way out, in buffers of a fixed size.

use std::io::{self, Read, Write};

/// The largest frame `passt` sends or takes.
pub(crate) const MAX_FRAME: usize = 65_535;
const LENGTH: usize = 4;
/// Several large frames, so that a burst is one read.
const BUFFER: usize = 4 * (MAX_FRAME + LENGTH);

/// The stream broke the protocol, so where the next frame begins is not known any more.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {len} bytes arrived from the network's side")]
pub(crate) struct Oversized {
    len: usize,
}

/// Bytes that have arrived, and which frames they hold.
#[derive(Debug)]
pub(crate) struct Incoming {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Incoming {
    fn default() -> Self {
        Incoming { bytes: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0 }
    }
}

impl Incoming {
    /// Reads what is there, once. Zero is the end.
    pub(crate) fn read_from(&mut self, stream: &mut impl Read) -> io::Result<usize> {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let count = stream.read(&mut self.bytes[self.end..])?;
        self.end += count;
        Ok(count)
    }

    /// The first frame, if it is there as a whole.
    pub(crate) fn first(&self) -> Result<Option<&[u8]>, Oversized> {
        let waiting = &self.bytes[self.start..self.end];
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let len = u32::from_be_bytes(*length) as usize;
        if len > MAX_FRAME {
            return Err(Oversized { len });
        }
        Ok(rest.get(..len))
    }

    /// Forgets the first frame.
    pub(crate) fn pop(&mut self) {
        if let Ok(Some(frame)) = self.first() {
            self.start += LENGTH + frame.len();
        }
    }
}

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
}

impl Outgoing {
    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Whether another frame may be added before what is there is written.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() + LENGTH + MAX_FRAME <= BUFFER
    }

    /// Adds a frame of `len` bytes, which `fill` puts into place; false takes it back.
    pub(crate) fn push(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let Ok(length) = u32::try_from(len) else { return };
        let start = self.bytes.len();
        self.bytes.extend(length.to_be_bytes());
        self.bytes.resize(start + LENGTH + len, 0);
        if !fill(&mut self.bytes[start + LENGTH..]) {
            self.bytes.truncate(start);
        }
    }

    /// Writes what the stream takes. `WouldBlock` says that more is left.
    pub(crate) fn write_to(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.clear();
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A stream that gives and takes a few bytes at a time.
    struct Trickle {
        bytes: std::collections::VecDeque<u8>,
        portion: usize,
    }

    impl Read for Trickle {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = into.len().min(self.portion);
            self.bytes.read(&mut into[..count])
        }
    }

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes.write(&bytes[..bytes.len().min(self.portion)])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..40),
            portion in 1usize..5000,
        ) {
            let mut wire = Trickle { bytes: std::collections::VecDeque::new(), portion };
            let mut outgoing = Outgoing::default();
            for frame in &frames {
                outgoing.push(frame.len(), |place| { place.copy_from_slice(frame); true });
                if !outgoing.has_room() {
                    outgoing.write_to(&mut wire).unwrap();
                }
            }
            outgoing.write_to(&mut wire).unwrap();
            let mut incoming = Incoming::default();
            let mut arrived = Vec::new();
            while incoming.read_from(&mut wire).unwrap() > 0 {
                while let Some(frame) = incoming.first().unwrap() {
                    arrived.push(frame.to_vec());
                    incoming.pop();
                }
            }
            prop_assert_eq!(arrived, frames);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let mut incoming = Incoming::default();
            let mut wire = &bytes[..];
            while incoming.read_from(&mut wire).unwrap() > 0 {
                while let Ok(Some(_)) = incoming.first() {
                    incoming.pop();
                }
                if incoming.first().is_err() {
                    break;
                }
            }
        }
    }
}
