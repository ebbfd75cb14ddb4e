//! A machine of Windows' that runs: waited for, told to stand still, ended. Windows takes its time for each, so threads of ours
//! wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use vm_hyperv::connection::Connection;
use vm_hyperv::hcs::SWITCHED_OFF;
use vm_hyperv::request::Request;
use vm_manager::places::Places;
use vm_manager::saved::{Moment, Record};

use super::{Console, disk};

/// A running one. It ends with this value.
#[derive(Debug)]
pub(crate) struct Vmm {
    orders: Sender<Request>,
    _console: Console,
    stands_still: Arc<AtomicBool>,
    was_killed: Arc<AtomicBool>,
}

impl Vmm {
    /// Takes care of a machine, and tells `ended` how it ended.
    pub(super) fn of(
        connection: &Arc<Connection>,
        places: Places,
        console: Console,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Self> {
        let stands_still = Arc::new(AtomicBool::new(false));
        let (orders, received) = channel();
        let (ordered, told) = (Arc::clone(connection), Arc::clone(&stands_still));
        let obey = move || obey(&ordered, &received, &told);
        thread::Builder::new().name("vmm".to_owned()).spawn(obey).context("failed to start a thread")?;
        let waited = Arc::clone(connection);
        let was_killed = Arc::new(AtomicBool::new(false));
        let is_at_once = Arc::clone(&was_killed);
        let wait = move || {
            let how =
                waited.wait(&places.name).unwrap_or_else(|failure| format!("Windows lost it: {failure}"));
            // Another one of its name may be made as soon as we are gone.
            drop(waited);
            if Record::read(&places, Moment::Sleep).is_some() {
                disk::sync(&places);
            } else if how == SWITCHED_OFF && !is_at_once.load(Ordering::Relaxed) {
                // Nobody waits for what comes next, as after a failure or an end at once.
                disk::give_back(&places);
            }
            ended(how);
        };
        thread::Builder::new().name("vmm-end".to_owned()).spawn(wait).context("failed to start a thread")?;
        Ok(Self { orders, _console: console, stands_still, was_killed })
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        self.was_killed.store(true, Ordering::Relaxed);
        self.order(Request::End);
    }

    /// Lets it stand still.
    pub(crate) fn stop(&self) {
        self.order(Request::Pause);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.order(Request::Resume);
    }

    fn order(&self, order: Request) {
        // The thread is there for as long as we are.
        let _ = self.orders.send(order);
    }

    /// Whether it stands still: by us, for nobody else can have it do so.
    pub(crate) fn stands_still(&self) -> bool {
        self.stands_still.load(Ordering::Relaxed)
    }
}

fn obey(connection: &Connection, received: &Receiver<Request>, stands_still: &AtomicBool) {
    while let Ok(order) = received.recv() {
        let is_still = match order {
            Request::Pause => Some(true),
            Request::Resume => Some(false),
            _ => None,
        };
        match connection.ask(order.clone()) {
            Ok(_) => {
                if let Some(is_still) = is_still {
                    stands_still.store(is_still, Ordering::Relaxed);
                }
            }
            Err(error) => tracing::warn!(%error, ?order, "Windows did not do as it was told"),
        }
    }
    // One that has ended is as good.
    let _ = connection.ask(Request::End);
}
