//! Machines on Windows: WSL2's, which `wsl.exe` runs. The agent there is reached by the program's input and output.
//!
//! It was run under Wine, with a program that stands in for WSL's and leads to a real agent (`cargo xtask cross wine`).

mod devices;
mod distribution;
pub(crate) mod resolver;
mod saving;
pub(crate) mod tree;
mod vmm;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use api::client::Endpoint;
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use vm_hyperv::wsl::Wsl;
use vm_manager::backend::Acceleration;
use vm_manager::config::Config;
use vm_manager::image::Image;
use vm_manager::places::Places;
use vm_manager::saved::Record;

use super::{Made, Started};
pub(crate) use crate::carried::{Channel, Stream};
use crate::console::keep;
use crate::machine::{Beginning, Origin};
use crate::trust::Bundle;
pub(crate) use devices::Devices;
use distribution::Distribution;
pub(crate) use saving::{Saving, Waking, check};
pub(crate) use vmm::Vmm;

/// One of the guest's streams, which the event loop has already.
pub(crate) type Accepted = Stream;

/// What it takes to start it.
#[derive(Debug)]
pub(crate) struct Making {
    distribution: Distribution,
    digest: String,
    places: Places,
}

/// What has to be the same where one that was saved goes on: none is.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere a program may be missing")]
pub(crate) fn record(beginning: &Beginning) -> Result<Record> {
    let Beginning { config, image, .. } = beginning;
    let (config, image) = (config.clone(), image.manifest.digest.clone());
    Ok(Record { config, image, acceleration: Acceleration::Wsl2, program: String::new() })
}

/// Prepares what it is reached by.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere a device may not be had")]
pub(crate) fn make(beginning: &Beginning, _: Record, _: Origin) -> Result<Made> {
    let Beginning { config, places, image, .. } = beginning;
    let (shares, told, mut warnings) = devices::shares(config);
    warnings.push(
        "WSL gives its processors and memory to all distributions alike, and each a disk that grows: what was said of these \
         changes nothing, and .wslconfig does"
            .to_owned(),
    );
    let vsock = Arc::new(Channel::new(Handle::current()));
    let making = Making {
        distribution: Distribution::of(Wsl::of_the_system(), places),
        digest: image.manifest.digest.clone(),
        places: places.clone(),
    };
    // WSL has made the guest's interface what it is.
    Ok(Made {
        making,
        devices: Devices { vsock, shares, told },
        network: None,
        rosetta: None,
        resolver: resolver::Watch,
        warnings,
    })
}

impl Making {
    /// Starts the agent; `ended` is told how it ended. Blocks.
    pub(crate) fn start(
        self,
        devices: &Devices,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Started> {
        let Self { distribution, digest, places } = self;
        let mut command = distribution.agent(&digest);
        let (console, written) = io::pipe().context("failed to make the console")?;
        command.stderr(written);
        tracing::info!(?command, "starting the machine");
        let vmm = Vmm::start(command, distribution, &devices.vsock, ended)?;
        // It ends with the program, whose end of the pipe is the last.
        let path = places.console();
        std::thread::Builder::new().name("console".to_owned()).spawn(move || keep(console, &path))?;
        Ok(Started { vmm, saving: None, waking: None })
    }
}

/// None: those of Windows' store are not taken over.
pub(crate) fn add_certificates(_: &mut Bundle) {}

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

/// Makes the distribution, and unpacks the image in it. Blocks.
pub(crate) fn prepare_disk(_: &Config, places: &Places, image: &Image, _: bool) -> Result<()> {
    Distribution::of(Wsl::of_the_system(), places).prepare(places, image)
}

/// Bytes that its disk takes.
pub(crate) fn disk_taken(places: &Places) -> u64 {
    std::fs::metadata(vm_hyperv::wsl::disk_in(&places.disk_folder())).map_or(0, |metadata| metadata.len())
}
