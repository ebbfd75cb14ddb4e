//! What a user's engine and the holder of its namespaces say to each other: one JSON packet each, with
//! descriptors beside some, over the socket [`SOCKET`] (unix(7), `SOCK_SEQPACKET`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where the holder listens, in the engine's state directory.
pub const SOCKET: &str = "holder.sock";
/// The longest packet.
pub const MAX_PACKET: usize = 4096;
/// The interface that leads out of the engine's network namespace. It comes and goes with the program that
/// carries its packets, which the holder ends by removing it.
pub const OUTSIDE: &str = "cove-outside";
/// The mark of packets that go to containers in the name of clients elsewhere.
pub const CLIENT_MARK: u32 = 0xc0e1;

/// What the holder passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carried {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A published port: a socket of the host's, by what it is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Of streams or of datagrams.
    pub carried: Carried,
    /// Where it is bound on the host.
    pub outer: SocketAddr,
}

/// What the engine asks for. Each is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The namespaces that are held: user and network, as descriptors beside the answer.
    Namespaces,
    /// Pass on what comes at a socket, which is beside the request.
    Listen {
        /// The socket.
        port: Port,
        /// Where in the engine's network namespace it leads.
        target: SocketAddr,
        /// Whether containers are to see the client's address, which needs rules of the engine's.
        shows_clients: bool,
    },
    /// Let a port lead elsewhere from now on; what goes on goes on as it is.
    Lead {
        /// The port.
        port: Port,
        /// Where it leads.
        target: SocketAddr,
    },
    /// Close a port, with all that goes on over it.
    Close {
        /// The port.
        port: Port,
    },
    /// All ports, one answer each, and [`Reply::Done`].
    List,
    /// The engine ends in good order: without containers, the holder does too.
    Leave,
}

/// What the holder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Namespaces`].
    Namespaces {
        /// The holder's process.
        pid: u32,
    },
    /// One port.
    Port {
        /// The port.
        port: Port,
        /// Where it leads.
        target: SocketAddr,
    },
    /// That is done.
    Done,
    /// There is no such port.
    Unknown,
    /// That can't be done.
    Failed {
        /// Why not.
        what: String,
    },
}
