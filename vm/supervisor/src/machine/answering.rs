//! What a machine's task knows of the ports that answer for it on this computer.

use tokio::task::JoinHandle;
use vm_manager::lifecycle::State;

use super::{Event, Machine};
use crate::ports::Standing;

impl Machine {
    /// Has the machine's task hear whenever its ports change, until it is aborted.
    pub(super) fn tell_ports(&self) -> JoinHandle<()> {
        let (mut standing, events) = (self.ports.standing(), self.events.clone());
        #[expect(clippy::disallowed_methods, reason = "whoever has it done ends it")]
        tokio::spawn(async move {
            while standing.changed().await.is_ok() {
                let Standing { open, warnings } = standing.borrow_and_update().clone();
                let _ = events.send(Event::Ports { open, warnings }).await;
            }
        })
    }

    pub(super) fn hear_of_ports(&mut self, open: Vec<String>, warnings: Vec<String>) {
        self.port_warnings = warnings;
        self.status.send_modify(|status| status.ports = open);
        self.tell_warnings();
    }

    /// Without a guest: while it sleeps they answer all the same, and wake it.
    pub(super) fn clear_up_ports(&mut self) {
        if self.state == State::Asleep {
            return self.ports.hold_back();
        }
        self.ports.close();
        self.status.send_modify(|status| status.ports.clear());
    }
}
