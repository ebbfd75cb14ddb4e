//! A session and machines whose supervisors are made up, so that they can be made to fail.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::{Duration, Instant};

use host::engine::{Origin, Target};
use host::machine::Stage;
use host::ui::machine::row::{RemedyDeed, StageState};
use host::ui::machine::{MachineForm, MachineOrder, MachinePhase, MachineRow, MachineStage};
use host::ui::{Command, Message, Reply, Session, Subscription, Topic, UiError, Update};
use support::supervisor::{Supervisor, config, folders};

/// A session of no engine, with the machines of a folder.
fn session(dir: &Path) -> Session {
    let endpoint = format!("unix://{}/no-engine.sock", dir.display()).parse().unwrap();
    Session::with_machines(Target { endpoint, origin: Origin::Named }, Some(folders(dir)))
}

struct Window {
    session: Session,
    machines: Subscription,
}

impl Window {
    fn open(dir: &Path) -> Self {
        let session = session(dir);
        Self { machines: session.open(Topic::Machines), session }
    }

    async fn rows(&mut self) -> Vec<MachineRow> {
        let wait = Duration::from_secs(30);
        match tokio::time::timeout(wait, self.machines.next()).await.expect("an update in time") {
            Some(Message::Update(update)) => match *update {
                Update::Machines { rows } => rows,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// The first list in which the one machine is so.
    async fn until(&mut self, is_so: impl Fn(&MachineRow) -> bool) -> MachineRow {
        loop {
            if let [row] = &self.rows().await[..]
                && is_so(row)
            {
                return row.clone();
            }
        }
    }

    async fn order(&self, order: MachineOrder) -> Result<Reply, UiError> {
        self.session.call(Command::Machine { order }).await
    }
}

fn name() -> String {
    "dev".to_owned()
}

fn now(row: &MachineRow) -> Option<MachineStage> {
    row.stages.iter().find(|stage| stage.state == StageState::Now).map(|stage| stage.stage)
}

#[tokio::test]
async fn stages_arrive_in_order_with_what_they_took() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    assert!(window.rows().await.is_empty());
    let machine = Supervisor::start(&folders(dir.path()), "dev", &config()).unwrap();
    window.until(|row| row.phase == MachinePhase::Stopped).await;
    window.order(MachineOrder::Start { name: name() }).await.unwrap();
    window.until(|row| now(row) == Some(MachineStage::Image)).await;
    for stage in &Stage::ALL[1..] {
        machine.reach(*stage);
        let row = window.until(|row| now(row) == Some((*stage).into())).await;
        let done = row.stages.iter().take_while(|stage| stage.state == StageState::Done);
        assert!(done.clone().all(|stage| stage.took.is_some()));
        assert_eq!(done.count(), Stage::ALL.iter().filter(|before| *before < stage).count());
        assert!(row.stage_since.is_some());
    }
    machine.run();
    machine.report(300 << 20, 420 << 20, 1 << 30);
    // Processors are told by two reports, and one that comes too soon takes the place of the one before.
    window.until(|row| row.usage.is_some()).await;
    machine.report(300 << 20, 400 << 20, 1 << 30);
    let row = window.until(|row| row.usage.as_ref().is_some_and(|usage| usage.cpu.is_some())).await;
    assert_eq!((row.phase, row.stages.len()), (MachinePhase::Running, 8));
    let usage = row.usage.unwrap();
    assert_eq!((usage.memory, usage.memory_here, usage.cpu), (300 << 20, Some(400 << 20), Some(25.0)));
    window.session.close().await;
}

#[tokio::test]
async fn a_failure_shows_its_remedy_which_does_something_also_when_the_supervisor_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let machine = Supervisor::start(&folders(dir.path()), "dev", &config()).unwrap();
    let mut window = Window::open(dir.path());
    window.until(|row| row.phase == MachinePhase::Stopped).await;
    machine.fail(Stage::Kernel, "nothing was heard for 90 s", "VFS: Unable to mount root fs");
    let row = window.until(|row| row.phase == MachinePhase::Failed).await;
    machine.end().unwrap();
    let left = window.until(|row| row.ended_at.is_some()).await;
    assert_eq!((left.phase, &left.failure), (MachinePhase::Failed, &row.failure));
    let failure = row.failure.unwrap();
    assert_eq!((failure.stage, failure.deed), (Some(MachineStage::Kernel), RemedyDeed::Do));
    assert_eq!(failure.console, "VFS: Unable to mount root fs");
    assert_eq!(failure.command, "cove machine set dev --backend qemu");

    // Another supervisor stands in for the one that would be started.
    let machine = Supervisor::start(&folders(dir.path()), "dev", &config()).unwrap();
    machine.fail(Stage::Kernel, "nothing was heard for 90 s", "");
    window.until(|row| row.phase == MachinePhase::Failed && row.ended_at.is_none()).await;
    window.order(MachineOrder::Remedy { name: name() }).await.unwrap();
    let row = window.until(|row| row.phase == MachinePhase::Starting).await;
    assert_eq!(row.settings.backend, host::ui::machine::MachineBackend::Qemu);
    assert_eq!(machine.asked().len(), 1);
    window.session.close().await;
}

#[tokio::test]
async fn a_supervisor_that_hangs_is_told_of_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let hung = Supervisor::start(&folders(dir.path()), "dev", &config()).unwrap();
    hung.hang();
    let other = Supervisor::start(&folders(dir.path()), "other", &config()).unwrap();
    let mut window = Window::open(dir.path());
    let phase = |rows: &[MachineRow], name: &str| rows.iter().find(|row| row.name == name).unwrap().phase;
    other.run();
    while !matches!(&window.rows().await[..], rows if rows.len() == 2 && phase(rows, "other") == MachinePhase::Running)
    {
    }
    while phase(&window.rows().await, "dev") != MachinePhase::Silent {}
    let begin = Instant::now();
    let error = window.order(MachineOrder::Stop { name: name() }).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(error.message.contains("does not answer"), "{error:?}");
    assert!(error.hint.unwrap().contains("--force"));
    // Whoever listens there is this test, which is nobody to be ended.
    window.order(MachineOrder::Kill { name: name() }).await.unwrap_err();
    // One that is over is nobody to wait for.
    drop(hung);
    while phase(&window.rows().await, "dev") != MachinePhase::Stopped {}
    window.session.close().await;
}

#[tokio::test]
async fn machines_are_made_changed_and_removed_in_the_window_and_outside() {
    let dir = tempfile::tempdir().unwrap();
    let mut window = Window::open(dir.path());
    let form = MachineForm {
        name: name(),
        cpus: "2".into(),
        memory: "512 MB".into(),
        disk: "4 GB".into(),
        ..MachineForm::default()
    };
    let made = window.order(MachineOrder::Init { form: form.clone() }).await.unwrap();
    assert_eq!(made, Reply::Made { id: name() });
    window.until(|row| row.settings.memory == 512 << 20).await;
    let taken = window.order(MachineOrder::Init { form: form.clone() }).await.unwrap_err();
    assert!(taken.message.contains("already"), "{taken}");

    let changed = MachineForm { memory: "1 GB".into(), ..form.clone() };
    let Reply::Preview(preview) =
        window.order(MachineOrder::Preview { form: changed.clone(), is_new: false }).await.unwrap()
    else {
        panic!("no preview")
    };
    assert_eq!(preview.words.join(" "), "machine set dev --memory 1g");
    let machine = Supervisor::start(&folders(dir.path()), "dev", &config()).unwrap();
    machine.tell(|status| status.config.backend = host::machine::Backend::Qemu);
    machine.run();
    window.until(|row| row.phase == MachinePhase::Running).await;
    window.order(MachineOrder::Set { form: changed }).await.unwrap();
    let row = window.until(|row| row.settings.memory == 1 << 30).await;
    assert!(row.restart_needed);
    drop(machine);
    window.until(|row| row.phase == MachinePhase::Stopped).await;
    window.order(MachineOrder::Remove { name: name() }).await.unwrap();
    while !window.rows().await.is_empty() {}

    // As the command line does.
    folders(dir.path()).machine("cli").unwrap().create(&config()).unwrap();
    window.until(|row| row.name == "cli").await;
    folders(dir.path()).machine("cli").unwrap().remove().unwrap();
    while !window.rows().await.is_empty() {}
    window.session.close().await;
}
