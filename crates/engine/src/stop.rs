//! Ending, freezing and waiting for containers.

use std::sync::Arc;
use std::time::Duration;

use oci_runtime::container::parse_signal;
use oci_runtime::monitor::protocol::Request as MonitorRequest;

use crate::container::{Container, Progress};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lifecycle::{Decision, Request, State};
use crate::start::refusal;

/// Docker's time between asking and killing.
const STOP_TIMEOUT: i64 = 10;
/// How long a process may take to die of SIGKILL before that is an error.
const KILL_DEADLINE: Duration = Duration::from_secs(15);

/// What a wait waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
}

impl Engine {
    /// Asks a container to end, and kills it after `timeout` seconds (-1: never). `false`: it did not run.
    ///
    /// # Errors
    /// Where it survives even that.
    pub async fn stop(&self, name: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<bool> {
        let container = self.containers.find(name)?;
        let spec = container.spec();
        let signal = signal.or(spec.stop_signal.as_deref()).filter(|signal| !signal.is_empty());
        let signal = signal.map_or(Ok(libc::SIGTERM), parse_signal)?;
        let timeout = timeout.or(spec.stop_timeout).unwrap_or(STOP_TIMEOUT);
        {
            let _turn = container.turn.lock().await;
            match container.state().decide(Request::Stop) {
                Ok(Decision::Nothing) => return Ok(false),
                Ok(Decision::Act) => {}
                Err(denied) => return Err(refusal(&container, denied, "stop")),
            }
            container.dynamic().is_stopped_by_user = true;
            if self.cancel_restart(&container) {
                self.settle_cancelled(&container);
                return Ok(true);
            }
        }
        let mut progress = container.progress.subscribe();
        let ends = progress.borrow().ends;
        self.signal_now(&container, signal).await?;
        // A frozen process takes no signal until it goes on.
        if matches!(container.state(), State::Paused(_)) {
            self.cgroups_of(&container).freeze(false)?;
        }
        let has_ended = |now: &Progress| now.ends > ends;
        let asked = async { progress.wait_for(has_ended).await.map(drop) };
        let in_time = match u64::try_from(timeout) {
            Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), asked).await.is_ok(),
            Err(_) => asked.await.is_ok(),
        };
        if !in_time {
            self.kill_and_wait(&container).await?;
        }
        self.container_event(&container, "stop", &[]);
        Ok(true)
    }

    /// A restart that was waiting is off: whoever waits for the container's end hears so.
    fn settle_cancelled(&self, container: &Arc<Container>) {
        container.progress.send_modify(|progress| progress.is_running = false);
        self.store.put_later(container.record());
        self.container_event(container, "stop", &[]);
    }

    /// Kills it and waits for its end.
    pub(crate) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        let mut progress = container.progress.subscribe();
        let ends = progress.borrow().ends;
        if container.state().run().is_none() {
            return Ok(());
        }
        self.signal_now(container, libc::SIGKILL).await?;
        let _ = self.cgroups_of(container).freeze(false);
        let gone = tokio::time::timeout(KILL_DEADLINE, progress.wait_for(|now| now.ends > ends)).await;
        if gone.is_ok() || container.state().run().is_none() {
            return Ok(());
        }
        Err(Error::state(format!("container {} did not die of SIGKILL within 15 s", container.short_id())))
    }

    async fn signal_now(&self, container: &Container, signal: i32) -> Result<()> {
        let Some(link) = container.link() else { return Ok(()) };
        let sent = link.send(&MonitorRequest::Signal { signal }, &[]).await;
        // A monitor that went meanwhile has told the end, which is what was wanted.
        if sent.is_err() && container.link().is_none() { Ok(()) } else { sent }
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<()> {
        let container = self.containers.find(name)?;
        let signal = signal.filter(|signal| !signal.is_empty()).map_or(Ok(libc::SIGKILL), parse_signal)?;
        let stop_signal = container.spec().stop_signal.as_deref().and_then(|s| parse_signal(s).ok());
        {
            let _turn = container.turn.lock().await;
            if let Err(denied) = container.state().decide(Request::Signal) {
                let reason = refusal(&container, denied, "kill");
                return Err(Error::state(format!("cannot kill container: {name}: {reason}")));
            }
            if signal == libc::SIGKILL || signal == stop_signal.unwrap_or(libc::SIGTERM) {
                container.dynamic().is_stopped_by_user = true;
            }
            if self.cancel_restart(&container) {
                self.settle_cancelled(&container);
                return Ok(());
            }
        }
        if signal == libc::SIGKILL {
            // Who kills counts on it being dead afterwards, as with Docker.
            self.kill_and_wait(&container).await?;
        } else {
            self.signal_now(&container, signal).await?;
        }
        self.container_event(&container, "kill", &[("signal", &signal.to_string())]);
        Ok(())
    }

    /// Stops it, if it runs, and starts it.
    ///
    /// # Errors
    /// As [`Self::stop`] and [`Self::start`].
    pub async fn restart(&self, name: &str, signal: Option<&str>, timeout: Option<i64>) -> Result<()> {
        self.stop(name, signal, timeout).await?;
        self.start(name).await?;
        let container = self.containers.find(name)?;
        self.container_event(&container, "restart", &[]);
        Ok(())
    }

    /// Freezes its processes.
    ///
    /// # Errors
    /// Where it does not run or is paused already.
    pub async fn pause(&self, name: &str) -> Result<()> {
        self.freeze(name, Request::Pause, "pause").await
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    /// Where it is not paused.
    pub async fn resume(&self, name: &str) -> Result<()> {
        self.freeze(name, Request::Resume, "unpause").await
    }

    async fn freeze(&self, name: &str, request: Request, action: &'static str) -> Result<()> {
        let container = self.containers.find(name)?;
        let _turn = container.turn.lock().await;
        container.state().decide(request).map_err(|denied| refusal(&container, denied, action))?;
        let is_frozen = request == Request::Pause;
        let cgroups = self.cgroups_of(&container);
        if cgroups.is_empty() {
            return Err(Error::unsupported("pausing needs cgroups, and none are delegated to this engine"));
        }
        tokio::task::spawn_blocking(move || cgroups.freeze(is_frozen))
            .await
            .map_err(|_| Error::ShuttingDown)??;
        {
            let mut dynamic = container.dynamic();
            // It may have ended meanwhile, which its monitor tells.
            if let Some(run) = dynamic.state.run().cloned() {
                dynamic.state = if is_frozen { State::Paused(run) } else { State::Running(run) };
            }
        }
        self.store.put_later(container.record());
        self.container_event(&container, action, &[]);
        Ok(())
    }

    /// Waits for a container; the wait has begun when this returns, and goes on in the future inside.
    ///
    /// # Errors
    /// Where there is no such container or condition.
    pub fn wait(&self, name: &str, condition: &str) -> Result<impl Future<Output = Ended> + Send + use<>> {
        let container = self.containers.find(name)?;
        let mut progress = container.progress.subscribe();
        let before = *progress.borrow();
        let done: fn(&Progress, &Progress) -> bool = match condition {
            // One that its policy starts again has not been running for a moment, which counts.
            "" | "not-running" => |now, before| !now.is_running || now.ends > before.ends || now.is_removed,
            "next-exit" => |now, before| now.ends > before.ends || now.is_removed,
            "removed" => |now, _| now.is_removed,
            other => return Err(Error::invalid(format!("invalid condition: {other:?}"))),
        };
        Ok(async move {
            // The sender lives as long as the container; gone, the last word counts.
            let code = progress.wait_for(|now| done(now, &before)).await.map_or(before.code, |now| now.code);
            drop(container);
            Ended { code }
        })
    }
}
