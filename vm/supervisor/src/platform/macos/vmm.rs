//! The machine itself, which lives in this process: waited for, told to stand still, ended. The framework takes its time
//! for each, so threads of ours wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;

use anyhow::{Context, Result};
use vm_vz::{Ended, Machine};

/// A running one.
#[derive(Debug)]
pub(crate) struct Vmm {
    /// Kept here, and by no thread that lives longer: another one may be made of the same disk as soon as we are gone.
    _machine: Arc<Machine>,
    orders: Sender<Order>,
    stands_still: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Kill,
    Stop,
    GoOn,
}

impl Vmm {
    /// Takes care of a machine, and tells `ended` how it ended.
    pub(super) fn of(machine: &Arc<Machine>, ended: impl FnOnce(String) + Send + 'static) -> Result<Self> {
        let stands_still = Arc::new(AtomicBool::new(false));
        let (orders, received) = channel();
        let (ordered, told) = (Arc::downgrade(machine), Arc::clone(&stands_still));
        let obey = move || obey(&ordered, &received, &told);
        thread::Builder::new().name("vmm".to_owned()).spawn(obey).context("failed to start a thread")?;
        let waited = Arc::clone(machine);
        let wait = move || {
            let how = match waited.wait_until_ended() {
                Some(Ended::ByGuest) => "it was switched off".to_owned(),
                Some(Ended::ByHost) => "it was ended".to_owned(),
                Some(Ended::ByError { said }) => said,
                None => "macOS tells no more of it".to_owned(),
            };
            drop(waited);
            ended(how);
        };
        thread::Builder::new().name("vmm-end".to_owned()).spawn(wait).context("failed to start a thread")?;
        Ok(Self { _machine: Arc::clone(machine), orders, stands_still })
    }

    /// The process it is in: ours.
    #[expect(clippy::unused_self, reason = "elsewhere it has its own")]
    pub(crate) fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.order(Order::Kill);
    }

    /// Lets it stand still.
    pub(crate) fn stop(&self) {
        self.order(Order::Stop);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.order(Order::GoOn);
    }

    fn order(&self, order: Order) {
        // The thread is there for as long as we are.
        let _ = self.orders.send(order);
    }

    /// Whether it stands still: by us, for nobody else can have it do so.
    pub(crate) fn stands_still(&self) -> bool {
        self.stands_still.load(Ordering::Relaxed)
    }

    /// A process of macOS' own holds it, and macOS does not tell whose is which.
    #[expect(clippy::unused_self, reason = "elsewhere it is known")]
    pub(crate) fn memory(&self) -> Option<u64> {
        None
    }
}

fn obey(machine: &Weak<Machine>, received: &Receiver<Order>, stands_still: &AtomicBool) {
    while let (Ok(order), Some(machine)) = (received.recv(), machine.upgrade()) {
        let outcome = match order {
            Order::Kill => machine.end(),
            Order::Stop => machine.pause().inspect(|()| stands_still.store(true, Ordering::Relaxed)),
            Order::GoOn => machine.resume().inspect(|()| stands_still.store(false, Ordering::Relaxed)),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, ?order, "macOS did not do as it was told");
        }
    }
}
