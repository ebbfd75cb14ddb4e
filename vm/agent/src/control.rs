//! The conversation with the host: hello, becoming what it wants, and what happens afterwards.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use vm_proto::message::{Configuration, FromGuest, FromHost, Listener, Mode, Network, Step, WayOut};
use vm_proto::{frame, port};

use crate::boot::Booted;
use crate::channel::{self, Channel, Stream};
use crate::children::Children;
use crate::clients::Clients;
use crate::engine::{self, Event};
use crate::{
    clock, disk, listeners, loopback, network, pressure, report, resolver, room, rosetta, shares, streams,
    system, tell,
};

/// How often sockets that listen are looked for.
const LISTENERS_EVERY: Duration = Duration::from_secs(1);
/// How long the host is waited for: a device may appear late.
const HOST_DEADLINE: Duration = Duration::from_secs(30);
/// How soon a host that has hung up is greeted again.
const AGAIN: Duration = Duration::from_millis(20);
/// How often the host is told that the clock was set.
const CLOCK_EVERY: Duration = Duration::from_millis(100);
/// Words on their way to the host.
const WAITING: usize = 64;

/// Everything after the boot; returns when the guest is to be powered off.
pub(crate) async fn run(booted: Booted) -> Result<()> {
    let channel = booted.channel();
    let children = Children::default();
    beside("reaping", children.clone().reap());
    let (tell_host, words) = mpsc::channel(WAITING);
    let (connected, ways) = mpsc::channel(1);
    beside("speaking to the host", write_words(ways, words));
    let guest = Guest {
        children,
        tell_host,
        stop: watch::Sender::new(false),
        woken: Arc::default(),
        addresses: OnceLock::new(),
        clients: streams::for_clients(channel)?,
        is_inside: booted.is_inside(),
        sharing: booted.sharing()?,
        channel,
    };
    let mut greetings = 0;
    let met = meet(channel, &connected, &mut greetings, HOST_DEADLINE).await?;
    let Some((mut host, mut configuration)) = met else { return Ok(()) };
    beside("the engine's port", streams::serve_host(channel.listen(port::ENGINE_OWN)?));
    let listener = channel.listen(port::STREAM)?;
    let clients = Clients::new(guest.children.clone(), guest.tell_host.clone(), guest.is_inside);
    beside("the streams' port", streams::serve_streams(listener, guest.children.clone(), clients));
    if configuration.ssh_agent {
        beside("the SSH agent's socket", streams::serve_ssh_agent(channel));
    }
    guest.become_what(&configuration, &booted).await;
    if guest.is_inside {
        // What listens beside is another's.
        guest.say(FromGuest::Listening { sockets: Vec::new() }).await;
    } else {
        guest.tell_listeners();
    }
    guest.tell_of_clock();
    if !guest.is_inside {
        guest.tell_of_pressure();
    }
    while guest.listen_to(&mut host, &configuration).await == Heard::Slept {
        // The host comes back when somebody wakes it: no time passes here until then.
        let met = meet(channel, &connected, &mut greetings, Duration::MAX).await?;
        let Some(met) = met else { return Ok(()) };
        (host, configuration) = met;
        guest.wake(&configuration).await;
    }
    guest.end().await;
    Ok(())
}

/// The host's end of the conversation.
struct Host {
    from: ReadHalf<Stream>,
    /// The same connection: where its device is taken away, the kernel tells of an error and not of an end, which
    /// wakes nobody who waits for something to read.
    broken: AsyncFd<OwnedFd>,
}

impl Host {
    async fn next(&mut self) -> Result<Option<FromHost>> {
        tokio::select! {
            biased;
            word = read(&mut self.from) => word,
            broken = self.broken.ready(Interest::ERROR) => {
                let _ = broken?;
                bail!("the connection to the host broke")
            }
        }
    }
}

/// Says hello, and is told what to be; `None` when it is nothing but to end.
async fn meet(
    channel: Channel,
    connected: &mpsc::Sender<WriteHalf<Stream>>,
    greetings: &mut u64,
    mut deadline: Duration,
) -> Result<Option<(Host, Configuration)>> {
    loop {
        *greetings += 1;
        // It is about to save the guest, and takes no calls until it has, or has not.
        let is_asleep = deadline == Duration::MAX;
        let stream = match greet(channel, *greetings, deadline).await {
            Err(_) if is_asleep => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            stream => stream?,
        };
        let broken = crate::sys::errors_of(channel::descriptor(&stream).try_clone_to_owned()?)?;
        let (from, mut to) = tokio::io::split(stream);
        let mut host = Host { from, broken };
        let word = match host.next().await {
            Ok(None) | Err(_) if is_asleep => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            word => word?.context("the host hung up")?,
        };
        match word {
            FromHost::Welcome(configuration) => {
                connected.send(to).await.context("nobody speaks to the host any more")?;
                return Ok(Some((host, *configuration)));
            }
            FromHost::WrongVersion { version } => {
                tell(format_args!(
                    "cove-agent: the host speaks version {version}, this is {}",
                    vm_proto::VERSION
                ));
                wait_for_end(&mut host.from).await?;
                return Ok(None);
            }
            FromHost::Sleep => {
                // What is only cached would be written, and read again at each start.
                system::drop_caches();
                to.write_all(&frame::encode(&FromGuest::Ready)?).await?;
                // The device goes, and comes back: here, or in another start.
                loop {
                    match host.next().await {
                        Ok(Some(FromHost::Shutdown)) => return Ok(None),
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break,
                    }
                }
                deadline = Duration::MAX;
            }
            FromHost::Shutdown => return Ok(None),
            other => bail!("the host began with {other:?}"),
        }
    }
}

/// Why no more is heard of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// It said the last word, or hung up.
    Last,
    /// The guest had made itself ready to be saved, and the host hung up or has it go on.
    Slept,
}

/// Runs something for as long as the guest runs.
fn beside(what: &'static str, work: impl Future<Output = Result<()>> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "it goes on for as long as the guest")]
    tokio::spawn(async move {
        if let Err(error) = work.await {
            tell(format_args!("cove-agent: {what} ended: {error:#}"));
        }
    });
}

async fn greet(channel: Channel, number: u64, deadline: Duration) -> Result<Stream> {
    let begin = Instant::now();
    let mut stream = loop {
        match channel.connect(port::CONTROL).await {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > deadline => {
                return Err(error).context("failed to reach the host");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let kernel = rustix::system::uname();
    let hello = FromGuest::Hello {
        version: vm_proto::VERSION,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.release().to_string_lossy().into_owned(),
        uptime_ms: report::uptime_ms(),
        number,
    };
    stream.write_all(&frame::encode(&hello)?).await?;
    Ok(stream)
}

async fn read(from: &mut ReadHalf<Stream>) -> Result<Option<FromHost>> {
    let mut head = [0; frame::HEAD];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let mut body = vec![0; frame::length(head, frame::HOST_MAX)?];
    from.read_exact(&mut body).await?;
    Ok(Some(frame::decode(&body)?))
}

async fn wait_for_end(from: &mut ReadHalf<Stream>) -> Result<()> {
    while !matches!(read(from).await?, None | Some(FromHost::Shutdown)) {}
    Ok(())
}

/// Writes to the newest way there is to the host; a word that could not be written waits for the next.
async fn write_words(
    mut ways: mpsc::Receiver<WriteHalf<Stream>>,
    mut words: mpsc::Receiver<FromGuest>,
) -> Result<()> {
    let Some(mut to) = ways.recv().await else { return Ok(()) };
    while let Some(word) = words.recv().await {
        let is_last = word == FromGuest::Bye;
        let bytes = frame::encode(&word)?;
        while let Ok(newer) = ways.try_recv() {
            to = newer;
        }
        while to.write_all(&bytes).await.is_err() {
            let Some(newer) = ways.recv().await else { return Ok(()) };
            to = newer;
        }
        if is_last {
            to.shutdown().await?;
        }
    }
    Ok(())
}

/// The guest, as far as the host cares.
struct Guest {
    children: Children,
    tell_host: mpsc::Sender<FromGuest>,
    stop: watch::Sender<bool>,
    /// It goes on after a sleep.
    woken: Arc<Notify>,
    /// Who keeps addresses that are had for a while is told of the same.
    addresses: OnceLock<Arc<Notify>>,
    /// Where the engine's clients connect.
    clients: OwnedFd,
    /// The machine is another's, and so are its network and what listens in it.
    is_inside: bool,
    /// How folders of the host are mounted.
    sharing: shares::Way,
    channel: Channel,
}

impl Guest {
    async fn say(&self, word: FromGuest) {
        // A host that is gone is noticed by who listens to it.
        let _ = self.tell_host.send(word).await;
    }

    /// Tells how a step ended.
    async fn tell_step(&self, step: Step, outcome: Result<()>) -> bool {
        let is_done = outcome.is_ok();
        self.say(match outcome {
            Ok(()) => FromGuest::Done { step },
            Err(error) => FromGuest::Failed { step, cause: format!("{error:#}") },
        })
        .await;
        is_done
    }

    /// Disk, shares, network, engine, each told as it stands. After a failure the guest waits to be looked at.
    async fn become_what(&self, wanted: &Configuration, booted: &Booted) {
        // Without it, this start may draw what another has.
        if let Err(error) = system::add_entropy(&wanted.entropy) {
            self.tell_step(Step::Disk, Err(error)).await;
            return;
        }
        for outcome in [
            system::set_time(wanted.nanoseconds),
            system::set_hostname(&wanted.hostname),
            system::trust(&wanted.certificates),
            network::bring_loopback_up(),
        ] {
            if let Err(error) = outcome {
                tell(format_args!("cove-agent: {error:#}"));
            }
        }
        let mounted = match booted.option("data") {
            Some(device) => disk::mount_data(device, wanted.mode, &self.children).await.map(|_| ()),
            // It is in the system's own.
            None if self.is_inside => Ok(()),
            None => Err(anyhow!("the kernel's command line names no cove.data")),
        };
        if !self.tell_step(Step::Disk, mounted).await {
            return;
        }
        self.mount_shares(wanted).await;
        let network = self.open_network(wanted).await;
        self.tell_step(Step::Network, Ok(())).await;
        match wanted.mode {
            Mode::Normal => {
                if let Err(error) = self.start_engine(wanted, network.as_ref()) {
                    let _ = self.tell_step(Step::Engine, Err(error.into())).await;
                }
            }
            Mode::Rescue => drop(self.tell_step(Step::Engine, Ok(())).await),
        }
    }

    /// Makes the one interface what it is to be. Without a way out the guest is one all the same.
    async fn open_network(&self, wanted: &Configuration) -> Option<Network> {
        let mut network = wanted.network.as_ref().and_then(WayOut::told).cloned();
        if let Some(way_out) = &wanted.network {
            match network::configure(way_out).await {
                Ok(configured) => {
                    if wanted.loopback {
                        self.reach_loopback(configured.network.gateway).await;
                    }
                    network = Some(configured.network);
                    if let Some(keeper) = configured.keeper {
                        let _ = self.addresses.set(Arc::clone(&keeper.woken));
                        beside("keeping the address", keeper.keep());
                    }
                }
                Err(error) => {
                    self.say(FromGuest::Warning { step: Step::Network, text: format!("{error:#}") }).await;
                }
            }
        }
        if self.is_inside {
            network = network::found();
        }
        complain(resolver::name_host(&wanted.hostname, network.as_ref()));
        network
    }

    /// Has the host's loopback answer where its address on the network does.
    async fn reach_loopback(&self, gateway: Ipv4Addr) {
        match loopback::listen(gateway, &self.children).await {
            Ok(listener) => {
                let serve = loopback::serve(listener, gateway, self.channel);
                beside("carrying to the host's loopback", serve);
            }
            Err(error) => {
                let text =
                    format!("host.docker.internal does not lead to this computer's loopback: {error:#}");
                self.say(FromGuest::Warning { step: Step::Network, text }).await;
            }
        }
    }

    fn start_engine(&self, wanted: &Configuration, network: Option<&Network>) -> io::Result<()> {
        let (sender, mut events) = mpsc::channel(WAITING);
        let settings = engine::Settings {
            environment: wanted.proxies.clone(),
            host: network.into_iter().flat_map(resolver::host_addresses).collect(),
            clients: self.clients.try_clone()?,
            has_drives: wanted.drives,
        };
        let (children, stop, tell_host) =
            (self.children.clone(), self.stop.subscribe(), self.tell_host.clone());
        beside("the engine", async move {
            let keep = engine::keep(children, settings, sender, stop);
            let tell = async {
                while let Some(event) = events.recv().await {
                    let word = match event {
                        Event::Ready => FromGuest::Done { step: Step::Engine },
                        Event::Failed(cause) => FromGuest::Failed { step: Step::Engine, cause },
                        Event::Ended { how, tail } => FromGuest::EngineEnded { how, tail },
                        Event::Back => FromGuest::EngineBack,
                    };
                    let _ = tell_host.send(word).await;
                }
            };
            tokio::join!(keep, tell);
            Ok(())
        });
        Ok(())
    }

    fn tell_listeners(&self) {
        let (tell_host, woken) = (self.tell_host.clone(), Arc::clone(&self.woken));
        beside("looking for listeners", async move {
            let mut known: Option<Vec<Listener>> = None;
            loop {
                let now = listeners::look();
                // None at all is told, too: the host keeps those of before a sleep until it knows.
                if known.as_ref() != Some(&now) {
                    known = Some(now.clone());
                    tell_host.send(FromGuest::Listening { sockets: now }).await?;
                }
                tokio::select! {
                    () = tokio::time::sleep(LISTENERS_EVERY) => {}
                    // The host knows of none any more.
                    () = woken.notified() => known = None,
                }
            }
        });
    }

    /// Shows the host each clock that was set; it sets a wrong one right.
    fn tell_of_clock(&self) {
        let tell_host = self.tell_host.clone();
        beside("watching the clock", async move {
            let watch = Arc::new(clock::Watch::new()?);
            loop {
                let waiting = Arc::clone(&watch);
                tokio::task::spawn_blocking(move || waiting.wait()).await??;
                tell_host.send(FromGuest::Report(report::look(engine::runs().await))).await?;
                // Somebody who sets it all the time is no flood.
                tokio::time::sleep(CLOCK_EVERY).await;
            }
        });
    }

    /// Shows the host what there is of memory as soon as it is short, if the host has some of it.
    fn tell_of_pressure(&self) {
        let tell_host = self.tell_host.clone();
        beside("watching for pressure", async move {
            let Some(watch) = pressure::Watch::new()?.map(Arc::new) else { return Ok(()) };
            loop {
                let waiting = Arc::clone(&watch);
                tokio::task::spawn_blocking(move || waiting.wait()).await??;
                if report::ballooned() > 0 {
                    tell_host.send(FromGuest::Report(report::look(engine::runs().await))).await?;
                }
            }
        });
    }

    /// Does what the host says until it says the last word, or nothing any more.
    async fn listen_to(&self, host: &mut Host, configuration: &Configuration) -> Heard {
        let mut is_ready = false;
        loop {
            match host.next().await {
                Ok(None) | Err(_) if is_ready => return Heard::Slept,
                Ok(None | Some(FromHost::Shutdown)) => return Heard::Last,
                Ok(Some(FromHost::SetTime { nanoseconds })) => complain(system::set_time(nanoseconds)),
                Ok(Some(FromHost::Room { bytes })) => {
                    beside("holding room back", async move {
                        tokio::task::spawn_blocking(move || room::limit(bytes)).await?
                    });
                }
                Ok(Some(FromHost::SetResolver(told))) => {
                    complain(resolver::follow(&told, &self.children).await);
                }
                Ok(Some(FromHost::Report)) => {
                    self.say(FromGuest::Report(report::look(engine::runs().await))).await;
                }
                Ok(Some(FromHost::Grow)) => {
                    let children = self.children.clone();
                    beside("growing", async move { disk::grow(&children).await });
                }
                Ok(Some(FromHost::Sleep)) => is_ready = self.prepare_to_sleep(configuration).await,
                // As if it had been saved; it may never have been ready.
                Ok(Some(FromHost::Wake)) if is_ready => return Heard::Slept,
                Ok(Some(FromHost::Wake)) => {}
                Ok(Some(FromHost::GiveBack)) => {
                    let work = || {
                        disk::trim().context("failed to trim the data disk")?;
                        system::drop_caches();
                        Ok(())
                    };
                    beside("giving back", async move { tokio::task::spawn_blocking(work).await? });
                }
                Ok(Some(other)) => tell(format_args!("cove-agent: the host said {other:?} in the middle")),
                Err(error) => {
                    tell(format_args!("cove-agent: failed to understand the host: {error:#}"));
                    return Heard::Last;
                }
            }
        }
    }

    /// Lets go of the shares and puts everything on disk. Whether it could.
    async fn prepare_to_sleep(&self, configuration: &Configuration) -> bool {
        let outcome = let_go_of_shares(configuration, self.sharing).await;
        let is_ready = outcome.is_ok();
        if is_ready {
            // What is only cached would be written, and read again to wake.
            system::drop_caches();
        }
        self.say(match outcome {
            Ok(()) => FromGuest::Ready,
            Err(error) => FromGuest::NotReady { cause: format!("{error:#}") },
        })
        .await;
        is_ready
    }

    /// Goes on after a sleep: the clock stood still, and shares have new devices. The rest is as it was.
    async fn wake(&self, wanted: &Configuration) {
        complain(system::add_entropy(&wanted.entropy));
        complain(system::set_time(wanted.nanoseconds));
        self.tell_step(Step::Disk, Ok(())).await;
        self.mount_shares(wanted).await;
        resolver::forget(&self.children).await;
        if let Some(network) = wanted.network.as_ref().and_then(WayOut::told) {
            complain(network::reconfigure(network));
        }
        if let Some(addresses) = self.addresses.get() {
            addresses.notify_one();
        }
        self.tell_step(Step::Network, Ok(())).await;
        self.tell_step(Step::Engine, Ok(())).await;
        self.woken.notify_one();
    }

    async fn mount_shares(&self, wanted: &Configuration) {
        for share in &wanted.shares {
            // One folder that can't be had does not keep the others and the engine away.
            if let Err(error) = shares::mount_share(share, self.sharing) {
                self.say(FromGuest::Warning { step: Step::Shares, text: format!("{error:#}") }).await;
            }
        }
        if let Some(Err(error)) = wanted.rosetta.as_deref().map(rosetta::set_up) {
            self.say(FromGuest::Warning { step: Step::Shares, text: format!("{error:#}") }).await;
        }
        self.tell_step(Step::Shares, Ok(())).await;
    }

    /// Ends the engine and everything else, and puts what there is on disk.
    async fn end(&self) {
        self.stop.send_replace(true);
        crate::shutdown::end_processes().await;
        crate::shutdown::flush();
        self.say(FromGuest::Bye).await;
        // Its way to the host takes a moment; the host does not wait for it.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Has none of the host's folders mounted any more, or all as before: their devices are about to go.
async fn let_go_of_shares(configuration: &Configuration, way: shares::Way) -> Result<()> {
    let Some(tag) = &configuration.rosetta else {
        return shares::unmount_all(&configuration.shares, way).await;
    };
    rosetta::let_go()?;
    let all: Vec<_> = configuration.shares.iter().cloned().chain([rosetta::share(tag)]).collect();
    let outcome = shares::unmount_all(&all, way).await;
    if outcome.is_err() {
        complain(rosetta::register());
    }
    outcome
}

fn complain(outcome: Result<()>) {
    if let Err(error) = outcome {
        tell(format_args!("cove-agent: {error:#}"));
    }
}
