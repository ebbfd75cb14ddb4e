//! The muxer with a guest made of packets and local streams made of queues.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::mpsc;

use proptest::prelude::*;
use vm_memory::VolatileSlice;

use super::*;
use crate::vsock::packet::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

const CID: u64 = 3;
const LISTENING: u32 = 1024;

/// What a local program sees of a stream.
#[derive(Debug, Default)]
struct Local {
    token: u64,
    to_guest: VecDeque<u8>,
    from_guest: Vec<u8>,
    /// How many more bytes it takes.
    room: usize,
    has_ended: bool,
    is_gone: bool,
    no_more_from_guest: bool,
    is_dropped: bool,
}

struct FakeStream(Rc<RefCell<Local>>);

impl Stream for FakeStream {
    fn watch(&mut self, token: u64) -> io::Result<()> {
        self.0.borrow_mut().token = token;
        Ok(())
    }

    fn read(&mut self, into: &mut VolatileSlice<'_>) -> io::Result<usize> {
        let local = &mut *self.0.borrow_mut();
        if local.to_guest.is_empty() {
            let ended = local.has_ended || local.is_gone;
            return if ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let bytes: Vec<u8> = local.to_guest.drain(..into.len().min(local.to_guest.len())).collect();
        into.copy_from(&bytes);
        Ok(bytes.len())
    }

    fn write(&mut self, from: &VolatileSlice<'_>) -> io::Result<usize> {
        let mut bytes = vec![0; from.len()];
        from.copy_to(&mut bytes[..]);
        self.write_bytes(&bytes)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let local = &mut *self.0.borrow_mut();
        if local.is_gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(local.room);
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        local.room -= count;
        local.from_guest.extend(&bytes[..count]);
        Ok(count)
    }

    fn shutdown(&mut self, how: Shutdown) {
        self.0.borrow_mut().no_more_from_guest |= how != Shutdown::Read;
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        let local = &mut *self.0.borrow_mut();
        local.is_dropped = true;
        local.no_more_from_guest = true;
    }
}

#[derive(Default)]
struct Listening(Vec<Rc<RefCell<Local>>>);

impl Host<FakeStream> for Listening {
    fn accept(&mut self, port: u32) -> Option<FakeStream> {
        (port == LISTENING).then(|| {
            let local = Rc::new(RefCell::new(Local { room: usize::MAX, ..Local::default() }));
            self.0.push(Rc::clone(&local));
            FakeStream(local)
        })
    }
}

/// A muxer, its guest, and its host.
struct Bench {
    muxer: Muxer<FakeStream>,
    host: Listening,
    now: Instant,
}

impl Bench {
    fn new() -> Bench {
        Bench { muxer: Muxer::new(CID, FIRST_PORT), host: Listening::default(), now: Instant::now() }
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        let mut head = header.encode();
        let mut payload = payload.to_vec();
        // Cut in odd places: guests send a header and several pieces.
        let (first, second) = head.split_at_mut(13);
        let middle = payload.len() / 3;
        let (left, right) = payload.split_at_mut(middle);
        let mut pieces = Pieces::default();
        for piece in [first, second, left, right] {
            pieces.push(VolatileSlice::from(piece));
        }
        self.muxer.receive(&pieces, &mut self.host);
    }

    fn packet(&mut self, operation: Operation, ports: (u32, u32), payload: &[u8]) {
        self.send(header(operation, ports, payload.len()), payload);
    }

    /// The next packet for the guest.
    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut buffer = vec![0; 4096];
        let (first, second) = buffer.split_at_mut(50);
        let mut pieces = Pieces::default();
        pieces.push(VolatileSlice::from(first));
        pieces.push(VolatileSlice::from(second));
        let len = self.muxer.fill(&pieces, self.now)?;
        let header = Header::decode(buffer[..HEADER].try_into().unwrap());
        Some((header, buffer[HEADER..len].to_vec()))
    }

    fn operations(&mut self) -> Vec<Operation> {
        std::iter::from_fn(|| self.receive()).map(|(header, _)| header.operation).collect()
    }

    fn open(&mut self, port: u32) -> (Rc<RefCell<Local>>, mpsc::Receiver<io::Result<()>>) {
        let local = Rc::new(RefCell::new(Local { room: usize::MAX, ..Local::default() }));
        let (sender, receiver) = mpsc::channel();
        let done: Done = Box::new(move |answer| drop(sender.send(answer)));
        self.muxer.open(port, FakeStream(Rc::clone(&local)), self.now + Duration::from_secs(5), done);
        self.answer();
        (local, receiver)
    }

    fn answer(&mut self) {
        for (done, answer) in self.muxer.take_answers() {
            done(answer);
        }
    }

    /// A connection that the host asked for and the guest has accepted; its host's port.
    fn opened(&mut self, port: u32) -> (Rc<RefCell<Local>>, u32) {
        let (local, answer) = self.open(port);
        let (request, _) = self.receive().unwrap();
        assert_eq!((request.operation, request.destination_port), (Operation::Request, port));
        self.packet(Operation::Response, (port, request.source_port), &[]);
        self.answer();
        answer.try_recv().unwrap().unwrap();
        (local, request.source_port)
    }

    fn ready(&mut self, local: &Rc<RefCell<Local>>) {
        let (token, is_gone) = (local.borrow().token, local.borrow().is_gone);
        self.muxer.local_ready(token, true, true, is_gone);
    }
}

/// From a port of the guest to one of the host.
fn header(operation: Operation, (source_port, destination_port): (u32, u32), len: usize) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port,
        destination_port,
        len: u32::try_from(len).unwrap(),
        kind: TYPE_STREAM,
        operation,
        flags: 0,
        buf_alloc: 64 * 1024,
        fwd_cnt: 0,
    }
}

#[test]
fn a_connection_begins_with_the_guests_answer() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().to_guest.extend(b"hello");
    bench.ready(&local);
    let (header, payload) = bench.receive().unwrap();
    assert_eq!((header.operation, &payload[..]), (Operation::Data, &b"hello"[..]));
    bench.packet(Operation::Data, (80, port), b"hello yourself");
    assert_eq!(local.borrow().from_guest, b"hello yourself");
}

#[test]
fn a_refused_connection_and_one_without_an_answer_are_told_apart() {
    let mut bench = Bench::new();
    let (_, refused) = bench.open(80);
    let (request, _) = bench.receive().unwrap();
    bench.packet(Operation::Reset, (80, request.source_port), &[]);
    let (_, unanswered) = bench.open(81);
    bench.now += Duration::from_secs(6);
    let now = bench.now;
    bench.muxer.expire(now);
    bench.answer();
    let kind = |answer: mpsc::Receiver<io::Result<()>>| answer.try_recv().unwrap().unwrap_err().kind();
    assert_eq!(kind(refused), io::ErrorKind::ConnectionRefused);
    assert_eq!(kind(unanswered), io::ErrorKind::TimedOut);
    assert_eq!(bench.muxer.len(), 0);
    assert_eq!(bench.muxer.next_deadline(), None);
}

#[test]
fn a_guest_reaches_ports_that_are_listened_on_and_no_others() {
    let mut bench = Bench::new();
    bench.packet(Operation::Request, (5, LISTENING), &[]);
    bench.packet(Operation::Request, (6, LISTENING + 1), &[]);
    let mut operations = bench.operations();
    operations.sort_by_key(|operation| u16::from(*operation));
    assert_eq!(operations, [Operation::Response, Operation::Reset]);
    bench.packet(Operation::Data, (5, LISTENING), b"x");
    assert_eq!(bench.host.0[0].borrow().from_guest, b"x");
}

#[test]
fn each_half_ends_by_itself() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().has_ended = true;
    bench.ready(&local);
    let (header, _) = bench.receive().unwrap();
    assert_eq!((header.operation, header.flags), (Operation::Shutdown, SHUTDOWN_SEND));
    // The guest's half goes on.
    bench.packet(Operation::Data, (80, port), b"still here");
    assert_eq!(local.borrow().from_guest, b"still here");
    assert!(!local.borrow().no_more_from_guest);
    bench.send(Header { flags: SHUTDOWN_SEND, ..self::header(Operation::Shutdown, (80, port), 0) }, &[]);
    assert!(local.borrow().no_more_from_guest && !local.borrow().is_dropped);
    bench.send(Header { flags: SHUTDOWN_RECEIVE, ..self::header(Operation::Shutdown, (80, port), 0) }, &[]);
    assert_eq!(bench.operations(), [Operation::Reset]);
    assert!(local.borrow().is_dropped);
}

#[test]
fn a_local_program_that_is_gone_ends_both_halves() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().is_gone = true;
    bench.ready(&local);
    let (header, _) = bench.receive().unwrap();
    assert_eq!((header.operation, header.flags), (Operation::Shutdown, SHUTDOWN_BOTH));
    // What the guest had on its way is nobody's.
    bench.packet(Operation::Data, (80, port), b"too late");
    bench.packet(Operation::Reset, (80, port), &[]);
    assert_eq!(bench.muxer.len(), 0);
    // A guest that does not agree is not waited for.
    let (local, _) = bench.opened(80);
    local.borrow_mut().is_gone = true;
    bench.ready(&local);
    bench.operations();
    bench.now += CLOSING;
    let now = bench.now;
    bench.muxer.expire(now);
    assert_eq!((bench.operations(), bench.muxer.len()), (vec![Operation::Reset], 0));
}

#[test]
fn what_arrived_before_the_end_is_still_the_readers() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().room = 3;
    bench.packet(Operation::Data, (80, port), b"last words");
    bench.send(Header { flags: SHUTDOWN_BOTH, ..header(Operation::Shutdown, (80, port), 0) }, &[]);
    assert_eq!(local.borrow().from_guest, b"las");
    assert!(!local.borrow().no_more_from_guest);
    // The ports are free again at once.
    bench.packet(Operation::Request, (80, port), &[]);
    local.borrow_mut().room = usize::MAX;
    bench.ready(&local);
    assert_eq!(local.borrow().from_guest, b"last words");
    assert!(local.borrow().is_dropped);
}

#[test]
fn a_guest_may_not_send_beyond_the_window() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().room = 0;
    let block = vec![7; 64 * 1024];
    for _ in 0..WIDE_WINDOW as usize / block.len() {
        bench.packet(Operation::Data, (80, port), &block);
    }
    assert!(!local.borrow().is_dropped);
    bench.packet(Operation::Data, (80, port), b"one too many");
    assert_eq!(bench.operations(), [Operation::Reset]);
}

#[test]
fn the_guest_is_told_when_it_may_send_again() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().room = 0;
    bench.packet(Operation::Data, (80, port), &vec![7; 150 * 1024]);
    assert_eq!(bench.operations(), []);
    local.borrow_mut().room = usize::MAX;
    bench.ready(&local);
    let (header, _) = bench.receive().unwrap();
    assert_eq!((header.operation, header.fwd_cnt), (Operation::CreditUpdate, 150 * 1024));
}

#[test]
fn a_guest_gets_no_more_than_it_has_room_for() {
    let mut bench = Bench::new();
    let (local, port) = bench.opened(80);
    local.borrow_mut().to_guest.extend(vec![1; 100_000]);
    bench.ready(&local);
    let mut total = 0;
    let mut last = None;
    while let Some((header, payload)) = bench.receive() {
        total += payload.len();
        last = Some(header.operation);
    }
    assert_eq!((total, last), (64 * 1024, Some(Operation::CreditRequest)));
    // A guest that claims to have passed on what it was never sent gets nothing.
    bench.send(Header { fwd_cnt: 200_000, ..header(Operation::CreditUpdate, (80, port), 0) }, &[]);
    assert!(bench.operations().iter().all(|operation| *operation == Operation::CreditRequest));
    bench.send(Header { fwd_cnt: 64 * 1024, ..header(Operation::CreditUpdate, (80, port), 0) }, &[]);
    while let Some((_, payload)) = bench.receive() {
        total += payload.len();
    }
    assert_eq!(total, 100_000);
}

#[test]
fn connections_take_turns() {
    let mut bench = Bench::new();
    let (greedy, greedy_port) = bench.opened(80);
    let (modest, modest_port) = bench.opened(81);
    greedy.borrow_mut().to_guest.extend(vec![1; 60_000]);
    bench.ready(&greedy);
    modest.borrow_mut().to_guest.extend(b"me too");
    bench.ready(&modest);
    let ports: Vec<u32> = (0..4).map(|_| bench.receive().unwrap().0.source_port).collect();
    assert!(ports.contains(&greedy_port) && ports.contains(&modest_port), "{ports:?}");
}

#[test]
fn a_guest_that_restarts_is_asked_again() {
    let mut bench = Bench::new();
    let (open, _) = bench.opened(80);
    let (_, answer) = bench.open(81);
    assert_eq!(bench.operations(), [Operation::Request]);
    bench.muxer.restart();
    assert!(open.borrow().is_dropped);
    let (request, _) = bench.receive().unwrap();
    assert_eq!((request.operation, request.destination_port), (Operation::Request, 81));
    bench.muxer.close();
    bench.answer();
    assert_eq!(answer.try_recv().unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
}

#[test]
fn a_flood_of_requests_ends_at_the_bound() {
    let mut bench = Bench::new();
    for port in 0..20_000 {
        bench.packet(Operation::Request, (port, LISTENING), &[]);
    }
    assert_eq!(bench.muxer.len(), MAX_CONNECTIONS);
    let mut counts = HashMap::new();
    for operation in bench.operations() {
        *counts.entry(u16::from(operation)).or_insert(0) += 1;
    }
    assert_eq!(counts[&u16::from(Operation::Response)], MAX_CONNECTIONS);
    assert!(counts[&u16::from(Operation::Reset)] <= MAX_RESETS);
}

#[test]
fn a_buffer_without_room_for_data_stops_nobody() {
    let mut bench = Bench::new();
    let (local, _) = bench.opened(80);
    local.borrow_mut().to_guest.extend(b"data");
    bench.ready(&local);
    let mut exact = [0; HEADER];
    let mut pieces = Pieces::default();
    pieces.push(VolatileSlice::from(&mut exact[..]));
    assert_eq!(bench.muxer.fill(&pieces, bench.now), None);
    assert_eq!(bench.receive().unwrap().1, b"data");
}

#[derive(Clone, Debug)]
enum Step {
    Packet {
        raw: Vec<u8>,
        payload: usize,
    },
    Plausible {
        operation: u16,
        guest: u32,
        host: u32,
        payload: usize,
        flags: u32,
        buf_alloc: u32,
        fwd_cnt: u32,
    },
    Open(u32),
    Local {
        index: usize,
        feed: usize,
        room: usize,
        ends: bool,
        goes: bool,
    },
    Fill(usize),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (prop::collection::vec(any::<u8>(), 0..80), 0usize..100)
            .prop_map(|(raw, payload)| Step::Packet { raw, payload }),
        8 => (0u16..10, 0u32..4, prop_oneof![Just(LISTENING), Just(FIRST_PORT), Just(FIRST_PORT + 1), 0u32..3],
              prop_oneof![Just(0usize), 0usize..200_000], 0u32..5, any::<u32>(), prop_oneof![0u32..10_000, any::<u32>()])
            .prop_map(|(operation, guest, host, payload, flags, buf_alloc, fwd_cnt)|
                Step::Plausible { operation, guest, host, payload, flags, buf_alloc, fwd_cnt }),
        2 => (0u32..4).prop_map(Step::Open),
        4 => (0usize..8, 0usize..100_000, 0usize..100_000, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(index, feed, room, ends, goes)| Step::Local { index, feed, room, ends, goes }),
        6 => (0usize..70_000).prop_map(Step::Fill),
        1 => (0u64..12).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Nothing a guest sends breaks the muxer, makes it hold more than its windows, or forgets whoever asked.
    #[test]
    fn no_guest_breaks_it(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        let mut answers = Vec::new();
        let mut locals = Vec::new();
        for step in steps {
            match step {
                Step::Packet { mut raw, payload } => {
                    raw.resize(raw.len() + payload, 0);
                    let mut pieces = Pieces::default();
                    pieces.push(VolatileSlice::from(&mut raw[..]));
                    bench.muxer.receive(&pieces, &mut bench.host);
                }
                Step::Plausible { operation, guest, host, payload, flags, buf_alloc, fwd_cnt } => {
                    let header = Header {
                        flags, buf_alloc, fwd_cnt, ..header(operation.into(), (guest, host), payload)
                    };
                    bench.send(header, &vec![1; payload]);
                }
                Step::Open(port) => {
                    let (local, answer) = bench.open(port);
                    locals.push(local);
                    answers.push(answer);
                }
                Step::Local { index, feed, room, ends, goes } => {
                    locals.append(&mut bench.host.0);
                    if let Some(local) = locals.get(index).cloned() {
                        let mut state = local.borrow_mut();
                        let feed = if state.has_ended { 0 } else { feed };
                        state.to_guest.extend(vec![2; feed]);
                        (state.room, state.has_ended, state.is_gone) = (room, state.has_ended | ends, state.is_gone | goes);
                        drop(state);
                        bench.ready(&local);
                    }
                }
                Step::Fill(size) => {
                    let mut buffer = vec![0; size];
                    let mut pieces = Pieces::default();
                    pieces.push(VolatileSlice::from(&mut buffer[..]));
                    let filled = bench.muxer.fill(&pieces, bench.now);
                    prop_assert!(filled.unwrap_or(0) <= size);
                }
                Step::Wait(seconds) => {
                    bench.now += Duration::from_secs(seconds);
                    let now = bench.now;
                    bench.muxer.expire(now);
                }
                Step::Restart => bench.muxer.restart(),
            }
            prop_assert!(bench.muxer.by_ports.len() <= bench.muxer.len());
            prop_assert!(bench.muxer.deadlines.len() <= bench.muxer.len());
            prop_assert!(bench.muxer.turns.len() <= bench.muxer.slots.len() * 2 + 200);
            for slot in &bench.muxer.slots {
                if let Some(connection) = &slot.connection {
                    prop_assert!(connection.held() <= WIDE_WINDOW as usize);
                }
            }
        }
        bench.muxer.close();
        bench.answer();
        prop_assert_eq!(bench.muxer.len(), 0);
        for answer in answers {
            prop_assert_eq!(answer.try_iter().count(), 1);
        }
    }
}
