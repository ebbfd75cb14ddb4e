//! Machines of WSL2's, which `wsl.exe` runs: the agent is reached by the program's input and output.
//!
//! It was run under Wine, with a program that stands in for WSL's and leads to a real agent (`cargo xtask cross wine`).

mod distribution;
mod vmm;

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::runtime::Handle;
use vm_hyperv::wsl::Wsl;
use vm_manager::image::Image;
use vm_manager::places::Places;

use super::devices::{self, Devices};
use super::{Channel, Made, Started};
use crate::carried;
use crate::console::keep;
use crate::machine::Beginning;
use crate::platform::resolver;
use distribution::Distribution;
pub(crate) use vmm::Vmm;

/// What it takes to start it.
#[derive(Debug)]
pub(crate) struct Making {
    distribution: Distribution,
    digest: String,
    places: Places,
}

/// Prepares what it is reached by.
pub(super) fn make(beginning: &Beginning) -> Made {
    let Beginning { config, places, image, .. } = beginning;
    let (shares, told, warnings) = devices::shares(config);
    let vsock = Arc::new(Channel::Carried(carried::Channel::new(Handle::current())));
    let making = Making {
        distribution: Distribution::of(Wsl::of_the_system(), places),
        digest: image.manifest.digest.clone(),
        places: places.clone(),
    };
    // WSL has made the guest's interface what it is.
    Made {
        making: super::Making::Wsl(making),
        devices: Devices { vsock, shares, told },
        network: None,
        rosetta: None,
        resolver: resolver::Watch,
        warnings,
    }
}

impl Making {
    /// Starts the agent; `ended` is told how it ended. Blocks.
    pub(super) fn start(
        self,
        devices: &Devices,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Started> {
        let Self { distribution, digest, places } = self;
        let Channel::Carried(channel) = &*devices.vsock else { bail!("the channel is of another kind") };
        let mut command = distribution.agent(&digest);
        let (console, written) = io::pipe().context("failed to make the console")?;
        command.stderr(written);
        tracing::info!(?command, "starting the machine");
        let vmm = super::Vmm::Wsl(Vmm::start(command, distribution, channel, ended)?);
        // It ends with the program, whose end of the pipe is the last.
        let path = places.console();
        std::thread::Builder::new().name("console".to_owned()).spawn(move || keep(console, &path))?;
        Ok(Started { vmm, saving: None, waking: None })
    }
}

/// Makes the distribution, and unpacks the image in it. Blocks.
pub(super) fn prepare(places: &Places, image: &Image) -> Result<()> {
    Distribution::of(Wsl::of_the_system(), places).prepare(places, image)
}
