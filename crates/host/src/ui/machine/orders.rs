//! What a window has done with machines. What takes long is told by their rows; nothing here waits without a deadline.

use std::time::Duration;

use model::ErrorKind;
use serde::{Deserialize, Serialize};
use vm_manager::config::Backend;
use vm_manager::control::Request;
use vm_manager::stage::Deed;
use vm_manager::status::Phase;
use vm_proto::message::Mode;

use super::form::{MachineForm, defaults};
use super::watcher::Machines;
use crate::machine::{self, Choice, Machine, Passed, TARGET};
use crate::ui::command::Reply;
use crate::ui::error::UiError;
use crate::ui::form::Preview;

/// How long a supervisor may take to answer: it never waits for its machine.
const ANSWER: Duration = Duration::from_secs(5);
/// How long one may take to be there and to answer.
const BEGIN: Duration = Duration::from_secs(15);
/// How long a machine may take to be gone: containers have ten seconds to end, the guest thirty.
const STOP: Duration = Duration::from_secs(60);
/// How long a machine may take to be saved: its memory is written to disk.
const SLEEP: Duration = Duration::from_secs(120);
/// How long a machine may take to be up: its stages have deadlines of their own, which are told by name.
const UP: Duration = Duration::from_secs(420);
/// How long emptying an engine may take.
const EMPTY: Duration = Duration::from_secs(180);
/// How much of a log is shown.
const LOG_TAIL: usize = 64 << 10;

/// A question or an order about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "do", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum MachineOrder {
    /// What a new machine would be. Answered with [`Reply::Machine`].
    Defaults,
    /// Make a machine. Answered with [`Reply::Made`].
    Init {
        /// What was filled in.
        form: MachineForm,
    },
    /// Change a machine; what can't change while it runs does at its next start.
    Set {
        /// What was filled in.
        form: MachineForm,
    },
    /// Check a machine's form and tell its command line. Answered with [`Reply::Preview`].
    Preview {
        /// What was filled in.
        form: MachineForm,
        /// There is no machine of that name yet.
        is_new: bool,
    },
    /// Have it started: its row tells how that goes.
    Start {
        /// Its name.
        name: String,
    },
    /// Have it stopped, its containers first: its row tells how that goes.
    Stop {
        /// Its name.
        name: String,
    },
    /// Have its state saved, and wait until it sleeps.
    Sleep {
        /// Its name.
        name: String,
    },
    /// End it at once, as a power cut would.
    Kill {
        /// Its name.
        name: String,
    },
    /// Stop it, and have it started.
    Restart {
        /// Its name.
        name: String,
    },
    /// Have it started with its disk read-only and no engine; one that runs is stopped first.
    Rescue {
        /// Its name.
        name: String,
    },
    /// Begin anew with an empty disk.
    Reset {
        /// Its name.
        name: String,
        /// Volumes too; they are kept unless this is given.
        volumes: bool,
    },
    /// Have it give back memory and disk that it does not use.
    GiveBack {
        /// Its name.
        name: String,
    },
    /// Do what is to be done about its failure. Answered with [`Reply::Done`], or a [`Reply::Text`] of what was found.
    Remedy {
        /// Its name.
        name: String,
    },
    /// The end of what its console said. Answered with [`Reply::Text`].
    Log {
        /// Its name.
        name: String,
        /// What its supervisor on this computer said, instead.
        supervisor: bool,
    },
    /// Remove it with everything in it; one that runs is ended first.
    Remove {
        /// Its name.
        name: String,
    },
}

impl From<machine::Error> for UiError {
    fn from(error: machine::Error) -> Self {
        crate::Error::from(error).into()
    }
}

impl From<vm_manager::Error> for UiError {
    fn from(error: vm_manager::Error) -> Self {
        machine::Error::from(error).into()
    }
}

/// What a new machine would be. Which kind it is may be for other programs to say, which are not waited for long.
async fn suggest() -> Reply {
    let choice = tokio::task::spawn_blocking(machine::choose_backend);
    match tokio::time::timeout(ANSWER, choice).await {
        Ok(Ok(Ok(Choice { backend, reason }))) => Reply::Machine { form: defaults(backend), reason },
        Ok(Ok(Err(error))) => {
            let UiError { message, hint, .. } = error.into();
            let reason = [Some(message), hint].into_iter().flatten().collect::<Vec<_>>().join("; ");
            Reply::Machine { form: defaults(Backend::default()), reason: Some(reason) }
        }
        Ok(Err(_)) | Err(_) => Reply::Machine { form: defaults(Backend::default()), reason: None },
    }
}

impl Machines {
    fn find(&self, name: &str) -> Result<Machine, UiError> {
        let folders = self.folders().ok_or_else(|| {
            UiError::new(ErrorKind::Unsupported, "there is no place for machines on this computer")
                .with_hint("log in through a session manager, or set XDG_RUNTIME_DIR")
        })?;
        Ok(Machine::within(folders, name)?)
    }

    /// Answers an order.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    pub(crate) async fn call(&self, order: MachineOrder) -> Result<Reply, UiError> {
        match order {
            MachineOrder::Defaults => return Ok(suggest().await),
            MachineOrder::Init { form } => return self.init(&form),
            MachineOrder::Set { form } => self.set(&form).await?,
            MachineOrder::Preview { form, is_new } => return Ok(Reply::Preview(self.preview(&form, is_new))),
            MachineOrder::Start { name } => self.begin(&self.find(&name)?, Mode::Normal).await?,
            MachineOrder::Stop { name } => self.stop(&name).await?,
            MachineOrder::Sleep { name } => self.sleep(&name).await?,
            MachineOrder::Kill { name } => self.kill(&name).await?,
            MachineOrder::Restart { name } => self.restart(&name).await?,
            MachineOrder::Rescue { name } => self.rescue(&name).await?,
            MachineOrder::Reset { name, volumes } => self.reset(&name, volumes).await?,
            MachineOrder::GiveBack { name } => self.give_back(&name).await?,
            MachineOrder::Remedy { name } => return self.remedy(&name).await,
            MachineOrder::Log { name, supervisor } => return self.log(&name, supervisor),
            MachineOrder::Remove { name } => self.remove(&name).await?,
        }
        Ok(Reply::Done)
    }

    /// What a form says, as the command line of a new machine or of a change.
    fn preview(&self, form: &MachineForm, is_new: bool) -> Preview {
        let before = || self.find(form.name.trim()).ok()?.config().ok();
        match before().filter(|_| !is_new) {
            Some(before) => form.preview_of_change(&before),
            None => form.preview(),
        }
    }

    fn init(&self, form: &MachineForm) -> Result<Reply, UiError> {
        let config = form.config()?;
        let name = form.name.trim();
        self.find(name)?.places().create(&config)?;
        self.look.notify_one();
        Ok(Reply::Made { id: name.to_owned() })
    }

    async fn set(&self, form: &MachineForm) -> Result<(), UiError> {
        let machine = self.find(form.name.trim())?;
        let config = form.change_of(&machine.config()?)?;
        machine.change(&config)?;
        // What is not so yet is at its next start: its row says that.
        within(ANSWER, "asking the machine", machine.apply_sizes()).await?;
        self.look.notify_one();
        Ok(())
    }

    async fn begin(&self, machine: &Machine, mode: Mode) -> Result<(), UiError> {
        machine.begin(mode, BEGIN).await?;
        self.look.notify_one();
        Ok(())
    }

    async fn stop(&self, name: &str) -> Result<(), UiError> {
        let machine = self.find(name)?;
        let asked = machine.ask(&Request::Stop, ANSWER).await;
        if let Ok(Some(())) | Err(machine::Error::Silent { .. }) = asked {
            return Ok(asked.map(drop)?);
        }
        let status = within(ANSWER, "asking the machine", machine.status()).await?;
        if status.phase != Phase::Asleep {
            return Ok(asked.map(drop)?);
        }
        // It is woken for it, so that its containers end as they should.
        within(UP, "stopping the machine", machine.stop(false)).await?;
        self.look.notify_one();
        Ok(())
    }

    /// Ends it as a power cut would; who looks after it too, where that does not answer.
    async fn sleep(&self, name: &str) -> Result<(), UiError> {
        within(SLEEP, "saving the machine", self.find(name)?.sleep()).await?;
        self.look.notify_one();
        Ok(())
    }

    async fn kill(&self, name: &str) -> Result<(), UiError> {
        let machine = self.find(name)?;
        machine.config()?;
        match machine.ask(&Request::Kill, ANSWER).await {
            Err(machine::Error::Silent { .. }) => {
                within(STOP, "ending the machine", machine.end_supervisor()).await?;
            }
            other => drop(other?),
        }
        self.look.notify_one();
        Ok(())
    }

    async fn restart(&self, name: &str) -> Result<(), UiError> {
        let machine = self.find(name)?;
        within(STOP, "stopping the machine", machine.stop(false)).await?;
        self.begin(&machine, Mode::Normal).await
    }

    async fn rescue(&self, name: &str) -> Result<(), UiError> {
        let machine = self.find(name)?;
        within(STOP, "stopping the machine", machine.stop(false)).await?;
        self.begin(&machine, Mode::Rescue).await
    }

    async fn remove(&self, name: &str) -> Result<(), UiError> {
        let machine = self.find(name)?;
        within(STOP, "ending the machine", machine.stop(true)).await?;
        machine.remove().await?;
        self.look.notify_one();
        Ok(())
    }

    async fn give_back(&self, name: &str) -> Result<(), UiError> {
        let machine = self.find(name)?;
        match machine.ask(&Request::GiveBack, ANSWER).await? {
            Some(()) => Ok(()),
            None => Err(machine::Error::NotRunning { name: name.to_owned() }.into()),
        }
    }

    /// Begins anew with an empty disk, or with one that holds only the volumes.
    async fn reset(&self, name: &str, volumes: bool) -> Result<(), UiError> {
        let machine = self.find(name)?;
        if volumes {
            within(STOP, "stopping the machine", machine.stop(false)).await?;
            machine.empty_disk().await?;
        } else {
            let status = within(ANSWER, "asking the machine", machine.status()).await?;
            if status.phase == Phase::Rescue {
                within(STOP, "stopping the machine", machine.stop(false)).await?;
            }
            within(UP, "starting the machine", machine.start(Mode::Normal, |_| {})).await?;
            within(EMPTY, "emptying its engine", machine.empty_engine()).await?;
            within(STOP, "stopping the machine", machine.stop(false)).await?;
        }
        self.look.notify_one();
        Ok(())
    }

    /// Does what is to be done about a failure.
    async fn remedy(&self, name: &str) -> Result<Reply, UiError> {
        let machine = self.find(name)?;
        let status = within(ANSWER, "asking the machine", machine.status()).await?;
        let Some(failure) = status.failure else {
            return Err(UiError::new(ErrorKind::InvalidState, format!("machine {name:?} has not failed")));
        };
        let mut config = machine.config()?;
        match failure.remedy.deed {
            Some(Deed::Start) => {}
            Some(Deed::PreviousImage) => {
                config.image = Some("previous".to_owned());
                machine.change(&config)?;
            }
            Some(Deed::Backend(backend)) => {
                config.set_backend(backend);
                machine.change(&config)?;
            }
            Some(Deed::Rescue) => {
                self.rescue(name).await?;
                return Ok(Reply::Done);
            }
            Some(Deed::Check) => return self.check(&machine, status.phase).await,
            Some(Deed::Log) => return self.log(name, false),
            Some(Deed::Shares | Deed::MakeImage) | None => {
                let message = format!("this is yours to do: {}", failure.remedy.text);
                return Err(UiError::new(ErrorKind::Unsupported, message).with_hint(failure.remedy.command));
            }
        }
        self.begin(&machine, Mode::Normal).await?;
        Ok(Reply::Done)
    }

    /// Walks the hops of its network. One that is off is started without its engine, and its disk read-only.
    async fn check(&self, machine: &Machine, phase: Phase) -> Result<Reply, UiError> {
        if !matches!(phase, Phase::Running | Phase::Rescue) {
            within(UP, "starting the machine", machine.start(Mode::Rescue, |_| {})).await?;
        }
        let mut text = String::new();
        machine
            .check_network(TARGET, |hop| {
                text += &match hop.passed {
                    Passed::Yes => format!("ok      {}\n", hop.what),
                    Passed::No { remedy } => format!("FAILS   {}\n\n{remedy}\n", hop.what),
                };
            })
            .await?;
        Ok(Reply::Text { text })
    }

    /// The end of its console's log, or of its supervisor's.
    fn log(&self, name: &str, supervisor: bool) -> Result<Reply, UiError> {
        let machine = self.find(name)?;
        machine.config()?;
        let path = if supervisor { machine.places().log() } else { machine.places().console() };
        let text = match tail(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.map_err(|error| {
                UiError::new(ErrorKind::Internal, format!("failed to read {}: {error}", path.display()))
            })?,
        };
        Ok(Reply::Text { text })
    }
}

/// The end of a log, without what would move a terminal's cursor.
fn tail(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};

    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL as u64)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL as u64).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t').collect())
}

async fn within<T, E: Into<UiError>>(
    deadline: Duration,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, UiError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => {
            let message = format!("{what} took longer than {} s", deadline.as_secs());
            Err(UiError::new(ErrorKind::Timeout, message).with_hint("end it at once, and start it again"))
        }
    }
}
