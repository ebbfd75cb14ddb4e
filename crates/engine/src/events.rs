//! What happens, told to whoever listens: Docker's event stream without its wire form.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A volume.
    Volume,
    /// A network.
    Network,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub subject: Subject,
    /// Docker's word: `start`, `die`, `exec_create: sh`, …
    pub action: String,
    /// The container's or image's id, the volume's name.
    pub id: String,
    /// Name, image, exit code, labels, …
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since the epoch.
    pub at: u64,
}

/// How many past events `--since` can reach.
const KEPT: usize = 256;
/// How far a listener may fall behind before it loses events.
const QUEUE: usize = 1024;

/// The bus.
#[derive(Debug)]
pub struct Events {
    past: Mutex<VecDeque<Arc<Event>>>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { past: Mutex::new(VecDeque::new()), live: broadcast::channel(QUEUE).0 }
    }
}

impl Events {
    /// Tells everybody.
    pub(crate) fn send(&self, event: Event) {
        let event = Arc::new(event);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(Arc::clone(&event));
        // Nobody may be listening.
        let _ = self.live.send(event);
    }

    /// Past events, oldest first, and a receiver of everything after them: nothing is missed or doubled.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.live.subscribe())
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.live.receiver_count()
    }
}
