//! Machines on this computer: found, started with the stages told, asked how they stand.
//!
//! Each has a supervisor, `cove-machine`, which is started here and outlives whoever started it.

mod check;
mod places;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

use api::client::containers::{ListContainers, RemoveContainer};
use api::client::{Client, Endpoint, Filters};
pub use check::{Hop, Passed, TARGET};

use model::ErrorKind;
pub use places::{folders, images};
use supervisor::Done;
pub use supervisor::{Follower, Supervisor};
use vm_manager::config::Config;
pub use vm_manager::config::{Backend, Share};
use vm_manager::control::{Answer, Request};
use vm_manager::image::Record;
pub use vm_manager::places::Folders;
use vm_manager::places::Places;
use vm_manager::saved::{Moment, Record as Saved};
pub use vm_manager::stage::{Deed, Remedy, Stage};
pub use vm_manager::status::{Failure, Phase, Status};
pub use vm_manager::{config, size};
pub use vm_proto::message::Mode;

use crate::sys;

/// How often, and how soon, another supervisor is looked for when one ends as it is asked.
const ENDING_TRIES: u32 = 20;
const ENDING_PAUSE: Duration = Duration::from_millis(50);

/// What kept a machine from being what it was to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its files, its name, what it can't be.
    #[error(transparent)]
    Machine(#[from] vm_manager::Error),
    /// There is no place for a user's sockets.
    #[error("failed to find a place for machines: {name} is not set")]
    NoPlace {
        /// The variable that would say.
        name: &'static str,
    },
    /// The program is missing.
    #[error("failed to find the program cove-machine: looked beside this program and in PATH")]
    NoProgram,
    /// The supervisor could not be started, or talked to.
    #[error("failed to {action} the supervisor of machine {name:?}")]
    Supervisor {
        /// What was tried.
        action: &'static str,
        /// Of which machine.
        name: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The supervisor is there and says nothing.
    #[error("the supervisor of machine {name:?} does not answer")]
    Silent {
        /// Of which machine.
        name: String,
    },
    /// The machine's engine, asked about what is in it.
    #[error(transparent)]
    Engine(#[from] api::client::Error),
    /// The supervisor said no.
    #[error("{cause}")]
    Refused {
        /// Why, in its words.
        cause: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The machine did not come up, or went away.
    #[error("machine {name:?} failed{stage}: {cause}", stage = stage_of(.failure), cause = .failure.cause)]
    Failed {
        /// Which.
        name: String,
        /// Why, and what helps.
        failure: Box<Failure>,
    },
    /// It does not run, and was not to be started.
    #[error("machine {name:?} does not run")]
    NotRunning {
        /// Which.
        name: String,
    },
}

fn stage_of(failure: &Failure) -> String {
    failure.stage.map_or_else(String::new, |stage| format!(" at stage {}", stage.name()))
}

impl Error {
    /// Whether the supervisor went away in the middle.
    fn is_cut_off(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self, Self::Supervisor { source, .. } if matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Machine(vm_manager::Error::Unknown { .. } | vm_manager::Error::NoImage { .. })
            | Self::NoProgram => ErrorKind::NotFound,
            Self::Machine(vm_manager::Error::Exists { .. }) => ErrorKind::Conflict,
            Self::Machine(_) | Self::NoPlace { .. } => ErrorKind::InvalidArgument,
            Self::Silent { .. } => ErrorKind::Timeout,
            Self::Engine(source) => source.kind(),
            Self::Supervisor { .. }
            | Self::Refused { .. }
            | Self::Failed { .. }
            | Self::NotRunning { .. } => ErrorKind::Unavailable,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Machine(error) => error.hint(),
            Self::NoPlace { name } => Some(format!("log in through a session manager, or set {name}")),
            Self::NoProgram => Some("install cove-machine beside cove, or put it into PATH".to_owned()),
            Self::Supervisor { name, .. } => {
                Some(format!("'cove machine logs {name} --supervisor' shows what it said"))
            }
            Self::Silent { name } => Some(format!("'cove machine stop {name} --force' ends it")),
            Self::Engine(_) => None,
            Self::Refused { hint, .. } => hint.clone(),
            Self::Failed { failure, .. } => {
                Some(format!("{}: {}", failure.remedy.text, failure.remedy.command))
            }
            Self::NotRunning { name } => Some(format!("'cove machine start {name}' starts it")),
        }
    }

    /// The last lines of a failed machine's console.
    #[must_use]
    pub fn console(&self) -> Option<&str> {
        match self {
            Self::Failed { failure, .. } if !failure.console.is_empty() => Some(&failure.console),
            _ => None,
        }
    }
}

/// A machine on this computer, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    places: Places,
}

impl Machine {
    /// The machine of that name.
    ///
    /// # Errors
    /// It can't be a name, or there is no place for machines.
    pub fn named(name: &str) -> Result<Self, Error> {
        Self::within(&folders()?, name)
    }

    /// The machine of that name in other folders than the usual ones.
    ///
    /// # Errors
    /// It can't be a name.
    pub fn within(folders: &Folders, name: &str) -> Result<Self, Error> {
        Ok(Self { places: folders.machine(name)? })
    }

    /// All there are.
    ///
    /// # Errors
    /// There is no place for machines, or it can't be read.
    pub fn all() -> Result<Vec<Self>, Error> {
        Self::all_within(&folders()?)
    }

    /// All there are in other folders than the usual ones.
    ///
    /// # Errors
    /// They can't be read.
    pub fn all_within(folders: &Folders) -> Result<Vec<Self>, Error> {
        let names = folders.names()?;
        names.iter().map(|name| Ok(Self { places: folders.machine(name)? })).collect()
    }

    /// Where its files are.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// The engine's socket on this computer.
    #[must_use]
    pub fn engine(&self) -> PathBuf {
        self.places.engine()
    }

    /// What it is to be at its next start.
    ///
    /// # Errors
    /// There is no such machine.
    pub fn config(&self) -> Result<Config, Error> {
        Ok(Config::read(&self.places)?)
    }

    /// How it stands.
    ///
    /// # Errors
    /// There is no such machine.
    pub async fn status(&self) -> Result<Status, Error> {
        let config = self.config()?;
        match Supervisor::connect(&self.places).await {
            Ok(supervisor) => match supervisor.ask(&Request::Status).await {
                Ok(Answer::Status(mut status)) => {
                    status.config = config;
                    Ok(*status)
                }
                Ok(other) => Err(supervisor::unexpected(&self.places, &other)),
                // It was just ending.
                Err(error) if error.is_cut_off() => Ok(self.last_status(config)),
                Err(error) => Err(error),
            },
            Err(_) => Ok(self.last_status(config)),
        }
    }

    /// How it stood when its supervisor ended. One that was ended from outside left what it was doing: that is no
    /// longer so.
    pub(crate) fn last_status(&self, config: Config) -> Status {
        let stopped = || Status::stopped(&self.places.name, config.clone(), self.places.engine());
        let kept = std::fs::read(self.places.last_status()).ok();
        let kept: Option<Status> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let mut status = match kept {
            Some(status) if matches!(status.phase, Phase::Stopped | Phase::Failed) => status,
            _ => stopped(),
        };
        if self.is_saved() {
            // It fell asleep, and then this computer was started anew.
            status = Status { phase: Phase::Asleep, ..stopped() };
        }
        status.config = config;
        status.disk_here = disk_taken(&self.places);
        status
    }

    /// Whether its state is on disk, to go on from.
    fn is_saved(&self) -> bool {
        Saved::read(&self.places, Moment::Sleep).is_some()
    }

    /// Asks its supervisor for something; `None` where there is none.
    ///
    /// # Errors
    /// It refuses, or does not answer within `deadline`.
    pub(crate) async fn ask(&self, request: &Request, deadline: Duration) -> Result<Option<()>, Error> {
        let asked = async {
            let Ok(supervisor) = Supervisor::connect(&self.places).await else { return Ok(None) };
            supervisor.ask(request).await?.done().map(Some)
        };
        let silent = |_| Error::Silent { name: self.places.name.clone() };
        tokio::time::timeout(deadline, asked).await.map_err(silent)?
    }

    /// Has it started if it does not run, and does not wait until it has.
    ///
    /// # Errors
    /// Its supervisor can't be started, refuses, or does not answer within `deadline`.
    pub(crate) async fn begin(&self, mode: Mode, deadline: Duration) -> Result<(), Error> {
        self.config()?;
        let silent = |_| Error::Silent { name: self.places.name.clone() };
        tokio::time::timeout(deadline, self.ask_to_start(mode)).await.map_err(silent)?
    }

    /// Ends its supervisor, and with it the machine, without being asked: one that does not answer can't be.
    ///
    /// # Errors
    /// It is not ours to end.
    pub(crate) async fn end_supervisor(&self) -> Result<(), Error> {
        let Ok(supervisor) = Supervisor::connect(&self.places).await else { return Ok(()) };
        supervisor.end()?;
        supervisor::wait_until_over(&self.places).await
    }

    /// Changes what it is to be at its next start.
    ///
    /// # Errors
    /// No machine can be that, or its disk would have to shrink.
    pub fn change(&self, config: &Config) -> Result<(), Error> {
        let before = self.config()?;
        if config.disk < before.disk {
            let cause = format!("the disk has {} and only grows", size::show(before.disk));
            return Err(Error::Refused { cause, hint: None });
        }
        if !config.backend.keeps_disk_of(before.backend) {
            let cause = format!(
                "a machine of the kind {} does not find the disk of one of {}",
                config.backend, before.backend
            );
            let hint = Some(format!("make another: cove machine init NAME --backend {}", config.backend));
            return Err(Error::Refused { cause, hint });
        }
        Ok(config.write(&self.places)?)
    }

    /// Has one that runs take the sizes of its configuration, as far as it can now. Whether nothing is left for its next
    /// start, if only sizes were changed.
    ///
    /// # Errors
    /// Its supervisor does not answer.
    pub async fn apply_sizes(&self) -> Result<bool, Error> {
        let config = self.config()?;
        let Ok(supervisor) = Supervisor::connect(&self.places).await else { return Ok(true) };
        let request = Request::Resize { memory: config.memory, disk: config.disk };
        match supervisor.ask(&request).await {
            Ok(Answer::Resized { memory, disk }) => Ok(memory && disk),
            Ok(other) => other.done().map(|()| false),
            // It was just ending: what starts next has them.
            Err(error) if error.is_cut_off() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Removes everything but volumes from its engine, which must run, as the engine's clients would.
    ///
    /// # Errors
    /// The engine's.
    pub async fn empty_engine(&self) -> Result<(), Error> {
        let client = Client::new(Endpoint::local(self.engine()));
        let all = ListContainers { all: true, ..ListContainers::default() };
        for container in client.list_containers(&all).await? {
            client.remove_container(&container.id, RemoveContainer { force: true, volumes: false }).await?;
        }
        client.prune_networks(&Filters::default()).await?;
        client.prune_images(&Filters::default().with("dangling", "false")).await?;
        Ok(())
    }

    /// Starts it if it does not run, and waits until its engine answers; `told` hears of every change.
    ///
    /// # Errors
    /// It did not come up: [`Error::Failed`] says at which stage.
    pub async fn start(&self, mode: Mode, mut told: impl FnMut(&Status)) -> Result<Status, Error> {
        self.config()?;
        self.wait_until_asleep().await?;
        self.ask_to_start(mode).await?;
        // One whose start failed at once may be gone before it is followed; it has left its last word, too.
        let mut follower = match Supervisor::connect(&self.places).await {
            Ok(supervisor) => Some(supervisor.follow().await?),
            Err(_) => None,
        };
        while let Some(follower) = &mut follower
            && let Some(status) = follower.next().await?
        {
            told(&status);
            match status.phase {
                Phase::Running | Phase::Rescue => return Ok(status),
                Phase::Failed => return Err(self.failed(status)),
                Phase::Stopped => return Err(Error::NotRunning { name: self.places.name.clone() }),
                Phase::Starting | Phase::Stopping | Phase::FallingAsleep | Phase::Asleep => {}
            }
        }
        // It ended before its last word was read; it has left it.
        let status = self.last_status(self.config()?);
        Err(self.failed(status))
    }

    /// A supervisor that is just ending may still take a connection, and drops it: the next one is asked.
    async fn ask_to_start(&self, mode: Mode) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let supervisor = supervisor::ensure(&self.places, mode).await?;
            match supervisor.ask(&Request::Start { mode }).await {
                Err(error) if tries < ENDING_TRIES && error.is_cut_off() => tries += 1,
                answer => return answer?.done(),
            }
            tokio::time::sleep(ENDING_PAUSE).await;
        }
    }

    fn failed(&self, status: Status) -> Error {
        let name = self.places.name.clone();
        match status.failure {
            Some(failure) => Error::Failed { name, failure: Box::new(failure) },
            None => Error::NotRunning { name },
        }
    }

    /// One that is being saved is asked again when it is.
    async fn wait_until_asleep(&self) -> Result<(), Error> {
        let Ok(supervisor) = Supervisor::connect(&self.places).await else { return Ok(()) };
        let mut follower = supervisor.follow().await?;
        while follower.next().await?.is_some_and(|status| status.phase == Phase::FallingAsleep) {}
        Ok(())
    }

    /// Has its state saved, and waits until it sleeps.
    ///
    /// # Errors
    /// It can't, and goes on; or it does not run.
    pub async fn sleep(&self) -> Result<(), Error> {
        self.config()?;
        if self.status().await?.phase == Phase::Asleep {
            return Ok(());
        }
        let not_running = || Error::NotRunning { name: self.places.name.clone() };
        let supervisor = Supervisor::connect(&self.places).await.map_err(|_| not_running())?;
        supervisor.ask(&Request::Sleep).await?.done()?;
        let mut follower = Supervisor::connect(&self.places).await?.follow().await?;
        while let Some(status) = follower.next().await? {
            match status.phase {
                Phase::Asleep => return Ok(()),
                Phase::FallingAsleep => {}
                Phase::Failed => return Err(self.failed(status)),
                _ => {
                    let hint = Some(format!("it goes on; 'cove machine stop {}' ends it", self.places.name));
                    return Err(Error::Refused { cause: status.detail, hint });
                }
            }
        }
        Err(not_running())
    }

    /// Stops it and waits until it has; one that does not run is as good. One that sleeps is woken for it, so that its
    /// containers end as they should.
    ///
    /// # Errors
    /// The supervisor does not answer.
    pub async fn stop(&self, at_once: bool) -> Result<(), Error> {
        self.config()?;
        self.wait_until_asleep().await?;
        if self.status().await?.phase == Phase::Asleep {
            if at_once {
                if Supervisor::connect(&self.places).await.is_err() {
                    return Ok(vm_manager::saved::forget(&self.places, Moment::Sleep)?);
                }
            } else {
                self.start(Mode::Normal, |_| {}).await?;
            }
        }
        let Ok(supervisor) = Supervisor::connect(&self.places).await else { return Ok(()) };
        let mut follower = Supervisor::connect(&self.places).await?.follow().await?;
        let request = if at_once { Request::Kill } else { Request::Stop };
        supervisor.ask(&request).await?.done()?;
        // Its last word is followed by its end.
        while follower.next().await?.is_some() {}
        supervisor::wait_until_over(&self.places).await
    }

    /// Lets a newer guest image that did not start be tried again.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget_failed_image(&self) -> Result<(), Error> {
        let mut record = Record::read(&self.places)?;
        record.failed = None;
        Ok(record.write(&self.places)?)
    }

    /// Takes its data disk away; the next start makes an empty one. It must not run.
    ///
    /// # Errors
    /// It runs, or the disk's.
    pub async fn empty_disk(&self) -> Result<(), Error> {
        self.refuse_running().await?;
        for moment in [Moment::Sleep, Moment::Boot] {
            vm_manager::saved::forget(&self.places, moment)?;
        }
        self.forget_elsewhere().await?;
        for path in [self.places.disk(), self.places.disk_before(), self.places.vhdx()] {
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(vm_manager::Error::File { action: "remove", path, source }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What it has that is not in its folders.
    async fn forget_elsewhere(&self) -> Result<(), Error> {
        let name = self.places.name.clone();
        let forgotten = tokio::task::spawn_blocking(move || sys::forget_machine(&name)).await;
        let forgotten = forgotten.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        forgotten.map_err(|source| {
            let path = self.places.data.clone();
            vm_manager::Error::File { action: "remove the distribution of", path, source }.into()
        })
    }

    async fn refuse_running(&self) -> Result<(), Error> {
        if Supervisor::connect(&self.places).await.is_err() {
            return Ok(());
        }
        let cause = format!("machine {:?} runs", self.places.name);
        let hint = Some(format!("stop it first: cove machine stop {}", self.places.name));
        Err(Error::Refused { cause, hint })
    }

    /// Removes it with everything in it. It must not run.
    ///
    /// # Errors
    /// It runs, or the disk's.
    pub async fn remove(&self) -> Result<(), Error> {
        self.config()?;
        self.refuse_running().await?;
        self.forget_elsewhere().await?;
        Ok(self.places.remove()?)
    }
}

/// A kind of machine, chosen for somebody who did not say which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub backend: Backend,
    /// Why, where there was something to choose.
    pub reason: Option<String>,
}

/// The kind that a new machine is of unless somebody says otherwise. It may ask other programs, and blocks as long.
///
/// # Errors
/// This computer can have none.
pub fn choose_backend() -> Result<Choice, Error> {
    sys::choose_backend()
}

/// Why machines of this kind are made here, where others could be, and it is they that would be made now. Blocks.
#[must_use]
pub fn reason_for(backend: Backend) -> Option<String> {
    choose_backend().ok().filter(|choice| choice.backend == backend)?.reason
}

/// Bytes that the data disk's file takes, of whichever form it is.
fn disk_taken(places: &Places) -> u64 {
    let taken =
        |disk: PathBuf| std::fs::metadata(&disk).map_or(0, |metadata| sys::bytes_taken(&disk, &metadata));
    taken(places.disk()) + taken(places.vhdx())
}
