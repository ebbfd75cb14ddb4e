//! Guests of a Hyper-V that is made up: each is a real one, emulated by QEMU, whose vsock leads to the loopback.
//! `vm/hyperv/tests/stand_in/guests.c` is what leads here, in the program that takes it for Windows'.
//!
//! A connection begins with a letter and two numbers (four bytes each, little endian): `S` begins a guest of the document of
//! so many bytes that follows, and lasts as long as the guest; `P` has its state written, as the options that follow say; `L` has the guest's calls to a port of the host's go to another
//! of the loopback; `C` is connected to a port of the guest. A zero is the answer where it is so.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::MemfdFlags;
use serde_json::Value;
use vm_devices::Vsock;
use vm_manager::backend::qemu::{self, state};
use vm_manager::backend::{self, Acceleration, Plan};
use vm_manager::config::{Backend, Config};
use vm_manager::image::{Image, Manifest};
use vm_manager::places::Folders;
use vm_manager::qmp::Qmp;

/// The guest's vsock address.
const CID: u64 = 3;
/// How long a guest may take to answer at a port.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long QEMU may take until it listens.
const START: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(5);
const SECTOR: u64 = 512;

#[derive(Debug)]
struct Guests {
    folder: PathBuf,
    drive: PathBuf,
    vsock: Vsock,
    socket: PathBuf,
    running: Mutex<Option<Child>>,
    /// What the one that runs was started with.
    plan: Mutex<Option<Plan>>,
    /// Its memory, which is not written to the file of its state: it stays here.
    memory: Mutex<Option<OwnedFd>>,
}

/// Serves them until the input ends.
pub(crate) fn run() -> Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), Some(drive)) = (args.next(), args.next()) else { bail!("hyperv-guests FOLDER DRIVE") };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to listen")?;
    let port = listener.local_addr()?.port();
    let socket = folder.join("vsock.sock");
    let vsock = Vsock::serve(&socket, CID).context("failed to serve the channel")?;
    let (running, plan, memory) = (Mutex::default(), Mutex::default(), Mutex::default());
    let guests = Arc::new(Guests { folder, drive, vsock, socket, running, plan, memory });
    let served = Arc::clone(&guests);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let served = Arc::clone(&served);
            std::thread::spawn(move || {
                // The program sees that it is not answered.
                if let Err(error) = served.answer(stream) {
                    let _ = writeln!(io::stderr(), "the made up Hyper-V: {error:#}");
                }
            });
        }
    });
    writeln!(io::stdout(), "{port}")?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    guests.end();
    Ok(())
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guests {
    fn answer(self: &Arc<Self>, mut stream: TcpStream) -> Result<()> {
        let mut words = [0; 9];
        stream.read_exact(&mut words)?;
        let [what, a, b, c, d, rest @ ..] = words;
        let (number, other) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest));
        match what {
            b'S' => self.begin(stream, number),
            b'P' => {
                let options = document(&mut stream, number)?;
                let file = options.get("SaveStateFilePath").and_then(Value::as_str);
                self.save(&self.here(file.context("the options name no file")?))?;
                Ok(stream.write_all(&[0])?)
            }
            b'L' => {
                let to = u16::try_from(other)?;
                self.vsock.listen(number, move |guest| {
                    std::thread::spawn(move || {
                        if let Ok(host) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) {
                            let _ = relay(&host, &guest);
                        }
                    });
                });
                Ok(stream.write_all(&[0])?)
            }
            b'C' => {
                let guest = self.vsock.connect(number, PATIENCE)?;
                stream.write_all(&[0])?;
                Ok(relay(&stream, &guest)?)
            }
            other => bail!("{other:?} is unknown"),
        }
    }

    /// Begins a guest, and stays with it to its end.
    fn begin(&self, mut stream: TcpStream, length: u32) -> Result<()> {
        let document = document(&mut stream, length)?;
        let saved =
            document.pointer("/VirtualMachine/RestoreState/SaveStateFilePath").and_then(Value::as_str);
        let saved = saved.map(|file| self.here(file));
        let mut command = self.command(&document, saved.is_some())?;
        std::fs::write(self.folder.join("document.json"), document.to_string())?;
        let child = command.spawn().context("failed to start QEMU")?;
        ensure!(lock(&self.running).replace(child).is_none(), "one guest at a time");
        if let Some(file) = saved
            && let Err(error) = self.wake(&file)
        {
            self.end();
            return Err(error);
        }
        stream.write_all(&[0])?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        loop {
            // Whoever has it says nothing, and is gone when it is to end.
            let is_left = match stream.read(&mut [0]) {
                Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
                Ok(_) => true,
            };
            let has_ended = match &mut *lock(&self.running) {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if is_left || has_ended {
                self.end();
                return Ok(());
            }
        }
    }

    fn end(&self) {
        if let Some(mut child) = lock(&self.running).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Writes the state of a guest, which stands still then.
    fn save(&self, file: &Path) -> Result<()> {
        let plan = lock(&self.plan).clone().context("none runs")?;
        in_loop(async {
            let mut qmp = Qmp::connect(&qemu::qmp_socket(&plan)).await?;
            state::unplug(&mut qmp, &qemu::plugged(&plan)).await?;
            state::save(&mut qmp, &plan.places.device("state"), file).await
        })
    }

    /// Has one go on from its state.
    fn wake(&self, file: &Path) -> Result<()> {
        let plan = lock(&self.plan).clone().context("none runs")?;
        in_loop(async {
            let begin = tokio::time::Instant::now();
            let mut qmp = loop {
                match Qmp::connect(&qemu::qmp_socket(&plan)).await {
                    Err(_) if begin.elapsed() < START => tokio::time::sleep(AGAIN).await,
                    other => break other?,
                }
            };
            state::restore(&mut qmp, &plan.places.device("state"), file).await?;
            state::plug(&mut qmp, &qemu::plugged(&plan)).await?;
            state::go_on(&mut qmp).await
        })
    }

    /// QEMU with what the document says: a kernel, and its disks.
    fn command(&self, document: &Value, wakes: bool) -> Result<Command> {
        let at = |path: &str| {
            let value = document.pointer(&format!("/VirtualMachine/{path}"));
            value.with_context(|| format!("the document has no {path}"))
        };
        let file = |path: &str| Ok::<_, anyhow::Error>(self.here(at(path)?.as_str().unwrap_or_default()));
        let kernel = file("Chipset/LinuxKernelDirect/KernelFilePath")?;
        let system = file("Devices/Scsi/0/Attachments/0/Path")?;
        let data = file("Devices/Scsi/0/Attachments/1/Path")?;
        ensure!(
            at("Devices/Scsi/0/Attachments/0/ReadOnly")? == &Value::Bool(true),
            "the system is read-only"
        );
        let folder = kernel.parent().context("a kernel is in a folder")?.to_owned();
        let image = Image { manifest: Manifest::read(&folder)?, folder };
        let folders = Folders { data: self.folder.join("data"), run: self.folder.join("run") };
        let places = folders.machine("guest")?;
        vm_manager::places::make_private(&places.data)?;
        vm_manager::places::make_private(&places.run)?;
        // The stand-in of Windows' library for disks keeps a disk's size alone.
        let mut size = [0; 8];
        File::open(&data)?.read_exact(&mut size).context("the data disk is none")?;
        let disk = File::options().create(true).truncate(false).write(true).open(places.disk())?;
        disk.set_len(u64::from_le_bytes(size))?;
        let processors = at("ComputeTopology/Processor/Count")?.as_u64().unwrap_or(1);
        let config = Config {
            backend: Backend::Qemu,
            cpus: u32::try_from(processors)?,
            memory: at("ComputeTopology/Memory/SizeInMB")?.as_u64().unwrap_or(512) << 20,
            disk: u64::from_le_bytes(size),
            shares: vec![],
            image: None,
            sleep_after: None,
            ssh_agent: false,
            rosetta: false,
        };
        let original = image.file("system.erofs");
        let mut memory = lock(&self.memory);
        if !wakes {
            // QEMU inherits it.
            let file = rustix::fs::memfd_create("guest", MemfdFlags::empty())?;
            rustix::fs::ftruncate(&file, config.memory)?;
            *memory = Some(file);
        }
        let memory = memory.as_ref().map(AsRawFd::as_raw_fd);
        let plan = Plan {
            config,
            places,
            image,
            vsock: self.socket.clone(),
            network: None,
            shares: vec![],
            acceleration: Acceleration::Tcg,
            memory,
            wakes,
        };
        let planned = backend::command(&plan)?;
        *lock(&self.plan) = Some(plan);
        let length = std::fs::metadata(&system)?.len();
        ensure!(length % SECTOR == 0 && length > std::fs::metadata(&original)?.len(), "a disk has a footer");
        let mut command = stdx::process::command(planned.get_program());
        for word in planned.get_args() {
            // Its disk is the one with the footer.
            let word =
                word.to_string_lossy().replace(&*original.to_string_lossy(), &system.to_string_lossy());
            command.arg(word);
        }
        command.args(["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network,romfile="]);
        let console = File::create(self.folder.join("console.log"))?;
        command.stdin(Stdio::null()).stderr(console.try_clone()?).stdout(console);
        Ok(command)
    }

    /// A file of Windows' on this computer: of the drive, or of Wine's that is all of it.
    fn here(&self, path: &str) -> PathBuf {
        let path = path.strip_prefix(r"\\?\").unwrap_or(path);
        let (drive, rest) = path.split_at(path.len().min(2));
        let rest = rest.replace('\\', "/");
        match drive {
            "Z:" | "z:" => rest.into(),
            _ => self.drive.join(rest.trim_start_matches('/')),
        }
    }
}

/// A document of so many bytes.
fn document(stream: &mut TcpStream, length: u32) -> Result<Value> {
    let mut document = vec![0; length as usize];
    stream.read_exact(&mut document)?;
    serde_json::from_slice(&document).context("the document is none")
}

fn in_loop<T>(work: impl Future<Output = io::Result<T>>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)?)
}

/// Joins two, each direction to its own end.
fn relay(host: &TcpStream, guest: &UnixStream) -> io::Result<()> {
    guest.set_nonblocking(false)?;
    host.set_nodelay(true)?;
    let (mut host_in, mut guest_out) = (host.try_clone()?, guest.try_clone()?);
    let to_guest = std::thread::spawn(move || {
        let _ = io::copy(&mut host_in, &mut guest_out);
        let _ = guest_out.shutdown(Shutdown::Write);
    });
    let (mut guest_in, mut host_out) = (guest.try_clone()?, host.try_clone()?);
    let _ = io::copy(&mut guest_in, &mut host_out);
    let _ = host_out.shutdown(Shutdown::Write);
    let _ = to_guest.join();
    Ok(())
}
