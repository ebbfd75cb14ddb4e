//! Buffers of a guest's queue: taken, looked into across their pieces, and given back.

use std::io;

use vhost_user_backend::{VringMutex, VringState};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemory, GuestMemoryAtomic, GuestMemoryMmap, VolatileSlice};

pub(crate) type Memory = GuestMemoryMmap;
pub(crate) type Vring = VringMutex<GuestMemoryAtomic<Memory>>;
pub(crate) type Ring = VringState<GuestMemoryAtomic<Memory>>;

/// Which of a buffer's pieces are meant: those that the guest has filled, or those that it wants filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromGuest,
    ToGuest,
}

/// The pieces of one buffer in the order of their bytes. A guest may cut a packet wherever it likes.
#[derive(Debug, Default)]
pub(crate) struct Pieces<'memory> {
    slices: Vec<VolatileSlice<'memory>>,
    len: usize,
}

impl<'memory> Pieces<'memory> {
    /// `None` if the buffer lies outside of the guest's memory.
    pub(crate) fn of(
        memory: &'memory Memory,
        chain: DescriptorChain<&'memory Memory>,
        direction: Direction,
    ) -> Option<Self> {
        let mut pieces = Pieces::default();
        for descriptor in chain {
            if descriptor.is_write_only() != (direction == Direction::ToGuest) {
                continue;
            }
            for slice in memory.get_slices(descriptor.addr(), usize::try_from(descriptor.len()).ok()?) {
                pieces.push(slice.ok()?);
            }
        }
        Some(pieces)
    }

    pub(crate) fn push(&mut self, slice: VolatileSlice<'memory>) {
        self.len = self.len.saturating_add(slice.len());
        self.slices.push(slice);
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes from `start`, at most `len` of them.
    pub(crate) fn range(&self, start: usize, len: usize) -> impl Iterator<Item = VolatileSlice<'memory>> {
        let (mut skip, mut left) = (start, len);
        self.slices.iter().filter_map(move |slice| {
            let from = skip.min(slice.len());
            skip -= from;
            let count = left.min(slice.len() - from);
            left -= count;
            if count == 0 { None } else { slice.subslice(from, count).ok() }
        })
    }

    /// Fills `bytes` from the buffer; false if it holds fewer.
    pub(crate) fn read(&self, start: usize, bytes: &mut [u8]) -> bool {
        let mut done = 0;
        for slice in self.range(start, bytes.len()) {
            done += slice.copy_to(&mut bytes[done..]);
        }
        done == bytes.len()
    }

    /// Puts `bytes` into the buffer; false if there is no room for all.
    pub(crate) fn write(&self, start: usize, bytes: &[u8]) -> bool {
        let mut done = 0;
        for slice in self.range(start, bytes.len()) {
            slice.copy_from(&bytes[done..done + slice.len()]);
            done += slice.len();
        }
        done == bytes.len()
    }
}

/// Takes the next buffer. Where there is none, the guest is asked to tell of the next.
pub(crate) fn take<'memory, B: Bitmap + 'static>(
    ring: &mut VringState<GuestMemoryAtomic<GuestMemoryMmap<B>>>,
    memory: &'memory GuestMemoryMmap<B>,
) -> Option<DescriptorChain<&'memory GuestMemoryMmap<B>>> {
    loop {
        if let Some(chain) = ring.get_queue_mut().pop_descriptor_chain(memory) {
            return Some(chain);
        }
        // An error is a ring outside of the guest's memory: then there is nothing to take either.
        if !ring.enable_notification().unwrap_or(false) {
            return None;
        }
    }
}

/// Tells the guest that buffers came back, unless it said that it does not want to know.
pub(crate) fn notify<B: Bitmap + 'static>(
    ring: &mut VringState<GuestMemoryAtomic<GuestMemoryMmap<B>>>,
) -> io::Result<()> {
    if ring.needs_notification().unwrap_or(true) { ring.signal_used_queue() } else { Ok(()) }
}
