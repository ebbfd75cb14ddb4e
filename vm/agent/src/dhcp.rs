//! Asking for an address (DHCP, RFC 2131 and 2132): discover, offer, request, acknowledge, and again before the lease is
//! over. Whoever answers is believed only in what can be.

mod message;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use vm_proto::message::Network;

use crate::sys;
use message::{CLIENT_PORT, Client, Kind, Reply, SERVER_PORT, Wish, carried};

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(12);
/// How long an answer is waited for at first, and at most.
const ANSWER: Duration = Duration::from_millis(500);
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// How long the server of a lease may take to renew it.
const RENEWAL: Duration = Duration::from_secs(5);
/// Longer than any packet with a message that a client who says nothing of it must be ready for.
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
    /// What we say goes out here.
    socket: UdpSocket,
    /// What is said to an address that is not ours yet comes in here.
    packets: AsyncFd<OwnedFd>,
    client: Client,
}

impl Conversation {
    async fn begin(interface: &str) -> Result<Self> {
        let hardware = sys::hardware_address(interface).context("failed to read the interface's address")?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT)).await;
        let socket = socket.context("failed to listen for DHCP's answers")?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes())).context("failed to speak on the interface alone")?;
        // Its keys are the kernel's, by chance.
        let number = RandomState::new().build_hasher().finish();
        let transaction = u32::try_from(number >> 32).unwrap_or_default();
        let packets = sys::packets_to(interface).context("failed to listen to the interface")?;
        Ok(Self { socket, packets, client: Client { hardware, transaction } })
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
        self.socket
            .send_to(&bytes, SocketAddrV4::new(to, SERVER_PORT))
            .await
            .context("failed to ask by DHCP")?;
        Ok(())
    }

    /// The first answer of one of those kinds; what else comes is passed over.
    async fn hear(&self, kinds: &[Kind], patience: Duration) -> Result<Option<Reply>> {
        let listen = async {
            let mut bytes = [0; LONGEST];
            loop {
                let read = self.packets.async_io(Interest::READABLE, |packets| {
                    // The second length is of what was there.
                    Ok(rustix::net::recv(packets, &mut bytes[..], RecvFlags::empty())?.0)
                });
                let length = read.await?;
                let said = bytes.get(..length).and_then(carried);
                match said.and_then(|said| self.client.understand(said)) {
                    Some(reply) if kinds.contains(&reply.kind) => return Ok(reply),
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

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    /// The test that asks, in a network of its own, is this program once more.
    const INSIDE: &str = "COVE_DHCP_INSIDE";
    const INTERFACE: &str = "card0";

    #[test]
    fn passt_gives_an_address_and_renews_it() {
        if std::env::var_os(INSIDE).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            return runtime.block_on(ask_passt());
        }
        if let Some(missing) = ["unshare", "pasta"].into_iter().find(|program| !is_there(program)) {
            return eprintln!("skipped, because {missing} is missing");
        }
        let mut try_it = stdx::process::command("unshare");
        let tried = try_it.args(["--map-root-user", "--net", "true"]).stderr(Stdio::null()).status();
        if !tried.is_ok_and(|status| status.success()) {
            return eprintln!("skipped, because no network of one's own can be made here");
        }
        let mut inside = stdx::process::command("unshare");
        inside.args(["--map-root-user", "--net"]).arg(std::env::current_exe().unwrap());
        inside.args(["--exact", "dhcp::tests::passt_gives_an_address_and_renews_it"]).env(INSIDE, "1");
        let mut inside = inside.spawn().unwrap();
        let mut pasta = stdx::process::command("pasta");
        pasta.args(["--foreground", "--quiet", "--ipv4-only", "--ns-ifname", INTERFACE]);
        pasta.args(["--address", "192.168.64.7", "--netmask", "24", "--gateway", "192.168.64.1"]);
        pasta.args(["--dns-forward", "192.168.64.1"]);
        pasta.args(["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"]);
        if rustix::process::geteuid().is_root() {
            pasta.args(["--runas", "0:0"]);
        }
        pasta.arg(inside.id().to_string()).stderr(Stdio::null());
        let began = Instant::now();
        // Until the network is the other's own, it can't be joined.
        let own = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        while own(&inside.id().to_string()) == own("self") && began.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut pasta = pasta.spawn().unwrap();
        let status = inside.wait().unwrap();
        let _ = pasta.kill();
        pasta.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    fn is_there(program: &str) -> bool {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|folder| folder.join(program).is_file())
    }

    async fn ask_passt() {
        let began = Instant::now();
        while crate::sys::bring_up(INTERFACE).is_err() {
            assert!(began.elapsed() < DEADLINE, "pasta makes no interface");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let lease = ask(INTERFACE).await.unwrap();
        let network = &lease.network;
        assert_eq!((network.address, network.prefix), (Ipv4Addr::new(192, 168, 64, 7), 24));
        assert_eq!(network.gateway, Ipv4Addr::new(192, 168, 64, 1));
        assert_eq!(network.resolver.servers, [std::net::IpAddr::from([192, 168, 64, 1])]);
        assert!(lease.renew_at() > Instant::now() && lease.renew_at() < lease.ends_at());
        crate::sys::set_address(INTERFACE, network.address, network.prefix).unwrap();
        crate::sys::add_default_route(network.gateway).unwrap();
        let renewed = renew(INTERFACE, &lease).await.unwrap();
        assert_eq!(renewed.network, lease.network);
        assert!(renewed.begin > lease.begin);
        crate::sys::clear_address(INTERFACE).unwrap();
        // Without an address, and at once.
        assert_eq!(ask(INTERFACE).await.unwrap().network, lease.network);
    }
}
