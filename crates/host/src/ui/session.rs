//! A window's whole connection to an engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::client::containers::RemoveContainer;
use api::client::images::RemoveImage;
use api::client::{Client, Filters};
use api::image::Progress;
use api::network::DisconnectNetwork;
use futures_util::StreamExt;
use model::ErrorKind;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::command::{Command, Reply};
use super::error::UiError;
use super::hub::{Change, EngineState, Health, Hub};
use super::machine::MachineRow;
use super::machine::watcher::{self, Machines};
use super::progress::Tally;
use super::row::ContainerRow;
use super::run::{RunForm, Stage};
use super::topic::{Closed, Feed, Message, Subscription, Topic, Update, subscription};
use super::{live, logs, network, stats, terminal, volume};
use crate::engine::{Starter, Target};
use crate::machine::{self as machines, Folders};

/// How often a pull tells how far it is.
const PROGRESS: Duration = Duration::from_millis(100);
/// How long starting an engine may keep a window waiting.
const START: Duration = Duration::from_secs(30);
/// How much of the engine's log is shown.
const LOG_TAIL: usize = 64 << 10;

/// What a window talks to. Cheap to clone; all clones share one watcher of the engine.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hub: Arc<Hub>,
    machines: Arc<Machines>,
    tasks: TaskTracker,
    cancelled: CancellationToken,
}

impl Session {
    /// Begins to watch the engine, and starts it if it is ours and does not run. Needs a runtime.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self::with_machines(target, machines::folders().ok())
    }

    /// The same with the machines of other folders than the usual ones.
    #[must_use]
    pub fn with_machines(target: Target, folders: Option<Folders>) -> Self {
        let hub = Arc::new(Hub::new(target));
        let machines = Arc::new(Machines::new(folders));
        let (tasks, cancelled) = (TaskTracker::new(), CancellationToken::new());
        let (watched, token) = (Arc::clone(&hub), cancelled.clone());
        tasks.spawn(async move { watched.run(token).await });
        let (watched, token) = (Arc::clone(&machines), cancelled.clone());
        tasks.spawn(async move { watched.run(token).await });
        Self(Arc::new(Inner { hub, machines, tasks, cancelled }))
    }

    /// Ends all topics and the watcher, and waits for them.
    pub async fn close(&self) {
        self.0.cancelled.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The engine's state now.
    #[must_use]
    pub fn engine(&self) -> EngineState {
        self.0.hub.engine()
    }

    /// All containers now, by id; empty before they were read.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerRow> {
        self.0.hub.containers().0.unwrap_or_default()
    }

    /// All machines now, by name; none before they were read.
    #[must_use]
    pub fn machines(&self) -> Vec<MachineRow> {
        self.0.machines.rows()
    }

    /// Answers a command.
    ///
    /// # Errors
    /// Whatever kept it from being done.
    pub async fn call(&self, command: Command) -> Result<Reply, UiError> {
        let client = self.0.hub.client();
        match command {
            Command::EngineStart => self.start_engine().await?,
            Command::EngineLog => return engine_log(),
            Command::ContainerStart { id } => drop(client.start_container(&id).await?),
            Command::ContainerStop { id } => drop(client.stop_container(&id, None, None).await?),
            Command::ContainerKill { id } => client.kill_container(&id, None).await?,
            Command::ContainerRestart { id } => client.restart_container(&id, None, None).await?,
            Command::ContainerPause { id } => client.pause_container(&id).await?,
            Command::ContainerResume { id } => client.unpause_container(&id).await?,
            Command::ContainerRemove { id, force } => {
                client.remove_container(&id, RemoveContainer { force, volumes: true }).await?;
            }
            Command::ContainerInspect { id } => {
                let request = client.request(http_get(), &format!("/containers/{id}/json"));
                return Ok(Reply::Json { value: request.fetch().await? });
            }
            Command::ImageInspect { name } => {
                let request = client.request(http_get(), &format!("/images/{name}/json"));
                return Ok(Reply::Json { value: request.fetch().await? });
            }
            Command::ImageRemove { name, force } => {
                client.remove_image(&name, RemoveImage { force, no_prune: false }).await?;
            }
            Command::ImagesPrune => {
                let filters = Filters::default().with("dangling", "false");
                let answer = client.prune_images(&filters).await?;
                return Ok(Reply::Freed { bytes: answer.space_reclaimed });
            }
            Command::NetworkCreate { form } => {
                let made = client.create_network(&form.request()?).await?;
                return Ok(Reply::Made { id: made.id });
            }
            Command::NetworkRemove { id } => {
                client.remove_network(&id).await.map_err(|error| network::not_removed(error.into()))?;
            }
            Command::NetworkConnect { form } => {
                client.connect_network(form.network.trim(), &form.request()?).await?;
            }
            Command::NetworkDisconnect { network, container } => {
                let disconnect = DisconnectNetwork { container, force: false };
                client.disconnect_network(&network, &disconnect).await?;
            }
            Command::NetworksPrune => drop(client.prune_networks(&Filters::default()).await?),
            Command::VolumeCreate { form } => {
                return Ok(Reply::Made { id: client.create_volume(&form.request()?).await?.name });
            }
            Command::VolumeRemove { name } => {
                let removed = client.remove_volume(&name, false).await;
                removed.map_err(|error| volume::not_removed(error.into(), &self.0.hub))?;
            }
            Command::VolumesPrune => {
                // Those with a name too: the window has said which will go.
                let answer = client.prune_volumes(&Filters::default().with("all", "true")).await?;
                return Ok(Reply::Freed { bytes: answer.space_reclaimed });
            }
            Command::RunPreview { form } => return Ok(Reply::Preview(form.preview())),
            Command::NetworkPreview { form } => return Ok(Reply::Preview(form.preview())),
            Command::ConnectPreview { form } => return Ok(Reply::Preview(form.preview())),
            Command::VolumePreview { form } => return Ok(Reply::Preview(form.preview())),
            Command::Machine { order } => return self.0.machines.call(order).await,
        }
        Ok(Reply::Done)
    }

    /// Opens a topic. It goes on until its subscription is dropped.
    #[must_use]
    pub fn open(&self, topic: Topic) -> Subscription {
        let (subscription, mut feed) = subscription(&self.0.cancelled);
        let (hub, machines) = (Arc::clone(&self.0.hub), Arc::clone(&self.0.machines));
        self.0.tasks.spawn(async move {
            // A window that closed a topic wants nothing more of it, its end included.
            let _: Result<(), Closed> = serve(&hub, &machines, topic, &mut feed).await;
        });
        subscription
    }

    async fn start_engine(&self) -> Result<(), UiError> {
        let mut changes = self.0.hub.subscribe();
        self.0.hub.wake.notify_one();
        let end = Instant::now() + START;
        let mut tried = false;
        loop {
            let wait = tokio::time::timeout_at(end.into(), changes.recv()).await;
            let state = self.0.hub.engine();
            match (wait, state.state) {
                (_, Health::Running) => return Ok(()),
                (Err(_) | Ok(Err(RecvError::Closed)), _) => {
                    return Err(state.error.unwrap_or_else(|| {
                        UiError::new(ErrorKind::Timeout, "The engine did not start in time")
                    }));
                }
                (_, Health::Starting) => tried = true,
                (Ok(Ok(Change::Engine)), Health::Away) if tried => {
                    return Err(state.error.unwrap_or_else(|| {
                        UiError::new(ErrorKind::Unavailable, "The engine did not start")
                    }));
                }
                (_, Health::Away) => {}
            }
        }
    }
}

fn http_get() -> http::Method {
    http::Method::GET
}

fn engine_log() -> Result<Reply, UiError> {
    let path = Starter::default_log()?;
    let bytes = std::fs::read(&path).map_err(|error| {
        UiError::new(ErrorKind::NotFound, format!("failed to read {}: {error}", path.display()))
            .with_hint("an engine that was not started by Cove keeps its log elsewhere")
    })?;
    let tail = &bytes[bytes.len().saturating_sub(LOG_TAIL)..];
    Ok(Reply::Text { text: String::from_utf8_lossy(tail).into_owned() })
}

async fn serve(hub: &Hub, machines: &Machines, topic: Topic, feed: &mut Feed) -> Result<(), Closed> {
    match topic {
        Topic::Machines => watcher::topic(machines, feed).await,
        Topic::Engine => live::engine(hub, feed).await,
        Topic::Containers => live::containers(hub, feed).await,
        Topic::Images => live::images(hub, feed).await,
        Topic::Networks => live::networks(hub, feed).await,
        Topic::Volumes => live::volumes(hub, feed).await,
        Topic::VolumeSizes => volume::sizes(hub, feed).await,
        Topic::Stats { ids } => stats::follow(hub.client(), feed, ids).await,
        Topic::Logs { id, tail } => logs::follow(hub, feed, &id, tail).await,
        Topic::Terminal { id, columns, rows } => terminal::open(hub.client(), feed, &id, columns, rows).await,
        Topic::Pull { reference } => {
            let outcome = tokio::select! {
                () = feed.cancelled.cancelled() => return Err(Closed),
                outcome = pull(hub.client(), feed, &reference) => outcome?,
            };
            feed.update(match outcome {
                Ok(()) => Update::Done { id: None, warnings: Vec::new() },
                Err(error) => Update::Failed(error),
            })
            .await
        }
        Topic::Run { form } => {
            let outcome = tokio::select! {
                () = feed.cancelled.cancelled() => return Err(Closed),
                outcome = run(hub.client(), feed, &form) => outcome?,
            };
            feed.update(match outcome {
                Ok((id, warnings)) => Update::Done { id: Some(id), warnings },
                Err(error) => Update::Failed(error),
            })
            .await
        }
    }
}

/// Pulls, and tells how far it is ten times a second at most.
async fn pull(client: &Client, feed: &Feed, reference: &str) -> Result<Result<(), UiError>, Closed> {
    let mut tally = Tally::new(reference);
    let mut steps = match client.pull_image(reference, None, None).await {
        Ok(steps) => steps,
        Err(error) => return Ok(Err(pull_failed(reference, error.into()))),
    };
    let mut every = tokio::time::interval(PROGRESS);
    let mut told = None;
    loop {
        tokio::select! {
            step = steps.next() => match step {
                Some(Ok(Progress { error: Some(message), .. })) => {
                    let error = UiError::new(ErrorKind::Unavailable, message);
                    return Ok(Err(pull_failed(reference, error)));
                }
                Some(Ok(step)) => tally.add(&step, Instant::now()),
                Some(Err(error)) => return Ok(Err(error.into())),
                None => break,
            },
            _ = every.tick() => {
                if told.as_ref() != Some(tally.transfer()) {
                    told = Some(tally.transfer().clone());
                    feed.update(Update::Transfer(tally.transfer().clone())).await?;
                }
            }
        }
    }
    feed.update(Update::Transfer(tally.transfer().clone())).await?;
    Ok(Ok(()))
}

fn pull_failed(reference: &str, error: UiError) -> UiError {
    let hint = match error.message.to_ascii_lowercase() {
        text if text.contains("manifest unknown") || text.contains("not found") => {
            format!("check the spelling of {reference}: its registry does not have it")
        }
        text if text.contains("denied") || text.contains("unauthorized") => {
            "it may be private (log in with cove login), or misspelt".to_owned()
        }
        text if text.contains("no such host") || text.contains("lookup") || text.contains("dns") => {
            "its registry can't be found: check the network".to_owned()
        }
        _ => return error,
    };
    UiError { hint: error.hint.or(Some(hint)), ..error }
}

type Ran = Result<(String, Vec<String>), UiError>;

/// Makes and starts a container; a missing image is pulled first.
async fn run(client: &Client, feed: &Feed, form: &RunForm) -> Result<Ran, Closed> {
    let plan = match form.plan() {
        Ok(plan) => plan,
        Err(problem) => return Ok(Err(UiError::new(ErrorKind::InvalidArgument, problem.message))),
    };
    let name = plan.name.as_deref();
    feed.update(Update::Stage { stage: Stage::Creating }).await?;
    let mut created = client.create_container(name, None, &plan.spec).await;
    if matches!(&created, Err(error) if error.kind() == ErrorKind::NotFound) {
        feed.update(Update::Stage { stage: Stage::Pulling }).await?;
        if let Err(error) = pull(client, feed, &plan.spec.config.image).await? {
            return Ok(Err(error));
        }
        feed.update(Update::Stage { stage: Stage::Creating }).await?;
        created = client.create_container(name, None, &plan.spec).await;
    }
    let created = match created {
        Ok(created) => created,
        Err(error) => return Ok(Err(error.into())),
    };
    feed.update(Update::Stage { stage: Stage::Starting }).await?;
    if let Err(error) = client.start_container(&created.id).await {
        // A container that never ran is of no use to anybody; the command line leaves none either.
        let remove = RemoveContainer { force: true, volumes: true };
        if let Err(left) = client.remove_container(&created.id, remove).await {
            tracing::warn!(id = created.id, error = %left, "a container that did not start is left");
        }
        return Ok(Err(error.into()));
    }
    Ok(Ok((created.id, created.warnings)))
}

impl Message {
    /// The JSON of an update; bytes have none.
    #[must_use]
    pub fn json(&self) -> Option<String> {
        match self {
            // An update is made of strings, numbers and lists of them: it can't fail to be JSON.
            Self::Update(update) => serde_json::to_string(update).ok(),
            Self::Bytes(_) => None,
        }
    }
}
