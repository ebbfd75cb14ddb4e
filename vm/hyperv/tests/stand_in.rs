//! Calls of the service's library, and of WSL's program, against stand-ins in C. `cargo xtask cross wine` compiles them and
//! says where they are.
#![cfg(windows)]
#![expect(clippy::unwrap_used, reason = "the tests' own fixture")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vm_hyperv::Network;
use vm_hyperv::choice::By;
use vm_hyperv::connection::Connection;
use vm_hyperv::disk::Disks;
use vm_hyperv::guid::Guid;
use vm_hyperv::hcn::Networks;
use vm_hyperv::hcs::document::{Disk, Share, Spec};
use vm_hyperv::hcs::{FailureKind, Library, Machine, Order, Service, System};
use vm_hyperv::hvsocket::Address;
use vm_hyperv::request::{Request, Wanted};
use vm_hyperv::wsl::Wsl;
use vm_hyperv::{pipe, socket};

/// A distribution's.
const NAME: &str = "cove-dev";
/// The id by which the library's machines are connected to.
const RUNTIME_ID: &str = "01020304-0506-0708-090a-0b0c0d0e0f10";

/// The library's log is named by the environment, which all tests share.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

fn one_by_one() -> MutexGuard<'static, ()> {
    ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn library() -> Library {
    let path = std::env::var_os("COVE_HCS_STAND_IN").expect("run by cargo xtask cross wine");
    Library::load_from(Path::new(&path)).unwrap()
}

/// What the library was asked since this was asked last: the calls, the machines, and the documents.
fn log() -> Vec<(String, String, String)> {
    let path = PathBuf::from(std::env::var_os("COVE_HCS_LOG").expect("run by cargo xtask cross wine"));
    let taken = path.with_extension("taken");
    let begin = std::time::Instant::now();
    // Whoever writes has it for himself, and Wine closes it in its own time.
    while path.exists() && std::fs::rename(&path, &taken).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the log stays");
    }
    let text = std::fs::read_to_string(&taken).unwrap_or_default();
    let _ = std::fs::remove_file(&taken);
    let fields = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        (next(), next(), next())
    };
    text.lines().map(fields).collect()
}

fn calls(log: &[(String, String, String)]) -> Vec<&str> {
    log.iter().map(|(call, _, _)| call.as_str()).collect()
}

fn spec() -> Spec {
    Spec {
        cpus: 2,
        memory: 1 << 30,
        kernel: r"C:\Users\J\u{fc}rgen\kernel".into(),
        initrd: r"C:\cove\initrd".into(),
        options: "quiet".to_owned(),
        disks: vec![Disk { path: r"C:\cove\data.vhdx".into(), read_only: false }],
        network: None,
        user: "S-1-5-21-1-2-3-1001".to_owned(),
        console: None,
        saved: None,
    }
}

#[test]
fn a_machine_is_made_changed_saved_and_ended() {
    let _one = one_by_one();
    log();
    let library = library();
    assert_eq!(library.enumerate().unwrap(), "[]");
    let machine = Machine::make(&library, "dev", &spec()).unwrap();
    assert_eq!(machine.runtime_id().unwrap().to_string(), "01020304-0506-0708-090a-0b0c0d0e0f10");
    machine.start().unwrap();
    machine.set_memory(1 << 29).unwrap();
    machine.save(Path::new(r"C:\cove\state")).unwrap();
    machine.end().unwrap();
    drop(machine);
    let log = log();
    assert_eq!(
        calls(&log),
        ["enumerate", "create", "properties", "start", "modify", "pause", "save", "terminate", "close"]
    );
    let of = |wanted: &str| &log.iter().find(|(call, _, _)| call == wanted).unwrap().2;
    assert_eq!(of("create"), &spec().document().text());
    assert!(of("modify").contains(r#""Settings":512"#));
    assert!(of("save").contains(r#""SaveStateFilePath":"C:\\cove\\state""#));
    assert!(log.iter().skip(1).all(|(_, id, _)| id == "dev"));
}

#[test]
fn a_refusal_is_told_with_the_services_words_and_nothing_is_left() {
    let _one = one_by_one();
    log();
    let failure = Machine::make(&library(), "forbidden", &spec()).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Forbidden);
    assert!(failure.to_string().ends_with(": Zugriff verweigert \u{2013} access denied"), "{failure}");
    assert!(failure.hint().unwrap().contains("Hyper-V Administrators"));
    assert_eq!(calls(&log()).last(), Some(&"close"));
    let failure = Machine::make(&library(), "taken", &spec()).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Exists);
}

#[test]
fn an_end_is_told_whoever_ends_it() {
    let _one = one_by_one();
    for (id, expected) in [("dev", "it was ended"), ("crash", "it ended with 0xc0370106")] {
        let machine = Machine::make(&library(), id, &spec()).unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        machine.on_end(move |how| told.send(how).unwrap()).unwrap();
        machine.start().unwrap();
        if id == "dev" {
            machine.end().unwrap();
        }
        assert_eq!(hears.recv_timeout(Duration::from_secs(20)).unwrap(), expected);
        machine.end().unwrap();
    }
}

fn network() -> Network {
    let path = std::env::var_os("COVE_HCN_STAND_IN").expect("run by cargo xtask cross wine");
    Network::load_from(Path::new(&path)).unwrap()
}

/// A machine that is wanted, of files in a folder.
fn wanted(folder: &Path, name: &str) -> Wanted {
    let file = |name: &str| {
        let path = folder.join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    Wanted {
        name: name.to_owned(),
        cpus: 1,
        memory: 1 << 30,
        kernel: file("kernel"),
        initrd: file("initrd"),
        options: "quiet".to_owned(),
        system: file("system.vhd"),
        data: file("data.vhdx"),
        console: r"\\.\pipe\cove-1".to_owned(),
        saved: None,
    }
}

#[test]
fn a_user_who_may_make_machines_has_one_of_own_files() {
    let _one = one_by_one();
    log();
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::ourselves(library(), Ok(network())).unwrap();
    assert_eq!(connection.by(), By::User);
    let wanted = wanted(dir.path(), "dev");
    let made = connection.make(wanted.clone()).unwrap();
    assert_eq!((made.runtime_id.to_string().as_str(), made.no_network), (RUNTIME_ID, None));
    assert!(std::fs::remove_file(&wanted.kernel).is_err(), "nobody changes what it is about to boot");
    connection.ask(Request::Start).unwrap();
    let share = Share { tag: "share0".to_owned(), path: dir.path().to_owned(), read_only: true };
    connection.ask(Request::AddShare(share)).unwrap();
    connection.ask(Request::Pause).unwrap();
    connection.ask(Request::Resume).unwrap();
    let state = dir.path().join("state");
    connection.ask(Request::Save { file: state.clone() }).unwrap();
    assert!(state.is_file());
    assert!(connection.ask(Request::Save { file: state }).is_err(), "nothing is written over");
    let connection = std::sync::Arc::new(connection);
    let waits = std::sync::Arc::clone(&connection);
    let waiting = std::thread::spawn(move || waits.wait("dev").unwrap());
    connection.ask(Request::End).unwrap();
    assert_eq!(waiting.join().unwrap(), "it was ended");
    drop(connection);
    let log = log();
    let expected = [
        "enumerate",
        "create endpoint",
        "grant",
        "grant",
        "grant",
        "grant",
        "create",
        "properties",
        "start",
        "modify for somebody",
        "pause",
        "resume",
        "make state",
        "grant",
        "pause",
        "save",
        "make state",
        "terminate",
        "terminate",
        "close",
        "delete endpoint",
    ];
    assert_eq!(calls(&log), expected);
    let of = |wanted: &str| &log.iter().find(|(call, _, _)| call == wanted).unwrap().2;
    assert!(of("create").contains(r#""MacAddress":"00-15-5D-01-02-03""#), "{}", of("create"));
    assert!(of("create endpoint").contains("c08cb7b8-9b3c-408e-8e30-5e16a3aeb444"));
}

#[test]
fn where_there_is_no_switch_one_is_made() {
    let _one = one_by_one();
    log();
    let network = network();
    let mut no_switch = std::env::var_os("COVE_HCS_LOG").expect("run by cargo xtask cross wine");
    no_switch.push(".no-switch");
    std::fs::write(&no_switch, "").unwrap();
    let id = Guid::of_name("cove-dev");
    let endpoint = network.connect(id);
    std::fs::remove_file(&no_switch).unwrap();
    assert_eq!(endpoint.unwrap().mac, "00-15-5D-01-02-03");
    // One that was left is made anew.
    network.connect(id).unwrap();
    network.disconnect(id).unwrap();
    network.disconnect(id).unwrap();
    let expected =
        ["create network", "create endpoint", "delete endpoint", "create endpoint", "delete endpoint"];
    assert_eq!(calls(&log()), expected);
}

#[test]
fn a_disk_is_made_once_and_grows() {
    let path = std::env::var_os("COVE_VIRTDISK_STAND_IN").expect("run by cargo xtask cross wine");
    let disks = Disks::load_from(Path::new(&path)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("data.vhdx");
    let size = || u64::from_le_bytes(std::fs::read(&disk).unwrap().try_into().unwrap());
    disks.create(&disk, (1 << 30) + 1).unwrap();
    assert_eq!(size(), (1 << 30) + (1 << 20));
    // ERROR_FILE_EXISTS.
    assert_eq!(disks.create(&disk, 1 << 30).unwrap_err().code, 0x8007_0050);
    disks.grow(&disk, 1 << 30).unwrap();
    assert_eq!(size(), (1 << 30) + (1 << 20), "it does not shrink");
    disks.grow(&disk, 1 << 31).unwrap();
    assert_eq!(size(), 1 << 31);
    let longer = [&std::fs::read(&disk).unwrap()[..], b"deleted"].concat();
    std::fs::write(&disk, longer).unwrap();
    disks.compact(&disk).unwrap();
    assert_eq!(size(), 1 << 31);
    assert_eq!(disks.grow(&dir.path().join("none"), 1).unwrap_err().kind(), FailureKind::Missing);
}

#[test]
fn a_socket_of_any_family_carries_bytes_both_ways() {
    // Wine has no family for guests: the same calls, by another's address.
    let listening = socket::listen(&Address { family: 2, protocol: 6, bytes: loopback(0) }).unwrap();
    assert_eq!(socket::accept(&listening).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let port = listening.local_addr().unwrap().port();
    let to = Address { family: 2, protocol: 6, bytes: loopback(port) };
    let mut here = socket::connect(&to, Duration::from_secs(5)).unwrap();
    let begin = std::time::Instant::now();
    let mut there = loop {
        match socket::accept(&listening) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(begin.elapsed() < Duration::from_secs(10));
                std::thread::yield_now();
            }
            other => break other.unwrap(),
        }
    };
    there.set_nonblocking(false).unwrap();
    here.write_all(b"hello").unwrap();
    here.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = Vec::new();
    there.read_to_end(&mut heard).unwrap();
    there.write_all(&heard).unwrap();
    drop(there);
    heard.clear();
    here.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"hello");
    assert!(socket::connect(&Address::of(Guid::of_name("x"), 1), Duration::from_secs(1)).is_err());
}

/// `sockaddr_in` of a port of the loopback.
fn loopback(port: u16) -> Vec<u8> {
    [&2_u16.to_le_bytes()[..], &port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat()
}

#[test]
fn an_order_at_the_wrong_time_is_told_as_such() {
    let _one = one_by_one();
    let system = library().create("early", &spec().document().text()).unwrap();
    assert_eq!(system.order(Order::Pause, None).unwrap_err().kind(), FailureKind::WrongState);
    system.order(Order::Start, None).unwrap();
    system.order(Order::Terminate, None).unwrap();
    assert_eq!(system.order(Order::Terminate, None).unwrap_err().kind(), FailureKind::WrongState);
}

#[test]
fn a_library_that_is_not_there_or_lacks_a_call_is_no_service() {
    for name in [r"C:\no\such.dll", "kernel32.dll"] {
        assert_eq!(Library::load_from(Path::new(name)).unwrap_err().kind(), FailureKind::Missing, "{name}");
    }
}

/// WSL's stand-in, with no distributions, and the folder that has them.
fn wsl() -> (Wsl, tempfile::TempDir) {
    let original = std::env::var_os("COVE_WSL_STAND_IN_PROGRAM").expect("run by cargo xtask cross wine");
    let dir = tempfile::tempdir().unwrap();
    // It has its distributions beside itself, so that each test has its own.
    let program = dir.path().join("wsl.exe");
    std::fs::copy(original, &program).unwrap();
    (Wsl::at(program), dir)
}

#[test]
fn a_distribution_is_imported_listed_run_in_and_removed() {
    let (wsl, dir) = wsl();
    assert_eq!(wsl.version().unwrap(), "2.3.24.0");
    assert!(wsl.names().unwrap().is_empty());
    let archive = dir.path().join("root.tar");
    let folder = dir.path().join("disk of it");
    let error = wsl.import(NAME, &folder, &archive).unwrap_err();
    assert!(error.to_string().contains("Das System kann die Datei nicht finden."), "{error}");
    std::fs::write(&archive, "").unwrap();
    wsl.import(NAME, &folder, &archive).unwrap();
    assert!(wsl.import(NAME, &folder, &archive).unwrap_err().is_taken());
    assert_eq!(wsl.names().unwrap(), [NAME]);
    wsl.terminate(NAME).unwrap();
    wsl.unregister(NAME).unwrap();
    wsl.unregister(NAME).unwrap();
    assert!(wsl.names().unwrap().is_empty());
}

#[test]
fn a_program_in_a_distribution_has_its_own_bytes() {
    let (wsl, dir) = wsl();
    let archive = dir.path().join("root.tar");
    std::fs::write(&archive, "").unwrap();
    let run = |wsl: &Wsl, input: &[u8]| {
        let mut command = wsl.command(NAME, &["/cove-agent", "--stdio", "two words"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let refused = run(&wsl, b"");
    let refusal = Wsl::refusal("start the agent", &refused.stdout).unwrap();
    assert!(refusal.is_unknown(), "{refusal}");
    wsl.import(NAME, &dir.path().join("disk"), &archive).unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let output = run(&wsl, &bytes);
    let words: &[u8] = b"/cove-agent|--stdio|two words|";
    assert!(output.stdout == [words, &bytes].concat(), "{} bytes came back", output.stdout.len());
    assert_eq!(output.status.code(), Some(3));
}

/// Asks the service that Windows' keeper of services started, which has the libraries' stand-ins.
#[test]
#[ignore = "cargo xtask cross wine runs it when it has started the service"]
fn a_service_that_was_started_makes_machines_of_its_callers_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::service(pipe::SERVICE).unwrap();
    assert_eq!(connection.by(), By::Service);
    let wanted = wanted(dir.path(), "dev");
    let missing = Wanted { kernel: dir.path().join("none"), ..wanted.clone() };
    assert_eq!(connection.make(missing).unwrap_err().kind(), FailureKind::Forbidden);
    let device = Wanted { kernel: r"\\.\PhysicalDrive0".into(), ..wanted.clone() };
    assert_eq!(connection.make(device).unwrap_err().kind(), FailureKind::Forbidden);
    let made = connection.make(wanted.clone()).unwrap();
    assert_eq!((made.runtime_id.to_string().as_str(), made.no_network), (RUNTIME_ID, None));
    let second = Connection::service(pipe::SERVICE).unwrap();
    assert_eq!(second.make(wanted.clone()).unwrap_err().kind(), FailureKind::Exists);
    assert_eq!(second.ask(Request::Start).unwrap_err().kind(), FailureKind::NotFound);
    connection.ask(Request::Start).unwrap();
    let share = Share { tag: "share0".to_owned(), path: dir.path().to_owned(), read_only: true };
    connection.ask(Request::AddShare(share)).unwrap();
    let waiting = std::thread::spawn(move || second.wait("dev").unwrap());
    connection.ask(Request::End).unwrap();
    assert_eq!(waiting.join().unwrap(), "it was ended");
    drop(connection);
    // What is no request ends its connection, and nothing else.
    let mut pipe = pipe::connect(pipe::SERVICE).unwrap();
    pipe.write_all(&[0xff; 64]).unwrap();
    assert_eq!(pipe.read(&mut [0]).unwrap_or(0), 0);
    let begin = std::time::Instant::now();
    let again = Connection::service(pipe::SERVICE).unwrap();
    while let Err(failure) = again.make(wanted.clone()) {
        assert_eq!(failure.kind(), FailureKind::Exists);
        assert!(begin.elapsed() < Duration::from_secs(10), "a machine goes with its connection");
    }
}
