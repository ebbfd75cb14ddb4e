//! What the machine's task makes of what a guest says, without a guest.

use vm_manager::config::Backend;
use vm_manager::places::Folders;

use super::*;

fn machine(dir: &std::path::Path, state: State) -> Machine {
    let folders = Folders { data: dir.to_owned(), run: dir.join(".run") };
    let places = folders.machine("test").unwrap();
    let config = Config {
        backend: Backend::Uml,
        cpus: 1,
        memory: 1 << 29,
        disk: 1 << 30,
        shares: vec![],
        image: None,
        sleep_after: None,
        ssh_agent: false,
        rosetta: false,
    };
    let status = watch::Sender::new(Status::stopped("test", config.clone(), places.engine()));
    let vsock = watch::channel(None).0;
    let machine = Machine::new(places, config, dir.to_owned(), vsock, mpsc::channel(WAITING).0, status);
    Machine { state, runs: 1, ..machine }
}

#[tokio::test]
async fn warnings_without_end_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = machine(dir.path(), State::Running { mode: Mode::Normal });
    for number in 0..10_000 {
        let text = format!("{number}: all is lost");
        machine.hear_guest(Heard::Word(FromGuest::Warning { step: Step::Shares, text }));
    }
    assert_eq!(machine.status.borrow().warnings.len(), WARNINGS);
}

#[tokio::test]
async fn an_agent_of_another_version_is_told_with_a_remedy_that_helps() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::Starting { stage: Stage::Kernel, mode: Mode::Normal };
    let mut machine = machine(dir.path(), state);
    machine.hear_guest(Heard::Stranger { version: 99, release: "9.9".into() });
    machine.vmm_gone("it was killed".into());
    let failure = machine.status.borrow().failure.clone().unwrap();
    assert_eq!(failure.stage, Some(Stage::Kernel));
    assert!(failure.cause.contains("release 9.9") && failure.cause.contains("version 99"), "{failure:?}");
    assert!(failure.remedy.command.contains("guest-image"), "{failure:?}");
}
