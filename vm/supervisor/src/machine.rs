//! The one task that owns a machine's state: it hears, has `vm_manager::lifecycle` decide, and acts.

mod answering;
mod greeting;
mod run;
mod size;
mod sleep;
mod template;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant as Deadline;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vm_manager::backend::Acceleration;
use vm_manager::config::Config;
use vm_manager::control::{Answer, Request as Asking};
use vm_manager::lifecycle::{self, Action, Fact, Input, Request, State, Then};
use vm_manager::places::{Folders, Places};
use vm_manager::saved::{Moment, Record};
use vm_manager::stage::Stage;
use vm_manager::status::{Failure, Phase, Status};
use vm_proto::message::{FromGuest, FromHost, Mode, Step};
use vm_proto::port;

use crate::control::{self, Asked, Desk};
use crate::guest::Heard;
use crate::platform::{self, Channel};
use crate::ports::Ports;
use crate::preparation::{self, Chosen};
use crate::room::{self, Room};
use crate::{clock, engine};
pub(crate) use run::{Beginning, Origin};
use run::{Prepared, Run, Template};

/// How long a guest may take to power off: containers may take ten seconds to end.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How long a guest may take to be ready to be saved.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// How long it may take to read a guest's memory from disk.
const WAKE_DEADLINE: Duration = Duration::from_secs(120);
/// How often a machine that sleeps when nothing runs is looked at.
const IDLE_LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often figures are asked for while somebody follows.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// How long whoever asks for the status waits for new figures.
const REPORT_DEADLINE: Duration = Duration::from_millis(300);
/// How long followers have to read the last word.
const FAREWELL: Duration = Duration::from_millis(500);
/// How many lines of the console an error shows.
const CONSOLE_LINES: usize = 12;
/// How many warnings of a guest are kept.
const WARNINGS: usize = 32;
/// Events on their way to the machine's task.
const WAITING: usize = 256;

/// What the machine's task hears, beside requests.
#[derive(Debug)]
pub(crate) enum Event {
    /// An image was chosen, or none can be had.
    Image(Result<Chosen>),
    /// The disk's file is there, or can't be had.
    Disk(Result<()>),
    /// Devices and program run, or don't.
    Hypervisor(Result<Box<Prepared>>),
    /// The program ended.
    Ended { run: u64, how: String },
    /// The guest says something.
    Heard { run: u64, heard: Heard },
    /// Its state is on disk, or can't be had.
    Saved { run: u64, outcome: Result<()> },
    /// After its state was kept for later starts, it can't go on.
    Stuck { run: u64, error: anyhow::Error },
    /// Its sizes were changed, or some were; whoever asked is to be told.
    Resized { run: u64, memory: Option<u64>, disk: Option<u64>, answer: oneshot::Sender<Answer> },
    /// Somebody calls the engine while it sleeps.
    Called(ipc::Stream),
    /// The same at a port, where whoever calls waits.
    PortCalled,
    /// Ports changed.
    Ports { open: Vec<String>, warnings: Vec<String> },
}

/// Starts the machine, and stays with it until it has ended.
pub(crate) async fn supervise(places: Places, config: Config, images: PathBuf, mode: Mode) -> Result<()> {
    let listener = engine::listen(&places.control())?;
    let (asked, requests) = mpsc::channel(WAITING);
    let (events, heard) = mpsc::channel(WAITING);
    let status = watch::Sender::new(Status::stopped(&places.name, config.clone(), places.engine()));
    let (vsock, has_vsock) = watch::channel(None);
    let tasks = TaskTracker::new();
    let desk = Desk { asked, status: status.subscribe(), vsock: has_vsock, tasks: tasks.clone() };
    let server = tokio::task::JoinSet::new();
    let machine = Machine::new(places, config, images, vsock, events, status);
    let told = machine.tell_ports();
    let outcome = machine.live(listener, desk, server, requests, heard, mode).await;
    told.abort();
    tasks.close();
    // Followers read the last word; those that don't are not waited for.
    let _ = tokio::time::timeout(FAREWELL, tasks.wait()).await;
    outcome
}

struct Machine {
    places: Places,
    config: Config,
    images: PathBuf,
    state: State,
    status: watch::Sender<Status>,
    vsock: watch::Sender<Option<Arc<Channel>>>,
    events: mpsc::Sender<Event>,
    /// Counts starts, so that late words of an earlier one are told apart.
    runs: u64,
    chosen: Option<Chosen>,
    /// What this start goes on from.
    saved: Option<Record>,
    run: Option<Run>,
    /// The engine's socket on the host, from its first use on.
    engine: Option<Arc<engine::Listener>>,
    /// Those of containers, which stay while it sleeps.
    ports: Ports,
    /// Ends the wait for a call.
    asleep: Option<CancellationToken>,
    /// Clients that called while it slept.
    callers: Vec<ipc::Stream>,
    /// Since when nothing has run in it.
    idle_since: Option<Instant>,
    /// The guest is about to hang up, and says hello again later.
    hangs_up: bool,
    /// Its program has ended by itself since it last ran.
    was_flaky: bool,
    /// Until when the stage, or the stop, may take.
    deadline: Option<Deadline>,
    /// When the stage began.
    began: Instant,
    is_over: bool,
    /// Its processor is a program.
    is_emulated: bool,
    reports_for: Vec<oneshot::Sender<Answer>>,
    port_warnings: Vec<String>,
    start_warnings: Vec<String>,
    /// The guest's agent is of another version.
    is_stranger: bool,
    room: Room,
}

impl Machine {
    fn new(
        places: Places,
        config: Config,
        images: PathBuf,
        vsock: watch::Sender<Option<Arc<Channel>>>,
        events: mpsc::Sender<Event>,
        status: watch::Sender<Status>,
    ) -> Self {
        Self {
            places,
            config,
            images,
            state: State::Stopped,
            status,
            vsock,
            events,
            runs: 0,
            chosen: None,
            saved: None,
            run: None,
            engine: None,
            ports: Ports::default(),
            asleep: None,
            callers: Vec::new(),
            idle_since: None,
            hangs_up: false,
            was_flaky: false,
            deadline: None,
            began: Instant::now(),
            is_over: false,
            is_emulated: false,
            reports_for: Vec::new(),
            port_warnings: Vec::new(),
            start_warnings: Vec::new(),
            is_stranger: false,
            room: Room::default(),
        }
    }

    async fn live(
        mut self,
        listener: ipc::Listener,
        desk: Desk,
        mut server: tokio::task::JoinSet<()>,
        mut requests: mpsc::Receiver<Asked>,
        mut heard: mpsc::Receiver<Event>,
        mode: Mode,
    ) -> Result<()> {
        self.feed(Input::Request(Request::Start(mode))).ok();
        // From here on a client that connects sees a machine on its way.
        server.spawn(control::serve(listener, desk));
        let mut look = tokio::time::interval(clock::LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reports = tokio::time::interval(REPORT_EVERY);
        let mut idles = tokio::time::interval(IDLE_LOOK_EVERY);
        let mut watch = clock::Watch::new();
        // By when whoever asks for the status is answered, whatever the guest does meanwhile.
        let mut answer_by: Option<Deadline> = None;
        while !self.is_over {
            tokio::select! {
                Some(asked) = requests.recv() => self.answer(asked),
                Some(event) = heard.recv() => self.hear(event),
                () = sleep_until(self.deadline) => self.is_late(),
                _ = look.tick() => {
                    let stands_still = self.run.as_ref().is_some_and(|run| run.vmm.stands_still());
                    if watch.has_jumped(stands_still) {
                        self.say(FromHost::SetTime { nanoseconds: clock::now() });
                    }
                    self.look_at_room();
                    self.look_at_resolver();
                }
                _ = reports.tick(), if self.status.receiver_count() > 1 || self.has_balloon() => self.say(FromHost::Report),
                () = sleep_until(answer_by) => self.answer_waiting(),
                _ = idles.tick(), if self.config.sleep_after.is_some() => self.say(FromHost::Report),
            }
            let is_waited_for = !self.reports_for.is_empty();
            answer_by = is_waited_for.then(|| answer_by.unwrap_or_else(|| Deadline::now() + REPORT_DEADLINE));
        }
        self.keep_status()
    }

    /// The host's disk may fill up at any time.
    fn look_at_room(&mut self) {
        let (Some(run), State::Running { mode: Mode::Normal }) = (&self.run, &self.state) else { return };
        let Some(free) = room::free(&self.places) else { return };
        for step in self.room.look(free, self.config.disk) {
            match step {
                room::Step::Tell(bytes) => self.say(FromHost::Room { bytes }),
                room::Step::Stop => run.vmm.stop(),
                room::Step::GoOn => {
                    run.vmm.go_on();
                    self.go_on_writing();
                }
            }
        }
        self.tell_warnings();
    }

    fn look_at_resolver(&mut self) {
        let State::Running { .. } = self.state else { return };
        if let Some(resolver) = self.run.as_mut().and_then(|run| run.resolver.look()) {
            tracing::info!(?resolver, "the host's resolvers changed");
            self.say(FromHost::SetResolver(resolver));
        }
    }

    /// QEMU stops a guest itself whose write found no room, and then waits to be told.
    fn go_on_writing(&self) {
        if !vm_manager::backend::capabilities(self.config.backend).has_qmp {
            return;
        }
        let socket = self.places.device("qmp");
        let go_on = async move {
            let mut qmp = vm_manager::qmp::Qmp::connect(&socket).await?;
            qmp.execute("cont", serde_json::json!({})).await
        };
        tokio::runtime::Handle::current().spawn(async move {
            if let Err(error) = go_on.await {
                tracing::warn!(%error, "failed to let the machine go on");
            }
        });
    }

    fn say(&self, word: FromHost) {
        if let Some(guest) = self.run.as_ref().and_then(|run| run.guest.as_ref()) {
            guest.say(word);
        }
    }

    fn answer(&mut self, asked: Asked) {
        let done = |outcome: Result<(), lifecycle::Refusal>| match outcome {
            Ok(()) | Err(lifecycle::Refusal::IsSo) => Answer::Done,
            Err(refusal) => Answer::Refused { cause: refusal.to_string(), hint: None },
        };
        let answer = match asked.request {
            Asking::Status if self.run.as_ref().is_some_and(|run| run.guest.is_some()) => {
                self.reports_for.push(asked.answer);
                self.say(FromHost::Report);
                return;
            }
            Asking::Status => Answer::Status(Box::new(self.now())),
            Asking::Start { mode } => done(self.feed(Input::Request(Request::Start(mode)))),
            Asking::Stop => done(self.feed(Input::Request(Request::Stop))),
            Asking::Sleep if !self.can_sleep() => Answer::Refused {
                cause: format!("a machine of the kind {} can't be saved", self.config.backend),
                hint: sleep::kinds(),
            },
            Asking::Sleep => done(self.feed(Input::Request(Request::Sleep))),
            Asking::Kill => done(self.feed(Input::Request(Request::Kill))),
            Asking::GiveBack => {
                self.say(FromHost::GiveBack);
                Answer::Done
            }
            Asking::Resize { memory, disk } => return self.resize(memory, disk, asked.answer),
            Asking::Follow | Asking::Execute { .. } => return,
        };
        // Whoever asked may be gone.
        let _ = asked.answer.send(answer);
    }

    fn answer_waiting(&mut self) {
        let now = self.now();
        for answer in self.reports_for.drain(..) {
            let _ = answer.send(Answer::Status(Box::new(now.clone())));
        }
    }

    /// The status with figures of this moment.
    fn now(&self) -> Status {
        self.status.send_modify(|status| {
            status.disk_here = platform::disk_taken(&self.places);
            status.memory_here = self.run.as_ref().and_then(|run| run.vmm.memory());
        });
        self.status.borrow().clone()
    }

    fn hear(&mut self, event: Event) {
        let of_run = self.run.as_ref().map(|run| run.number);
        match event {
            Event::Image(Ok(chosen)) => {
                self.status.send_modify(|status| status.image = Some(chosen.image.manifest.digest.clone()));
                self.warn(chosen.warning.clone());
                self.chosen = Some(chosen);
                self.fact(Fact::Done(Stage::Image));
            }
            Event::Image(Err(error)) => self.failed(Stage::Image, &error),
            Event::Disk(Ok(())) => self.fact(Fact::Done(Stage::Disk)),
            Event::Disk(Err(error)) => self.failed(Stage::Disk, &error),
            Event::Hypervisor(Ok(prepared)) => self.has_vmm(*prepared),
            Event::Hypervisor(Err(error)) => self.has_no_vmm(&error),
            Event::Ended { run, how } if run == self.runs => self.vmm_gone(how),
            Event::Heard { run, heard } if of_run == Some(run) => self.hear_guest(heard),
            Event::Saved { run, outcome } if of_run == Some(run) => self.has_saved(outcome),
            Event::Stuck { run, error } if of_run == Some(run) => self.is_stuck(&error),
            Event::Ended { .. } | Event::Heard { .. } | Event::Saved { .. } | Event::Stuck { .. } => {}
            Event::Resized { run, memory, disk, answer } => {
                self.resized(of_run == Some(run), memory, disk, answer);
            }
            Event::Called(client) => self.called(client),
            Event::PortCalled => drop(self.feed(Input::Request(Request::Start(Mode::Normal)))),
            Event::Ports { open, warnings } => self.hear_of_ports(open, warnings),
        }
    }

    fn has_vmm(&mut self, prepared: Prepared) {
        self.warn(prepared.warnings);
        self.is_emulated = prepared.acceleration == Acceleration::Tcg;
        self.status.send_modify(|status| {
            status.pid = Some(prepared.run.vmm.pid());
            prepared.acceleration.name().clone_into(&mut status.acceleration);
        });
        self.tell_warnings();
        self.vsock.send_replace(Some(Arc::clone(&prepared.run.devices.vsock)));
        let is_wanted = matches!(self.state, State::Starting { stage: Stage::Hypervisor, .. });
        let run = self.run.insert(prepared.run);
        run.hear(prepared.greeted, self.events.clone());
        if is_wanted {
            self.fact(Fact::Done(Stage::Hypervisor));
        } else {
            // It was given up while it was being started.
            run.vmm.kill();
        }
    }

    fn has_no_vmm(&mut self, error: &anyhow::Error) {
        self.failed(Stage::Hypervisor, error);
        // What follows waits for a program that never was.
        self.vmm_gone("it was not started".to_owned());
    }

    fn vmm_gone(&mut self, how: String) {
        let has_previous = self.has_previous();
        // Emulated processors trip over code that a kernel changes as it boots; the next boot mostly does not.
        let is_starting = matches!(self.state, State::Starting { .. });
        let is_flaky = is_starting && self.is_emulated && !std::mem::replace(&mut self.was_flaky, true);
        if is_flaky {
            let said = crate::console::last_of(&self.places.console(), CONSOLE_LINES);
            tracing::warn!(how, said, "the machine ended by itself");
        }
        self.fact(Fact::VmmGone { how, has_previous, is_flaky });
    }

    /// Whether the image is newer than one that worked.
    fn has_previous(&self) -> bool {
        self.chosen.as_ref().is_some_and(|chosen| chosen.has_previous)
    }

    fn hear_guest(&mut self, heard: Heard) {
        match heard {
            Heard::Hello { kernel, uptime_ms, number, guest } => {
                self.greeted(kernel, uptime_ms, number, guest);
            }
            Heard::Stranger { version, release } => {
                let cause = format!(
                    "the guest's agent (release {release}) speaks version {version} of the machine's protocol, this program \
                     {}: use a guest image of this release",
                    vm_proto::VERSION
                );
                self.is_stranger = true;
                self.failed(Stage::Kernel, &anyhow::anyhow!(cause));
            }
            Heard::Gone(_) if std::mem::take(&mut self.hangs_up) => {}
            Heard::Gone(why) => self.guest_gone(&why),
            Heard::Word(word) => self.hear_word(word),
        }
    }

    fn hear_word(&mut self, word: FromGuest) {
        match word {
            FromGuest::Done { step } => {
                if step == Step::Shares {
                    self.tell_changes_again();
                }
                self.fact(Fact::Done(stage_of(step)));
            }
            FromGuest::Failed { step, cause } => self.failed(stage_of(step), &anyhow::anyhow!(cause)),
            FromGuest::Progress { detail, .. } => self.status.send_modify(|status| status.detail = detail),
            FromGuest::Warning { text, .. } => {
                if self.start_warnings.len() < WARNINGS && !self.start_warnings.contains(&text) {
                    self.start_warnings.push(text);
                    self.tell_warnings();
                }
            }
            FromGuest::EngineEnded { how, tail } => {
                tracing::warn!(how, tail, "the engine ended and is started again");
                self.status.send_modify(|status| {
                    status.detail = format!("the engine ended ({how}) and is started again");
                });
            }
            FromGuest::EngineBack => self.status.send_modify(|status| status.detail.clear()),
            FromGuest::Listening { sockets } => {
                if let Some(run) = &self.run {
                    run.listening.send_replace(Some(sockets));
                }
            }
            FromGuest::Report(report) => {
                let difference = Duration::from_nanos(report.clock_ns.abs_diff(clock::now()));
                if difference > clock::DRIFT {
                    self.say(FromHost::SetTime { nanoseconds: clock::now() });
                }
                let clients = self.run.as_ref().map_or(0, |run| run.devices.vsock.connections(port::ENGINE));
                self.look_idle(report.containers_run || clients > 0);
                self.look_at_memory(&report);
                self.status.send_modify(|status| status.report = Some(report));
                self.now();
                self.answer_waiting();
            }
            FromGuest::Ready if self.keeps_template() => {}
            FromGuest::Ready => {
                self.hangs_up = true;
                self.fact(Fact::GuestIsReady);
            }
            FromGuest::NotReady { cause } => self.is_not_ready(&cause),
            FromGuest::Bye => tracing::info!("the guest has everything on disk"),
            FromGuest::Hello { .. } => {}
        }
    }

    fn failed(&mut self, stage: Stage, error: &anyhow::Error) {
        let has_previous = self.has_previous();
        tracing::error!(stage = stage.name(), "{error:#}");
        if self.boots_instead(stage) {
            return;
        }
        self.fact(Fact::Failed { stage, cause: format!("{error:#}"), has_previous });
    }

    fn is_late(&mut self) {
        self.deadline = None;
        match self.state {
            State::Starting { stage, .. } => {
                let cause = format!("nothing was heard for {} s", stage.deadline(self.is_emulated).as_secs());
                self.failed(stage, &anyhow::anyhow!(cause));
            }
            State::Sleeping => self.is_not_ready("nothing was heard of the guest"),
            _ => self.fact(Fact::StopIsLate),
        }
    }

    fn fact(&mut self, fact: Fact) {
        // Facts are never refused.
        let _ = self.feed(Input::Fact(fact));
    }

    fn feed(&mut self, input: Input) -> Result<(), lifecycle::Refusal> {
        if let (Input::Fact(Fact::Done(done)), State::Starting { stage, .. }) = (&input, &self.state)
            && done == stage
        {
            let took = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.status.send_modify(|status| status.took.push((*stage, took)));
        }
        let (next, actions) = lifecycle::decide(&self.state, input)?;
        if next != self.state {
            tracing::info!(state = ?next, "the machine");
        }
        self.state = next;
        for action in actions {
            self.act(action);
        }
        self.tell();
        Ok(())
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Begin(stage) => self.begin(stage),
            Action::KeepImage => self.keep_image(),
            Action::UsePreviousImage => self.use_previous_image(),
            Action::AskToPowerOff if self.room.is_stopped() => {
                // It has no room to write to. What it has acknowledged is on its disk.
                if let Some(run) = &self.run {
                    run.vmm.kill();
                }
            }
            Action::AskToPowerOff => {
                self.say(FromHost::Shutdown);
                self.deadline = Some(Deadline::now() + STOP_DEADLINE);
            }
            Action::AskToSleep => {
                self.status.send_modify(|status| status.detail.clear());
                if let Some(run) = &self.run {
                    run.devices.stop_telling_changes();
                }
                self.say(FromHost::Sleep);
                self.deadline = Some(Deadline::now() + READY_DEADLINE);
            }
            Action::Save => self.save(),
            Action::Wake => {
                self.say(FromHost::Wake);
                self.tell_changes_again();
            }
            Action::AwaitCall => self.await_call(),
            Action::DropSaved => {
                if let Err(error) = vm_manager::saved::forget(&self.places, Moment::Sleep) {
                    tracing::error!(%error, "failed to forget the saved state");
                }
            }
            Action::KillVmm => {
                self.deadline = None;
                // One that is still being started is ended when it is there.
                if let Some(run) = &self.run {
                    run.vmm.kill();
                }
            }
            Action::ClearUp => {
                self.deadline = None;
                self.room = Room::default();
                self.vsock.send_replace(None);
                self.hangs_up = false;
                self.forget_unproven_template();
                if let Some(run) = self.run.take() {
                    run.clear_up();
                }
                self.clear_up_ports();
                self.status.send_modify(|status| {
                    status.pid = None;
                    status.report = None;
                    status.memory_here = None;
                });
            }
            Action::End => self.is_over = true,
        }
    }

    fn begin(&mut self, stage: Stage) {
        self.began = Instant::now();
        let deadline = match (stage, &self.saved) {
            (Stage::Hypervisor, Some(_)) => WAKE_DEADLINE,
            // It has booted before.
            (Stage::Kernel, _) if self.begins_from_template() => stage.deadline(false),
            _ => stage.deadline(self.is_emulated),
        };
        self.deadline = Some(Deadline::now() + deadline);
        if stage == Stage::Image {
            // One that sleeps is rescued by its disk, which is as a power cut would leave it.
            let goes_on = matches!(self.state, State::Starting { mode: Mode::Normal, .. });
            self.saved = goes_on.then(|| Record::read(&self.places, Moment::Sleep)).flatten();
        }
        // One that sleeps is what it was: what was changed meanwhile holds from its next start on.
        let config = self.saved.as_ref().map_or(&self.config, |saved| &saved.config).clone();
        let (places, events) = (self.places.clone(), self.events.clone());
        let is_new = self.has_previous();
        match stage {
            Stage::Image => {
                self.runs += 1;
                self.is_stranger = false;
                // A machine that sleeps and wakes has many starts. One that is begun once more is still the same.
                if !self.was_flaky {
                    self.start_warnings.clear();
                }
                self.status.send_modify(|status| status.took.clear());
                let (images, saved) = (self.images.clone(), self.saved.clone());
                let choose = move || match saved {
                    Some(saved) => preparation::image_of_saved(&saved, &places),
                    None => preparation::choose_image(&config, &places, &images),
                };
                self.blocking(move || Event::Image(choose()), events);
            }
            Stage::Disk => {
                let Some(Chosen { image, .. }) = self.chosen.clone() else { return };
                let prepare = move || platform::prepare_disk(&config, &places, &image, is_new);
                self.blocking(move || Event::Disk(prepare()), events);
            }
            Stage::Hypervisor => {
                let Some(chosen) = self.chosen.clone() else { return };
                let (number, saved) = (self.runs, self.saved.clone());
                // What it may spoil is no fault of the image's, nor a second time this machine's.
                let may_use_template = matches!(self.state, State::Starting { mode: Mode::Normal, .. })
                    && !self.was_flaky
                    && !is_new;
                let image = chosen.image;
                let beginning = Beginning { config, places, image, number, saved, may_use_template };
                let back = events.clone();
                let work = move || Event::Hypervisor(run::start(&beginning, &back).map(Box::new));
                self.blocking(work, events);
            }
            Stage::Kernel | Stage::Agent | Stage::Shares => {}
            Stage::Network => {
                if let Some(run) = &self.run {
                    run.tell_changes();
                }
            }
            Stage::Engine => self.open_engine(),
        }
    }

    /// Runs something that blocks beside the task, which hears how it went.
    #[expect(clippy::unused_self, reason = "what is begun is the machine's")]
    fn blocking(&self, work: impl FnOnce() -> Event + Send + 'static, events: mpsc::Sender<Event>) {
        tokio::task::spawn_blocking(move || {
            // The machine may be over.
            let _ = events.blocking_send(work());
        });
    }

    /// The engine's socket is there as soon as the engine may be: a client that is early waits for it.
    fn open_engine(&mut self) {
        let State::Starting { mode: Mode::Normal, .. } = self.state else { return };
        if let Some(asleep) = self.asleep.take() {
            asleep.cancel();
        }
        let listener = match self.listener() {
            Ok(listener) => listener,
            Err(error) => return self.failed(Stage::Engine, &error),
        };
        let Some(run) = &mut self.run else { return };
        for client in self.callers.drain(..) {
            engine::connect(&run.devices.vsock, client, port::ENGINE);
        }
        let opened = run.open_engine(listener, &self.places, &self.ports);
        if let Err(error) = opened {
            self.failed(Stage::Engine, &error);
        }
    }

    /// The engine's socket on the host. It stays for as long as we do: who connects while nobody accepts waits.
    fn listener(&mut self) -> Result<Arc<engine::Listener>> {
        if let Some(listener) = &self.engine {
            return Ok(Arc::clone(listener));
        }
        let listener = Arc::new(engine::Listener::new(engine::listen(&self.places.engine())?));
        Ok(Arc::clone(self.engine.insert(listener)))
    }

    fn keep_image(&mut self) {
        if let Some(run) = &mut self.run {
            run.template = Template::None;
        }
        let Some(chosen) = &self.chosen else { return };
        let kept = vm_manager::image::Record::read(&self.places).and_then(|mut record| {
            record.keep(&chosen.image.manifest.digest);
            record.write(&self.places)
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "failed to note the image that works");
        }
        let (Some(data), Some(run)) = (self.places.data.parent(), self.places.run.parent()) else { return };
        let folders = Folders { data: data.to_owned(), run: run.to_owned() };
        tokio::task::spawn_blocking(move || match vm_manager::image::sweep(&folders) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(?gone, "removed guest images that no machine uses"),
            Err(error) => tracing::warn!(%error, "failed to remove guest images that no machine uses"),
        });
    }

    fn use_previous_image(&mut self) {
        let Some(chosen) = self.chosen.take() else { return };
        let noted = vm_manager::image::Record::read(&self.places).and_then(|mut record| {
            record.failed = Some(chosen.image.manifest.digest.clone());
            record.write(&self.places)
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "failed to note the image that does not work");
        }
    }

    /// Takes note of warnings of this start, each once.
    fn warn(&mut self, warnings: impl IntoIterator<Item = String>) {
        for warning in warnings {
            if !self.start_warnings.contains(&warning) {
                self.start_warnings.push(warning);
            }
        }
    }

    fn tell_warnings(&mut self) {
        let room = self.room.warning(&self.places);
        let all: Vec<String> =
            self.start_warnings.iter().chain(&self.port_warnings).cloned().chain(room).collect();
        self.status.send_if_modified(|status| {
            let is_new = status.warnings != all;
            status.warnings = all;
            is_new
        });
    }

    fn tell(&mut self) {
        if matches!(self.state, State::Running { .. }) {
            self.deadline = None;
            self.was_flaky = false;
        }
        self.tell_warnings();
        let (phase, stage) = match &self.state {
            State::Stopped => (Phase::Stopped, None),
            State::Starting { stage, .. } => (Phase::Starting, Some(*stage)),
            State::Running { mode: Mode::Normal } => (Phase::Running, None),
            State::Running { mode: Mode::Rescue } => (Phase::Rescue, None),
            State::Sleeping | State::Stopping { then: Then::Sleep } => (Phase::FallingAsleep, None),
            State::Asleep => (Phase::Asleep, None),
            State::Stopping { .. } => (Phase::Stopping, None),
            State::Failed { stage, .. } => (Phase::Failed, *stage),
        };
        let failure = match &self.state {
            State::Failed { stage, cause } => Some(self.failure(*stage, cause)),
            _ => None,
        };
        self.status.send_modify(|status| {
            status.phase = phase;
            status.stage = stage;
            status.failure = failure;
        });
    }

    fn failure(&self, stage: Option<Stage>, cause: &str) -> Failure {
        let has_previous = self.has_previous();
        let console = crate::console::last_of(&self.places.console(), CONSOLE_LINES);
        // An image of another release is not mended by another kind of machine.
        let stage_of_remedy =
            if self.is_stranger && !has_previous { Stage::Image } else { stage.unwrap_or(Stage::Engine) };
        let remedy = stage_of_remedy.remedy(&self.places.name, self.config.backend, has_previous);
        Failure { stage, cause: cause.to_owned(), console, remedy }
    }

    /// How it stood at the end, for whoever asks when nobody answers any more.
    fn keep_status(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.now())?;
        for socket in [self.places.control(), self.places.engine()] {
            let _ = ipc::clear(&socket);
        }
        let path = self.places.last_status();
        let written = stdx::fs::write_atomic(&path, &text, stdx::fs::Durability::Process);
        written.with_context(|| format!("failed to write {}", path.display()))
    }
}

async fn sleep_until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn stage_of(step: Step) -> Stage {
    match step {
        Step::Disk => Stage::Agent,
        Step::Shares => Stage::Shares,
        Step::Network => Stage::Network,
        Step::Engine => Stage::Engine,
    }
}
