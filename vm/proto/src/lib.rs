//! The versioned contract between a machine's host and its guest.
//!
//! The guest's agent opens one control connection to the host ([`port::CONTROL`]) and speaks in [`frame`]s of JSON:
//! [`message::FromGuest`] one way, [`message::FromHost`] the other. Everything else is a stream that the host opens:
//! [`port::ENGINE`] is the engine's API as it is, [`port::STREAM`] begins with a [`stream::Open`].
//!
//! No I/O of its own and no platform in here. What the guest sends is hostile to the host: every frame is bounded
//! before it is read.

pub mod change;
pub mod frame;
pub mod loopback;
pub mod message;
pub mod stream;

/// The version of this contract. Sides of different versions tell each other so and part.
pub const VERSION: u32 = 9;

/// Where each side listens (vsock(7) ports).
pub mod port {
    /// On the host: the guest's agent says hello here.
    pub const CONTROL: u32 = 1;
    /// On the host: the user's SSH agent, where the user lets the machine have it.
    pub const SSH_AGENT: u32 = 5;
    /// On the host: its loopback, where the guest's way out does not lead there; streams begin as [`crate::loopback`] says.
    pub const LOOPBACK: u32 = 6;
    /// In the guest: the engine's API.
    pub const ENGINE: u32 = 2;
    /// In the guest: the same, for what the host asks of its own accord: who asks there is no client.
    pub const ENGINE_OWN: u32 = 4;
    /// In the guest: streams that begin with what they are for.
    pub const STREAM: u32 = 3;
}
