//! How a machine whose processor is emulated boots once and not again: the state of its guest is kept as soon as it has
//! booted, before it is told anything, and later starts of the same machine begin from there.

use tokio::time::Instant as Deadline;
use vm_manager::lifecycle::State;
use vm_manager::saved::{self, Moment};
use vm_manager::stage::Stage;
use vm_proto::message::{FromHost, Mode};

use super::run::{Run, Template};
use super::{Event, Machine};
use crate::guest::Guest;
use crate::room;

/// What has to be left on the host's disk.
const ROOM: u64 = 1 << 30;

impl Machine {
    /// Whether a guest that greets is first asked to be ready for its state to be kept.
    pub(super) fn asks_for_template(&mut self, guest: &Guest) -> bool {
        let boots = matches!(self.state, State::Starting { stage: Stage::Kernel, mode: Mode::Normal });
        let Some(run) = self.run.as_mut().filter(|run| run.template == Template::Wanted) else {
            return false;
        };
        if !boots || room::free(&self.places).is_none_or(|free| free < ROOM) {
            run.template = Template::None;
            return false;
        }
        run.template = Template::Asked;
        guest.say(FromHost::Sleep);
        // The guest is spoken to for as long as somebody may say something.
        run.guest = Some(guest.clone());
        true
    }

    /// Whether a guest is ready for its state to be kept, which begins then.
    pub(super) fn keeps_template(&mut self) -> bool {
        let Some(run) = self.run.as_mut().filter(|run| run.template == Template::Asked) else { return false };
        run.template = Template::Unproven;
        self.hangs_up = true;
        self.deadline = Some(Deadline::now() + Stage::Kernel.deadline(self.is_emulated));
        let (events, number, saving) = (self.events.clone(), run.number, run.saving.clone());
        let keep = async move {
            let Some(saving) = saving else { return };
            if let Err(error) = saving.keep_template().await {
                // The machine may be over.
                let _ = events.send(Event::Stuck { run: number, error }).await;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the machine's task hears how it ended")]
        tokio::spawn(keep);
        true
    }

    /// Whether this start begins from what was kept of another, and has not shown yet that it can.
    pub(super) fn begins_from_template(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.template == Template::Unproven)
    }

    /// Whether a start that failed is begun once more by a boot, because what it began from may be why.
    pub(super) fn boots_instead(&mut self, stage: Stage) -> bool {
        let may_be_why = |run: &&Run| matches!(run.template, Template::Unproven | Template::Asked);
        let Some(run) = self.run.as_ref().filter(may_be_why) else { return false };
        let is_at_it = matches!(self.state, State::Starting { stage: Stage::Kernel, .. });
        let is_worth_it = stage == Stage::Kernel && is_at_it && !self.was_flaky;
        if is_worth_it {
            // Its end is followed by another start.
            run.vmm.kill();
        }
        is_worth_it
    }

    /// The guest can't go on, or not with all of its devices, after its state was kept.
    pub(super) fn is_stuck(&mut self, error: &anyhow::Error) {
        match self.state {
            State::Starting { stage, .. } => self.failed(stage, error),
            // Its folders are what is plugged in last.
            _ => {
                self.warn([format!("a folder may be missing until the machine is started again: {error:#}")]);
                self.tell_warnings();
            }
        }
    }

    /// Lets go of a state from which no start has succeeded.
    pub(super) fn forget_unproven_template(&self) {
        if self.begins_from_template()
            && let Err(error) = saved::forget(&self.places, Moment::Boot)
        {
            tracing::warn!(%error, "the state after a boot is left");
        }
    }
}
