//! Guests that are not ours: of another version, silent, lying, flooding. The host says what is wrong, goes on answering,
//! and takes no more memory for it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use support::machine::Machine;
use vm_proto::frame;
use vm_proto::message::{FromGuest, Step};

/// What a supervisor may take for itself, whatever a guest does.
const MEMORY_MAX: u64 = 64 << 20;
/// By when whoever asks is answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

fn said(words: &[FromGuest]) -> Result<Vec<u8>> {
    let frames = words.iter().map(|word| Ok(frame::encode(word)?)).collect::<Result<Vec<_>>>()?;
    Ok(frames.concat())
}

fn hello(version: u32) -> FromGuest {
    FromGuest::Hello { version, release: "9.9".into(), kernel: "7".into(), uptime_ms: 1, number: 1 }
}

/// A machine whose first process says `say` and then does as `mode` says (`stranger.c`).
fn stranger(say: &[u8], mode: &str) -> Result<Option<Machine>> {
    let Some(mut machine) = Machine::init("uml")? else { return Ok(None) };
    let program = machine.compile(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stranger.c")))?;
    machine.install_stranger(&program, &[("say", say), ("mode", mode.as_bytes())])?;
    Ok(Some(machine))
}

/// Starts it, which fails; why.
fn refused(say: &[u8], mode: &str) -> Result<Option<String>> {
    let Some(machine) = stranger(say, mode)? else { return Ok(None) };
    let said = machine.cove(&["machine", "start", "test"])?;
    ensure!(said.code != 0, "it started");
    let status = machine.status()?;
    assert_eq!(status["phase"], "failed");
    // It has told how it ended before it is gone.
    machine.wait_for("its supervisor's end", || machine.processes("cove-machine run").is_empty())?;
    Ok(Some(said.err))
}

/// What its supervisor takes for itself: not the guest's memory, which is mapped there too.
fn memory_of_supervisor(machine: &Machine) -> Result<u64> {
    let pid = machine.processes("cove-machine run").pop().context("a supervisor")?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).context("its memory")?;
    let kilobytes: u64 = line.split_whitespace().next().context("a number")?.parse()?;
    Ok(kilobytes << 10)
}

#[test]
fn an_agent_of_another_version_is_told_apart_and_the_way_out_is_named() -> Result<()> {
    let Some(error) = refused(&said(&[hello(vm_proto::VERSION + 1)])?, "wn")? else { return Ok(()) };
    let spoken = format!("(release 9.9) speaks version {} of the machine's protocol", vm_proto::VERSION + 1);
    ensure!(error.contains(&spoken) && error.contains("guest-image"), "{error}");
    Ok(())
}

#[test]
fn a_guest_that_says_nothing_or_what_can_not_be_fails_in_words() -> Result<()> {
    let too_long = [said(&[hello(vm_proto::VERSION)])?, u32::MAX.to_le_bytes().to_vec()].concat();
    let twice = said(&[hello(vm_proto::VERSION), hello(vm_proto::VERSION)])?;
    let nonsense = [said(&[hello(vm_proto::VERSION)])?, b"\x09\0\0\0{\"say\":7}".to_vec()].concat();
    for (say, words) in [
        (Vec::new(), "it said nothing"),
        (too_long, "longer than the 65536 that are allowed"),
        (twice, "greeted twice"),
        (nonsense, "failed to understand a frame"),
    ] {
        let Some(error) = refused(&say, "wn")? else { return Ok(()) };
        ensure!(error.contains(words), "{words:?} is not in {error}");
    }
    Ok(())
}

#[test]
fn a_guest_that_floods_or_stalls_hangs_nobody_and_takes_no_memory() -> Result<()> {
    let ready = [Step::Disk, Step::Shares, Step::Network, Step::Engine].map(|step| FromGuest::Done { step });
    let ready = [&[hello(vm_proto::VERSION)], &ready[..]].concat();
    // It floods the control connection with what it may say; and it is silent, or floods, at each port.
    let lies = FromGuest::Warning { step: Step::Engine, text: "\u{1b}[2Jnothing is true".repeat(50) };
    let many = vec![lies; 500];
    for (say, mode) in
        [(said(&ready)?, "ws"), (said(&ready)?, "wf"), ([said(&ready)?, said(&many)?].concat(), "ws")]
    {
        let Some(machine) = stranger(&say, mode)? else { return Ok(()) };
        machine.bring_up()?;
        let began = Instant::now();
        let status = machine.status()?;
        assert_eq!(status["phase"], "running");
        ensure!(!status.to_string().contains('\u{1b}'), "what a guest says moves a terminal's cursor");
        ensure!(began.elapsed() < ANSWERED_WITHIN, "the status took {:?}", began.elapsed());
        // Whoever speaks to the engine or to the agent is told, or waits for as long as he likes; the others do not.
        let mut calls = Vec::new();
        for words in [&["ps"][..], &["machine", "shell", "test", "--", "true"]] {
            calls.push(machine.command(words)?.stderr(std::process::Stdio::null()).spawn()?);
        }
        std::thread::sleep(Duration::from_secs(2));
        let began = Instant::now();
        machine.status()?;
        ensure!(began.elapsed() < ANSWERED_WITHIN, "the status took {:?} while others wait", began.elapsed());
        let memory = memory_of_supervisor(&machine)?;
        ensure!(memory < MEMORY_MAX, "{mode}: the supervisor takes {memory} bytes");
        let began = Instant::now();
        machine.cove_ok(&["machine", "stop", "--force", "test"])?;
        ensure!(began.elapsed() < ANSWERED_WITHIN, "the end took {:?}", began.elapsed());
        for mut call in calls {
            // With the machine gone each has an end.
            let status = call.wait()?;
            ensure!(!status.success(), "{mode}: a call of a guest that is none succeeded");
        }
    }
    Ok(())
}

#[test]
fn a_guest_that_goes_on_greeting_is_hung_up_on() -> Result<()> {
    let Some(error) = refused(&said(&[hello(vm_proto::VERSION)])?, "fn")? else { return Ok(()) };
    ensure!(error.contains("greeted twice"), "{error}");
    Ok(())
}
