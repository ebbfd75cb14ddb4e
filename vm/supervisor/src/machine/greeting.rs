//! What follows when a guest says hello, and when it hangs up.

use vm_manager::lifecycle::{Fact, State};
use vm_manager::stage::Stage;
use vm_proto::message::FromHost;

use super::Machine;
use crate::guest::Guest;

/// What a kernel says that met a breakpoint of its own when nobody expected one any more, as happens to emulated processors
/// while it patches its code; and how long what it says then is.
const TRIPPED: &str = "Oops: int3";
const LINES_OF_AN_OOPS: usize = 80;

impl Machine {
    /// Tells it what to be, or that it is to be nothing any more.
    pub(super) fn greeted(&mut self, kernel: String, uptime_ms: u64, number: u64, guest: Guest) {
        if self.run.as_mut().is_some_and(|run| run.has_begun_anew(number)) {
            tracing::warn!("the guest has reset its machine, which is ended");
            if let Some(run) = &self.run {
                run.vmm.kill();
            }
            return;
        }
        tracing::info!(kernel, uptime_ms, "the guest is there");
        if self.asks_for_template(&guest) {
            return;
        }
        self.status.send_modify(|status| status.kernel = kernel);
        match (&mut self.run, &self.state) {
            (Some(run), State::Starting { mode, .. } | State::Running { mode }) => {
                guest.welcome(run.configuration(&self.places.name, *mode));
                run.guest = Some(guest);
            }
            (Some(run), State::Sleeping) => run.early = Some(guest),
            (_, State::Stopping { .. }) => guest.say(FromHost::Shutdown),
            _ => {}
        }
        self.fact(Fact::Done(Stage::Kernel));
    }

    /// Its agent hung up by itself, or said what can't be.
    pub(super) fn guest_gone(&mut self, why: &str) {
        let State::Starting { stage, .. } = self.state else {
            tracing::warn!(why, "the guest's agent is gone");
            return;
        };
        let may_be_emulation = self.is_emulated && !self.was_flaky;
        let said = || crate::console::last_of(&self.places.console(), LINES_OF_AN_OOPS);
        if let Some(run) = self.run.as_ref().filter(|_| may_be_emulation && said().contains(TRIPPED)) {
            // Its machine's end, for which the kernel would take a while, has it begun once more.
            run.vmm.kill();
            return;
        }
        self.failed(stage, &anyhow::anyhow!("the guest's agent is gone: {why}"));
    }

    /// A guest that could not be saved goes on, and may have said so before that was heard of.
    pub(super) fn welcome_early(&mut self) {
        let Some(run) = &mut self.run else { return };
        let (State::Starting { mode, .. }, Some(guest)) = (&self.state, run.early.take()) else { return };
        guest.welcome(run.configuration(&self.places.name, *mode));
        run.guest = Some(guest);
        self.fact(Fact::Done(Stage::Kernel));
    }
}
