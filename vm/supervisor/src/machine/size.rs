//! Sizes of a machine that change while it runs: less memory than it was started with, by somebody's word or because it
//! does not use it, and a larger disk.

use std::time::Instant;

use anyhow::Result;
use tokio::sync::oneshot;
use vm_manager::control::Answer;
use vm_manager::lifecycle::State;
use vm_proto::message::{FromHost, Report};

use super::{Event, Machine};
use crate::balloon::Seen;

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

    /// Whether somebody must look at what it uses of its memory.
    pub(super) fn has_balloon(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.balloon.is_some())
    }

    /// Takes back what it does not use of its memory, or gives it again.
    pub(super) fn look_at_memory(&mut self, report: &Report) {
        let State::Running { .. } = self.state else { return };
        let limit = self.config.memory;
        let Some(run) = &mut self.run else { return };
        let (Some(balloon), Some(saving)) = (&mut run.balloon, &run.saving) else { return };
        let seen = Seen { available: report.memory_available, ballooned: report.memory_ballooned };
        let Some(bytes) = balloon.look(seen, limit, Instant::now()) else { return };
        tracing::debug!(bytes, ?seen, "the machine's memory");
        let saving = saving.clone();
        #[expect(clippy::disallowed_methods, reason = "the next report shows how it went")]
        tokio::spawn(async move {
            if let Err(error) = saving.limit_memory(bytes).await {
                tracing::warn!("failed to have the machine keep to {bytes} bytes of memory: {error:#}");
            }
        });
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
            if let (Some(memory), Some(balloon)) =
                (memory, self.run.as_mut().and_then(|run| run.balloon.as_mut()))
            {
                balloon.was_told(memory);
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
