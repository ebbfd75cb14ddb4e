//! Calls of the service's library, and of WSL's program, against stand-ins in C. `cargo xtask cross wine` compiles them and
//! says where they are.
#![cfg(windows)]
#![expect(clippy::unwrap_used, reason = "the tests' own fixture")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_hyperv::hcs::document::{Disk, Share, Spec};
use vm_hyperv::hcs::{FailureKind, Library, Machine, Order, Service, System};
use vm_hyperv::wsl::Wsl;

/// A distribution's.
const NAME: &str = "cove-dev";

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
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let _ = std::fs::remove_file(&path);
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
        shares: Vec::new(),
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
    let machine = Machine::start(&library, "dev", &spec()).unwrap();
    assert_eq!(machine.properties().unwrap(), r#"{"State":"Running"}"#);
    machine.add_share(&Share { tag: "c".to_owned(), path: r"C:\".into(), read_only: false }).unwrap();
    assert!(machine.save(Path::new(r"C:\cove\state")).is_ok());
    let log = log();
    assert_eq!(
        calls(&log),
        [
            "enumerate",
            "grant",
            "grant",
            "grant",
            "create",
            "start",
            "properties",
            "modify",
            "pause",
            "save",
            "terminate",
            "close"
        ]
    );
    let of = |wanted: &str| &log.iter().find(|(call, _, _)| call == wanted).unwrap().2;
    assert_eq!(of("create"), &spec().document().text());
    assert!(of("modify").contains(r#""RequestType":"Add""#));
    assert!(of("save").contains(r#""SaveStateFilePath":"C:\\cove\\state""#));
    assert!(log.iter().skip(1).all(|(_, id, _)| id == "dev"));
}

#[test]
fn a_refusal_is_told_with_the_services_words_and_nothing_is_left() {
    let _one = one_by_one();
    log();
    let failure = Machine::start(&library(), "forbidden", &spec()).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Forbidden);
    assert!(failure.to_string().ends_with(": Zugriff verweigert \u{2013} access denied"), "{failure}");
    assert!(failure.hint().unwrap().contains("Hyper-V Administrators"));
    assert_eq!(calls(&log()).last(), Some(&"close"));
    let failure = Machine::start(&library(), "taken", &spec()).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Exists);
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
