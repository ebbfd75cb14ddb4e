//! Frames: a length of four bytes, little endian, and that much JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame a guest may send.
pub const GUEST_MAX: usize = 64 << 10;
/// The longest frame a host may send: certificates of the computer go in one.
pub const HOST_MAX: usize = 4 << 20;
/// Length of a frame's head.
pub const HEAD: usize = 4;

/// A frame that is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It says that it is longer than the other side may send.
    #[error("a frame of {length} bytes is longer than the {max} that are allowed")]
    TooLong {
        /// What its head says.
        length: usize,
        /// What is allowed.
        max: usize,
    },
    /// It is not what is spoken here.
    #[error("failed to understand a frame")]
    Json(#[from] serde_json::Error),
    /// The connection.
    #[error("failed to exchange frames")]
    Io(#[from] io::Error),
}

/// The bytes of a frame that carries `message`.
///
/// # Errors
/// It can't be written as JSON, or is longer than anybody may send.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - HEAD;
    let head = u32::try_from(length).ok().filter(|_| length <= HOST_MAX);
    let head = head.ok_or(Error::TooLong { length, max: HOST_MAX })?;
    if let Some(place) = bytes.first_chunk_mut::<HEAD>() {
        *place = head.to_le_bytes();
    }
    Ok(bytes)
}

/// The length that a head announces.
///
/// # Errors
/// It is above `max`.
pub fn length(head: [u8; HEAD], max: usize) -> Result<usize, Error> {
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length > max { Err(Error::TooLong { length, max }) } else { Ok(length) }
}

/// What a frame's body says.
///
/// # Errors
/// It is not what is spoken here.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    Ok(serde_json::from_slice(body)?)
}

/// Reads one frame of at most `max` bytes; `None` at the end of the stream.
///
/// # Errors
/// The connection, or a frame that is none.
pub fn read<T: DeserializeOwned>(from: &mut impl Read, max: usize) -> Result<Option<T>, Error> {
    let mut head = [0; HEAD];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut body = vec![0; length(head, max)?];
    from.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// Writes one frame.
///
/// # Errors
/// The connection, or a message that is too long.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> Result<(), Error> {
    to.write_all(&encode(message)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FromGuest, FromHost};

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        write(&mut bytes, &FromHost::Shutdown).unwrap();
        write(&mut bytes, &FromHost::SetTime { nanoseconds: 7 }).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from, HOST_MAX).unwrap(), Some(FromHost::Shutdown));
        assert_eq!(read(&mut from, HOST_MAX).unwrap(), Some(FromHost::SetTime { nanoseconds: 7 }));
        assert_eq!(read::<FromHost>(&mut from, HOST_MAX).unwrap(), None);
    }

    #[test]
    fn a_length_that_lies_is_refused_before_anything_is_kept_for_it() {
        let mut from = [0xff, 0xff, 0xff, 0xff, b'{'].as_slice();
        let error = read::<FromGuest>(&mut from, GUEST_MAX).unwrap_err();
        assert!(matches!(error, Error::TooLong { max: GUEST_MAX, .. }), "{error}");
    }

    #[test]
    fn half_a_frame_is_an_error_and_not_an_end() {
        let mut from = [9, 0, 0, 0, b'{'].as_slice();
        assert!(matches!(read::<FromGuest>(&mut from, GUEST_MAX), Err(Error::Io(_))));
    }
}
