//! What host and guest say to each other on the control connection.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// From the guest. Unknown kinds are errors: sides of one version know the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum FromGuest {
    /// The first word.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// The agent's own release, for people.
        release: String,
        /// The kernel's release (uname(2)).
        kernel: String,
        /// Seconds from the kernel's start to this word, in thousandths.
        uptime_ms: u64,
        /// How often this agent has said hello, this time included. One that counts anew is another: its kernel has been
        /// started again. What is unique to a start of the kernel is no use, as it must not be drawn before the host has
        /// given of its entropy.
        number: u64,
    },
    /// How far it is.
    Progress {
        /// Which part of the start.
        step: Step,
        /// In words, for a person who waits.
        detail: String,
    },
    /// A part of the start stands.
    Done {
        /// Which.
        step: Step,
    },
    /// A part of the start failed; the guest waits for the host to end it.
    Failed {
        /// Which.
        step: Step,
        /// Why.
        cause: String,
    },
    /// A part works, but not all of it.
    Warning {
        /// Which.
        step: Step,
        /// What does not, and what to do.
        text: String,
    },
    /// The engine ended and is being started again.
    EngineEnded {
        /// How, in words.
        how: String,
        /// The end of its log.
        tail: String,
    },
    /// The engine answers again after an end.
    EngineBack,
    /// Sockets that listen on the guest's own addresses, all of them; told when they change.
    Listening {
        /// At most [`LISTENERS_MAX`].
        sockets: Vec<Listener>,
    },
    /// An answer to [`FromHost::Report`].
    Report(Report),
    /// Everything is on disk and the guest is about to power off.
    Bye,
    /// Everything is on disk and nothing uses a device that can't be saved. The guest waits: for the devices to go and
    /// come back, upon which it says hello again, or for [`FromHost::Wake`].
    Ready,
    /// It can't sleep now, and goes on.
    NotReady {
        /// Why.
        cause: String,
    },
}

/// How many listeners a guest may tell of.
pub const LISTENERS_MAX: usize = 512;

/// Parts of the start that happen in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The data disk: made, checked, mounted.
    Disk,
    /// Folders of the host.
    Shares,
    /// Addresses, routes, resolver.
    Network,
    /// `coved` answers.
    Engine,
}

/// A socket that listens in the guest's own network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// `0.0.0.0`, `::`, or the one address it listens on.
    pub address: std::net::IpAddr,
    /// Its port.
    pub port: u16,
}

/// What the guest uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What is in use, in bytes: neither available nor held by the balloon.
    pub memory_used: u64,
    /// `MemAvailable`, in bytes.
    pub memory_available: u64,
    /// What the balloon holds, in bytes.
    pub memory_ballooned: u64,
    /// Size of the data disk's file system, in bytes.
    pub disk_total: u64,
    /// What is used of it, in bytes.
    pub disk_used: u64,
    /// Processor time spent, in thousandths of a second, all processors together.
    pub cpu_ms: u64,
    /// The guest's clock, in nanoseconds since 1970.
    pub clock_ns: u64,
    /// The program that is the engine runs.
    pub engine_runs: bool,
    /// Processes of containers run.
    pub containers_run: bool,
}

/// From the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum FromHost {
    /// The answer to the guest's first word: they understand each other, and this is what to be.
    Welcome(Box<Configuration>),
    /// They don't; the guest waits to be powered off.
    WrongVersion {
        /// [`crate::VERSION`] of the host.
        version: u32,
    },
    /// What time it is.
    SetTime {
        /// Nanoseconds since 1970.
        nanoseconds: u64,
    },
    /// Ask for a [`Report`].
    Report,
    /// Give unused memory back: drop caches, compact, trim the data disk.
    GiveBack,
    /// So much more the data disk may take of the host's own; told when it changes.
    Room {
        /// In bytes.
        bytes: u64,
    },
    /// The host's resolvers changed.
    SetResolver(Resolver),
    /// The data disk has grown: use all of it.
    Grow,
    /// Prepare to be saved; answered by [`FromGuest::Ready`] or [`FromGuest::NotReady`]. Said in place of a welcome too, to
    /// a guest that has nothing to let go of yet.
    Sleep,
    /// Go on after all: nothing was saved.
    Wake,
    /// Stop the engine, flush, power off.
    Shutdown,
}

/// What a guest is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The guest's name.
    pub hostname: String,
    /// Nanoseconds since 1970.
    pub nanoseconds: u64,
    /// How it is to run.
    pub mode: Mode,
    /// Folders of the host.
    pub shares: Vec<Share>,
    /// The way out; `None` where there is none.
    pub network: Option<WayOut>,
    /// Certificates (PEM) that the host trusts beside those in the image; empty for none.
    pub certificates: String,
    /// The host's SSH agent is to be had ([`crate::port::SSH_AGENT`]).
    pub ssh_agent: bool,
    /// Who connects to the way out by TCP is to be carried to the host's loopback ([`crate::port::LOOPBACK`]).
    pub loopback: bool,
    /// The engine's clients may name folders by drives, which are shares here: `C:\src` is `/c/src`.
    pub drives: bool,
    /// The tag of the share that holds Rosetta, where programs for x86-64 are to run by it.
    pub rosetta: Option<String>,
    /// `HTTP_PROXY` and the like, for the engine.
    pub proxies: Vec<(String, String)>,
    /// For the guest's random numbers: of two guests that begin from one state, neither is to foresee the other's.
    pub entropy: Vec<u8>,
}

/// How a guest is to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// With its engine.
    #[default]
    Normal,
    /// The data disk read-only and no engine: to get files out.
    Rescue,
}

/// A folder of the host, under the same path in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The virtiofs tag.
    pub tag: String,
    /// Where it is mounted.
    pub path: String,
    /// Refused by the host anyway; said so that the mount shows it.
    pub read_only: bool,
    /// Its server is another's, and tells of no changes: a layer of the guest's stands in front of it
    /// ([`crate::stream::Open::Told`]).
    pub is_layered: bool,
}

/// From whom the guest knows what its one interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayOut {
    /// From the host.
    Told(Network),
    /// From whoever answers there (DHCP, RFC 2131).
    Asked,
}

impl WayOut {
    /// What it is, where the host knows.
    #[must_use]
    pub fn told(&self) -> Option<&Network> {
        match self {
            Self::Told(network) => Some(network),
            Self::Asked => None,
        }
    }
}

/// The guest's one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its address.
    pub address: Ipv4Addr,
    /// Bits of its network.
    pub prefix: u8,
    /// The way out, which is also the host (`host.docker.internal`).
    pub gateway: Ipv4Addr,
    /// Version 6, if there is such a way.
    pub address6: Option<Ipv6Network>,
    /// Names.
    pub resolver: Resolver,
}

/// Version 6 of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Network {
    /// Its address.
    pub address: Ipv6Addr,
    /// Bits of its network.
    pub prefix: u8,
    /// The way out.
    pub gateway: Ipv6Addr,
}

/// How names are looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// Servers as the guest reaches them.
    pub servers: Vec<std::net::IpAddr>,
    /// Domains to try.
    pub search: Vec<String>,
}
