//! The first words of a stream to the host's loopback ([`crate::port::LOOPBACK`]): the guest names a port, the host
//! answers with a byte.

/// The host has connected: from here on the stream is that connection.
pub const CONNECTED: u8 = 0;
/// It could not, and the stream ends.
pub const REFUSED: u8 = 1;

/// What names a port, little endian.
#[must_use]
pub fn head(port: u16) -> [u8; 2] {
    port.to_le_bytes()
}

/// The port that is named.
#[must_use]
pub fn port(head: [u8; 2]) -> u16 {
    u16::from_le_bytes(head)
}
