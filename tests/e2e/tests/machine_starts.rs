//! Machines whose processor is emulated boot once: later starts begin from the state that the guest had then.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use support::machine::Machine;

/// What the supervisor writes into its log at a start that boots nothing.
const BEGINS: &str = "it begins from the state after a boot";

fn template(machine: &Machine) -> PathBuf {
    machine.files().join("template")
}

/// Starts it; whether it began from a kept state.
fn start(machine: &Machine) -> Result<bool> {
    let log = machine.files().join("machine.log");
    let begun = || std::fs::read_to_string(&log).unwrap_or_default().matches(BEGINS).count();
    let before = begun();
    machine.bring_up()?;
    // A log that has become too long begins anew.
    Ok(begun() > before)
}

fn stop(machine: &Machine) -> Result<()> {
    machine.cove_ok(&["machine", "stop", "test"]).map(drop)
}

fn in_guest(machine: &Machine, script: &str) -> Result<String> {
    machine.cove_ok(&["machine", "shell", "test", "--", "sh", "-c", script])
}

fn kept(machine: &Machine) -> Result<()> {
    machine.wait_for("the state after its boot", || template(machine).join("saved.json").is_file())
}

#[test]
fn a_machine_boots_once_and_no_start_knows_what_another_drew() -> Result<()> {
    let Some(machine) = Machine::init("qemu")? else { return Ok(()) };
    ensure!(!start(&machine)?, "there was nothing to begin from");
    kept(&machine)?;
    machine.cove_ok(&["volume", "create", "kept"])?;
    stop(&machine)?;
    let mut drawn = BTreeSet::new();
    for round in 0..3 {
        std::fs::write(machine.shared().join("file"), format!("round {round}"))?;
        ensure!(start(&machine)?, "it booted in round {round}");
        // Both come from the kernel's generator, of which each start had a copy. Programs that ran before know the first.
        let random = "cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | base64";
        drawn.extend(in_guest(&machine, random)?.lines().map(str::to_owned));
        assert_eq!(machine.cove_ok(&["volume", "ls", "-q"])?, "kept");
        let file = format!("cat {}/file", machine.shared().display());
        assert_eq!(in_guest(&machine, &file)?, format!("round {round}"));
        stop(&machine)?;
    }
    assert_eq!(drawn.len(), 6, "{drawn:?}");
    // What a boot does not know of changes nothing; what it does, all.
    machine.cove_ok(&["machine", "set", "test", "--sleep-after", "1h"])?;
    ensure!(start(&machine)?, "it booted because it is to sleep some time");
    stop(&machine)?;
    machine.cove_ok(&["machine", "set", "test", "--cpus", "1"])?;
    ensure!(!start(&machine)?, "it has another processor than it has");
    assert_eq!(in_guest(&machine, "nproc")?, "1");
    Ok(())
}

#[test]
fn what_is_damaged_of_the_state_after_a_boot_makes_a_start_boot() -> Result<()> {
    let Some(machine) = Machine::init("qemu")? else { return Ok(()) };
    start(&machine)?;
    kept(&machine)?;
    stop(&machine)?;
    std::fs::File::options().write(true).open(template(&machine).join("devices"))?.set_len(1000)?;
    ensure!(!start(&machine)?, "it began from half a state");
    kept(&machine)?;
    stop(&machine)?;
    // A guest without a memory does nothing any more.
    let memory = template(&machine).join("memory");
    let length = std::fs::metadata(&memory)?.len();
    std::fs::File::create(&memory)?.set_len(length)?;
    machine.bring_up()?;
    let status = machine.status()?;
    assert_eq!(status["phase"].as_str().context("a phase")?, "running");
    kept(&machine)?;
    stop(&machine)?;
    ensure!(start(&machine)?, "what was kept since is whole");
    Ok(())
}
