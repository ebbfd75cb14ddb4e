//! What follows when a guest says hello.

use vm_manager::lifecycle::{Fact, State};
use vm_manager::stage::Stage;
use vm_proto::message::FromHost;

use super::Machine;
use crate::guest::Guest;

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
        if let (Some(run), State::Starting { mode, .. } | State::Running { mode }) =
            (&mut self.run, &self.state)
        {
            guest.welcome(run.configuration(&self.places.name, *mode));
            run.guest = Some(guest);
        } else if let State::Stopping { .. } = self.state {
            guest.say(FromHost::Shutdown);
        }
        self.fact(Fact::Done(Stage::Kernel));
    }
}
