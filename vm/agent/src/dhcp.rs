//! Asking for an address (DHCP, RFC 2131 and 2132): discover, offer, request, acknowledge, and again before the lease is
//! over. Whoever answers is believed only in what can be.

mod message;

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::UdpSocket;
use vm_proto::message::Network;

use message::{Client, Kind, Reply, Wish};

const CLIENT: u16 = 68;
const SERVER: u16 = 67;
/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(12);
/// How long an answer is waited for at first, and at most.
const ANSWER: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How long the server of a lease may take to renew it.
const RENEWAL: Duration = Duration::from_secs(5);
/// Longer than any message that a client who says nothing of it must be ready for.
const LONGEST: usize = 1500;

/// An address that may be used for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// What the interface is to be.
    pub(crate) network: Network,
    server: Ipv4Addr,
    begin: Instant,
    renew: Duration,
    length: Duration,
}

impl Lease {
    /// When it is to be renewed.
    pub(crate) fn renew_at(&self) -> Instant {
        self.begin + self.renew
    }

    /// When it ends.
    pub(crate) fn ends_at(&self) -> Instant {
        self.begin + self.length
    }

    fn of(reply: &Reply, begin: Instant) -> Option<Self> {
        let (network, server) = (reply.network()?, reply.server?);
        let (renew, length) = reply.times();
        Some(Self { network, server, begin, renew, length })
    }
}

/// Asks whoever answers on an interface that is up.
pub(crate) async fn ask(interface: &str) -> Result<Lease> {
    let asked = tokio::time::timeout(DEADLINE, async {
        let conversation = Conversation::begin(interface).await?;
        let mut patience = ANSWER;
        loop {
            if let Some(lease) = conversation.ask_once(patience).await? {
                return Ok(lease);
            }
            patience = (patience * 2).min(ANSWER_MAX);
        }
    });
    asked.await.unwrap_or_else(|_| bail!("nobody answered within {} s", DEADLINE.as_secs()))
}

/// Asks the server of a lease, else all there are, to let it go on.
pub(crate) async fn renew(interface: &str, lease: &Lease) -> Result<Lease> {
    let conversation = Conversation::begin(interface).await?;
    for to in [lease.server, Ipv4Addr::BROADCAST] {
        let begin = Instant::now();
        conversation.say(Wish::Renew { address: lease.network.address }, to).await?;
        match conversation.hear(&[Kind::Acknowledge, Kind::Refuse], RENEWAL).await? {
            Some(reply) if reply.kind == Kind::Refuse => bail!("the address can't be kept"),
            Some(reply) => match Lease::of(&reply, begin) {
                Some(lease) => return Ok(lease),
                None => bail!("the answer makes no sense"),
            },
            None => {}
        }
    }
    bail!("nobody answered")
}

/// One on an interface.
struct Conversation {
    socket: UdpSocket,
    client: Client,
}

impl Conversation {
    async fn begin(interface: &str) -> Result<Self> {
        let hardware = hardware_address(interface).context("failed to read the interface's address")?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT)).await;
        let socket = socket.context("failed to listen for DHCP's answers")?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes())).context("failed to speak on the interface alone")?;
        // Its keys are the kernel's, by chance.
        let number = RandomState::new().build_hasher().finish();
        let transaction = u32::try_from(number >> 32).unwrap_or_default();
        Ok(Self { socket, client: Client { hardware, transaction } })
    }

    /// `None` where nobody answers what makes sense.
    async fn ask_once(&self, patience: Duration) -> Result<Option<Lease>> {
        self.say(Wish::Discover, Ipv4Addr::BROADCAST).await?;
        let Some(offer) = self.hear(&[Kind::Offer], patience).await? else { return Ok(None) };
        let (Some(network), Some(server)) = (offer.network(), offer.server) else { return Ok(None) };
        let begin = Instant::now();
        self.say(Wish::Request { address: network.address, server }, Ipv4Addr::BROADCAST).await?;
        let answer = self.hear(&[Kind::Acknowledge, Kind::Refuse], patience).await?;
        Ok(answer
            .filter(|answer| answer.kind == Kind::Acknowledge)
            .and_then(|answer| Lease::of(&answer, begin)))
    }

    async fn say(&self, wish: Wish, to: Ipv4Addr) -> Result<()> {
        let bytes = self.client.say(wish);
        self.socket.send_to(&bytes, SocketAddrV4::new(to, SERVER)).await.context("failed to ask by DHCP")?;
        Ok(())
    }

    /// The first answer of one of those kinds; what else comes is passed over.
    async fn hear(&self, kinds: &[Kind], patience: Duration) -> Result<Option<Reply>> {
        let listen = async {
            let mut bytes = [0; LONGEST];
            loop {
                let (length, from) = self.socket.recv_from(&mut bytes).await?;
                let reply = bytes.get(..length).and_then(|bytes| self.client.understand(bytes));
                match reply {
                    Some(reply) if from.port() == SERVER && kinds.contains(&reply.kind) => return Ok(reply),
                    _ => {}
                }
            }
        };
        match tokio::time::timeout(patience, listen).await {
            Ok(heard) => heard.map(Some).map_err(|error: io::Error| error.into()),
            Err(_) => Ok(None),
        }
    }
}

/// The address of an interface's card.
fn hardware_address(interface: &str) -> Result<[u8; 6]> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/address"))?;
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("it is none of Ethernet's")
}
