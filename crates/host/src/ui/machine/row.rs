//! A machine as a row of a list and as a page.

use serde::{Deserialize, Serialize};
use vm_manager::config::{Backend, Config};
use vm_manager::stage::{Deed, Stage};
use vm_manager::status::{Failure, Phase, Status};
use vm_proto::message::Report;

use super::form::ShareLine;

/// One machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MachineRow {
    /// Its name.
    pub name: String,
    /// In one word.
    pub phase: MachinePhase,
    /// The stages of the start that is under way or was the last; none while nothing is known of one.
    pub stages: Vec<StageRow>,
    /// When the stage it is at was first seen, milliseconds since the epoch.
    pub stage_since: Option<u64>,
    /// When it was started, milliseconds since the epoch, while it is on.
    pub started_at: Option<u64>,
    /// When it ended, likewise, while it is off.
    pub ended_at: Option<u64>,
    /// What is going on in it, in words.
    pub detail: String,
    /// What its kind means on this computer: `KVM`. Empty before that was found out.
    pub acceleration: String,
    /// The guest's kernel.
    pub kernel: String,
    /// As it is to be from its next start on.
    pub settings: MachineSettings,
    /// It runs with other settings than those.
    pub restart_needed: bool,
    /// What it uses, while it tells.
    pub usage: Option<MachineUsage>,
    /// Bytes that its disk takes on this computer.
    pub disk_here: u64,
    /// Ports of the guest that answer on this computer: `127.0.0.1:8080/tcp`.
    pub ports: Vec<String>,
    /// What works only in part.
    pub warnings: Vec<String>,
    /// Why it failed, and what helps.
    pub failure: Option<MachineFailure>,
    /// Its engine, as `COVE_HOST` takes it.
    pub engine: String,
}

/// How a machine stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum MachinePhase {
    /// It does not run.
    #[default]
    Stopped,
    /// On its way up.
    Starting,
    /// Its engine has answered.
    Running,
    /// Up without an engine, its disk read-only.
    Rescue,
    /// Its state is being saved.
    FallingAsleep,
    /// Its state is on disk: a start or a call of its engine wakes it.
    Asleep,
    /// On its way down.
    Stopping,
    /// It did not come up, or went away by itself.
    Failed,
    /// Who looks after it is there and says nothing.
    Silent,
}

/// A stage of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "each is Stage's variant of the same name")]
pub enum MachineStage {
    Image,
    Disk,
    Hypervisor,
    Kernel,
    Agent,
    Shares,
    Network,
    Engine,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum StageState {
    /// It is over.
    Done,
    /// It is under way.
    Now,
    /// The start ended here.
    Failed,
    /// Its turn has not come.
    Waiting,
}

/// One stage of one start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct StageRow {
    /// Which.
    pub stage: MachineStage,
    /// How far it is.
    pub state: StageState,
    /// Milliseconds that it took.
    pub took: Option<u64>,
    /// Milliseconds that it may take.
    pub deadline: u64,
}

/// What is a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum MachineBackend {
    /// QEMU.
    #[default]
    Qemu,
    /// User Mode Linux.
    Uml,
    /// macOS' Virtualization.framework.
    Vz,
    /// Windows' WSL2.
    Wsl2,
    /// Windows' Hyper-V.
    #[serde(rename = "hyperv")]
    HyperV,
}

/// What a machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MachineSettings {
    /// Who it is.
    pub backend: MachineBackend,
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes that its disk may become.
    pub disk: u64,
    /// Folders of this computer that it sees.
    pub shares: Vec<ShareLine>,
    /// The guest image it stays with: a digest, or `previous`.
    pub image: Option<String>,
    /// Its state can be saved.
    pub can_sleep: bool,
    /// Seconds without clients and running containers after which it falls asleep.
    pub sleep_after: Option<u32>,
    /// Programs in it may use the user's SSH agent.
    pub ssh_agent: bool,
    /// Programs for x86-64 are run by Rosetta.
    pub rosetta: bool,
}

/// What a machine uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MachineUsage {
    /// Bytes of memory that programs in it use.
    pub memory: u64,
    /// Bytes of memory that it may have, in this run.
    pub memory_limit: u64,
    /// Bytes of this computer's memory that it takes.
    pub memory_here: Option<u64>,
    /// Bytes that are used of its disk.
    pub disk: u64,
    /// Processors that it has in this run.
    pub cpus: u32,
    /// Percent of one processor, between this report and the one before.
    pub cpu: Option<f64>,
    /// When it told so, milliseconds since the epoch by its own clock.
    pub at: u64,
}

/// Why a machine failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct MachineFailure {
    /// During which stage; nothing when it ran.
    pub stage: Option<MachineStage>,
    /// In words.
    pub cause: String,
    /// The last lines of its console.
    pub console: String,
    /// The one thing to do, in words.
    pub remedy: String,
    /// The command of the same.
    pub command: String,
    /// What a window does for it.
    pub deed: RemedyDeed,
}

/// What a window does for a remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub enum RemedyDeed {
    /// The host does it when asked for the remedy: another start with something changed.
    Do,
    /// The host does it when asked for the remedy, and tells in a text what it found.
    Check,
    /// The log of the console is shown.
    Log,
    /// The settings are opened where folders are shared.
    Shares,
    /// Nothing: a command is left to the user.
    Copy,
}

impl From<Stage> for MachineStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Image => Self::Image,
            Stage::Disk => Self::Disk,
            Stage::Hypervisor => Self::Hypervisor,
            Stage::Kernel => Self::Kernel,
            Stage::Agent => Self::Agent,
            Stage::Shares => Self::Shares,
            Stage::Network => Self::Network,
            Stage::Engine => Self::Engine,
        }
    }
}

impl From<Phase> for MachinePhase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Stopped => Self::Stopped,
            Phase::Starting => Self::Starting,
            Phase::Running => Self::Running,
            Phase::Rescue => Self::Rescue,
            Phase::FallingAsleep => Self::FallingAsleep,
            Phase::Asleep => Self::Asleep,
            Phase::Stopping => Self::Stopping,
            Phase::Failed => Self::Failed,
        }
    }
}

impl From<Backend> for MachineBackend {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Qemu => Self::Qemu,
            Backend::Uml => Self::Uml,
            Backend::Vz => Self::Vz,
            Backend::Wsl2 => Self::Wsl2,
            Backend::HyperV => Self::HyperV,
        }
    }
}

impl From<MachineBackend> for Backend {
    fn from(backend: MachineBackend) -> Self {
        match backend {
            MachineBackend::Qemu => Self::Qemu,
            MachineBackend::Uml => Self::Uml,
            MachineBackend::Vz => Self::Vz,
            MachineBackend::Wsl2 => Self::Wsl2,
            MachineBackend::HyperV => Self::HyperV,
        }
    }
}

impl MachineSettings {
    fn of(config: &Config) -> Self {
        let share = |share: &vm_manager::config::Share| ShareLine {
            path: share.path.display().to_string(),
            read_only: share.read_only,
        };
        Self {
            backend: config.backend.into(),
            cpus: config.cpus,
            memory: config.memory,
            disk: config.disk,
            shares: config.shares.iter().map(share).collect(),
            image: config.image.clone(),
            can_sleep: config.backend.saves(),
            sleep_after: config.sleep_after.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)),
            ssh_agent: config.ssh_agent,
            rosetta: config.rosetta,
        }
    }
}

impl MachineUsage {
    /// From one report, and the one before it if there was any.
    fn of(status: &Status, before: Option<&Report>) -> Option<Self> {
        let report = status.report.as_ref()?;
        let cpu = before.and_then(|before| {
            let passed = report.clock_ns.checked_sub(before.clock_ns).filter(|passed| *passed > 0)?;
            let spent = report.cpu_ms.checked_sub(before.cpu_ms)?;
            #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
            Some(spent as f64 * 100_000_000.0 / passed as f64)
        });
        Some(Self {
            memory: report.memory_used,
            memory_limit: status.config.memory,
            memory_here: status.memory_here,
            disk: report.disk_used,
            cpus: status.config.cpus,
            cpu,
            at: report.clock_ns / 1_000_000,
        })
    }
}

impl From<&Failure> for MachineFailure {
    fn from(failure: &Failure) -> Self {
        let deed = match failure.remedy.deed {
            Some(Deed::Start | Deed::PreviousImage | Deed::Backend(_) | Deed::Rescue) => RemedyDeed::Do,
            Some(Deed::Check) => RemedyDeed::Check,
            Some(Deed::Log) => RemedyDeed::Log,
            Some(Deed::Shares) => RemedyDeed::Shares,
            Some(Deed::MakeImage) | None => RemedyDeed::Copy,
        };
        Self {
            stage: failure.stage.map(Into::into),
            cause: failure.cause.clone(),
            console: failure.console.clone(),
            remedy: failure.remedy.text.clone(),
            command: failure.remedy.command.clone(),
            deed,
        }
    }
}

/// What is known of a machine beside its status.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// As it is to be from its next start on.
    pub(crate) config: &'a Config,
    /// The report before the one of the status.
    pub(crate) before: Option<&'a Report>,
    /// When the stage was first seen.
    pub(crate) stage_since: Option<u64>,
    /// When its supervisor began.
    pub(crate) started_at: Option<u64>,
    /// When it left its last word.
    pub(crate) ended_at: Option<u64>,
}

impl MachineRow {
    /// What a status tells.
    #[must_use]
    pub(crate) fn of(status: &Status, known: Known<'_>) -> Self {
        let is_on = !matches!(status.phase, Phase::Stopped | Phase::Failed | Phase::Asleep);
        Self {
            name: status.name.clone(),
            phase: status.phase.into(),
            stages: stages(status),
            stage_since: known.stage_since.filter(|_| status.phase == Phase::Starting),
            started_at: known.started_at.filter(|_| is_on),
            ended_at: known.ended_at.filter(|_| !is_on),
            detail: status.detail.clone(),
            // Of another kind of machine it says nothing about this one.
            acceleration: if status.backend == known.config.backend {
                status.acceleration.clone()
            } else {
                String::new()
            },
            kernel: status.kernel.clone(),
            settings: MachineSettings::of(known.config),
            restart_needed: is_on && status.config != *known.config,
            usage: MachineUsage::of(status, known.before),
            disk_here: status.disk_here,
            ports: status.ports.clone(),
            warnings: status.warnings.clone(),
            failure: status.failure.as_ref().map(Into::into),
            engine: format!("machine://{}", status.name),
        }
    }
}

fn stages(status: &Status) -> Vec<StageRow> {
    let failed = status.failure.as_ref().and_then(|failure| failure.stage);
    if status.took.is_empty() && failed.is_none() && status.phase != Phase::Starting {
        return Vec::new();
    }
    let row = |stage: Stage| {
        let took = status.took.iter().find(|(taken, _)| *taken == stage).map(|(_, millis)| *millis);
        let state = if took.is_some() {
            StageState::Done
        } else if failed == Some(stage) {
            StageState::Failed
        } else if status.phase == Phase::Starting && status.stage == Some(stage) {
            StageState::Now
        } else {
            StageState::Waiting
        };
        // What is not known yet may be emulated.
        let is_emulated = status.backend == Backend::Qemu && !status.acceleration.starts_with("KVM");
        let deadline = u64::try_from(stage.deadline(is_emulated).as_millis()).unwrap_or(u64::MAX);
        StageRow { stage: stage.into(), state, took, deadline }
    };
    Stage::ALL.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            backend: Backend::Uml,
            cpus: 2,
            memory: 1 << 30,
            disk: 8 << 30,
            shares: vec![],
            image: None,
            sleep_after: None,
            ssh_agent: false,
            rosetta: false,
        }
    }

    fn row(status: &Status, before: Option<&Report>, config: &Config) -> MachineRow {
        let known = Known { config, before, stage_since: Some(7), started_at: Some(5), ended_at: Some(9) };
        MachineRow::of(status, known)
    }

    fn status(phase: Phase) -> Status {
        Status { phase, ..Status::stopped("dev", config(), "/run/engine.sock".into()) }
    }

    #[test]
    fn stages_are_told_in_order_with_the_one_under_way() {
        let starting = Status {
            stage: Some(Stage::Hypervisor),
            took: vec![(Stage::Image, 40), (Stage::Disk, 2)],
            ..status(Phase::Starting)
        };
        let row = row(&starting, None, &config());
        let states: Vec<_> = row.stages.iter().map(|stage| stage.state).collect();
        assert_eq!(states[..4], [StageState::Done, StageState::Done, StageState::Now, StageState::Waiting]);
        assert_eq!((row.stages[0].took, row.stage_since), (Some(40), Some(7)));
    }

    #[test]
    fn a_stage_that_failed_stands_where_it_did() {
        let remedy = Stage::Kernel.remedy("dev", Backend::Uml, false);
        let failure =
            Failure { stage: Some(Stage::Kernel), cause: "no init".into(), console: "panic".into(), remedy };
        let failed =
            Status { failure: Some(failure), took: vec![(Stage::Image, 1)], ..status(Phase::Failed) };
        let row = row(&failed, None, &config());
        assert_eq!(row.stages[3].state, StageState::Failed);
        let failure = row.failure.unwrap();
        assert_eq!(
            (failure.deed, &*failure.command),
            (RemedyDeed::Do, "cove machine set dev --backend qemu")
        );
        assert_eq!((row.started_at, row.ended_at), (None, Some(9)));
    }

    #[test]
    fn a_setting_that_waits_for_the_next_start_is_told() {
        let changed = Config { cpus: 4, ..config() };
        assert!(row(&status(Phase::Running), None, &changed).restart_needed);
        assert!(!row(&status(Phase::Running), None, &config()).restart_needed);
        assert!(!row(&status(Phase::Stopped), None, &changed).restart_needed, "it begins with them");
    }

    #[test]
    fn processors_are_told_by_two_reports() {
        let report = |clock_ns, cpu_ms| Report {
            memory_used: 600,
            memory_available: 400,
            memory_ballooned: 0,
            disk_total: 0,
            disk_used: 0,
            cpu_ms,
            clock_ns,
            engine_runs: true,
            containers_run: false,
        };
        let now = Status { report: Some(report(3_000_000_000, 1500)), ..status(Phase::Running) };
        let usage = row(&now, None, &config()).usage.unwrap();
        assert_eq!((usage.memory, usage.cpu), (600, None));
        let usage = row(&now, Some(&report(1_000_000_000, 500)), &config()).usage.unwrap();
        assert_eq!(usage.cpu, Some(50.0));
    }
}
