//! Tests under Wine, with libraries that stand in for Windows'; the guest is on the loopback.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use tokio_util::sync::CancellationToken;
use vm_hyperv::Network;
use vm_hyperv::hcs::Library;
use vm_manager::backend::Acceleration;
use vm_manager::config::{Backend, Config};
use vm_manager::places::{Folders, make_private};

use super::*;

/// The library's log is named by the environment, which all tests share.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

fn one_by_one() -> MutexGuard<'static, ()> {
    ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stand_in(variable: &str) -> std::path::PathBuf {
    std::env::var_os(variable).expect("run by cargo xtask cross wine").into()
}

/// The calls since this was asked last.
fn calls() -> Vec<String> {
    let path = stand_in("COVE_HCS_LOG");
    let taken = path.with_extension("taken");
    let begin = Instant::now();
    // Whoever writes has it for himself, and Wine closes it in its own time.
    while path.exists() && std::fs::rename(&path, &taken).is_err() {
        assert!(begin.elapsed() < DEADLINE, "the log stays");
    }
    let text = std::fs::read_to_string(&taken).unwrap_or_default();
    let _ = std::fs::remove_file(&taken);
    text.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
}

/// Somebody at the loopback, whom one can connect to and be connected to by, but for one port.
struct Loopback(TcpListener);

impl Dial for Loopback {
    fn connect(&self, _: u32, _: Duration) -> io::Result<StdStream> {
        StdStream::connect(self.0.local_addr()?)
    }

    fn listen(&self, port: u32) -> io::Result<StdStream> {
        if port == 9 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(std::os::windows::io::OwnedSocket::from(self.0.try_clone()?).into())
    }

    fn accept(&self, _: u32, listening: &TcpStream) -> io::Result<StdStream> {
        socket::accept(listening)
    }
}

fn devices() -> (Devices, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let guest: Arc<dyn Dial> = Arc::new(Loopback(listener));
    let vsock = Arc::new(Channel::Sockets(sockets::Channel::new(guest, Handle::current())));
    (Devices { vsock, shares: Vec::new(), told: crate::told::Tellers::new(Vec::new()) }, port)
}

/// A machine of that name, made of files in a folder; anew, or of what was saved.
fn making(folder: &Path, name: &str, moment: Option<Moment>) -> Making {
    let library = Library::load_from(&stand_in("COVE_HCS_STAND_IN")).unwrap();
    let network = Network::load_from(&stand_in("COVE_HCN_STAND_IN"));
    let connection = Connection::ourselves(library, network).unwrap();
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    let (console, listener) = Console::listen().unwrap();
    let folders = Folders { data: folder.join("machines"), run: folder.join("run") };
    let places = folders.machine(name).unwrap();
    make_private(&places.data).unwrap();
    let state = moment.map(|moment| saved::take(&places, moment).unwrap());
    let wanted = Wanted {
        name: name.to_owned(),
        cpus: 1,
        memory: 1 << 30,
        kernel: file("kernel"),
        initrd: file("initrd"),
        options: backend::hyperv::options(),
        system: file("system.vhd"),
        data: file("data.vhdx"),
        console: console.name.clone(),
        saved: state.as_deref().map(saved::devices),
    };
    make_once_gone(&connection, &wanted).unwrap();
    heard(listener, &folder.join("console.log")).unwrap();
    let folders = vec![Share { tag: "share0".to_owned(), path: folder.to_owned(), read_only: false }];
    Making { connection: Arc::new(connection), folders, console, places, record: record(), moment }
}

fn record() -> Record {
    let config = Config {
        backend: Backend::HyperV,
        cpus: 1,
        memory: 1 << 30,
        disk: 1 << 30,
        shares: vec![],
        image: None,
        sleep_after: None,
        ssh_agent: false,
        rosetta: false,
    };
    Record { config, image: String::new(), acceleration: Acceleration::HyperV, program: String::new() }
}

fn started(making: Making, devices: &Devices) -> (Started, mpsc::Receiver<String>) {
    let (told, hears) = mpsc::channel();
    let started = making.start(devices, move |how| told.send(how).unwrap()).unwrap();
    (started, hears)
}

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_machine_starts_with_its_folders_stands_still_and_is_ended() {
    let _one = one_by_one();
    calls();
    let dir = tempfile::tempdir().unwrap();
    let (devices, _) = devices();
    let (started, hears) = started(making(dir.path(), "dev", None), &devices);
    let until = |is_still: bool| {
        let begin = Instant::now();
        while started.vmm.stands_still() != is_still {
            assert!(begin.elapsed() < DEADLINE);
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    started.vmm.stop();
    until(true);
    started.vmm.go_on();
    until(false);
    let saving = started.saving.clone().unwrap();
    saving.limit_memory(1 << 29).await.unwrap();
    assert!(saving.grow_disk(1 << 40).await.is_err());
    drop(saving);
    started.vmm.kill();
    assert_eq!(hears.recv_timeout(DEADLINE).unwrap(), "it was ended");
    let expected = ["start", "modify for somebody", "pause", "resume", "modify", "terminate"];
    let all = calls();
    assert!(all.windows(expected.len()).any(|some| some == expected), "{all:?}");
    drop(started);
    let begin = Instant::now();
    let mut all = Vec::new();
    while all.last().is_none_or(|call| call != "delete endpoint") {
        assert!(begin.elapsed() < DEADLINE, "nothing of it is left: {all:?}");
        all.extend(calls());
    }
}

#[tokio::test]
async fn one_that_sleeps_goes_on_from_what_was_saved_once() {
    let _one = one_by_one();
    calls();
    let dir = tempfile::tempdir().unwrap();
    let (devices, _) = devices();
    let (asleep, hears) = started(making(dir.path(), "dev", None), &devices);
    let saving = asleep.saving.clone().unwrap();
    saving.save().await.unwrap();
    let places = saving.places.clone();
    assert_eq!(Record::read(&places, Moment::Sleep), Some(record()));
    asleep.vmm.kill();
    hears.recv_timeout(DEADLINE).unwrap();
    let all = calls();
    // The folder is taken away first.
    assert!(all.windows(5).any(|some| some == ["modify", "make state", "grant", "pause", "save"]), "{all:?}");
    drop((asleep, saving));
    let (awake, _hears) = started(making(dir.path(), "dev", Some(Moment::Sleep)), &devices);
    assert_eq!(Record::read(&places, Moment::Sleep), None, "it is out of use before anything runs");
    assert!(!calls().contains(&"start".to_owned()));
    awake.waking.unwrap().wake().unwrap();
    let all = calls();
    assert!(all.starts_with(&["start".to_owned(), "modify for somebody".to_owned()]), "{all:?}");
    assert!(!Moment::Sleep.folder(&places).with_extension("new").exists(), "nothing is left of it");
    awake.vmm.kill();
}

#[tokio::test]
async fn one_that_windows_does_not_save_goes_on() {
    let _one = one_by_one();
    let dir = tempfile::tempdir().unwrap();
    let (devices, _) = devices();
    let (awake, _hears) = started(making(dir.path(), "unsaved", None), &devices);
    let saving = awake.saving.clone().unwrap();
    calls();
    let error = saving.save().await.unwrap_err();
    assert!(format!("{error:#}").starts_with("Windows does not save it"), "{error:#}");
    let expected = ["modify", "make state", "pause", "save", "resume", "modify for somebody"];
    let all: Vec<_> = calls().into_iter().filter(|call| call != "grant").collect();
    assert_eq!(all, expected);
    assert!(!Moment::Sleep.folder(&saving.places).with_extension("new").exists(), "half of it is left");
    awake.vmm.kill();
}

#[tokio::test]
async fn one_that_gives_up_is_seen_to() {
    let _one = one_by_one();
    let dir = tempfile::tempdir().unwrap();
    let (devices, _) = devices();
    let (_started, hears) = started(making(dir.path(), "crash", None), &devices);
    assert_eq!(hears.recv_timeout(DEADLINE).unwrap(), "it ended with 0xc0370106");
}

#[tokio::test]
async fn where_the_guest_would_not_reach_us_none_is_started() {
    let _one = one_by_one();
    let dir = tempfile::tempdir().unwrap();
    let (devices, _) = devices();
    let made = making(dir.path(), "dev", None);
    devices.vsock.listen(9, |_| {});
    calls();
    let error = made.start(&devices, |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "the machine's agent would not reach us");
    assert_eq!(calls(), ["terminate", "close", "delete endpoint"]);
}

#[tokio::test]
async fn what_the_console_says_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console.log");
    let (console, listener) = Console::listen().unwrap();
    heard(listener, &path).unwrap();
    let mut machine = pipe::connect_to_any(&console.name).unwrap();
    io::Write::write_all(&mut machine, b"Linux version 7\n").unwrap();
    drop(machine);
    let begin = Instant::now();
    while std::fs::read(&path).unwrap_or_default() != b"Linux version 7\n" {
        assert!(begin.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn streams_of_either_direction_are_sockets_to_the_loop() {
    let (devices, port) = devices();
    let cancelled = CancellationToken::new();
    devices.tell_changes(&cancelled);
    let (sender, mut called) = tokio::sync::mpsc::channel(4);
    devices.vsock.listen(1, move |stream| sender.try_send(stream).unwrap());
    let mut guest = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut here = tokio::time::timeout(DEADLINE, called.recv()).await.unwrap().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut guest, b"hello").await.unwrap();
    let mut heard = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut here, &mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    devices.vsock.open(3, DEADLINE).await.unwrap();
}
