//! Decides what a guest's packets do, and which connection may send next. Knows neither queues nor descriptors, so it is
//! tested without a monitor.
//!
//! Connections with something to send take turns, a packet each. A connection whose local reader stalls fills its own
//! window and then gets nothing more from the guest; nobody waits for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use super::connection::{Connection, Done, State, Stream, Turn, Violation};
use super::packet::{HEADER, HOST_CID, Header, Operation, TYPE_STREAM};
use crate::queue::Pieces;

/// Connections at a time; what is asked for beyond is refused.
pub(crate) const MAX_CONNECTIONS: usize = 8192;
/// Connections that get the wide window. Together with the narrow one it bounds what a guest can make us hold to 704 MiB,
/// and that only if so many local readers stall.
const MAX_WIDE: usize = 1024;
const WIDE_WINDOW: u32 = 256 * 1024;
const NARROW_WINDOW: u32 = 64 * 1024;
/// Resets owed for packets of no connection; more are not sent, and the guest's own time-outs end what it tried.
const MAX_RESETS: usize = 256;
/// How long a guest may take to agree that a connection is over. Linux gives the host eight seconds.
const CLOSING: Duration = Duration::from_secs(10);
/// Ports of the host for connections that it asks for: from here on, which is above those that are listened on.
const FIRST_PORT: u32 = 1 << 30;

/// Makes the local end of a connection that the guest asks for.
pub(crate) trait Host<S> {
    /// `None` refuses.
    fn accept(&mut self, port: u32) -> Option<S>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ports {
    pub(crate) host: u32,
    pub(crate) guest: u32,
}

/// One that nobody foresees.
pub(crate) fn any_port() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    FIRST_PORT | u32::from_ne_bytes([a, b, c, d])
}

struct Slot<S> {
    generation: u32,
    ports: Ports,
    connection: Option<Connection<S>>,
}

/// All connections of a machine.
pub(crate) struct Muxer<S> {
    cid: u64,
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
    by_ports: HashMap<Ports, u32>,
    turns: VecDeque<u32>,
    resets: VecDeque<Ports>,
    deadlines: BTreeSet<(Instant, u32)>,
    next_port: u32,
    answers: Vec<(Done, io::Result<()>)>,
}

impl<S: Stream> Muxer<S> {
    /// `first` is the first port of the host's that is used. A guest that slept still knows connections of before, and would
    /// take a new one by the ports of such a one for it: each device begins elsewhere ([`any_port`]).
    pub(crate) fn new(cid: u64, first: u32) -> Self {
        Muxer {
            cid,
            slots: Vec::new(),
            free: Vec::new(),
            by_ports: HashMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_port: first.max(FIRST_PORT),
            answers: Vec::new(),
        }
    }

    /// Asks the guest for a connection to its `port`.
    pub(crate) fn open(&mut self, port: u32, stream: S, deadline: Instant, done: Done) {
        let mut ports = Ports { host: self.next_port, guest: port };
        while self.by_ports.contains_key(&ports) {
            ports.host = ports.host.wrapping_add(1).max(FIRST_PORT);
        }
        self.next_port = ports.host.wrapping_add(1).max(FIRST_PORT);
        if self.len() >= MAX_CONNECTIONS {
            let full = io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections to this guest");
            self.answers.push((done, Err(full)));
            return;
        }
        match self.insert(ports, stream, State::Requested { done, sent: false }) {
            Ok(index) => {
                self.set_deadline(index, Some(deadline));
                self.queue(index);
            }
            Err((error, State::Requested { done, .. })) => self.answers.push((done, Err(error))),
            Err(_) => {}
        }
    }

    /// Those who asked for connections, and what to tell them: outside of any lock, since they may ask again at once.
    pub(crate) fn take_answers(&mut self) -> Vec<(Done, io::Result<()>)> {
        std::mem::take(&mut self.answers)
    }

    /// The readiness of the local stream that was given `token` changed.
    pub(crate) fn local_ready(&mut self, token: u64, readable: bool, writable: bool, hung_up: bool) {
        let Some(index) = self.index_of(token) else { return };
        if let Some(connection) = self.connection(index) {
            connection.local_ready(readable, writable, hung_up);
            self.settle(index);
        }
    }

    /// Whether `fill` would probably fill a buffer.
    pub(crate) fn has_something_to_send(&self) -> bool {
        !self.turns.is_empty() || !self.resets.is_empty()
    }

    /// Fills a buffer of the guest with the next packet; `None` if there is none, or the buffer has no room for a header.
    pub(crate) fn fill(&mut self, buffer: &Pieces<'_>, now: Instant) -> Option<usize> {
        if buffer.len() < HEADER {
            return None;
        }
        if let Some(ports) = self.resets.pop_front() {
            return self.write(buffer, ports, (Operation::Reset, 0, 0), (0, 0));
        }
        // One round: who could not use this buffer stays in the round for a better one.
        for _ in 0..self.turns.len() {
            let Some(index) = self.turns.pop_front() else { break };
            let Some(slot) = self.slots.get_mut(index as usize) else { continue };
            let (ports, Some(connection)) = (slot.ports, slot.connection.as_mut()) else { continue };
            connection.is_queued = false;
            let turn = connection.take_turn(buffer);
            let credit = if turn == Turn::Nothing { (0, 0) } else { connection.tell_credit() };
            let is_closing = matches!(connection.state, State::Closing) && connection.deadline.is_none();
            if is_closing {
                self.set_deadline(index, Some(now + CLOSING));
            }
            self.settle(index);
            if let Turn::Packet { operation, flags, payload } = turn {
                return self.write(buffer, ports, (operation, flags, payload), credit);
            }
        }
        None
    }

    /// A packet from the guest: `packet` holds its header and, in as many pieces as the guest liked, its payload.
    pub(crate) fn receive(&mut self, packet: &Pieces<'_>, host: &mut dyn Host<S>) {
        let mut bytes = [0; HEADER];
        if !packet.read(0, &mut bytes) {
            return;
        }
        let header = Header::decode(&bytes);
        let len = header.len as usize;
        // A guest may speak for itself only, and only to the host.
        if header.source_cid != self.cid || header.destination_cid != HOST_CID || len > packet.len() - HEADER
        {
            return;
        }
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        if header.kind != TYPE_STREAM {
            self.owe_reset(ports, header.operation);
            return;
        }
        let Some(&index) = self.by_ports.get(&ports) else {
            match header.operation {
                Operation::Request => self.accept(ports, &header, host),
                operation => self.owe_reset(ports, operation),
            }
            return;
        };
        if self.advance(index, &header, packet).is_err() {
            self.owe_reset(ports, header.operation);
            self.end(index, io::ErrorKind::ConnectionReset);
        }
        self.settle(index);
    }

    /// What a packet does to the connection it belongs to.
    fn advance(&mut self, index: u32, header: &Header, packet: &Pieces<'_>) -> Result<(), Violation> {
        let connection = self.connection(index).ok_or(Violation)?;
        connection.learn_credit(header);
        match header.operation {
            Operation::Response => {
                let state = std::mem::replace(&mut connection.state, State::Open { response_owed: false });
                let State::Requested { done, sent: true } = state else {
                    connection.state = state;
                    return Err(Violation);
                };
                self.set_deadline(index, None);
                self.answers.push((done, Ok(())));
            }
            Operation::Reset => self.end(index, io::ErrorKind::ConnectionRefused),
            Operation::Data => connection.receive(packet, HEADER, header.len as usize)?,
            Operation::CreditUpdate => {}
            Operation::CreditRequest => connection.owe_credit_update(),
            Operation::Shutdown => {
                connection.guest_shuts_down(header.flags);
                if connection.is_guest_done() {
                    let ports = self.slots[index as usize].ports;
                    self.owe_reset(ports, Operation::Shutdown);
                    self.end(index, io::ErrorKind::ConnectionReset);
                }
            }
            Operation::Request | Operation::Unknown(_) => return Err(Violation),
        }
        Ok(())
    }

    fn accept(&mut self, ports: Ports, header: &Header, host: &mut dyn Host<S>) {
        let stream = if self.len() < MAX_CONNECTIONS { host.accept(ports.host) } else { None };
        let opened = stream.map(|stream| self.insert(ports, stream, State::Open { response_owed: true }));
        let Some(Ok(index)) = opened else {
            self.owe_reset(ports, Operation::Request);
            return;
        };
        if let Some(connection) = self.connection(index) {
            connection.learn_credit(header);
        }
        self.queue(index);
    }

    /// The next time at which `expire` has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(instant, _)| *instant)
    }

    /// Gives up on connections whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(instant, index)) = self.deadlines.first().filter(|(instant, _)| *instant <= now) {
            self.deadlines.remove(&(instant, index));
            let Some(connection) = self.connection(index) else { continue };
            connection.deadline = None;
            let was_told = !matches!(connection.state, State::Requested { sent: false, .. });
            if was_told {
                let ports = self.slots[index as usize].ports;
                self.owe_reset(ports, Operation::Shutdown);
            }
            self.end(index, io::ErrorKind::TimedOut);
            self.settle(index);
        }
    }

    /// The guest's driver began anew and knows of nothing: what it was asked for is asked again, the rest is over.
    pub(crate) fn restart(&mut self) {
        self.resets.clear();
        for index in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            let Some(connection) = self.connection(index) else { continue };
            if let State::Requested { sent, .. } = &mut connection.state {
                *sent = false;
            } else {
                self.end(index, io::ErrorKind::ConnectionReset);
            }
            self.settle(index);
        }
    }

    /// The monitor is gone, and all connections with it.
    pub(crate) fn close(&mut self) {
        for index in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            self.end(index, io::ErrorKind::NotConnected);
            self.settle(index);
        }
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn connection(&mut self, index: u32) -> Option<&mut Connection<S>> {
        self.slots.get_mut(index as usize)?.connection.as_mut()
    }

    fn index_of(&self, token: u64) -> Option<u32> {
        let index = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        let slot = self.slots.get(index as usize)?;
        (u64::from(slot.generation) == token >> 32).then_some(index)
    }

    fn insert(&mut self, ports: Ports, mut stream: S, state: State) -> Result<u32, (io::Error, State)> {
        let index =
            self.free.last().copied().or_else(|| u32::try_from(self.slots.len()).ok()).unwrap_or(u32::MAX);
        let generation = self.slots.get(index as usize).map_or(0, |slot| slot.generation);
        if let Err(error) = stream.watch(u64::from(generation) << 32 | u64::from(index)) {
            return Err((error, state));
        }
        let window = if self.len() < MAX_WIDE { WIDE_WINDOW } else { NARROW_WINDOW };
        let connection = Some(Connection::new(state, stream, window));
        if self.free.pop().is_some() {
            self.slots[index as usize] = Slot { generation, ports, connection };
        } else {
            self.slots.push(Slot { generation, ports, connection });
        }
        self.by_ports.insert(ports, index);
        Ok(index)
    }

    /// The guest and we are done with each other over this connection; what arrived is still the local reader's.
    fn end(&mut self, index: u32, reason: io::ErrorKind) {
        self.set_deadline(index, None);
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let Some(connection) = slot.connection.as_mut() else { return };
        if self.by_ports.get(&slot.ports) == Some(&index) {
            self.by_ports.remove(&slot.ports);
        }
        let state = std::mem::replace(&mut connection.state, State::Draining);
        if let State::Requested { done, .. } = state {
            self.answers.push((done, Err(reason.into())));
        }
        if reason == io::ErrorKind::NotConnected {
            self.remove(index);
        }
    }

    /// After a change: the connection is removed if nothing is left to do, or gets its place in the round.
    fn settle(&mut self, index: u32) {
        let Some(connection) = self.connection(index) else { return };
        if matches!(connection.state, State::Draining) && connection.is_drained() {
            self.remove(index);
        } else if connection.has_something_to_send() {
            self.queue(index);
        }
    }

    fn remove(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        if slot.connection.take().is_some() {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(index);
        }
    }

    fn queue(&mut self, index: u32) {
        let Some(connection) = self.connection(index) else { return };
        if !std::mem::replace(&mut connection.is_queued, true) {
            self.turns.push_back(index);
        }
    }

    fn set_deadline(&mut self, index: u32, deadline: Option<Instant>) {
        let Some(connection) = self.connection(index) else { return };
        let before = std::mem::replace(&mut connection.deadline, deadline);
        if let Some(instant) = before {
            self.deadlines.remove(&(instant, index));
        }
        if let Some(instant) = deadline {
            self.deadlines.insert((instant, index));
        }
    }

    fn owe_reset(&mut self, ports: Ports, answering: Operation) {
        // A reset is never answered by one, or two sides could go on for ever.
        if answering != Operation::Reset && self.resets.len() < MAX_RESETS {
            self.resets.push_back(ports);
        }
    }

    fn write(
        &self,
        buffer: &Pieces<'_>,
        ports: Ports,
        (operation, flags, payload): (Operation, u32, usize),
        (buf_alloc, fwd_cnt): (u32, u32),
    ) -> Option<usize> {
        let header = Header {
            source_cid: HOST_CID,
            destination_cid: self.cid,
            source_port: ports.host,
            destination_port: ports.guest,
            len: u32::try_from(payload).ok()?,
            kind: TYPE_STREAM,
            operation,
            flags,
            buf_alloc,
            fwd_cnt,
        };
        buffer.write(0, &header.encode()).then_some(HEADER + payload)
    }
}

#[cfg(test)]
#[path = "muxer_tests.rs"]
mod tests;
