//! Machines on macOS: each lives in this very process, by Virtualization.framework, whose devices and way out it has.
//!
//! Nothing of it has been run so far: it is type-checked. What takes no framework stands in `channel`, which is tested
//! on any system, and so is `vm_manager::identity`.

mod devices;
mod keychain;
mod saving;
pub(crate) mod tree;
mod vmm;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, CloneFlags, fclonefileat};
use vm_manager::backend::{self, Acceleration};
use vm_manager::identity::Identity;
use vm_manager::places::Places;
use vm_manager::saved::{self, Moment, Record};
use vm_proto::message::WayOut;
use vm_vz::{Disk, Machine, Spec};

use super::{Made, Started, resolver};
pub(crate) use crate::channel::Channel;
use crate::channel::{Accept, Connected, Dial};
use crate::console::keep;
use crate::machine::{Beginning, Origin};
pub(crate) use devices::Devices;
pub(crate) use keychain::add_certificates;
pub(crate) use saving::Saving;
pub(crate) use vmm::Vmm;

/// The tag of the share that holds Rosetta.
const ROSETTA: &str = "rosetta";

/// What it takes to start it.
#[derive(Debug)]
pub(crate) struct Making {
    machine: Arc<Machine>,
    places: Places,
    record: Record,
    origin: Origin,
}

/// What it takes to have one that was saved go on.
#[derive(Debug)]
pub(crate) struct Waking {
    machine: Arc<Machine>,
    moment: Moment,
    places: Places,
}

/// What has to be the same where one that was saved goes on.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere a program may be missing")]
pub(crate) fn record(beginning: &Beginning) -> Result<Record> {
    let Beginning { config, image, .. } = beginning;
    let (config, image) = (config.clone(), image.manifest.digest.clone());
    Ok(Record { config, image, acceleration: Acceleration::Framework, program: String::new() })
}

/// Whether what was saved can be gone on from: the framework knows better than we.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is something to compare")]
pub(crate) fn check(_: &Record, _: &Record) -> Result<()> {
    Ok(())
}

/// Has the framework make it. Blocks.
pub(crate) fn make(beginning: &Beginning, record: Record, origin: Origin) -> Result<Made> {
    ensure!(
        vm_vz::is_supported(),
        "macOS has no virtual machines here: it takes macOS 13, and a processor that can"
    );
    let Beginning { config, places, image, .. } = beginning;
    let (shares, mut warnings) = devices::shares(config);
    let rosetta = config.rosetta.then(vm_vz::rosetta).and_then(|rosetta| {
        let lacking = rosetta.lacking();
        warnings.extend(lacking.map(str::to_owned));
        lacking.is_none().then(|| ROSETTA.to_owned())
    });
    let (console, written) = io::pipe().context("failed to make the console")?;
    let identity = identity(places)?;
    let disk = |path, read_only| Disk { path, read_only };
    let spec = Spec {
        cpus: usize::try_from(config.cpus)?,
        memory: config.memory >> 20 << 20,
        kernel: image.file("kernel"),
        initrd: image.file("initrd"),
        options: backend::vz::options(),
        disks: vec![disk(image.file("system.erofs"), true), disk(places.disk(), false)],
        shares: devices::folders(&shares),
        identity: identity.machine,
        mac: identity.mac,
        console: File::from(OwnedFd::from(written)),
        rosetta: rosetta.clone(),
    };
    let machine = Arc::new(Machine::new(&spec)?);
    let path = places.console();
    // It ends with the machine, whose end of the pipe is the last once the description is gone.
    std::thread::Builder::new().name("console".to_owned()).spawn(move || keep(console, &path))?;
    let guest = Arc::clone(&machine) as Arc<dyn Dial>;
    let vsock = Arc::new(Channel::new(guest, tokio::runtime::Handle::current()));
    let told = devices::told(&shares);
    let devices = Devices { vsock, shares, told };
    let making = Making { machine, places: places.clone(), record, origin };
    let resolver = resolver::Watch;
    Ok(Made { making, devices, network: Some(WayOut::Asked), rosetta, resolver, warnings })
}

impl Making {
    /// Boots it, unless it is to go on; `ended` is told how it ended. Blocks.
    pub(crate) fn start(
        self,
        devices: &Devices,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Started> {
        let Self { machine, places, record, origin } = self;
        let waking = match origin {
            Origin::Boot => {
                tracing::info!("starting the machine");
                machine.start()?;
                None
            }
            Origin::Saved(moment) => {
                Some(Waking { machine: Arc::clone(&machine), moment, places: places.clone() })
            }
        };
        let vmm = Vmm::of(&machine, ended)?;
        let saving = Saving { machine, vsock: Arc::clone(&devices.vsock), places, record };
        Ok(Started { vmm, saving: Some(saving), waking })
    }
}

impl Waking {
    /// Has it go on. Whether the file is one that this macOS can go on from, the framework says. Blocks.
    pub(crate) fn wake(self) -> Result<()> {
        let Self { machine, moment, places } = self;
        machine.restore(&saved::devices(&moment.folder(&places)))?;
        // From here on its disk changes.
        saved::forget(&places, moment)?;
        Ok(machine.resume()?)
    }
}

/// Makes `copy` a file of the same blocks, where the file system can share them.
pub(crate) fn share_blocks(file: &File, copy: &Path) -> io::Result<()> {
    match std::fs::remove_file(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(fclonefileat(file, CWD, copy, CloneFlags::empty())?)
}

/// Who it is to the framework, and to the network.
fn identity(places: &Places) -> Result<Identity> {
    let mut chance = [0; 5];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut chance));
    read.context("failed to read bytes by chance")?;
    Ok(Identity::ensure(places, || (vm_vz::new_identity(), chance))?)
}

impl Dial for Machine {
    fn connect(&self, port: u32, done: Connected) {
        Self::connect(self, port, |outcome| done(outcome.map_err(io::Error::other)));
    }

    fn listen(&self, port: u32, accept: Accept) -> io::Result<()> {
        Self::listen(self, port, accept).map_err(io::Error::other)
    }
}
