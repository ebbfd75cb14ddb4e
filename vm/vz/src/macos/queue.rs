//! The serial queue on which all of one machine's calls and callbacks are made, and the objects that are touched there
//! alone.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use block2::{DynBlock, RcBlock};
use dispatch2::{DispatchQueue, DispatchRetained};
use objc2::rc::Retained;
use objc2::{AnyThread, Message};
use objc2_foundation::NSError;
use objc2_virtualization::{VZVirtualMachine, VZVirtualMachineConfiguration};

use super::failure::Failure;

/// How long the framework may take: saving writes all of a machine's memory.
const PATIENCE: Duration = Duration::from_secs(4 * 60);

/// Something of the framework's that is touched on the queue alone.
struct Confined<T: Message>(Retained<T>);

// SAFETY: objects of the framework may be held and let go of by any thread; only using them is bound to the queue, and
// `Queue` hands them to nobody else.
#[expect(unsafe_code, reason = "the type says nothing of queues")]
unsafe impl<T: Message> Send for Confined<T> {}
// SAFETY: the same.
#[expect(unsafe_code, reason = "the type says nothing of queues")]
unsafe impl<T: Message> Sync for Confined<T> {}

/// A block that is told how something went.
pub(super) type Done = DynBlock<dyn Fn(*mut NSError)>;

/// A machine of the framework's, and its queue.
pub(super) struct Queue {
    queue: DispatchRetained<DispatchQueue>,
    machine: Confined<VZVirtualMachine>,
}

impl Queue {
    pub(super) fn new(configuration: &VZVirtualMachineConfiguration) -> Self {
        // Without an attribute it is serial.
        let queue = DispatchQueue::new("dev.cove.machine", None);
        #[expect(unsafe_code, reason = "the framework's call has no safe form")]
        // SAFETY: the configuration was validated, and is copied; the queue is serial, as is demanded, and is kept for as
        // long as the machine.
        let machine = unsafe {
            VZVirtualMachine::initWithConfiguration_queue(VZVirtualMachine::alloc(), configuration, &queue)
        };
        Self { queue, machine: Confined(machine) }
    }

    /// Does something with the machine, on its queue. Never called from the queue itself.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce(&VZVirtualMachine) -> T + Send) -> T {
        let mut result = None;
        let (machine, place) = (&self.machine, &mut result);
        self.queue.exec_sync(move || *place = Some(work(&machine.0)));
        result.expect("exec_sync returns when the work is done")
    }

    /// Begins something with the machine and waits until it is done.
    pub(super) fn wait(
        &self,
        doing: &'static str,
        begin: impl FnOnce(&VZVirtualMachine, &Done) + Send,
    ) -> Result<(), Failure> {
        let (tell, told) = sync_channel(1);
        self.run(move |machine| begin(machine, &done(doing, tell)));
        told.recv_timeout(PATIENCE).map_err(|_| Failure::Silent { doing, after: PATIENCE })?
    }
}

/// A block that tells how something went.
pub(super) fn done(
    doing: &'static str,
    tell: SyncSender<Result<(), Failure>>,
) -> RcBlock<dyn Fn(*mut NSError)> {
    RcBlock::new(move |error: *mut NSError| {
        #[expect(unsafe_code, reason = "the framework hands a pointer")]
        // SAFETY: the pointer is null or of an error that lives until this block returns.
        let error = unsafe { error.as_ref() };
        let outcome = error.map_or(Ok(()), |error| Err(Failure::refused(doing, error)));
        // Whoever waited may have given up.
        let _ = tell.try_send(outcome);
    })
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Queue")
    }
}
