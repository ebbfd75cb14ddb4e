//! One run of a machine: what there is from the hypervisor's stage to the end of its program.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vm_manager::backend::{self, Acceleration, Plan};
use vm_manager::config::Config;
use vm_manager::image::Image;
use vm_manager::places::Places;
use vm_proto::message::{Configuration, Listener, Mode, Network};

use super::Event;
use crate::devices::Devices;
use crate::guest::{self, Guest};
use crate::network::Passt;
use crate::ports::Standing;
use crate::vmm::Vmm;
use crate::{acceleration, changes, clock, engine, network, ports, trust};

/// Words of a guest on their way.
const WAITING: usize = 64;

/// Everything of a run; dropped when its program is gone.
#[derive(Debug)]
pub(crate) struct Run {
    /// Which start this is.
    pub(crate) number: u64,
    pub(crate) vmm: Vmm,
    pub(crate) devices: Devices,
    /// Its agent, once it has said hello.
    pub(crate) guest: Option<Guest>,
    /// What the guest listens on.
    pub(crate) listening: watch::Sender<Vec<Listener>>,
    network: Option<Network>,
    cancelled: CancellationToken,
    _passt: Option<Passt>,
}

/// A run, and what is to be told of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) run: Run,
    pub(crate) acceleration: Acceleration,
    pub(crate) warnings: Vec<String>,
}

/// Serves the devices and starts the program. Blocks.
pub(crate) fn start(
    config: Config,
    places: Places,
    image: Image,
    number: u64,
    events: &mpsc::Sender<Event>,
) -> Result<Prepared> {
    let mut warnings = Vec::new();
    let machines = places.data.parent().unwrap_or(&places.data).to_owned();
    let acceleration = acceleration::find(config.backend, &machines, &image.file("kernel"))?;
    let (passt, way_out, network) = match network::start(&places) {
        Ok((passt, socket, network)) => (Some(passt), Some(socket), Some(network)),
        Err(error) => {
            warnings.push(format!("the machine has no way out: {error:#}"));
            (None, None, None)
        }
    };
    let cancelled = CancellationToken::new();
    let (greetings, mut greeted) = mpsc::channel(4);
    let devices = Devices::serve(&config, &places, way_out.as_deref(), move |stream| {
        // A guest that greets many times at once is not heard more often.
        let _ = greetings.try_send(stream);
    })?;
    warnings.extend(devices.warnings.iter().cloned());
    let runtime = tokio::runtime::Handle::current();
    let (listen_until, back) = (cancelled.clone(), events.clone());
    runtime.spawn(listen_until.clone().run_until_cancelled_owned(async move {
        while let Some(stream) = greeted.recv().await {
            let (sender, mut heard) = mpsc::channel(WAITING);
            let converse = guest::converse(stream, sender, listen_until.clone());
            let pass_on = async {
                while let Some(heard) = heard.recv().await {
                    let _ = back.send(Event::Heard { run: number, heard }).await;
                }
            };
            tokio::join!(converse, pass_on);
        }
    }));
    let plan = Plan {
        config,
        image,
        vsock: devices.vsock_socket.clone(),
        network: devices.network_socket.clone(),
        shares: devices.share_sockets.clone(),
        acceleration,
        places,
    };
    let command = backend::command(&plan)?;
    tracing::info!(?command, "starting the machine");
    let back = events.clone();
    let ended = move |how| drop(back.blocking_send(Event::Ended { run: number, how }));
    // Each start's console is told apart from those before.
    let _ = std::fs::rename(plan.places.console(), plan.places.console().with_extension("log.old"));
    let vmm = Vmm::start(command, plan.places.console(), ended)?;
    let run = Run {
        number,
        vmm,
        devices,
        guest: None,
        listening: watch::Sender::new(Vec::new()),
        network,
        cancelled,
        _passt: passt,
    };
    Ok(Prepared { run, acceleration, warnings })
}

impl Run {
    /// What the guest is to be.
    pub(crate) fn configuration(&self, name: &str, mode: Mode) -> Configuration {
        Configuration {
            hostname: name.to_owned(),
            nanoseconds: clock::now(),
            mode,
            shares: self.devices.shares.clone(),
            network: self.network.clone(),
            certificates: trust::certificates(),
            proxies: trust::proxies(self.network.as_ref().map(|network| network.gateway)),
        }
    }

    /// Opens the engine's socket on the host, and the ports of its containers.
    pub(crate) fn open_engine(&self, places: &Places, events: &mpsc::Sender<Event>) -> Result<()> {
        let listener = engine::listen(&places.engine())?;
        let serve = engine::serve(listener, Arc::clone(&self.devices.vsock));
        let runtime = tokio::runtime::Handle::current();
        runtime.spawn(self.cancelled.clone().run_until_cancelled_owned(serve));
        let (standing, mut stands) = watch::channel(Standing::default());
        let carry = ports::carry(
            places.engine(),
            Arc::clone(&self.devices.vsock),
            self.listening.subscribe(),
            standing,
            self.cancelled.clone(),
        );
        runtime.spawn(carry);
        let events = events.clone();
        let tell = async move {
            while stands.changed().await.is_ok() {
                let Standing { open, warnings } = stands.borrow_and_update().clone();
                let _ = events.send(Event::Ports { open, warnings }).await;
            }
        };
        runtime.spawn(self.cancelled.clone().run_until_cancelled_owned(tell));
        Ok(())
    }

    /// Lets the guest hear of changes in its shares.
    pub(crate) fn tell_changes(&self) {
        let runtime = tokio::runtime::Handle::current();
        for (share, (sink, trigger)) in self.devices.shares.iter().zip(&self.devices.changes) {
            let vsock = Arc::clone(&self.devices.vsock);
            let tell = changes::connect(Arc::clone(sink), vsock, share.path.clone(), trigger.clone());
            runtime.spawn(self.cancelled.clone().run_until_cancelled_owned(tell));
        }
    }

    /// Ends what goes on beside it.
    pub(crate) fn clear_up(self) {
        self.cancelled.cancel();
    }
}
