//! One run of a machine: what there is from the hypervisor's stage to the end of its program.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vm_manager::backend::{self, Acceleration};
use vm_manager::config::Config;
use vm_manager::image::Image;
use vm_manager::places::Places;
use vm_manager::saved::{self, Moment, Record};
use vm_proto::message::{Configuration, Listener, Mode, WayOut};
use vm_proto::port;

use super::Event;
use crate::balloon::Balloon;
use crate::guest::{self, Guest};
use crate::platform::{self, Accepted, Devices, Made, Saving, Started, Vmm, resolver};
use crate::ports::Ports;
use crate::{clock, engine, loopback, ssh_agent, trust};

/// Words of a guest on their way.
const WAITING: usize = 64;
/// Bytes of entropy that a guest is given: as many as its generator's key has.
const ENTROPY: usize = 32;
/// How long a program that was killed may take to be gone.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

/// Everything of a run; dropped when its program is gone.
#[derive(Debug)]
pub(crate) struct Run {
    /// Which start this is.
    pub(crate) number: u64,
    pub(crate) vmm: Vmm,
    pub(crate) devices: Devices,
    /// Its agent, once it has said hello.
    pub(crate) guest: Option<Guest>,
    /// One that greeted while it was thought to be falling asleep.
    pub(crate) early: Option<Guest>,
    /// How often it has said so.
    greetings: u64,
    /// What the guest listens on, once it has told.
    pub(crate) listening: watch::Sender<Option<Vec<Listener>>>,
    /// What it takes to save it, where that can be done.
    pub(crate) saving: Option<Saving>,
    pub(crate) template: Template,
    /// What of its memory it is to keep to, where unused pages do not go back by themselves.
    pub(crate) balloon: Option<Balloon>,
    network: Option<WayOut>,
    /// The tag of the share that holds Rosetta.
    rosetta: Option<String>,
    has_ssh_agent: bool,
    /// Those of this computer that the guest is to trust.
    certificates: String,
    /// What serves the engine's clients, and the ports of containers.
    open: Option<CancellationToken>,
    /// Which resolver the guest is to ask.
    pub(crate) resolver: resolver::Watch,
    cancelled: CancellationToken,
}

/// How a run stands to the state of a guest that has just booted, from which later starts begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Template {
    /// It has none to do with it.
    None,
    /// It boots, and its state is to be kept as soon as it has.
    Wanted,
    /// The guest makes itself ready for that.
    Asked,
    /// It was kept in this run, or this run began from it: should the start fail, it may be why.
    Unproven,
}

/// A run, and what is to be told of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) run: Run,
    /// Connections of guests that greet, to be heard out ([`Run::hear`]) once the run is known: a guest may be quicker.
    pub(crate) greeted: mpsc::Receiver<Accepted>,
    pub(crate) acceleration: Acceleration,
    pub(crate) warnings: Vec<String>,
}

/// What a run begins with.
#[derive(Debug, Clone)]
pub(crate) struct Beginning {
    pub(crate) config: Config,
    pub(crate) places: Places,
    pub(crate) image: Image,
    pub(crate) number: u64,
    /// What was saved of it, if it is to go on from there.
    pub(crate) saved: Option<Record>,
    /// It may begin from the state of a guest that has just booted, or leave one.
    pub(crate) may_use_template: bool,
}

/// Serves the devices and starts the program, from a saved state if there is one that fits. Blocks.
pub(crate) fn start(beginning: &Beginning, events: &mpsc::Sender<Event>) -> Result<Prepared> {
    let Beginning { config, places, saved, may_use_template, .. } = beginning;
    config.check()?;
    let record = platform::record(beginning)?;
    if let Some(saved) = saved {
        let woken = platform::check(saved, &record)
            .and_then(|()| launch(beginning, record.clone(), Origin::Saved(Moment::Sleep), events));
        return woken.or_else(|error| {
            if let Err(left) = saved::forget(places, Moment::Sleep) {
                // What is out of use may stay; what is not would be gone on from, after all that is to come.
                if Moment::Sleep.folder(places).exists() {
                    return Err(left.into());
                }
                tracing::warn!(error = %left, "what was saved is left, out of use");
            }
            let mut prepared = launch(beginning, record, Origin::Boot, events)?;
            let warning = format!(
                "it could not go on from where it fell asleep, and started anew, as after a power cut: {error:#}"
            );
            prepared.warnings.push(warning);
            Ok(prepared)
        });
    }
    // A processor that is real boots in less time than it takes to save.
    let can_be_saved = backend::capabilities(config.backend).saves;
    let uses_template = can_be_saved && *may_use_template && record.acceleration == Acceleration::Tcg;
    let kept = Record::read(places, Moment::Boot).filter(|_| uses_template);
    if kept.is_some_and(|kept| kept == record.of_boot()) {
        match launch(beginning, record.clone(), Origin::Saved(Moment::Boot), events) {
            Ok(mut prepared) => {
                tracing::info!("it begins from the state after a boot");
                prepared.run.template = Template::Unproven;
                return Ok(prepared);
            }
            Err(error) => {
                tracing::warn!("it can't begin from the state after a boot, and boots: {error:#}");
                saved::forget(places, Moment::Boot)?;
            }
        }
    }
    let mut prepared = launch(beginning, record, Origin::Boot, events)?;
    if uses_template {
        prepared.run.template = Template::Wanted;
    }
    Ok(prepared)
}

/// What a machine begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Boot,
    Saved(Moment),
}

fn launch(
    beginning: &Beginning,
    record: Record,
    origin: Origin,
    events: &mpsc::Sender<Event>,
) -> Result<Prepared> {
    let Beginning { config, places, number, .. } = beginning;
    // Each start's console is told apart from those before.
    let _ = std::fs::rename(places.console(), places.console().with_extension("log.old"));
    let acceleration = record.acceleration;
    let Made { making, devices, network, rosetta, resolver, mut warnings } =
        platform::make(beginning, record, origin)?;
    let cancelled = CancellationToken::new();
    let (greetings, greeted) = mpsc::channel(4);
    devices.vsock.listen(port::CONTROL, move |stream| {
        // A guest that greets many times at once is not heard more often.
        let _ = greetings.try_send(stream);
    });
    let runtime = tokio::runtime::Handle::current();
    let has_ssh_agent = config.ssh_agent && {
        let serve = ssh_agent::serve(&devices.vsock)
            .map(|serve| drop(runtime.spawn(cancelled.clone().run_until_cancelled_owned(serve))))
            .map_err(|error| warnings.push(format!("the machine has no SSH agent: {error:#}")));
        serve.is_ok()
    };
    if network == Some(WayOut::Asked) {
        runtime.spawn(cancelled.clone().run_until_cancelled_owned(loopback::serve(&devices.vsock)));
    }
    let (ended, end) = End::watch(*number, events.clone(), origin == Origin::Boot);
    let Started { vmm, saving, waking } = making.start(&devices, ended)?;
    if let Some(waking) = waking {
        end.count_if(waking.wake(), &vmm, places)?;
    }
    // The guest has yet to say hello: nobody waits for this.
    let certificates = trust::certificates();
    let needs_balloon = saving.is_some() && !backend::capabilities(config.backend).gives_memory_back;
    let run = Run {
        number: *number,
        vmm,
        devices,
        guest: None,
        early: None,
        greetings: 0,
        listening: watch::Sender::new(None),
        saving,
        template: Template::None,
        balloon: needs_balloon.then(|| Balloon::new(config.memory)),
        network,
        rosetta,
        has_ssh_agent,
        certificates,
        open: None,
        resolver,
        cancelled,
    };
    Ok(Prepared { run, greeted, acceleration, warnings })
}

/// The end of a program. That of one which could not be woken is not its run's: there is another try.
struct End {
    counts: Arc<Mutex<bool>>,
    is_gone: std::sync::mpsc::Receiver<()>,
}

impl End {
    /// What is to be told when the program ends, and in how far that counts.
    fn watch(
        run: u64,
        events: mpsc::Sender<Event>,
        counts: bool,
    ) -> (impl FnOnce(String) + Send + 'static, Self) {
        let (gone, is_gone) = std::sync::mpsc::channel();
        let counts = Arc::new(Mutex::new(counts));
        let counted = Arc::clone(&counts);
        let ended = move |how| {
            let counts = counted.lock().unwrap_or_else(PoisonError::into_inner);
            if *counts {
                let _ = events.blocking_send(Event::Ended { run, how });
            }
            let _ = gone.send(());
        };
        (ended, Self { counts, is_gone })
    }

    /// Has it count from now on, if the program was woken. Else it is gone when this returns.
    fn count_if(&self, woken: Result<()>, vmm: &Vmm, places: &Places) -> Result<()> {
        let has_ended = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let has_ended = self.is_gone.try_recv().is_ok();
            *counts = woken.is_ok() && !has_ended;
            has_ended
        };
        let woken = if has_ended { woken.and_then(|()| bail!("it ended")) } else { woken };
        woken.map_err(|error| {
            vmm.kill();
            if !has_ended {
                // The disk is its until it is gone.
                let _ = self.is_gone.recv_timeout(GONE_DEADLINE);
            }
            let said = crate::console::last_of(&places.console(), 3);
            if said.is_empty() { error } else { error.context(said) }
        })
    }
}

/// What only this start knows; none where the system has none, and then the guest does not start.
fn entropy() -> Vec<u8> {
    let mut bytes = vec![0; ENTROPY];
    if getrandom::fill(&mut bytes).is_ok() { bytes } else { Vec::new() }
}

impl Run {
    /// Hears out whoever greets, one after another, until it ends.
    pub(crate) fn hear(&self, mut greeted: mpsc::Receiver<Accepted>, events: mpsc::Sender<Event>) {
        let (run, cancelled) = (self.number, self.cancelled.clone());
        let hear = async move {
            while let Some(stream) = greeted.recv().await {
                let Ok(stream) = platform::accepted(stream) else { continue };
                let (sender, mut heard) = mpsc::channel(WAITING);
                let converse = guest::converse(stream, sender, cancelled.clone());
                let pass_on = async {
                    while let Some(heard) = heard.recv().await {
                        let _ = events.send(Event::Heard { run, heard }).await;
                    }
                };
                tokio::join!(converse, pass_on);
            }
        };
        tokio::runtime::Handle::current().spawn(self.cancelled.clone().run_until_cancelled_owned(hear));
    }

    /// Whether its kernel is no longer the one that it began with: there are machines that go on when a guest resets
    /// them, with everything lost that was in memory.
    pub(crate) fn has_begun_anew(&mut self, number: u64) -> bool {
        let before = std::mem::replace(&mut self.greetings, number);
        number <= before
    }

    /// What the guest is to be.
    pub(crate) fn configuration(&self, name: &str, mode: Mode) -> Configuration {
        let host = self.network.as_ref().map(|way_out| match way_out {
            WayOut::Told(network) => network.gateway.to_string(),
            WayOut::Asked => trust::HOST.to_owned(),
        });
        Configuration {
            hostname: name.to_owned(),
            nanoseconds: clock::now(),
            mode,
            shares: self.devices.shares.clone(),
            network: self.network.clone(),
            certificates: self.certificates.clone(),
            ssh_agent: self.has_ssh_agent,
            loopback: self.network == Some(WayOut::Asked),
            drives: platform::HAS_DRIVES,
            rosetta: self.rosetta.clone(),
            proxies: trust::proxies(host.as_deref()),
            entropy: entropy(),
        }
    }

    /// Serves the engine's socket on the host, and the ports of its containers.
    pub(crate) fn open_engine(
        &mut self,
        listener: Arc<engine::Listener>,
        places: &Places,
        ports: &Ports,
    ) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let own = ipc::address(&places.run, "own");
        let listener_of_own = Arc::new(engine::Listener::new(engine::listen(&own)?));
        let open = self.open.insert(self.cancelled.child_token()).clone();
        let serve = engine::serve(listener, Arc::clone(&self.devices.vsock), port::ENGINE);
        let runtime = tokio::runtime::Handle::current();
        runtime.spawn(open.clone().run_until_cancelled_owned(serve));
        // What we ask is no client that would keep the machine awake.
        let serve = engine::serve(listener_of_own, Arc::clone(&self.devices.vsock), port::ENGINE_OWN);
        runtime.spawn(open.clone().run_until_cancelled_owned(serve));
        ports.lead_in(Arc::clone(&self.devices.vsock));
        let carry = ports.clone().carry(own, self.listening.subscribe());
        runtime.spawn(open.run_until_cancelled_owned(carry));
        Ok(())
    }

    /// Whether the engine's clients are served.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Lets nobody in any more: clients wait, those of the ports of containers as well.
    pub(crate) fn close_engine(&mut self, ports: &Ports) {
        ports.hold_back();
        if let Some(open) = self.open.take() {
            open.cancel();
        }
    }

    /// Lets the guest hear of changes in its shares.
    pub(crate) fn tell_changes(&self) {
        self.devices.tell_changes(&self.cancelled);
    }

    /// Ends what goes on beside it.
    pub(crate) fn clear_up(self) {
        self.cancelled.cancel();
    }
}
