//! Machines on Windows: WSL2's ([`wsl`]), and Hyper-V's by the Host Compute Service ([`hcs`]). What is of both stands here
//! and in the files beside.

pub(crate) mod certificates;
mod channel;
mod devices;
mod hcs;
mod saving;
pub(crate) mod tree;
mod vmm;
mod wsl;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use api::client::Endpoint;
use tokio::net::TcpSocket;
use vm_manager::backend::Acceleration;
use vm_manager::config::{Backend, Config};
use vm_manager::image::Image;
use vm_manager::places::Places;
use vm_manager::saved::Record;

use super::{Made, Started};
use crate::machine::{Beginning, Origin};
pub(crate) use certificates::add_certificates;
pub(crate) use channel::{Channel, Stream};
pub(crate) use devices::Devices;
pub(crate) use saving::{Saving, Waking, check};
pub(crate) use vmm::Vmm;

/// Whether paths of this computer may begin with a drive.
pub(crate) const HAS_DRIVES: bool = true;

/// One of the guest's streams, which the event loop has already.
pub(crate) type Accepted = Stream;

/// What it takes to start a machine.
#[derive(Debug)]
pub(crate) enum Making {
    Wsl(wsl::Making),
    Hcs(hcs::Making),
}

/// Which of the two a machine is.
enum Kind {
    Wsl,
    Hcs,
}

impl Kind {
    fn of(config: &Config) -> Result<Self> {
        match config.backend {
            Backend::Wsl2 => Ok(Self::Wsl),
            Backend::HyperV => Ok(Self::Hcs),
            // Refused before, by the configuration.
            other @ (Backend::Qemu | Backend::Uml | Backend::Vz) => bail!("{other} is of another system"),
        }
    }
}

/// What has to be the same where one that was saved goes on.
pub(crate) fn record(beginning: &Beginning) -> Result<Record> {
    let Beginning { config, image, .. } = beginning;
    let acceleration = match Kind::of(config)? {
        Kind::Wsl => Acceleration::Wsl2,
        Kind::Hcs => {
            hcs::look()?;
            Acceleration::HyperV
        }
    };
    let (config, image) = (config.clone(), image.manifest.digest.clone());
    Ok(Record { config, image, acceleration, program: String::new() })
}

/// Prepares what it is reached by. Blocks.
pub(crate) fn make(beginning: &Beginning, record: Record, origin: Origin) -> Result<Made> {
    match Kind::of(&beginning.config)? {
        Kind::Wsl => Ok(wsl::make(beginning)),
        Kind::Hcs => hcs::make(beginning, record, origin),
    }
}

impl Making {
    /// Starts it; `ended` is told how it ended. Blocks.
    pub(crate) fn start(
        self,
        devices: &Devices,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Started> {
        match self {
            Self::Wsl(making) => making.start(devices, ended),
            Self::Hcs(making) => making.start(devices, ended),
        }
    }
}

/// Has the event loop carry one of the guest's, which it does.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere that may fail")]
pub(crate) fn accepted(stream: Accepted) -> io::Result<Stream> {
    Ok(stream)
}

/// Has a client speak to a port of the guest. Returns at once; `done` hears how it went, unless the machine ends before.
pub(crate) fn attach(
    channel: &Channel,
    port: u32,
    client: ipc::Stream,
    deadline: Duration,
    done: impl FnOnce(io::Result<()>) + Send + 'static,
) {
    channel.attach(port, client, deadline, done);
}

/// Connects to a port of the guest.
pub(crate) async fn open(channel: &Arc<Channel>, port: u32, deadline: Duration) -> io::Result<Stream> {
    channel.open(port, deadline).await
}

/// How a client of an engine reaches what listens at `path`.
pub(crate) fn endpoint(path: PathBuf) -> Endpoint {
    Endpoint::Pipe(path)
}

/// Nothing: a port is free here as soon as nobody listens, and version 6 is for itself.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere that may fail")]
pub(crate) fn prepare_listener(_: &TcpSocket, _: bool) -> io::Result<()> {
    Ok(())
}

/// Nothing: there is no such limit.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere that may fail")]
pub(crate) fn raise_open_files() -> io::Result<()> {
    Ok(())
}

/// Bytes that are left where a folder is.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    vm_hyperv::free_space(folder)
}

/// Makes what the machine's files are in. Blocks.
pub(crate) fn prepare_disk(config: &Config, places: &Places, image: &Image, _: bool) -> Result<()> {
    match Kind::of(config)? {
        Kind::Wsl => wsl::prepare(places, image),
        Kind::Hcs => hcs::prepare(config, places, image),
    }
}

/// Bytes that its disk takes, of whichever kind it is.
pub(crate) fn disk_taken(places: &Places) -> u64 {
    let taken = |path: PathBuf| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    taken(vm_hyperv::wsl::disk_in(&places.disk_folder())) + taken(places.vhdx())
}
