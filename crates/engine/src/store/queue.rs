//! What waits for the thread that writes the state: bounded, and told of once where it may be.
//!
//! Who waits for a write takes one of [`WAITING`] places first, which is back-pressure. Who does not
//! wait can't be held up: a change of a container that still waits is replaced by the next change of the
//! same, so there are never more of those than containers and places.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};

use super::{Durability, Job, Record, Write};
use crate::error::{Error, Result};

/// How many may wait for their writes at a time, and how many share a transaction.
const WAITING: usize = 256;

type Jobs = Arc<Mutex<VecDeque<Job>>>;

/// The end that gives work. Copies feed the same writer.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    jobs: Jobs,
    places: Arc<Semaphore>,
    /// One word is enough for any number of jobs.
    wake: SyncSender<()>,
}

/// The writer's end.
#[derive(Debug)]
pub(super) struct Inbox {
    jobs: Jobs,
    wake: Receiver<()>,
}

/// How a write goes that was begun.
#[derive(Debug)]
pub(crate) struct Written(oneshot::Receiver<Result<()>>);

impl Written {
    /// Waits until it outlives what it has to.
    pub(crate) async fn done(self) -> Result<()> {
        self.0.await.map_err(|_| Error::ShuttingDown)?
    }
}

/// Both ends of a queue.
pub(super) fn queue() -> (Queue, Inbox) {
    let (wake, woken) = sync_channel(1);
    let jobs = Jobs::default();
    let places = Arc::new(Semaphore::new(WAITING));
    (Queue { jobs: Arc::clone(&jobs), places, wake }, Inbox { jobs, wake: woken })
}

impl Queue {
    /// Has something written, and waits until it is.
    pub(super) async fn submit(&self, write: Write, durability: Durability) -> Result<()> {
        self.begin(write, durability).await?.done().await
    }

    /// Has something written, once there is a place for it.
    pub(super) async fn begin(&self, write: Write, durability: Durability) -> Result<Written> {
        // The job keeps its place: a caller that gives up waiting does not make room by that.
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Error::ShuttingDown)?;
        let (done, outcome) = oneshot::channel();
        self.push(Job { write, durability, done: Some(done), place: Some(place) })?;
        Ok(Written(outcome))
    }

    /// Has a change written that nobody waits for.
    pub(super) fn note(&self, record: Record) {
        let write = Write::Note(Box::new(record));
        // The writer ends only with the process.
        let _ = self.push(Job { write, durability: Durability::Process, done: None, place: None });
    }

    fn push(&self, job: Job) -> Result<()> {
        {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let about = job.write.container();
            let mut behind = jobs.iter_mut().rev();
            let before = behind.find(|other| about.is_some() && other.write.container() == about);
            match before {
                Some(before) if before.is_unawaited() && job.is_unawaited() => *before = job,
                _ => jobs.push_back(job),
            }
        }
        match self.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Disconnected(())) => Err(Error::ShuttingDown),
        }
    }
}

impl Inbox {
    /// Waits for work and takes what one transaction holds. None: nobody will give any more.
    pub(super) fn next(&self) -> Option<Vec<Job>> {
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return Some(taken);
            }
            if self.wake.recv().is_err() {
                // What came with the last word.
                return Some(self.take()).filter(|taken| !taken.is_empty());
            }
        }
    }

    fn take(&self) -> Vec<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let count = jobs.len().min(WAITING);
        jobs.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::record;
    use super::*;

    fn waiting(queue: &Queue) -> Vec<(String, u32)> {
        let jobs = queue.jobs.lock().unwrap();
        jobs.iter()
            .map(|job| match &job.write {
                Write::Put(record) | Write::Note(record) => (record.id.clone(), record.restart_count),
                other => (other.container().unwrap_or_default().to_owned(), u32::MAX),
            })
            .collect()
    }

    #[test]
    fn changes_nobody_waits_for_are_written_once_and_in_order() {
        let (queue, inbox) = queue();
        for restart_count in 0..10_000 {
            for id in ["a", "b"] {
                queue.note(Record { restart_count, ..record(id) });
            }
        }
        assert_eq!(waiting(&queue), [("a".into(), 9999), ("b".into(), 9999)]);
        // Behind one that is waited for, a change stays behind.
        let (done, _outcome) = oneshot::channel();
        let write = Write::Remove("a".into());
        queue.push(Job { write, durability: Durability::Power, done: Some(done), place: None }).unwrap();
        queue.note(Record { restart_count: 1, ..record("a") });
        queue.note(Record { restart_count: 2, ..record("a") });
        assert_eq!(
            waiting(&queue),
            [("a".into(), 9999), ("b".into(), 9999), ("a".into(), u32::MAX), ("a".into(), 2)]
        );
        assert_eq!(inbox.next().unwrap().len(), 4);
        drop(queue);
        assert!(inbox.next().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_held_up_when_the_writer_is_slow_and_goes_on_with_it() {
        let (queue, inbox) = queue();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..3 * WAITING {
            let queue = queue.clone();
            tasks.spawn(async move { queue.submit(Write::Remove(n.to_string()), Durability::Power).await });
        }
        let began = std::time::Instant::now();
        while queue.places.available_permits() > 0 && began.elapsed() < Duration::from_secs(5) {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waiting(&queue).len(), WAITING);
        let writer = std::thread::spawn(move || {
            let mut written = 0;
            while let Some(jobs) = inbox.next() {
                written += jobs.len();
                for job in jobs {
                    let _ = job.done.map(|done| done.send(Ok(())));
                }
            }
            written
        });
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
        drop(queue);
        assert_eq!(writer.join().unwrap(), 3 * WAITING);
    }
}
