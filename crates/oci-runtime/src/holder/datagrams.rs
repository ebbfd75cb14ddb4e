//! Datagrams over published ports: whoever sends one has a socket of their own towards the container, for as
//! long as there is something to answer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use super::streams::{can_be_shown, show, socket};
use super::{Open, Token, Watch};
use crate::sys;

/// How long an answer is waited for (the kernel's own, for connections that it follows).
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long both may be silent once there was one.
const ANSWERED: Duration = Duration::from_secs(120);
/// How many senders one port may have; of more, the one that was silent for the longest is forgotten.
const MOST: usize = 4096;
/// How many datagrams are carried before others have their turn.
const AT_ONCE: usize = 64;
/// The longest datagram.
const LONGEST: usize = 64 << 10;

/// Who sends, and to which of this computer's addresses.
type Sender = (u64, SocketAddr, Option<IpAddr>);

#[derive(Debug)]
struct Flow {
    sender: Sender,
    socket: OwnedFd,
    heard: Instant,
    is_answered: bool,
}

/// All flows of datagrams over published ports.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    flows: HashMap<u64, Flow>,
    by_sender: HashMap<Sender, u64>,
    buffer: Vec<u8>,
}

/// Lets a socket tell to which address a datagram was sent: that is where the answer must come from.
pub(super) fn ask_for_destination(socket: BorrowedFd<'_>, bound: SocketAddr) -> io::Result<()> {
    if bound.is_ipv4() {
        sys::set_option(socket, libc::SOL_IP, libc::IP_PKTINFO, 1)
    } else {
        sys::set_option(socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }
}

impl Datagrams {
    /// Carries what has come at a port.
    pub(super) fn receive(&mut self, id: u64, open: &Open, watch: &mut Watch) {
        self.buffer.resize(LONGEST, 0);
        for _ in 0..AT_ONCE {
            let (length, from, to) = match sys::receive_datagram(open.socket.as_fd(), &mut self.buffer) {
                Ok(received) => received,
                // Word of an answer that could not be delivered.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(_) => return,
            };
            let Some(number) = self.flow((id, from, to), open, watch) else { continue };
            let Some(flow) = self.flows.get_mut(&number) else { continue };
            flow.heard = Instant::now();
            let bytes = self.buffer.get(..length).unwrap_or_default();
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            // The first try may only tell that the one before was refused. What can't be sent is lost, as
            // datagrams may be.
            if rustix::net::send(&flow.socket, bytes, flags) == Err(Errno::CONNREFUSED) {
                let _ = rustix::net::send(&flow.socket, bytes, flags);
            }
        }
    }

    /// The flow of a sender; a new one, if need be.
    fn flow(&mut self, sender: Sender, open: &Open, watch: &mut Watch) -> Option<u64> {
        if let Some(number) = self.by_sender.get(&sender) {
            return Some(*number);
        }
        let of_port = self.flows.iter().filter(|(_, flow)| flow.sender.0 == sender.0);
        if self.flows.len() >= MOST && of_port.clone().count() >= MOST {
            let oldest = of_port.min_by_key(|(_, flow)| flow.heard).map(|(number, _)| *number)?;
            self.remove(oldest);
        }
        let towards = towards(open, sender.1).ok()?;
        let number = watch.next();
        watch.add(towards.as_fd(), Token::Flow(number), EventFlags::IN).ok()?;
        let flow = Flow { sender, socket: towards, heard: Instant::now(), is_answered: false };
        self.flows.insert(number, flow);
        self.by_sender.insert(sender, number);
        Some(number)
    }

    /// Carries a container's answers.
    pub(super) fn answer(&mut self, number: u64, ports: &HashMap<u64, Open>) {
        self.buffer.resize(LONGEST, 0);
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let Some(open) = ports.get(&flow.sender.0) else { return };
        for _ in 0..AT_ONCE {
            match rustix::net::recv(&flow.socket, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    flow.heard = Instant::now();
                    flow.is_answered = true;
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    // What can't be sent is lost, as datagrams may be.
                    let _ = sys::send_datagram(open.socket.as_fd(), bytes, flow.sender.1, flow.sender.2);
                }
                Err(Errno::CONNREFUSED) => {}
                Err(_) => return,
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Forgets who has been silent for long.
    pub(super) fn expire(&mut self) {
        let is_old =
            |flow: &Flow| flow.heard.elapsed() > if flow.is_answered { ANSWERED } else { UNANSWERED };
        let old: Vec<u64> =
            self.flows.iter().filter(|(_, flow)| is_old(flow)).map(|(number, _)| *number).collect();
        old.into_iter().for_each(|number| self.remove(number));
        if self.flows.is_empty() {
            self.buffer = Vec::new();
        }
    }

    /// Forgets all senders of a port.
    pub(super) fn close(&mut self, port: u64) {
        let of_port = self.flows.iter().filter(|(_, flow)| flow.sender.0 == port);
        let of_port: Vec<u64> = of_port.map(|(number, _)| *number).collect();
        of_port.into_iter().for_each(|number| self.remove(number));
    }

    fn remove(&mut self, number: u64) {
        if let Some(flow) = self.flows.remove(&number) {
            self.by_sender.remove(&flow.sender);
        }
    }
}

/// A socket towards a container, in the name of a client where it is to be seen.
fn towards(open: &Open, client: SocketAddr) -> io::Result<OwnedFd> {
    let mut towards = socket(open.target, SocketType::DGRAM)?;
    if open.shows_clients && can_be_shown(client, open.target) && show(towards.as_fd(), client).is_err() {
        towards = socket(open.target, SocketType::DGRAM)?;
    }
    rustix::net::connect(&towards, &open.target)?;
    Ok(towards)
}
