//! Machines that sleep: their state is saved, and they go on from it as if no time had passed.

use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use support::machine::{Machine, fetch};

fn on_qemu(test: impl Fn(&Machine) -> Result<()>) -> Result<()> {
    Machine::start("qemu")?.map_or(Ok(()), |machine| test(&machine))
}

fn phase(machine: &Machine) -> String {
    let status = machine.status().unwrap_or_default();
    status["phase"].as_str().unwrap_or_default().to_owned()
}

/// Seconds by which the guest's clock differs from ours.
fn difference(machine: &Machine) -> Result<f64> {
    machine.wait_for("a report of its clock", || {
        machine.status().is_ok_and(|status| status["report"]["clock_ns"].as_u64().is_some())
    })?;
    let before = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let clock = machine.status()?["report"]["clock_ns"].as_u64().context("its clock")?;
    let after = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "it is compared by tenths of a second")]
    let clock = clock as f64 / 1e9;
    // It was read at some time between.
    Ok(if clock < before { before - clock } else { (clock - after).max(0.0) })
}

#[test]
fn a_machine_that_slept_goes_on_with_what_ran_in_it() -> Result<()> {
    on_qemu(|machine| {
        std::fs::write(machine.shared().join("file"), "before")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        // What it counts is nowhere but in its memory.
        let script = "i=0; echo it works > /tmp/index.html; httpd -h /tmp -p 0.0.0.0:$0; \
                      while :; do i=$((i+1)); echo $i > /dev/shm/new; \
                      mv /dev/shm/new /dev/shm/count; sleep 0.05; done";
        machine.cove_ok(&[
            "run",
            "-d",
            "--name",
            "counts",
            "--network",
            "host",
            "busybox",
            "sh",
            "-c",
            script,
            &port,
        ])?;
        let count = || -> Result<u64> {
            Ok(machine.cove_ok(&["exec", "counts", "cat", "/dev/shm/count"])?.trim().parse()?)
        };
        machine.wait_for("the port here", || fetch(port.parse().unwrap_or(0)).is_ok())?;
        machine.wait_for("some counting", || count().is_ok_and(|count| count > 3))?;
        let begun = machine.cove_ok(&["inspect", "-f", "{{.State.StartedAt}}", "counts"])?;
        let before = count()?;
        machine.cove_ok(&["machine", "sleep", "test"])?;
        assert_eq!(phase(machine), "asleep");
        ensure!(machine.processes("qemu-system").is_empty(), "its program still runs");
        std::fs::write(machine.shared().join("file"), "while it slept")?;
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(phase(machine), "asleep", "nobody called");
        // Docker's command line knows of no machines: its call alone wakes it.
        let running = machine.docker_ok(&["ps", "--format", "{{.Names}}"])?;
        assert_eq!(running, "counts");
        assert_eq!(phase(machine), "running");
        ensure!(!machine.files().join("saved").exists(), "it is used once");
        let after = count()?;
        ensure!(after >= before, "it began anew: {before}, then {after}");
        assert_eq!(machine.cove_ok(&["inspect", "-f", "{{.State.StartedAt}}", "counts"])?, begun);
        let read = format!("{}/file", machine.shared().display());
        assert_eq!(machine.cove_ok(&["machine", "shell", "test", "--", "cat", &read])?, "while it slept");
        machine.wait_for("the port here again", || {
            fetch(port.parse().unwrap_or(0)).is_ok_and(|answer| answer.contains("it works"))
        })?;
        let difference = difference(machine)?;
        ensure!(difference < 0.1, "its clock differs by {difference} s");
        // Stopped while it sleeps: it is woken for it, and its containers end as they should.
        machine.cove_ok(&["machine", "sleep", "test"])?;
        machine.cove_ok(&["machine", "stop", "test"])?;
        assert_eq!(phase(machine), "stopped");
        ensure!(!machine.files().join("saved").exists());
        Ok(())
    })
}

#[test]
fn what_is_saved_outlives_a_power_cut_and_nothing_is_lost_where_it_is_damaged() -> Result<()> {
    on_qemu(|machine| {
        machine.cove_ok(&[
            "run",
            "-d",
            "--name",
            "sleeper",
            "--network",
            "none",
            "--restart",
            "always",
            "busybox",
            "sleep",
            "1000",
        ])?;
        let begun = || machine.cove_ok(&["inspect", "-f", "{{.State.StartedAt}}", "sleeper"]);
        let before = begun()?;
        machine.cove_ok(&["volume", "create", "kept"])?;
        machine.cove_ok(&["machine", "sleep", "test"])?;
        let cut = || machine.kill(&machine.processes("cove-machine run"));
        cut()?;
        assert_eq!(phase(machine), "asleep");
        machine.bring_up()?;
        assert_eq!(begun()?, before, "it goes on");
        // Half of what was saved is gone.
        machine.cove_ok(&["machine", "sleep", "test"])?;
        cut()?;
        let devices = machine.files().join("saved/devices");
        std::fs::File::options().write(true).open(&devices)?.set_len(1000)?;
        machine.bring_up()?;
        let status = machine.status()?;
        ensure!(
            status["warnings"].to_string().contains("could not go on from where it fell asleep"),
            "{status}"
        );
        let volumes = machine.cove_ok(&["volume", "ls", "-q"])?;
        ensure!(volumes.lines().any(|name| name == "kept"), "{volumes}");
        // It is started anew, by its restart policy.
        machine.wait_for("its start", || begun().is_ok_and(|begun| begun != before))
    })
}

#[test]
fn a_machine_that_can_not_sleep_says_why_and_goes_on() -> Result<()> {
    on_qemu(|machine| {
        let mount = format!("{0}:{0}", machine.shared().display());
        machine.cove_ok(&[
            "run",
            "-d",
            "--name",
            "user",
            "--network",
            "none",
            "-v",
            &mount,
            "busybox",
            "sleep",
            "1000",
        ])?;
        let said = machine.cove(&["machine", "sleep", "test"])?;
        ensure!(said.code != 0 && said.err.contains("a container uses the share"), "{}", said.err);
        assert_eq!(phase(machine), "running");
        std::fs::write(machine.shared().join("file"), "seen")?;
        let read = format!("{}/file", machine.shared().display());
        assert_eq!(machine.cove_ok(&["exec", "user", "cat", &read])?, "seen");
        machine.cove_ok(&["rm", "-f", "user"])?;
        // By itself, once nothing runs in it.
        machine.cove_ok(&["machine", "stop", "test"])?;
        machine.cove_ok(&["machine", "set", "test", "--sleep-after", "2s"])?;
        machine.bring_up()?;
        machine.wait_for("sleep", || phase(machine) == "asleep")?;
        machine.cove_ok(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"])?;
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(phase(machine), "running", "a container runs");
        Ok(())
    })?;
    let Some(machine) = Machine::init("uml")? else { return Ok(()) };
    let said = machine.cove(&["machine", "set", "test", "--sleep-after", "10m"])?;
    ensure!(said.code != 0 && said.err.contains("can't be saved"), "{}", said.err);
    machine.bring_up()?;
    let said = machine.cove(&["machine", "sleep", "test"])?;
    ensure!(said.code != 0 && said.err.contains("can't be saved"), "{}", said.err);
    assert_eq!(phase(&machine), "running");
    Ok(())
}
