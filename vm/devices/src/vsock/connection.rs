//! One stream between a port of the host and a port of the guest: what may be sent, what is owed, what is over.
//!
//! ```text
//! host asks:   Requested ──response──▶ Open ──both sides done──▶ Closing ──reset──▶ gone
//! guest asks:             Open (owes a response) ──guest done──▶ Draining ──backlog written──▶ gone
//! ```
//!
//! Bytes for the guest are read from the local stream straight into the guest's buffers, never ahead of them. Bytes from
//! the guest are written straight to the local stream; only what it does not take now waits in the backlog, which the
//! guest may not fill beyond the window we told it.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::num::Wrapping;
use std::time::Instant;

use vm_memory::VolatileSlice;

use super::packet::{HEADER, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::queue::Pieces;

/// The most payload a packet may have; Linux has the same limit.
pub(crate) const MAX_PAYLOAD: usize = 64 * 1024;

/// The local end of a connection: never blocks.
pub(crate) trait Stream {
    /// Asks to be told of the stream's readiness under `token`; until told otherwise it counts as ready.
    fn watch(&mut self, token: u64) -> io::Result<()>;
    fn read(&mut self, into: &mut VolatileSlice<'_>) -> io::Result<usize>;
    fn write(&mut self, from: &VolatileSlice<'_>) -> io::Result<usize>;
    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn shutdown(&mut self, how: Shutdown);
}

/// Told once how a connection that the host asked for began.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(crate) enum State {
    /// The host asked; `sent` when the guest has been given the request.
    Requested {
        done: Done,
        sent: bool,
    },
    Open {
        response_owed: bool,
    },
    /// We have told the guest that we are done in both directions and wait for it to agree.
    Closing,
    /// The guest knows nothing of the connection any more; the local stream has yet to take what arrived.
    Draining,
}

/// A connection broke the protocol, and is to be reset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation;

/// What a turn of a connection put into the guest's buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A packet with so many bytes of payload.
    Packet { operation: Operation, flags: u32, payload: usize },
    /// There was nothing to send after all.
    Nothing,
}

pub(crate) struct Connection<S> {
    pub(crate) state: State,
    pub(crate) stream: S,
    /// When the muxer gives up on the present state.
    pub(crate) deadline: Option<Instant>,
    /// Stands in the muxer's round of connections with something to send.
    pub(crate) is_queued: bool,
    // What the guest will take.
    guest_window: u32,
    guest_passed_on: Wrapping<u32>,
    sent: Wrapping<u32>,
    credit_requested: bool,
    // What we will take.
    window: u32,
    received: Wrapping<u32>,
    passed_on: Wrapping<u32>,
    told_passed_on: Wrapping<u32>,
    credit_update_owed: bool,
    backlog: VecDeque<u8>,
    // Readiness of the local stream, as far as known.
    is_readable: bool,
    is_hung_up: bool,
    // What is over.
    local_sends_no_more: bool,
    local_receives_no_more: bool,
    guest_sends_no_more: bool,
    guest_receives_no_more: bool,
    shutdown_sent: u32,
}

impl<S: Stream> Connection<S> {
    pub(crate) fn new(state: State, stream: S, window: u32) -> Self {
        Connection {
            state,
            stream,
            deadline: None,
            is_queued: false,
            guest_window: 0,
            guest_passed_on: Wrapping(0),
            sent: Wrapping(0),
            credit_requested: false,
            window,
            received: Wrapping(0),
            passed_on: Wrapping(0),
            told_passed_on: Wrapping(0),
            credit_update_owed: false,
            backlog: VecDeque::new(),
            is_readable: true,
            is_hung_up: false,
            local_sends_no_more: false,
            local_receives_no_more: false,
            guest_sends_no_more: false,
            guest_receives_no_more: false,
            shutdown_sent: 0,
        }
    }

    /// Every packet of the guest tells what it will take.
    pub(crate) fn learn_credit(&mut self, header: &Header) {
        self.guest_window = header.buf_alloc;
        self.guest_passed_on = Wrapping(header.fwd_cnt);
        if self.credit() > 0 {
            self.credit_requested = false;
        }
    }

    /// What the guest is told of us with every packet.
    pub(crate) fn tell_credit(&mut self) -> (u32, u32) {
        self.told_passed_on = self.passed_on;
        self.credit_update_owed = false;
        (self.window, self.passed_on.0)
    }

    fn credit(&self) -> usize {
        // A guest that claims to have passed on more than it was sent gets nothing until it tells the truth.
        self.guest_window.saturating_sub((self.sent - self.guest_passed_on).0) as usize
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.backlog.is_empty()
    }

    /// How many bytes of the guest wait for the local reader.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.backlog.len()
    }

    pub(crate) fn is_guest_done(&self) -> bool {
        self.guest_sends_no_more && self.guest_receives_no_more
    }

    fn shutdown_owed(&self) -> u32 {
        let send = if self.local_sends_no_more { SHUTDOWN_SEND } else { 0 };
        let receive = if self.local_receives_no_more { SHUTDOWN_RECEIVE } else { 0 };
        send | receive
    }

    /// Whether a turn would probably put a packet into a buffer of the guest.
    pub(crate) fn has_something_to_send(&self) -> bool {
        match &self.state {
            State::Requested { sent, .. } => !sent,
            State::Open { response_owed } => {
                *response_owed
                    || self.credit_update_owed
                    || self.shutdown_owed() != self.shutdown_sent
                    || (self.may_read() && (self.credit() > 0 || !self.credit_requested))
            }
            State::Closing => self.credit_update_owed,
            State::Draining => false,
        }
    }

    fn may_read(&self) -> bool {
        self.is_readable && !self.local_sends_no_more && !self.guest_receives_no_more
    }

    /// Puts the connection's next packet, payload after header, into a buffer of the guest.
    pub(crate) fn take_turn(&mut self, buffer: &Pieces<'_>) -> Turn {
        let packet = |operation| Turn::Packet { operation, flags: 0, payload: 0 };
        match &mut self.state {
            State::Requested { sent, .. } => {
                if std::mem::replace(sent, true) {
                    return Turn::Nothing;
                }
                return packet(Operation::Request);
            }
            State::Open { response_owed } => {
                if std::mem::take(response_owed) {
                    return packet(Operation::Response);
                }
            }
            State::Closing | State::Draining => {}
        }
        if matches!(self.state, State::Open { .. }) {
            if self.may_read() {
                if self.credit() == 0 {
                    if !std::mem::replace(&mut self.credit_requested, true) {
                        return packet(Operation::CreditRequest);
                    }
                } else if let Some(payload) = self.read_into(buffer) {
                    return Turn::Packet { operation: Operation::Data, flags: 0, payload };
                }
            }
            let flags = self.shutdown_owed();
            if flags != self.shutdown_sent {
                self.shutdown_sent = flags;
                if flags == SHUTDOWN_BOTH {
                    self.state = State::Closing;
                }
                return Turn::Packet { operation: Operation::Shutdown, flags, payload: 0 };
            }
        }
        if self.credit_update_owed { packet(Operation::CreditUpdate) } else { Turn::Nothing }
    }

    fn read_into(&mut self, buffer: &Pieces<'_>) -> Option<usize> {
        let most = self.credit().min(MAX_PAYLOAD);
        let mut total = 0;
        for mut slice in buffer.range(HEADER, most) {
            match self.stream.read(&mut slice) {
                Ok(0) => self.local_sends_no_more = true,
                Ok(count) => {
                    total += count;
                    if count == slice.len() {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.local_sends_no_more = true,
            }
            break;
        }
        self.notice_local_end();
        self.sent += u32::try_from(total).unwrap_or(0);
        (total > 0).then_some(total)
    }

    /// The local stream's state changed.
    pub(crate) fn local_ready(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.is_readable |= readable || hung_up;
        self.is_hung_up |= hung_up;
        self.notice_local_end();
        if writable || hung_up {
            self.write_backlog();
        }
    }

    /// A stream that is hung up has nobody left who could read; it is over once nobody waits for what it still holds.
    fn notice_local_end(&mut self) {
        if self.is_hung_up && (self.local_sends_no_more || self.guest_receives_no_more) {
            self.local_sends_no_more = true;
            self.local_receives_no_more = true;
        }
    }

    fn write_backlog(&mut self) {
        while !self.backlog.is_empty() && !self.local_receives_no_more {
            match self.stream.write_bytes(self.backlog.as_slices().0) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.pass_on(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.local_receives_no_more = true,
            }
        }
        if self.local_receives_no_more {
            let lost = self.backlog.len();
            self.pass_on(lost);
        }
        self.backlog = VecDeque::new();
        if self.guest_sends_no_more {
            self.stream.shutdown(Shutdown::Write);
        }
    }

    fn pass_on(&mut self, count: usize) {
        self.passed_on += u32::try_from(count).unwrap_or(0);
        // What the guest believes to be free. Telling it when half is gone keeps it sending at a packet per half window.
        let believed = self.window.saturating_sub((self.received - self.told_passed_on).0);
        if believed < self.window / 2 && self.passed_on != self.told_passed_on {
            self.credit_update_owed = true;
        }
    }

    /// The guest sent data.
    pub(crate) fn receive(
        &mut self,
        payload: &Pieces<'_>,
        start: usize,
        len: usize,
    ) -> Result<(), Violation> {
        let waiting = (self.received - self.passed_on).0;
        let count = u32::try_from(len).map_err(|_| Violation)?;
        if self.guest_sends_no_more || count > self.window.saturating_sub(waiting) {
            return Err(Violation);
        }
        match self.state {
            State::Open { .. } | State::Closing => {}
            State::Requested { .. } | State::Draining => return Err(Violation),
        }
        self.received += count;
        let mut blocked = !self.backlog.is_empty();
        for slice in payload.range(start, len) {
            let mut done = 0;
            while !blocked && !self.local_receives_no_more && done < slice.len() {
                let Ok(rest) = slice.subslice(done, slice.len() - done) else { break };
                match self.stream.write(&rest) {
                    Ok(written) => {
                        done += written;
                        self.pass_on(written);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => blocked = true,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => self.local_receives_no_more = true,
                }
            }
            if self.local_receives_no_more {
                self.pass_on(slice.len() - done);
            } else if let Ok(rest) = slice.subslice(done, slice.len() - done) {
                let mut bytes = vec![0; rest.len()];
                rest.copy_to(&mut bytes[..]);
                self.backlog.extend(bytes);
            }
        }
        Ok(())
    }

    /// The guest will send or receive no more.
    pub(crate) fn guest_shuts_down(&mut self, flags: u32) {
        if flags & SHUTDOWN_RECEIVE != 0 && !self.guest_receives_no_more {
            self.guest_receives_no_more = true;
            self.stream.shutdown(Shutdown::Read);
            self.notice_local_end();
        }
        if flags & SHUTDOWN_SEND != 0 && !self.guest_sends_no_more {
            self.guest_sends_no_more = true;
            if self.backlog.is_empty() {
                self.stream.shutdown(Shutdown::Write);
            }
        }
    }

    /// The guest asked what we will take.
    pub(crate) fn owe_credit_update(&mut self) {
        self.credit_update_owed = true;
    }
}
