//! Machines of Hyper-V's, by the Host Compute Service: a kernel and two disks of ours, a channel of sockets, folders by Plan 9's
//! protocol, and a place at a switch of Windows'.
//!
//! It was never run on Windows. Under Wine it was, with libraries that stand in for Windows' and lead to a real guest
//! (`cargo xtask cross wine`).

mod disk;
mod vmm;

use std::io;
use std::net::TcpStream as StdStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use vm_hyperv::connection::{Connection, Made as Machine};
use vm_hyperv::guid::Guid;
use vm_hyperv::hcs::document::Share;
use vm_hyperv::hcs::{Failure, FailureKind};
use vm_hyperv::hvsocket::Address;
use vm_hyperv::pipe::Listener;
use vm_hyperv::request::{Request, Wanted};
use vm_hyperv::{pipe, socket};
use vm_manager::backend;
use vm_manager::places::Places;
use vm_manager::saved::{self, Moment, Record};
use vm_proto::message::WayOut;

use super::devices::{self, Devices};
use super::saving::{Saving, Waking, add_folders};
use super::{Channel, Made, Started};
use crate::console::keep;
use crate::machine::{Beginning, Origin};
use crate::platform::resolver;
use crate::sockets::{self, Dial};
pub(super) use disk::prepare;
pub(crate) use vmm::Vmm;

/// How long the machine of before may take to be gone.
const GONE_DEADLINE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);

/// What it takes to start it.
#[derive(Debug)]
pub(crate) struct Making {
    connection: Arc<Connection>,
    folders: Vec<Share>,
    console: Console,
    places: Places,
    record: Record,
    /// What it goes on from.
    moment: Option<Moment>,
}

/// Has Windows make it, so that it has an id; it does not run yet. Blocks.
pub(super) fn make(beginning: &Beginning, record: Record, origin: Origin) -> Result<Made> {
    let Beginning { config, places, image, .. } = beginning;
    let kernel = &image.manifest.kernel.origin;
    ensure!(
        kernel == backend::hyperv::KERNEL,
        "Hyper-V boots a kernel of Cove's own, and this guest image has one of {kernel}'s, whose drivers are not in it: \
         cargo xtask guest-image --machine qemu --kernel own"
    );
    let connection = Connection::open().map_err(explained)?;
    tracing::info!(by = ?connection.by(), "machines may be made");
    let (console, listener) = Console::listen()?;
    let moment = match origin {
        Origin::Boot => None,
        Origin::Saved(moment) => Some(moment),
    };
    // From its first step on its disk changes, and Windows has it take that as soon as it has read the state.
    let state = moment.map(|moment| saved::take(places, moment)).transpose()?;
    let wanted = Wanted {
        name: places.name.clone(),
        cpus: config.cpus,
        memory: config.memory,
        kernel: image.file("kernel"),
        initrd: image.file("initrd"),
        options: backend::hyperv::options(),
        system: disk::system(image),
        data: places.vhdx(),
        console: console.name.clone(),
        saved: state.as_deref().map(saved::devices),
    };
    let machine = make_once_gone(&connection, &wanted).map_err(explained)?;
    heard(listener, &places.console())?;
    Ok(made(connection, machine, console, record, places, moment))
}

/// What a machine that was made is reached by.
fn made(
    connection: Connection,
    machine: Machine,
    console: Console,
    record: Record,
    places: &Places,
    moment: Option<Moment>,
) -> Made {
    let (shares, told, mut warnings) = devices::shares(&record.config);
    let no_network = machine.no_network;
    let network = no_network.is_none().then_some(WayOut::Asked);
    warnings.extend(no_network.map(|cause| format!("the machine has no way out: {cause}")));
    let guest: Arc<dyn Dial> = Arc::new(Guest(machine.runtime_id));
    let vsock = Arc::new(Channel::Sockets(sockets::Channel::new(guest, Handle::current())));
    let folders = devices::folders(&record.config, &shares);
    let (connection, places) = (Arc::new(connection), places.clone());
    let making = Making { connection, folders, console, places, record, moment };
    Made {
        making: super::Making::Hcs(making),
        devices: Devices { vsock, shares, told },
        network,
        rosetta: None,
        resolver: resolver::Watch,
        warnings,
    }
}

/// One of before may be on its way out.
fn make_once_gone(connection: &Connection, wanted: &Wanted) -> Result<Machine, Failure> {
    let begin = Instant::now();
    loop {
        match connection.make(wanted.clone()) {
            Err(failure) if failure.kind() == FailureKind::Exists && begin.elapsed() < GONE_DEADLINE => {
                std::thread::sleep(AGAIN);
            }
            other => return other,
        }
    }
}

/// Whether machines can be made at all, and now: what waits for that is not tried in vain.
pub(super) fn look() -> Result<()> {
    Connection::open().map(drop).map_err(explained)
}

/// A failure with what to do about it.
fn explained(failure: Failure) -> anyhow::Error {
    let hint = failure.hint();
    let error = anyhow::Error::new(failure);
    match hint {
        Some(hint) => error.context(format!("Windows makes no machine for this user: {hint}")),
        None => error.context("Windows made no machine"),
    }
}

impl Making {
    /// Has it run, unless it is to go on; `ended` is told how it ended. Blocks.
    pub(super) fn start(
        self,
        devices: &Devices,
        ended: impl FnOnce(String) + Send + 'static,
    ) -> Result<Started> {
        let Self { connection, folders, console, places, record, moment } = self;
        let Channel::Sockets(channel) = &*devices.vsock else { bail!("the channel is of another kind") };
        if let Some(error) = channel.take_deafness() {
            return Err(error).context("the machine's agent would not reach us");
        }
        let waking = match moment {
            None => {
                tracing::info!("starting the machine");
                connection.ask(Request::Start).map_err(explained)?;
                add_folders(&connection, folders.clone());
                None
            }
            Some(moment) => {
                let (connection, folders) = (Arc::clone(&connection), folders.clone());
                Some(Waking { connection, folders, places: places.clone(), moment })
            }
        };
        let vmm = super::Vmm::Hcs(Vmm::of(&connection, places.clone(), console, ended)?);
        let vsock = Arc::clone(&devices.vsock);
        let memory = Arc::new(AtomicU64::new(record.config.memory));
        let saving = Some(Saving { connection, vsock, folders, places, record, memory });
        Ok(Started { vmm, saving, waking })
    }
}

/// A guest by its id.
struct Guest(Guid);

impl Dial for Guest {
    fn connect(&self, port: u32, patience: Duration) -> io::Result<StdStream> {
        socket::connect(&Address::of(self.0, port), patience)
    }

    fn listen(&self, port: u32) -> io::Result<StdStream> {
        socket::listen(&Address::of(self.0, port))
    }

    fn accept(&self, _: u32, listening: &TcpStream) -> io::Result<StdStream> {
        socket::accept(listening)
    }
}

/// The pipe that a machine's console is written to, whose name nobody else knows. It is heard for as long as this is kept,
/// and as the machine has it.
#[derive(Debug)]
pub(crate) struct Console {
    name: String,
}

impl Console {
    fn listen() -> Result<(Self, Listener)> {
        let mut chance = [0; 16];
        getrandom::fill(&mut chance).map_err(io::Error::other)?;
        let name = format!(r"\\.\pipe\cove-{:032x}", u128::from_le_bytes(chance));
        let listener = Listener::of_console(&name).context("failed to make the console")?;
        Ok((Self { name }, listener))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // A machine that never ran never connected either, and is waited for no longer.
        pipe::release(&self.name);
    }
}

/// Keeps what a console says, on a thread that ends with the machine, whose end of the pipe is the last.
fn heard(listener: Listener, path: &Path) -> Result<()> {
    let path = path.to_owned();
    std::thread::Builder::new().name("console".to_owned()).spawn(move || match listener.accept_one() {
        Ok(console) => keep(console, &path),
        Err(error) => tracing::warn!(%error, "the machine's console is not heard"),
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
