//! The network card as a monitor sees it: two queues and a wire, worked off by one thread.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{Timespec, epoll};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::EventSet;

use super::frames::{Incoming, MAX_FRAME, Outgoing};
use crate::queue::{Direction, Memory, Pieces, Ring, Vring, notify, take};
use crate::session::{Device, Wake};

const QUEUE_SIZE: usize = 1024;
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
const QUEUES: usize = 2;
/// `struct virtio_net_hdr` with its count of buffers, as version 1 of the specification always has it.
const HEADER: usize = 12;
/// Where in it the count of buffers stands.
const BUFFER_COUNT: usize = 10;
/// Rounds in a row before other events of the thread are looked at.
const ROUNDS: usize = 64;
/// Buffers that one frame may take; Linux's are of about 1.5 KiB at least.
const MAX_BUFFERS: usize = 64;

const VERSION_1: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
/// A frame may be spread over several buffers.
const MERGEABLE: u64 = 1 << 15;

/// The network's side, which outlives monitors.
#[derive(Debug)]
pub(crate) struct Wire {
    epoll: OwnedFd,
    state: Mutex<WireState>,
}

#[derive(Debug)]
struct WireState {
    stream: UnixStream,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The stream may hold more than was read.
    is_readable: bool,
    /// It ended, or can't be understood any more.
    is_over: bool,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Arc<Self>> {
        stream.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(0), flags)?;
        let state = WireState {
            stream,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            is_readable: true,
            is_over: false,
        };
        Ok(Arc::new(Wire { epoll, state: Mutex::new(state) }))
    }
}

impl WireState {
    /// Reads more frames; false if there are none now.
    fn read(&mut self) -> bool {
        if self.is_over || !self.is_readable {
            return false;
        }
        match self.incoming.read_from(&mut self.stream) {
            Ok(0) => self.fail(&io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_readable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return true,
            Err(error) => self.fail(&error),
        }
        false
    }

    /// Writes what is on its way; false if the stream does not take all of it now.
    fn write(&mut self) -> bool {
        match self.outgoing.write_to(&mut self.stream) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                self.fail(&error);
                true
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.is_over, true) {
            tracing::warn!(%error, "a machine's network ended");
        }
        self.outgoing.clear();
    }
}

pub(crate) struct NetDevice {
    wire: Arc<Wire>,
    memory: Mutex<Option<GuestMemoryAtomic<Memory>>>,
    is_mergeable: Mutex<bool>,
}

/// No state is left half changed by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NetDevice {
    pub(crate) fn new(wire: &Arc<Wire>) -> Arc<Self> {
        Arc::new(NetDevice {
            wire: Arc::clone(wire),
            memory: Mutex::new(None),
            is_mergeable: Mutex::new(false),
        })
    }

    fn work(&self, vrings: &[Vring]) -> io::Result<()> {
        let (Some(to_guest), Some(from_guest)) = (vrings.get(TO_GUEST), vrings.get(FROM_GUEST)) else {
            return Ok(());
        };
        let Some(memory) = lock(&self.memory).as_ref().map(GuestAddressSpace::memory) else { return Ok(()) };
        let is_mergeable = *lock(&self.is_mergeable);
        let mut wire = lock(&self.wire.state);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 1];
        if let Ok((events, _)) = epoll::wait(&self.wire.epoll, &mut space, Some(&now)) {
            wire.is_readable |= events.iter().any(|event| { event.flags } != epoll::EventFlags::OUT);
        }
        for _ in 0..ROUNDS {
            let sent = transmit(&mut wire, &mut from_guest.get_mut(), &memory)?;
            let filled = fill(&mut wire, &mut to_guest.get_mut(), &memory, is_mergeable)?;
            if !sent && !filled {
                return Ok(());
            }
        }
        // There is more, but others have waited: a change of interest makes the set ready again.
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::modify(&self.wire.epoll, &wire.stream, epoll::EventData::new_u64(0), flags)?;
        Ok(())
    }
}

fn is_running(ring: &Ring) -> bool {
    ring.is_enabled() && ring.get_queue().ready()
}

/// Takes a bufferful of the guest's frames; true if there may be more. Nothing is taken while the wire is full: then the
/// guest's own queue fills, and its network stack waits.
fn transmit(wire: &mut WireState, ring: &mut Ring, memory: &Memory) -> io::Result<bool> {
    if !wire.write() || !is_running(ring) {
        return Ok(false);
    }
    let _ = ring.disable_notification();
    let mut taken = false;
    let mut is_drained = false;
    while wire.outgoing.has_room() {
        let Some(chain) = take(ring, memory) else {
            is_drained = true;
            break;
        };
        let head = chain.head_index();
        if let Some(frame) = Pieces::of(memory, chain, Direction::FromGuest) {
            let len = frame.len().saturating_sub(HEADER);
            if (1..=MAX_FRAME).contains(&len) && !wire.is_over {
                wire.outgoing.push(len, |place| frame.read(HEADER, place));
            }
        }
        taken = true;
        if ring.add_used(head, 0).is_err() {
            is_drained = true;
            break;
        }
    }
    if taken {
        notify(ring)?;
    }
    Ok(wire.write() && taken && !is_drained)
}

/// Gives the guest a readful of frames; true if there may be more. While the guest has no buffers nothing is read, and the
/// network's side sees a full socket; without a guest that listens frames are thrown away.
fn fill(wire: &mut WireState, ring: &mut Ring, memory: &Memory, is_mergeable: bool) -> io::Result<bool> {
    let is_running = is_running(ring);
    let mut filled = false;
    let mut has_room = true;
    loop {
        let frame = match wire.incoming.first() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                wire.fail(&io::Error::new(io::ErrorKind::InvalidData, error));
                return Ok(false);
            }
        };
        if is_running {
            match deliver(frame, ring, memory, is_mergeable) {
                Delivery::Done => filled = true,
                Delivery::Dropped => {}
                Delivery::NoBuffers => {
                    has_room = false;
                    break;
                }
            }
        }
        wire.incoming.pop();
    }
    if filled {
        notify(ring)?;
    }
    Ok(has_room && wire.read())
}

enum Delivery {
    Done,
    /// It does not fit into what the guest offers at all.
    Dropped,
    /// The guest will tell of more buffers.
    NoBuffers,
}

fn deliver(frame: &[u8], ring: &mut Ring, memory: &Memory, is_mergeable: bool) -> Delivery {
    let mut buffers = Vec::new();
    let mut room = 0;
    while room < HEADER + frame.len() {
        if buffers.len() == if is_mergeable { MAX_BUFFERS } else { 1 } {
            // Too small a buffer to hold the frame; it goes back unused with the rest.
            give_back(ring, &buffers);
            return Delivery::Dropped;
        }
        let Some(chain) = take(ring, memory) else {
            for _ in &buffers {
                ring.get_queue_mut().go_to_previous_position();
            }
            return Delivery::NoBuffers;
        };
        let head = chain.head_index();
        let pieces = Pieces::of(memory, chain, Direction::ToGuest).unwrap_or_default();
        room += pieces.len();
        buffers.push((head, pieces));
    }
    let mut header = [0; HEADER];
    let count = u16::try_from(buffers.len()).unwrap_or(1);
    header[BUFFER_COUNT..].copy_from_slice(&count.to_le_bytes());
    let (mut header, mut rest) = (&header[..], frame);
    for (head, pieces) in &buffers {
        // Only the first buffer holds a header. One too small for it is a guest's own fault: it gets what fits.
        let of_header = header.len().min(pieces.len());
        let of_frame = rest.len().min(pieces.len() - of_header);
        pieces.write(0, &header[..of_header]);
        pieces.write(of_header, &rest[..of_frame]);
        header = &header[of_header..];
        rest = &rest[of_frame..];
        let used = u32::try_from(of_header + of_frame).unwrap_or(0);
        if ring.add_used(*head, used).is_err() {
            return Delivery::Dropped;
        }
    }
    Delivery::Done
}

fn give_back(ring: &mut Ring, buffers: &[(u16, Pieces<'_>)]) {
    for (head, _) in buffers {
        let _ = ring.add_used(*head, 0);
    }
}

impl Device for NetDevice {
    fn own_event(&self) -> Option<&OwnedFd> {
        Some(&self.wire.epoll)
    }
}

impl VhostUserBackend for NetDevice {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        VERSION_1 | EVENT_INDEX | INDIRECT | MERGEABLE | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        *lock(&self.is_mergeable) = features & MERGEABLE != 0;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, memory: GuestMemoryAtomic<Memory>) -> io::Result<()> {
        *lock(&self.memory) = Some(memory);
        Ok(())
    }

    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Vring], _thread: usize) -> io::Result<()> {
        match Wake::of(event)? {
            Wake::Own | Wake::Queue(_) => self.work(vrings),
        }
    }
}
