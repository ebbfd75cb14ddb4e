//! The file system device as a monitor sees it: queues of FUSE requests, worked off by one thread.
//!
//! virtiofsd's own device ends the process when a request can't be decoded, which a guest would only have to send. So the
//! queues are ours, and its device does what it alone can: say what it supports, and save and restore its state.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::Backend;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::server::Server;
use virtiofsd::vhost_user::{VhostUserFsBackend, VhostUserFsBackendBuilder};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::folder::Folder;
use crate::queue::{notify, take};
use crate::session::{Device, Wake, new_event, ring as ring_event};

/// Memory whose changes are noted while a monitor saves the guest.
type Memory = GuestMemoryMmap<BitmapMmapRegion>;
type Vring = VringMutex<GuestMemoryAtomic<Memory>>;

/// Requests in a row before other events of the thread are looked at.
const BATCH: usize = 256;

pub(crate) struct ShareDevice<
    F: FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static,
> {
    server: Server<Folder<F>>,
    library: VhostUserFsBackend<Folder<F>>,
    memory: Mutex<Option<GuestMemoryAtomic<Memory>>>,
    /// A request made virtiofsd panic. What state that left is not known, so no more are served.
    is_broken: AtomicBool,
    /// A batch ended before its queue did.
    more: OwnedFd,
}

/// No state is left half changed by a panic, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<F: FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static>
    ShareDevice<F>
{
    pub(crate) fn new(folder: Folder<F>, tag: &str) -> io::Result<Self> {
        let library = VhostUserFsBackendBuilder::default()
            .set_tag(Some(tag.to_owned()))
            .build(folder.clone())
            .map_err(io::Error::from)?;
        Ok(ShareDevice {
            server: Server::new(folder),
            library,
            memory: Mutex::new(None),
            is_broken: AtomicBool::new(false),
            more: new_event().map_err(io::Error::other)?,
        })
    }

    fn work(&self, vring: &Vring) -> io::Result<()> {
        let Some(memory) = lock(&self.memory).as_ref().map(GuestAddressSpace::memory) else { return Ok(()) };
        let ring = &mut vring.get_mut();
        let _ = ring.disable_notification();
        for _ in 0..BATCH {
            let Some(chain) = take(ring, &memory) else { return Ok(()) };
            let head = chain.head_index();
            let len = self.answer(&memory, chain);
            if ring.add_used(head, u32::try_from(len).unwrap_or(0)).is_err() {
                return Ok(());
            }
            notify(ring)?;
        }
        ring_event(&self.more);
        Ok(())
    }

    /// Serves a request; zero bytes of an answer where it was none.
    fn answer(&self, memory: &Memory, chain: DescriptorChain<&Memory>) -> usize {
        if self.is_broken.load(Ordering::Relaxed) {
            return 0;
        }
        let (Ok(reader), Ok(writer)) = (Reader::new(memory, chain.clone()), Writer::new(memory, chain))
        else {
            return 0;
        };
        // virtiofsd asserts what its own guests never violate.
        let answered = catch_unwind(AssertUnwindSafe(|| {
            self.server.handle_message(reader, writer, None::<&mut Backend>)
        }));
        match answered {
            Ok(Ok(len)) => len,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a guest sent what is no file request");
                0
            }
            Err(_) => {
                self.is_broken.store(true, Ordering::Relaxed);
                tracing::error!(
                    "a guest's file request could not be served; the share is dead until the machine restarts"
                );
                0
            }
        }
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static> Device
    for ShareDevice<F>
{
    fn own_event(&self) -> Option<&OwnedFd> {
        Some(&self.more)
    }
}

impl<F: FileSystem<Inode = u64, Handle = u64> + SerializableFileSystem + Send + Sync + 'static>
    VhostUserBackend for ShareDevice<F>
{
    type Bitmap = BitmapMmapRegion;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.library.num_queues()
    }

    fn max_queue_size(&self) -> usize {
        self.library.max_queue_size()
    }

    fn features(&self) -> u64 {
        self.library.features()
    }

    fn acked_features(&self, features: u64) {
        self.library.acked_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.library.protocol_features()
    }

    fn reset_device(&self) {
        self.server.destroy();
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.library.get_config(offset, size.min(4096))
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<Memory>) -> io::Result<()> {
        *lock(&self.memory) = Some(memory);
        Ok(())
    }

    fn handle_event(&self, event: u16, _set: EventSet, vrings: &[Vring], _thread: usize) -> io::Result<()> {
        match Wake::of(event)? {
            Wake::Queue(queue) => vrings.get(usize::from(queue)).map_or(Ok(()), |vring| self.work(vring)),
            Wake::Own => {
                let _ = rustix::io::read(&self.more, &mut [0; 8]);
                vrings.iter().try_for_each(|vring| self.work(vring))
            }
        }
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        // Nothing is ever sent by it, but User Mode Linux takes its end for that of the device.
        self.library.set_backend_req_fd(backend);
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        self.library.set_device_state_fd(direction, phase, file)
    }

    fn check_device_state(&self) -> io::Result<()> {
        self.library.check_device_state()
    }
}
