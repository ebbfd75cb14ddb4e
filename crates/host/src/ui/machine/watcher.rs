//! The one watcher of this computer's machines: it follows their supervisors, and the folders where machines appear.
//!
//! A task for each machine waits for what its supervisor says, and for one to come. Only a supervisor that has been
//! quiet for long is asked whether it still lives.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vm_manager::config::Config;
use vm_manager::control::{Answer, Request};
use vm_manager::stage::Stage;
use vm_manager::status::{Phase, Status};
use vm_proto::message::Report;

use super::row::{Known, MachinePhase, MachineRow};
use crate::machine::{Folders, Follower, Machine, Supervisor};
use crate::sys::watch::Watch;
use crate::ui::hub::now_millis;
use crate::ui::topic::{Closed, Feed, Update};

/// How long changes of folders are gathered: a machine is several files.
const GATHER: Duration = Duration::from_millis(20);
/// How long a supervisor may take to say its first word, or to answer whether it lives.
const ANSWER: Duration = Duration::from_secs(3);
/// How long it may be quiet: while somebody follows, a guest that runs reports every two seconds.
const QUIET: Duration = Duration::from_secs(10);
/// How long after its socket appeared a supervisor may take to listen, and how often it is tried.
const LISTEN: Duration = Duration::from_secs(2);
const LISTEN_EVERY: Duration = Duration::from_millis(20);
/// Words of supervisors on their way.
const WAITING: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Machines {
    /// `None` where there is no place for machines.
    folders: Option<Folders>,
    /// `None` until they were read once.
    rows: watch::Sender<Option<Vec<MachineRow>>>,
    /// Asks for another look at the folders.
    pub(crate) look: Notify,
}

/// What a supervisor's follower tells.
#[derive(Debug)]
enum Told {
    /// How its machine stands. `started_at` is when it began.
    Status { status: Box<Status>, started_at: Option<u64> },
    /// It is there and does not answer.
    Silent,
    /// It is gone.
    Gone,
}

/// What is kept of a machine.
#[derive(Debug)]
struct Kept {
    machine: Machine,
    config: Config,
    /// What its supervisor said last, while there is one.
    live: Option<Status>,
    is_silent: bool,
    started_at: Option<u64>,
    /// The report before the last.
    before: Option<Report>,
    /// Which stage it is at, and since when.
    stage: Option<(Stage, u64)>,
    /// How its last supervisor left it, and when.
    rest: (Status, Option<u64>),
    /// Pokes the follower: a supervisor may have come.
    poke: Arc<Notify>,
    /// Ends with this.
    _follower: JoinSet<()>,
}

/// A machine as its files have it.
#[derive(Debug)]
struct Found {
    machine: Machine,
    config: Config,
    rest: (Status, Option<u64>),
}

impl Machines {
    pub(crate) fn new(folders: Option<Folders>) -> Self {
        Self { folders, rows: watch::Sender::new(None), look: Notify::new() }
    }

    /// All machines now, by name; none before they were read.
    pub(crate) fn rows(&self) -> Vec<MachineRow> {
        self.rows.borrow().clone().unwrap_or_default()
    }

    pub(crate) fn folders(&self) -> Option<&Folders> {
        self.folders.as_ref()
    }

    /// Watches until `cancelled`.
    pub(crate) async fn run(&self, cancelled: CancellationToken) {
        let watching = async {
            match &self.folders {
                Some(folders) => self.watch(folders).await,
                None => drop(self.rows.send_replace(Some(Vec::new()))),
            }
        };
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = watching => {}
        }
    }

    async fn watch(&self, folders: &Folders) {
        let mut all: BTreeMap<String, Kept> = BTreeMap::new();
        let mut watch = Watch::default();
        let (told, mut heard) = mpsc::channel(WAITING);
        let mut due = true;
        loop {
            if due {
                self.look_at(folders, &mut all, &mut watch, &told).await;
                due = false;
            }
            self.publish(&all);
            tokio::select! {
                () = watch.changed() => {
                    tokio::time::sleep(GATHER).await;
                    due = true;
                }
                () = self.look.notified() => due = true,
                // There is always a sender here.
                Some((name, word)) = heard.recv() => {
                    if let Some(kept) = all.get_mut(&name) {
                        due = kept.hear(word);
                    }
                }
            }
        }
    }

    /// Reads all machines' files, until nothing changed while they were read.
    async fn look_at(
        &self,
        folders: &Folders,
        all: &mut BTreeMap<String, Kept>,
        watch: &mut Watch,
        told: &mpsc::Sender<(String, Told)>,
    ) {
        loop {
            let places = all.values().flat_map(|kept| {
                let places = kept.machine.places();
                [places.data.clone(), places.run.clone()]
            });
            let is_new = watch.set([folders.data.clone(), folders.run.clone()].into_iter().chain(places));
            let from = folders.clone();
            let found = tokio::task::spawn_blocking(move || read(&from)).await.unwrap_or_default();
            let before = all.len();
            all.retain(|name, _| found.iter().any(|found| found.machine.places().name == *name));
            let gone = before != all.len();
            let mut came = false;
            for found in found {
                let name = found.machine.places().name.clone();
                if let Some(kept) = all.get_mut(&name) {
                    kept.config = found.config;
                    kept.rest = found.rest;
                    kept.poke.notify_one();
                } else {
                    came = true;
                    all.insert(name, Kept::of(found, told));
                }
            }
            if !(is_new || came || gone) {
                return;
            }
        }
    }

    fn publish(&self, all: &BTreeMap<String, Kept>) {
        let rows: Vec<_> = all.values().map(Kept::row).collect();
        self.rows.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&rows);
            *known = Some(rows);
            is_new
        });
    }
}

impl Kept {
    fn of(found: Found, told: &mpsc::Sender<(String, Told)>) -> Self {
        let poke = Arc::new(Notify::new());
        let mut follower = JoinSet::new();
        follower.spawn(follow(found.machine.clone(), Arc::clone(&poke), told.clone()));
        Self {
            machine: found.machine,
            config: found.config,
            live: None,
            is_silent: false,
            started_at: None,
            before: None,
            stage: None,
            rest: found.rest,
            poke,
            _follower: follower,
        }
    }

    /// Takes a word in; whether its files have to be looked at.
    fn hear(&mut self, word: Told) -> bool {
        match word {
            Told::Status { status, started_at } => {
                let last = self.live.as_ref().and_then(|live| live.report.clone());
                if last != status.report {
                    self.before = last;
                }
                let at = status.stage.filter(|_| status.phase == Phase::Starting);
                if self.stage.map(|(stage, _)| stage) != at {
                    self.stage = at.map(|stage| (stage, now_millis()));
                }
                self.started_at = started_at;
                self.is_silent = false;
                self.live = Some(*status);
                false
            }
            Told::Silent => {
                self.is_silent = true;
                false
            }
            Told::Gone => {
                self.live = None;
                self.is_silent = false;
                self.before = None;
                self.stage = None;
                true
            }
        }
    }

    fn row(&self) -> MachineRow {
        let status = self.live.as_ref().unwrap_or(&self.rest.0);
        let known = Known {
            config: &self.config,
            before: self.before.as_ref(),
            stage_since: self.stage.map(|(_, since)| since),
            started_at: self.started_at,
            // While there is a supervisor, the last word is that of one before.
            ended_at: self.rest.1.filter(|_| self.live.is_none()),
        };
        let row = MachineRow::of(status, known);
        if !self.is_silent {
            return row;
        }
        MachineRow { phase: MachinePhase::Silent, started_at: self.started_at, ended_at: None, ..row }
    }
}

/// All machines' files. One whose files can't be read is left out, and told of in the log.
fn read(folders: &Folders) -> Vec<Found> {
    let machines = match Machine::all_within(folders) {
        Ok(machines) => machines,
        Err(error) => {
            tracing::warn!(%error, "failed to look for machines");
            return Vec::new();
        }
    };
    let found = machines.into_iter().filter_map(|machine| {
        let config =
            machine.config().inspect_err(|error| tracing::warn!(%error, "a machine is left out")).ok()?;
        let rest = (machine.last_status(config.clone()), changed_at(&machine.places().last_status()));
        Some(Found { machine, config, rest })
    });
    found.collect()
}

/// Milliseconds since the epoch.
fn changed_at(path: &Path) -> Option<u64> {
    let changed = std::fs::metadata(path).ok()?.modified().ok()?;
    u64::try_from(changed.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Where a follower's words go.
#[derive(Debug)]
struct Teller {
    name: String,
    told: mpsc::Sender<(String, Told)>,
}

impl Teller {
    /// Whether anybody still wants to hear.
    async fn tell(&self, word: Told) -> bool {
        self.told.send((self.name.clone(), word)).await.is_ok()
    }
}

/// Follows one machine's supervisors, one after the other.
async fn follow(machine: Machine, poke: Arc<Notify>, told: mpsc::Sender<(String, Told)>) {
    let teller = Teller { name: machine.places().name.clone(), told };
    loop {
        if let Some(follower) = reach(&machine).await {
            let started_at = changed_at(&machine.places().control());
            if !listen(&machine, follower, started_at, &teller).await || !teller.tell(Told::Gone).await {
                return;
            }
        }
        poke.notified().await;
    }
}

/// A follower, once its supervisor listens; `None` where there is none.
async fn reach(machine: &Machine) -> Option<Follower> {
    let begin = std::time::Instant::now();
    while machine.places().control().exists() {
        let connect = async { Supervisor::connect(machine.places()).await?.follow().await };
        match tokio::time::timeout(ANSWER, connect).await {
            Ok(Ok(follower)) => return Some(follower),
            // The socket of one that was killed stays.
            _ if begin.elapsed() > LISTEN => return None,
            _ => tokio::time::sleep(LISTEN_EVERY).await,
        }
    }
    None
}

/// Tells what a supervisor says to its end; whether anybody still wants to hear it.
async fn listen(machine: &Machine, mut follower: Follower, started_at: Option<u64>, teller: &Teller) -> bool {
    let mut patience = ANSWER;
    loop {
        let mut next = std::pin::pin!(follower.next());
        // A half-read line is not let go of while it is asked whether anybody is there.
        let word = loop {
            match tokio::time::timeout(patience, next.as_mut()).await {
                Ok(word) => break word,
                Err(_) if lives(machine).await => {}
                Err(_) => {
                    if !teller.tell(Told::Silent).await {
                        return false;
                    }
                }
            }
            patience = QUIET;
        };
        let Ok(Some(status)) = word else { return true };
        patience = QUIET;
        if !teller.tell(Told::Status { status: Box::new(status), started_at }).await {
            return false;
        }
    }
}

async fn lives(machine: &Machine) -> bool {
    let asked = async { Supervisor::connect(machine.places()).await?.ask(&Request::Status).await };
    matches!(tokio::time::timeout(ANSWER, asked).await, Ok(Ok(Answer::Status(_))))
}

/// The topic: all machines, now and at each change.
pub(crate) async fn topic(machines: &Machines, feed: &Feed) -> Result<(), Closed> {
    let mut rows = machines.rows.subscribe();
    loop {
        let now = rows.borrow_and_update().clone();
        if let Some(rows) = now {
            feed.update(Update::Machines { rows }).await?;
        }
        tokio::select! {
            () = feed.cancelled.cancelled() => return Err(Closed),
            changed = rows.changed() => changed.map_err(|_| Closed)?,
        }
    }
}
