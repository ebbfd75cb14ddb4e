//! Sizes of a machine that change while it runs: less memory than it was started with, and a larger disk.

use anyhow::Result;
use tokio::sync::oneshot;
use vm_manager::control::Answer;
use vm_manager::lifecycle::State;
use vm_proto::message::FromHost;

use super::{Event, Machine};

impl Machine {
    /// Makes it as large as that, as far as it can be done now.
    pub(super) fn resize(&mut self, memory: u64, disk: u64, answer: oneshot::Sender<Answer>) {
        let running = self.run.as_ref().filter(|_| matches!(self.state, State::Running { .. }));
        // Who can't be saved by us can't be told by us either.
        let Some((number, saving)) = running.and_then(|run| Some((run.number, run.saving.clone()?))) else {
            let (memory, disk) = (memory == self.config.memory, disk == self.config.disk);
            // Whoever asked may be gone.
            let _ = answer.send(Answer::Resized { memory, disk });
            return;
        };
        let had = (self.config.memory, self.config.disk);
        let events = self.events.clone();
        let work = async move {
            let memory_now = if memory == had.0 { Ok(()) } else { saving.limit_memory(memory).await };
            let disk_now = if disk == had.1 { Ok(()) } else { saving.grow_disk(disk).await };
            let done = |what: &str, size: u64, outcome: Result<()>| {
                outcome
                    .inspect_err(|error| tracing::warn!("the {what} changes at the next start: {error:#}"))
                    .ok()
                    .map(|()| size)
            };
            let (memory, disk) = (done("memory", memory, memory_now), done("disk", disk, disk_now));
            // The machine may be over.
            let _ = events.send(Event::Resized { run: number, memory, disk, answer }).await;
        };
        #[expect(clippy::disallowed_methods, reason = "the machine's task hears how it ended")]
        tokio::spawn(work);
    }

    /// Keeps in mind what it is now, and tells who asked.
    pub(super) fn resized(
        &mut self,
        is_now: bool,
        memory: Option<u64>,
        disk: Option<u64>,
        answer: oneshot::Sender<Answer>,
    ) {
        if is_now {
            if disk.is_some_and(|disk| disk > self.config.disk) {
                self.say(FromHost::Grow);
            }
            self.config.memory = memory.unwrap_or(self.config.memory);
            self.config.disk = disk.unwrap_or(self.config.disk);
            let config = self.config.clone();
            self.status.send_modify(|status| status.config = config);
        }
        let done = |size: Option<u64>| is_now && size.is_some();
        // Whoever asked may be gone.
        let _ = answer.send(Answer::Resized { memory: done(memory), disk: done(disk) });
    }
}
