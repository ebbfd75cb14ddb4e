//! The vsock device as a monitor sees it: three queues, worked off by one thread.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::EventSet;

use super::connection::Done;
use super::muxer::{Host, Muxer, any_port};
use super::packet::HEADER;
use super::stream::LocalStream;
use crate::queue::{Direction, Memory, Pieces, Ring, Vring, notify, take};
use crate::session::{Device, Wake, new_event, ring};

const QUEUE_SIZE: usize = 1024;
/// To the guest, from the guest, and events, of which we have none.
const QUEUES: usize = 3;
const TO_GUEST: usize = 0;
const FROM_GUEST: usize = 1;
/// Packets of the guest in a row, before local streams are looked at and the guest is answered.
const BATCH: usize = 64;
/// Batches in a row, before other events of the thread are looked at.
const BATCHES: usize = 64;
const DOORBELL: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

const VERSION_1: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;

/// Takes a connection of the guest; called on the device's thread.
pub(crate) type Listener = Arc<dyn Fn(UnixStream) + Send + Sync>;

/// A connection that is asked for.
pub(crate) struct Attach {
    pub(crate) port: u32,
    pub(crate) stream: UnixStream,
    pub(crate) deadline: Instant,
    pub(crate) done: Done,
}

/// What outlives monitors.
#[derive(Default)]
pub(crate) struct Switchboard {
    listeners: Mutex<HashMap<u32, Listener>>,
    current: Mutex<Option<Arc<Inbox>>>,
    /// How many connections there are to each of the guest's ports.
    counts: Mutex<HashMap<u32, Arc<AtomicUsize>>>,
}

/// What the monitor's device is asked to do from outside.
#[derive(Debug)]
struct Inbox {
    attaches: Mutex<Vec<Attach>>,
    doorbell: OwnedFd,
}

impl std::fmt::Debug for Attach {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Attach").field("port", &self.port).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Switchboard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Switchboard").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Switchboard {
    pub(crate) fn listen(&self, port: u32, listener: Option<Listener>) {
        let mut listeners = lock(&self.listeners);
        match listener {
            Some(listener) => listeners.insert(port, listener),
            None => listeners.remove(&port),
        };
    }

    pub(crate) fn is_connected(&self) -> bool {
        lock(&self.current).is_some()
    }

    /// How many connections to a port of the guest there are, now and later.
    pub(crate) fn count(&self, port: u32) -> Arc<AtomicUsize> {
        Arc::clone(lock(&self.counts).entry(port).or_default())
    }

    pub(crate) fn attach(&self, attach: Attach) {
        let current = lock(&self.current);
        if let Some(inbox) = &*current {
            // Under the lock, so that a device that goes away finds it.
            lock(&inbox.attaches).push(attach);
            ring(&inbox.doorbell);
        } else {
            drop(current);
            (attach.done)(Err(io::ErrorKind::NotConnected.into()));
        }
    }
}

/// No state is left half changed by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct VsockDevice {
    cid: u64,
    switchboard: Arc<Switchboard>,
    inbox: Arc<Inbox>,
    epoll: Arc<OwnedFd>,
    timer: OwnedFd,
    state: Mutex<Running>,
}

struct Running {
    muxer: Muxer<LocalStream>,
    memory: Option<GuestMemoryAtomic<Memory>>,
    timer_at: Option<Instant>,
    /// The monitor has (again) agreed on features: maybe for a driver that knows of nothing.
    is_fresh: bool,
}

impl VsockDevice {
    pub(crate) fn new(cid: u64, switchboard: &Arc<Switchboard>) -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let inbox = Arc::new(Inbox {
            attaches: Mutex::new(Vec::new()),
            doorbell: new_event().map_err(io::Error::other)?,
        });
        epoll::add(&epoll, &inbox.doorbell, epoll::EventData::new_u64(DOORBELL), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        *lock(&switchboard.current) = Some(Arc::clone(&inbox));
        let state = Mutex::new(Running {
            muxer: Muxer::new(cid, any_port()),
            memory: None,
            timer_at: None,
            is_fresh: false,
        });
        Ok(VsockDevice { cid, switchboard: Arc::clone(switchboard), inbox, epoll, timer, state })
    }

    fn work(&self, vrings: &[Vring]) -> io::Result<()> {
        let (Some(to_guest), Some(from_guest)) = (vrings.get(TO_GUEST), vrings.get(FROM_GUEST)) else {
            return Ok(());
        };
        let mut accepting = Accepting { device: self, accepted: Vec::new() };
        let mut answers = Vec::new();
        {
            let state = &mut *lock(&self.state);
            if std::mem::take(&mut state.is_fresh) && begins_anew(to_guest) && begins_anew(from_guest) {
                state.muxer.restart();
            }
            let mut has_more = true;
            for _ in 0..BATCHES {
                self.look_at_streams(state)?;
                has_more = state.transmit(&mut from_guest.get_mut(), &mut accepting)?;
                state.fill(&mut to_guest.get_mut())?;
                if !has_more {
                    break;
                }
            }
            if has_more {
                ring(&self.inbox.doorbell);
            }
            self.set_timer(state)?;
            answers.append(&mut state.muxer.take_answers());
        }
        for (listener, stream) in accepting.accepted {
            listener(stream);
        }
        for (done, answer) in answers {
            done(answer);
        }
        Ok(())
    }

    fn look_at_streams(&self, state: &mut Running) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 128];
        let events = match epoll::wait(&self.epoll, &mut space, Some(&now)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for event in events {
            let (flags, token) = (event.flags, event.data.u64());
            match token {
                DOORBELL => {
                    let _ = rustix::io::read(&self.inbox.doorbell, &mut [0; 8]);
                    for Attach { port, stream, deadline, done } in
                        std::mem::take(&mut *lock(&self.inbox.attaches))
                    {
                        match LocalStream::new(stream, &self.epoll) {
                            Ok(stream) => {
                                let stream = stream.counted(self.switchboard.count(port));
                                state.muxer.open(port, stream, deadline, done);
                            }
                            Err(error) => done(Err(error)),
                        }
                    }
                }
                TIMER => {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    state.timer_at = None;
                    state.muxer.expire(Instant::now());
                }
                token => state.muxer.local_ready(
                    token,
                    flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                    flags.contains(epoll::EventFlags::OUT),
                    flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
                ),
            }
        }
        Ok(())
    }

    fn set_timer(&self, state: &mut Running) -> io::Result<()> {
        let next = state.muxer.next_deadline();
        if next == state.timer_at {
            return Ok(());
        }
        state.timer_at = next;
        let left = next.map_or(Duration::ZERO, |instant| {
            // Zero would switch the timer off.
            instant.saturating_duration_since(Instant::now()).max(Duration::from_micros(1))
        });
        let value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: once, it_value: value },
        )?;
        Ok(())
    }
}

/// A driver that starts with a queue starts at its beginning; one that goes on after a pause does not.
fn begins_anew(vring: &Vring) -> bool {
    vring.get_ref().get_queue().next_avail() == 0
}

impl Running {
    /// Takes packets of the guest; true if there may be more.
    fn transmit(&mut self, ring: &mut Ring, host: &mut Accepting<'_>) -> io::Result<bool> {
        let Some(memory) = self.memory.as_ref().filter(|_| is_running(ring)).map(GuestAddressSpace::memory)
        else {
            return Ok(false);
        };
        let _ = ring.disable_notification();
        let mut taken = 0;
        while taken < BATCH {
            let Some(chain) = take(ring, &memory) else { break };
            let head = chain.head_index();
            if let Some(packet) = Pieces::of(&memory, chain, Direction::FromGuest) {
                self.muxer.receive(&packet, host);
            }
            if ring.add_used(head, 0).is_err() {
                break;
            }
            taken += 1;
        }
        if taken > 0 {
            notify(ring)?;
        }
        Ok(taken == BATCH)
    }

    /// Gives the guest packets as long as there are both packets and buffers for them.
    fn fill(&mut self, ring: &mut Ring) -> io::Result<()> {
        let Some(memory) = self.memory.as_ref().filter(|_| is_running(ring)).map(GuestAddressSpace::memory)
        else {
            return Ok(());
        };
        let now = Instant::now();
        let mut filled = false;
        while self.muxer.has_something_to_send() {
            let Some(chain) = take(ring, &memory) else { break };
            let head = chain.head_index();
            let buffer = Pieces::of(&memory, chain, Direction::ToGuest).unwrap_or_default();
            // A buffer that holds no packet goes back empty.
            let len = if buffer.len() < HEADER { Some(0) } else { self.muxer.fill(&buffer, now) };
            let Some(len) = len else {
                ring.get_queue_mut().go_to_previous_position();
                break;
            };
            if ring.add_used(head, u32::try_from(len).unwrap_or(0)).is_err() {
                break;
            }
            filled = true;
        }
        if filled { notify(ring) } else { Ok(()) }
    }
}

fn is_running(ring: &Ring) -> bool {
    ring.is_enabled() && ring.get_queue().ready()
}

struct Accepting<'device> {
    device: &'device VsockDevice,
    accepted: Vec<(Listener, UnixStream)>,
}

impl Host<LocalStream> for Accepting<'_> {
    fn accept(&mut self, port: u32) -> Option<LocalStream> {
        let listener = Arc::clone(lock(&self.device.switchboard.listeners).get(&port)?);
        let (ours, theirs) = UnixStream::pair().ok()?;
        let ours = LocalStream::new(ours, &self.device.epoll).ok()?;
        self.accepted.push((listener, theirs));
        Some(ours)
    }
}

impl Device for VsockDevice {
    fn own_event(&self) -> Option<&OwnedFd> {
        Some(&self.epoll)
    }

    fn disconnected(&self) {
        let mut current = lock(&self.switchboard.current);
        if current.as_ref().is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            *current = None;
        }
        drop(current);
        let attaches = std::mem::take(&mut *lock(&self.inbox.attaches));
        let answers = {
            let mut state = lock(&self.state);
            state.muxer.close();
            state.muxer.take_answers()
        };
        for (done, answer) in answers {
            done(answer);
        }
        for attach in attaches {
            (attach.done)(Err(io::ErrorKind::NotConnected.into()));
        }
    }
}

impl VhostUserBackend for VsockDevice {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        VERSION_1 | EVENT_INDEX | INDIRECT | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, _features: u64) {
        lock(&self.state).is_fresh = true;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let cid = self.cid.to_le_bytes();
        let mut part: Vec<u8> = cid.iter().skip(offset as usize).take(size as usize).copied().collect();
        // What lies beyond is zero. The library has checked that the size fits into a message.
        part.resize((size as usize).min(4096), 0);
        part
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<Memory>) -> io::Result<()> {
        lock(&self.state).memory = Some(memory);
        Ok(())
    }

    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Vring], _thread: usize) -> io::Result<()> {
        match Wake::of(event)? {
            Wake::Own | Wake::Queue(_) => self.work(vrings),
        }
    }
}
