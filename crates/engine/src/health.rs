//! Health checks: a command run in the container at intervals, and what its answers mean.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use model::container::Healthcheck;
use tokio_util::sync::CancellationToken;

use crate::container::Container;
use crate::engine::{Engine, now};
use crate::error::{Error, Result};
use crate::exec::{ExecOutput, ExecSpec, ExecStreams};
use crate::lifecycle::State;

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// How many answers are kept, and how much of each.
const KEPT: usize = 5;
const MAX_OUTPUT: usize = 4096;

/// What the checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// No answer counts yet.
    Starting,
    /// The last check passed.
    Healthy,
    /// Too many in a row failed.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A container's health.
#[derive(Debug, Clone)]
pub struct Health {
    /// What the checks say.
    pub status: HealthStatus,
    /// How many failed in a row.
    pub failing_streak: i64,
    /// The last answers, the oldest first.
    pub log: VecDeque<HealthLog>,
    stop: CancellationToken,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct HealthLog {
    /// Nanoseconds since the epoch.
    pub started_at: u64,
    /// Nanoseconds since the epoch.
    pub ended_at: u64,
    /// The check's exit code; -1 when it took too long.
    pub code: i32,
    /// What it said.
    pub output: String,
}

/// Refuses a configuration that can't be run.
pub(crate) fn check_config(config: Option<&Healthcheck>) -> Result<()> {
    let Some(config) = config else { return Ok(()) };
    match config.test.first().map(String::as_str) {
        None | Some("NONE" | "CMD" | "CMD-SHELL") => {}
        Some(other) => return Err(Error::invalid(format!("Unknown healthcheck type: {other:?}"))),
    }
    for (name, time) in [
        ("Interval", config.interval),
        ("Timeout", config.timeout),
        ("StartPeriod", config.start_period),
        ("StartInterval", config.start_interval),
    ] {
        if time != 0 && time < 1_000_000 {
            return Err(Error::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
    }
    if config.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(())
}

/// The command of a check; `None` where there is none.
fn command(config: &Healthcheck, shell: Option<&[String]>) -> Option<Vec<String>> {
    let (kind, rest) = config.test.split_first()?;
    match kind.as_str() {
        "CMD" => (!rest.is_empty()).then(|| rest.to_vec()),
        "CMD-SHELL" => {
            let default = ["/bin/sh".to_owned(), "-c".to_owned()];
            let mut line = shell.unwrap_or(&default).to_vec();
            line.push(rest.join(" "));
            Some(line)
        }
        _ => None,
    }
}

impl Engine {
    /// Begins checking a container that has started.
    pub(crate) fn start_health(&self, container: &Arc<Container>) {
        let spec = container.spec();
        let Some(config) = spec.healthcheck.clone() else { return };
        let Some(command) = command(&config, spec.shell.as_deref()) else { return };
        let stop = CancellationToken::new();
        container.dynamic().health = Some(Health {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: VecDeque::new(),
            stop: stop.clone(),
        });
        let (engine, container) = (self.clone(), Arc::clone(container));
        self.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = engine.check_health(&container, &config, &command) => {}
            }
        });
    }

    pub(crate) fn stop_health(&self, container: &Container) {
        if let Some(health) = container.dynamic().health.take() {
            health.stop.cancel();
        }
    }

    async fn check_health(&self, container: &Arc<Container>, config: &Healthcheck, command: &[String]) {
        let or = |nanos: i64, default: Duration| match u64::try_from(nanos) {
            Ok(0) | Err(_) => default,
            Ok(nanos) => Duration::from_nanos(nanos),
        };
        let (interval, timeout) = (or(config.interval, INTERVAL), or(config.timeout, TIMEOUT));
        let (start_period, start_interval) =
            (or(config.start_period, Duration::ZERO), or(config.start_interval, START_INTERVAL));
        let began = tokio::time::Instant::now();
        loop {
            let is_starting = began.elapsed() < start_period
                && container.dynamic().health.as_ref().is_some_and(|h| h.status == HealthStatus::Starting);
            tokio::time::sleep(if is_starting { start_interval.min(interval) } else { interval }).await;
            if !matches!(container.state(), State::Running(_)) {
                continue;
            }
            let result = self.run_check(container, command, timeout).await;
            let in_start_period = began.elapsed() < start_period;
            self.note_health(container, config, result, in_start_period);
        }
    }

    async fn run_check(
        &self,
        container: &Arc<Container>,
        command: &[String],
        timeout: Duration,
    ) -> HealthLog {
        let started_at = now();
        let answer = |code, output: String| HealthLog { started_at, ended_at: now(), code, output };
        let spec = ExecSpec { command: command.to_vec(), stdout: true, stderr: true, ..ExecSpec::default() };
        let run = async {
            let id = self.create_exec(&container.id, spec)?;
            let streams = self.start_exec(&id, true, None).await?;
            let output = match streams {
                Some(ExecStreams { output: ExecOutput::Pipes { stdout, stderr }, .. }) => {
                    read_some(&stdout, &stderr).await
                }
                _ => String::new(),
            };
            Ok::<_, Error>((self.wait_exec(&id).await.unwrap_or(-1), output))
        };
        match tokio::time::timeout(timeout, run).await {
            Ok(Ok((code, output))) => answer(code, output),
            Ok(Err(error)) => answer(-1, error.chain()),
            Err(_) => answer(-1, format!("Health check exceeded timeout ({timeout:?})")),
        }
    }

    fn note_health(
        &self,
        container: &Arc<Container>,
        config: &Healthcheck,
        result: HealthLog,
        in_start_period: bool,
    ) {
        let retries = if config.retries == 0 { RETRIES } else { config.retries };
        let changed = {
            let mut dynamic = container.dynamic();
            let Some(health) = &mut dynamic.health else { return };
            let before = health.status;
            if result.code == 0 {
                health.failing_streak = 0;
                health.status = HealthStatus::Healthy;
            } else if !(in_start_period && before == HealthStatus::Starting) {
                health.failing_streak += 1;
                if health.failing_streak >= retries {
                    health.status = HealthStatus::Unhealthy;
                }
            }
            health.log.push_back(result);
            if health.log.len() > KEPT {
                health.log.pop_front();
            }
            (health.status != before).then_some(health.status)
        };
        if let Some(status) = changed {
            self.container_event(container, &format!("health_status: {}", status.name()), &[]);
        }
    }
}

async fn read_some(
    stdout: &tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    stderr: &tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
) -> String {
    let read = |fd| async move {
        let mut all = Vec::new();
        let mut buffer = vec![0; MAX_OUTPUT];
        while let Ok(length) = ExecStreams::read(fd, &mut buffer).await {
            if length == 0 {
                break;
            }
            // Read to the end, so that the check is not held up; kept up to a bound.
            let room = MAX_OUTPUT.saturating_sub(all.len()).min(length);
            all.extend_from_slice(buffer.get(..room).unwrap_or_default());
        }
        all
    };
    let (mut out, err) = tokio::join!(read(stdout), read(stderr));
    out.extend(err);
    out.truncate(MAX_OUTPUT);
    String::from_utf8_lossy(&out).into_owned()
}
