//! What the channels to guests have in common that connect by themselves: a port is tried until something listens there,
//! connections are counted, and end together before the guest is saved.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How soon a guest that does not listen yet is tried again.
pub(crate) const AGAIN: Duration = Duration::from_millis(20);

/// Connects, again and again until it works or the deadline is over. `connect` is told how long it may take.
pub(crate) async fn until_deadline<T, F>(deadline: Duration, connect: impl Fn(Duration) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let begin = Instant::now();
    loop {
        let left = deadline.saturating_sub(begin.elapsed());
        let connected = tokio::time::timeout(left, connect(left)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) if begin.elapsed() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// How many connections to each port of a guest there are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<u32, usize>>>);

/// A connection that is counted for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Counted {
    among: Counts,
    port: u32,
}

impl Counts {
    /// One more to a port.
    pub(crate) fn add(&self, port: u32) -> Counted {
        *self.lock().entry(port).or_default() += 1;
        Counted { among: self.clone(), port }
    }

    /// Those to a port.
    pub(crate) fn of(&self, port: u32) -> usize {
        self.lock().get(&port).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(count) = self.among.lock().get_mut(&self.port) {
            *count -= 1;
        }
    }
}

/// What connections to a guest end with, and whether it is heard: nothing of them is saved with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Openness>>);

#[derive(Debug, Default)]
struct Openness {
    open: CancellationToken,
    is_shut: bool,
}

impl Gate {
    /// What a connection ends with, of either side's; `None` while there are to be none.
    pub(crate) fn open(&self) -> Option<CancellationToken> {
        let openness = self.lock();
        (!openness.is_shut).then(|| openness.open.clone())
    }

    /// Ends all connections and has none be made from now on, as if the device were gone.
    pub(crate) fn shut(&self) {
        let mut openness = self.lock();
        openness.is_shut = true;
        std::mem::take(&mut openness.open).cancel();
    }

    /// Has connections be made again.
    pub(crate) fn open_again(&self) {
        self.lock().is_shut = false;
    }

    fn lock(&self) -> MutexGuard<'_, Openness> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
