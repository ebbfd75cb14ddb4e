//! How a machine falls asleep and is woken: what its task does about it.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use vm_manager::config::Backend;
use vm_manager::lifecycle::{Fact, Input, Request, State};
use vm_proto::message::Mode;
use vm_proto::port;

use super::{Event, Machine};
use crate::engine;

/// Clients that may wait for one that is being woken.
const CALLERS_MAX: usize = 1024;

impl Machine {
    pub(super) fn can_sleep(&self) -> bool {
        self.config.backend.saves()
    }

    pub(super) fn has_saved(&mut self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.fact(Fact::Saved),
            Err(error) => {
                tracing::warn!("the machine can't sleep: {error:#}");
                self.status.send_modify(|status| status.detail = format!("it can't sleep: {error:#}"));
                self.fact(Fact::NotSaved);
                self.welcome_early();
            }
        }
    }

    pub(super) fn is_not_ready(&mut self, cause: &str) {
        tracing::warn!(cause, "the guest can't sleep");
        self.status.send_modify(|status| status.detail = format!("it can't sleep: {cause}"));
        self.fact(Fact::GuestIsNot);
    }

    pub(super) fn called(&mut self, client: ipc::Stream) {
        match &self.run {
            // It was on its way when the engine was opened.
            Some(run) if run.is_open() => return engine::connect(&run.devices.vsock, client, port::ENGINE),
            // Whoever calls beyond that is hung up on.
            _ if self.callers.len() >= CALLERS_MAX => {}
            _ => self.callers.push(client),
        }
        // One that is woken already is on its way.
        let _ = self.feed(Input::Request(Request::Start(Mode::Normal)));
    }

    /// Sends it to sleep once nothing has run in it for as long as it is to take.
    pub(super) fn look_idle(&mut self, is_busy: bool) {
        let Some(after) = self.config.sleep_after.map(Duration::from_secs) else { return };
        if is_busy || !matches!(self.state, State::Running { mode: Mode::Normal }) {
            self.idle_since = None;
            return;
        }
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= after {
            self.idle_since = None;
            let _ = self.feed(Input::Request(Request::Sleep));
        }
    }

    /// After a sleep that was not to be: a start tells them by itself.
    pub(super) fn tell_changes_again(&self) {
        if let (Some(run), State::Running { .. }) = (&self.run, &self.state) {
            run.tell_changes();
        }
    }

    /// Waits for somebody to call the engine of a machine that sleeps, or one of its ports.
    pub(super) fn await_call(&mut self) {
        let listener = match self.listener() {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("nobody can wake the machine by a call: {error:#}"),
        };
        let events = self.events.clone();
        let (ports, port_events) = (self.ports.clone(), events.clone());
        let called = async move |client| drop(events.send(Event::Called(client)).await);
        let asleep = self.asleep.insert(CancellationToken::new()).clone();
        let waiting = async move {
            let at_port = async {
                ports.called().await;
                // The machine may be over.
                let _ = port_events.send(Event::PortCalled).await;
            };
            tokio::join!(engine::await_calls(listener, called), at_port)
        };
        #[expect(clippy::disallowed_methods, reason = "it ends with the sleep")]
        tokio::spawn(asleep.run_until_cancelled_owned(waiting));
    }

    /// Writes the state of a guest that is ready for it.
    pub(super) fn save(&mut self) {
        // Each of its steps has its own.
        self.deadline = None;
        let events = self.events.clone();
        let Some(run) = &mut self.run else { return };
        run.close_engine(&self.ports);
        let (number, saving) = (run.number, run.saving.clone());
        let save = async move {
            let outcome = match saving {
                Some(saving) => saving.save().await,
                None => Err(anyhow::anyhow!("it can't be saved")),
            };
            // The machine may be over.
            let _ = events.send(Event::Saved { run: number, outcome }).await;
        };
        #[expect(clippy::disallowed_methods, reason = "the machine's task hears how it ended")]
        tokio::spawn(save);
    }
}

/// Which kinds of machines can sleep, of those that there are here.
pub(super) fn kinds() -> Option<String> {
    let kinds: Vec<&str> =
        Backend::here().iter().filter(|kind| kind.saves()).map(|kind| kind.name()).collect();
    (!kinds.is_empty()).then(|| format!("machines of the kind {} can", kinds.join(" or ")))
}
