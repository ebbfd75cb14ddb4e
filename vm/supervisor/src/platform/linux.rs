//! Machines on Linux: each is a program, whose channel, shares and network card we serve, and whose way out is `passt`.

mod acceleration;
mod certificates;
mod changes;
mod devices;
mod network;
pub(crate) mod resolver;
mod saving;
mod sparse;
mod sys;
pub(crate) mod tree;
mod vmm;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
pub(crate) use vm_devices::Vsock as Channel;
use vm_manager::backend::{self, Plan, qemu};
use vm_manager::places::Places;
use vm_manager::saved::{Moment, Record};
use vm_proto::message::WayOut;

use super::{Made, Started};
use crate::machine::{Beginning, Origin};
pub(crate) use certificates::add_certificates;
pub(crate) use devices::Devices;
use saving::Restored;
pub(crate) use saving::{Saving, check};
pub(crate) use vmm::Vmm;

/// What it takes to start it.
#[derive(Debug)]
pub(crate) struct Making {
    beginning: Beginning,
    memory: Option<Arc<File>>,
    record: Record,
    restored: Option<(Moment, Restored)>,
}

/// What it takes to have one that was saved go on.
#[derive(Debug)]
pub(crate) struct Waking {
    moment: Moment,
    restored: Restored,
    places: Places,
    qmp: PathBuf,
    devices: Vec<qemu::Plugged>,
}

/// What has to be the same where one that was saved goes on.
pub(crate) fn record(beginning: &Beginning) -> Result<Record> {
    let Beginning { config, places, image, .. } = beginning;
    let machines = places.data.parent().unwrap_or(&places.data);
    let can_be_saved = backend::capabilities(config.backend).saves;
    Ok(Record {
        config: config.clone(),
        image: image.manifest.digest.clone(),
        acceleration: acceleration::find(config.backend, machines, &image.file("kernel"))?,
        program: if can_be_saved { saving::program(&image.manifest.architecture)? } else { String::new() },
    })
}

/// Serves the devices. Blocks.
pub(crate) fn make(beginning: &Beginning, record: Record, origin: Origin) -> Result<Made> {
    let Beginning { config, places, .. } = beginning;
    let mut warnings = Vec::new();
    let memory = match backend::capabilities(config.backend).saves {
        true => Some(saving::memory(config.memory >> 20 << 20)?),
        false => None,
    };
    // It takes as long as everything else until the program is ready for it.
    let restored = match (origin, &memory) {
        (Origin::Saved(moment), Some(memory)) => {
            Some((moment, saving::begin_to_restore_memory(places, moment, memory)?))
        }
        _ => None,
    };
    let mut resolver = resolver::Watch::new();
    let (passt, network) = match network::start(places) {
        Ok((passt, socket, mut network)) => {
            network.resolver = resolver.of_network(network.address6.is_some());
            (Some((passt, socket)), Some(WayOut::Told(network)))
        }
        Err(error) => {
            warnings.push(format!("the machine has no way out: {error:#}"));
            (None, None)
        }
    };
    let devices = Devices::serve(config, places, passt)?;
    warnings.extend(devices.warnings.iter().cloned());
    let making = Making { beginning: beginning.clone(), memory, record, restored };
    Ok(Made { making, devices, network, rosetta: None, resolver, warnings })
}

impl Making {
    /// Starts the program, which tells `ended` how it ended. Blocks.
    pub(crate) fn start(
        self,
        devices: &Devices,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Started> {
        let Self { beginning, memory, record, restored } = self;
        let Beginning { config, places, image, .. } = beginning;
        let plan = Plan {
            config,
            image,
            memory: memory.as_ref().map(|memory| memory.as_raw_fd()),
            wakes: restored.is_some(),
            vsock: devices.vsock_socket.clone(),
            network: devices.network_socket.clone(),
            shares: devices.share_sockets.clone(),
            acceleration: record.acceleration,
            places,
        };
        let command = backend::command(&plan)?;
        tracing::info!(?command, "starting the machine");
        let vmm = Vmm::start(command, memory.as_ref(), plan.places.console(), ended)?;
        let (plugged, qmp) = (qemu::plugged(&plan), qemu::qmp_socket(&plan));
        let waking = restored.map(|(moment, restored)| Waking {
            moment,
            restored,
            places: plan.places.clone(),
            qmp: qmp.clone(),
            devices: plugged.clone(),
        });
        let places = plan.places;
        let saving = memory.map(|memory| Saving { places, qmp, memory, devices: plugged, record });
        Ok(Started { vmm, saving, waking })
    }
}

impl Waking {
    /// Has it go on. Blocks.
    pub(crate) fn wake(self) -> Result<()> {
        let Self { moment, restored, places, qmp, devices } = self;
        restored.finish()?;
        let wake = saving::wake(&places, moment, &qmp, &devices);
        tokio::runtime::Handle::current().block_on(wake)
    }
}

/// Makes `copy` a file of the same blocks, where the file system can share them.
pub(crate) fn share_blocks(file: &File, copy: &Path) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(File::create(copy)?, file)?)
}
