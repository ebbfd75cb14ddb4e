//! Tests of who may have which machine, against services that only write down what they are asked.
#![cfg(not(windows))]

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::hcn::Endpoint;
use crate::hcs::{EndTold, Order, System};

/// Everything that was asked, of service, network and caller.
type Log = Rc<RefCell<Vec<String>>>;

#[derive(Clone, Default)]
struct Recorder {
    log: Log,
    fails: Option<&'static str>,
    end: Rc<RefCell<Option<EndTold>>>,
}

impl Recorder {
    fn note(&self, what: String) -> Result<(), Failure> {
        let fails = self.fails.is_some_and(|failing| what.starts_with(failing));
        self.log.borrow_mut().push(what);
        if fails { Err(Failure::new("made up", 0x8037_0105)) } else { Ok(()) }
    }
}

impl Service for Recorder {
    type System = Self;

    fn create(&self, id: &str, document: &str) -> Result<Self, Failure> {
        self.note(format!("create {id}"))?;
        self.note(document.to_owned())?;
        Ok(self.clone())
    }

    fn grant(&self, _: &str, file: &Path) -> Result<(), Failure> {
        self.note(format!("grant {}", file.display()))
    }

    fn make_state(&self, file: &Path) -> Result<(), Failure> {
        self.note(format!("make {}", file.display()))
    }

    fn enumerate(&self) -> Result<String, Failure> {
        Ok("[]".to_owned())
    }
}

impl System for Recorder {
    fn order(&self, order: Order, _: Option<&str>) -> Result<(), Failure> {
        self.note(order.call().to_owned())
    }

    fn modify(&self, request: &str, identity: Option<&Identity>) -> Result<(), Failure> {
        let whose = if identity.is_some() { "the user's" } else { "ours" };
        self.note(format!("modify as {whose} {request}"))
    }

    fn on_end(&self, told: EndTold) -> Result<(), Failure> {
        *self.end.borrow_mut() = Some(told);
        Ok(())
    }

    fn properties(&self, _: &str) -> Result<String, Failure> {
        Ok(r#"{"RuntimeId":"01020304-0506-0708-090a-0b0c0d0e0f10"}"#.to_owned())
    }
}

impl Networks for Recorder {
    fn connect(&self, id: Guid) -> Result<Endpoint, Failure> {
        self.note("connect".to_owned())?;
        Ok(Endpoint { id, mac: "00-15-5D-01-02-03".to_owned() })
    }

    fn disconnect(&self, _: Guid) -> Result<(), Failure> {
        self.note("disconnect".to_owned())
    }
}

/// A user who may open what is in the own folder, where `link` leads elsewhere.
struct User {
    id: &'static str,
    log: Log,
}

impl Caller for User {
    type Kept = ();

    fn user(&self) -> &str {
        self.id
    }

    fn open(&self, file: &Path, access: Access) -> io::Result<(PathBuf, ())> {
        let text = file.to_str().unwrap();
        self.log.borrow_mut().push(format!("open {text} to {access:?}"));
        match text {
            r"C:\Users\me\link" => Ok((r"\\?\UNC\server\share\kernel".into(), ())),
            r"C:\Users\me\junction" => Ok((r"\\?\D:\other".into(), ())),
            _ if text.starts_with(r"C:\Users\me") => Ok((format!(r"\\?\{text}").into(), ())),
            _ => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }

    fn act<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        self.log.borrow_mut().push("become the user".to_owned());
        let done = work();
        self.log.borrow_mut().push("be ourselves".to_owned());
        Ok(done)
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::made_up())
    }
}

const ME: &str = "S-1-5-21-1-2-3-1001";

fn session(
    recorder: &Recorder,
    user: &'static str,
    machines: &Arc<Machines>,
) -> Session<Recorder, Recorder, User> {
    let caller = User { id: user, log: Rc::clone(&recorder.log) };
    Session::new(recorder.clone(), Ok(recorder.clone()), caller, Arc::clone(machines))
}

fn wanted() -> Wanted {
    let file = |name: &str| format!(r"C:\Users\me\{name}").into();
    Wanted {
        name: "dev".to_owned(),
        cpus: 2,
        memory: 1 << 30,
        kernel: file("kernel"),
        initrd: file("initrd"),
        options: "quiet".to_owned(),
        system: file("system.vhd"),
        data: file("data.vhdx"),
        console: r"\\.\pipe\cove-0a".to_owned(),
        saved: None,
    }
}

#[test]
fn a_machine_is_made_of_its_callers_files_as_its_caller() {
    let (recorder, machines) = (Recorder::default(), Arc::default());
    let mut session = session(&recorder, ME, &machines);
    assert_eq!(session.answer(Request::Look { version: VERSION }), Ok(Answer::Done));
    let made = session.answer(Request::Make(wanted())).unwrap();
    let runtime_id = "01020304-0506-0708-090a-0b0c0d0e0f10".to_owned();
    assert_eq!(made, Answer::Made { runtime_id, no_network: None });
    let mut log = recorder.log.take();
    let document = log.pop().unwrap();
    assert!(document.contains(r#""Path":"C:\\Users\\me\\data.vhdx""#) && document.contains(ME), "{document}");
    assert_eq!(
        log,
        [
            r"open C:\Users\me\kernel to Read",
            r"open C:\Users\me\initrd to Read",
            r"open C:\Users\me\system.vhd to Read",
            r"open C:\Users\me\data.vhdx to Write",
            "connect",
            "become the user",
            r"grant C:\Users\me\kernel",
            r"grant C:\Users\me\initrd",
            r"grant C:\Users\me\system.vhd",
            r"grant C:\Users\me\data.vhdx",
            "be ourselves",
            "create cove-dev-S-1-5-21-1-2-3-1001",
        ]
    );
    session.answer(Request::Start).unwrap();
    let share = Share { tag: "share0".into(), path: r"\\?\C:\Users\me\src".into(), read_only: false };
    session.answer(Request::AddShare(share)).unwrap();
    let log = recorder.log.take();
    assert!(log.last().unwrap().starts_with("modify as the user's "), "{log:?}");
    assert!(session.answer(Request::Make(wanted())).is_err(), "a connection has one");
    drop(session);
    assert_eq!(recorder.log.take(), ["HcsTerminateComputeSystem", "disconnect"]);
    assert!(machines.wait("dev", ME).is_err(), "it is gone");
}

#[test]
fn what_the_caller_may_not_open_no_machine_of_his_may() {
    let (recorder, machines) = (Recorder::default(), Arc::default());
    let system = |path: &str| Wanted { system: path.into(), ..wanted() };
    let kernel = |path: &str| Wanted { kernel: path.into(), ..wanted() };
    for bad in [
        kernel(r"C:\Windows\System32\config\SAM"),
        kernel(r"\\server\share\kernel"),
        kernel(r"\\?\UNC\server\share\kernel"),
        kernel(r"\\.\PhysicalDrive0"),
        kernel(r"\\?\GLOBALROOT\Device\Harddisk0"),
        kernel(r"C:kernel"),
        kernel(r"C:\Users\me\..\you\kernel"),
        kernel(r"C:\Users\me\kernel:stream"),
        kernel(r"C:\Users\me\link"),
        kernel("kernel"),
        system(r"C:\Users\you\data.vhdx"),
        Wanted { console: r"C:\Windows\System32\drivers\etc\hosts".into(), ..wanted() },
        Wanted { console: r"\\.\pipe\cove-..\other".into(), ..wanted() },
        Wanted { console: r"\\.\pipe\cove-".into(), ..wanted() },
        Wanted { name: "a/b".into(), ..wanted() },
        Wanted { name: String::new(), ..wanted() },
        Wanted { name: "x".repeat(33), ..wanted() },
        Wanted { cpus: 0, ..wanted() },
        Wanted { memory: u64::MAX, ..wanted() },
        Wanted { options: "a\nb".into(), ..wanted() },
        Wanted { options: "x".repeat(2000), ..wanted() },
    ] {
        let mut session = session(&recorder, ME, &machines);
        assert!(session.answer(Request::Make(bad.clone())).is_err(), "{bad:?}");
        let log = recorder.log.take();
        assert!(log.iter().all(|deed| deed.starts_with("open ")), "{bad:?}: {log:?}");
    }
    let mut session = session(&recorder, ME, &machines);
    let junction = Wanted { system: r"C:\Users\me\junction".into(), ..wanted() };
    session.answer(Request::Make(junction)).unwrap();
    assert!(recorder.log.take().contains(&r"grant D:\other".to_owned()), "where it leads is what is granted");
    for (tag, path) in [("share0", r"C:\Windows"), ("a/b", r"C:\Users\me"), ("", r"C:\Users\me")] {
        let share = Share { tag: tag.into(), path: path.into(), read_only: true };
        assert!(session.answer(Request::AddShare(share)).is_err(), "{tag} {path}");
    }
}

#[test]
fn it_is_saved_to_a_file_that_its_caller_could_make() {
    let (recorder, machines) = (Recorder::default(), Arc::default());
    let mut session = session(&recorder, ME, &machines);
    session.answer(Request::Make(wanted())).unwrap();
    session.answer(Request::Start).unwrap();
    recorder.log.take();
    session.answer(Request::RemoveShare { tag: "share0".into() }).unwrap();
    assert!(session.answer(Request::RemoveShare { tag: "../0".into() }).is_err());
    session.answer(Request::Save { file: r"C:\Users\me\m\state".into() }).unwrap();
    let log = recorder.log.take();
    let expected = [
        r"open C:\Users\me\m to Into",
        "become the user",
        r"make C:\Users\me\m\state",
        r"grant C:\Users\me\m\state",
        "be ourselves",
        r"open C:\Users\me\m\state to Write",
        "HcsPauseComputeSystem",
        "HcsSaveComputeSystem",
    ];
    assert_eq!(log.get(1..), Some(expected.map(str::to_owned).as_slice()), "{log:?}");
    for file in
        [r"C:\Windows\state", r"C:\Users\me\link\state", r"C:\Users\me\", "state", r"\\server\x\state"]
    {
        assert!(session.answer(Request::Save { file: file.into() }).is_err(), "{file}");
        let log = recorder.log.take();
        assert!(log.iter().all(|deed| deed.starts_with("open ")), "{file}: {log:?}");
    }
    drop(session);
    let mut session = self::session(&recorder, ME, &machines);
    let saved = Wanted { saved: Some(r"C:\Users\me\m\state".into()), ..wanted() };
    recorder.log.take();
    session.answer(Request::Make(saved)).unwrap();
    let log = recorder.log.take();
    assert!(log.contains(&r"grant C:\Users\me\m\state".to_owned()), "{log:?}");
    let document = log.last().unwrap();
    assert!(
        document.contains(r#""RestoreState":{"SaveStateFilePath":"C:\\Users\\me\\m\\state"}"#),
        "{document}"
    );
}

#[test]
fn nobody_reaches_the_machine_of_another() {
    let (recorder, machines) = (Recorder::default(), Arc::default());
    let mut mine = session(&recorder, ME, &machines);
    mine.answer(Request::Make(wanted())).unwrap();
    let mut yours = session(&recorder, "S-1-5-21-1-2-3-1002", &machines);
    for request in [Request::Start, Request::End, Request::Pause, Request::Wait { name: "dev".into() }] {
        let failure = yours.answer(request.clone()).unwrap_err();
        assert_eq!(failure.kind(), crate::hcs::FailureKind::NotFound, "{request:?}");
    }
    let mut second = session(&recorder, ME, &machines);
    let failure = second.answer(Request::Make(wanted())).unwrap_err();
    assert_eq!(failure.kind(), crate::hcs::FailureKind::Exists);
    yours.answer(Request::Make(wanted())).unwrap();
}

#[test]
fn one_user_has_eight_at_most() {
    let (recorder, machines) = (Recorder::default(), Arc::default());
    let mut all = Vec::new();
    for number in 0..=OF_ONE_USER {
        let mut session = session(&recorder, ME, &machines);
        let outcome = session.answer(Request::Make(Wanted { name: format!("m{number}"), ..wanted() }));
        assert_eq!(outcome.is_ok(), number < OF_ONE_USER, "{number}");
        all.push(session);
    }
    session(&recorder, "S-1-5-21-1-2-3-1002", &machines).answer(Request::Make(wanted())).unwrap();
}

#[test]
fn what_was_half_made_is_taken_away() {
    for fails in ["grant", "create"] {
        let recorder = Recorder { fails: Some(fails), ..Recorder::default() };
        let machines = Arc::default();
        let mut session = session(&recorder, ME, &machines);
        session.answer(Request::Make(wanted())).unwrap_err();
        assert_eq!(recorder.log.take().last().unwrap(), "disconnect", "{fails}");
        assert!(machines.wait("dev", ME).is_err());
    }
    let recorder = Recorder { fails: Some("connect"), ..Recorder::default() };
    let made = session(&recorder, ME, &Arc::default()).answer(Request::Make(wanted())).unwrap();
    assert!(matches!(made, Answer::Made { no_network: Some(_), .. }), "without a way out it runs: {made:?}");
}

#[test]
fn who_waits_hears_of_the_end() {
    let (recorder, machines) = (Recorder::default(), Arc::default());
    let mut session = session(&recorder, ME, &machines);
    session.answer(Request::Make(wanted())).unwrap();
    let waits = Arc::clone(&machines);
    let waiting = std::thread::spawn(move || waits.wait("dev", ME));
    let told = recorder.end.borrow_mut().take().unwrap();
    told(r#"{"Status":0,"ExitType":"GracefulExit"}"#);
    assert_eq!(machines.wait("dev", ME), Ok(Answer::Ended { how: "it was switched off".into() }));
    assert!(waiting.join().unwrap().is_ok());
}
