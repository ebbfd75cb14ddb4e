//! The daemon dies at any moment; nothing acknowledged is lost and nothing is left behind.

use std::time::Duration;

use anyhow::Result;
use support::daemon::Daemon;

/// Cgroup directories of this daemon's containers, in all hierarchies.
fn cgroups(ids: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for base in [hierarchy.path().join("cove"), std::path::PathBuf::from("/sys/fs/cgroup/cove")] {
            found.extend(
                ids.iter()
                    .map(|id| base.join(id))
                    .filter(|dir| dir.exists())
                    .map(|dir| dir.display().to_string()),
            );
        }
    }
    found
}

#[test]
fn containers_outlive_the_daemon_and_their_exit_codes_are_found() -> Result<()> {
    let mut daemon = Daemon::start()?;
    let run = |daemon: &Daemon, name: &str, script: &str| {
        daemon.docker(&["run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c", script])
    };
    run(&daemon, "lives", "while :; do echo tick; sleep 0.05; done")?;
    run(&daemon, "ends", "sleep 0.5; exit 42")?;
    run(&daemon, "ended", "exit 6")?;
    daemon.wait_for("an end", || {
        daemon.docker(&["inspect", "-f", "{{.State.ExitCode}}", "ended"]).is_ok_and(|said| said.out == "6")
    })?;
    daemon.crash()?;
    std::thread::sleep(Duration::from_millis(800));
    let took = daemon.launch()?;
    assert!(took < Duration::from_millis(1500), "a start after a crash took {took:?}");
    let state = |name: &str| {
        daemon.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name]).map(|said| said.out)
    };
    assert_eq!(state("lives")?, "running 0");
    assert_eq!(state("ends")?, "exited 42");
    assert_eq!(state("ended")?, "exited 6");
    assert_eq!(daemon.docker(&["exec", "lives", "echo", "in"])?.out, "in");
    let before = daemon.docker(&["logs", "lives"])?.out.lines().count();
    daemon.wait_for("more output", || {
        daemon.docker(&["logs", "lives"]).is_ok_and(|said| said.out.lines().count() > before)
    })?;
    assert_eq!(daemon.docker(&["stop", "-t", "1", "lives"])?.code, 0);
    Ok(())
}

#[test]
fn fifty_crashes_at_any_moment_leave_nothing_behind() -> Result<()> {
    let mut daemon = Daemon::start()?;
    daemon.docker(&["run", "-d", "--name", "steady", "--network", "none", "busybox", "sleep", "600"])?;
    let mut slowest = Duration::ZERO;
    for round in 0..50_u64 {
        let address = daemon.address();
        let work = std::thread::spawn(move || {
            for n in 0..40 {
                let name = format!("r{round}-{n}");
                let docker = |args: &[&str]| {
                    stdx::process::command("docker").env("DOCKER_HOST", &address).args(args).output()
                };
                if docker(&["run", "--name", &name, "--network", "none", "busybox", "sh", "-c", "exit 3"])
                    .is_ok_and(|o| o.status.code() != Some(3))
                {
                    return;
                }
                let _ = docker(&["rm", &name]);
            }
        });
        // Spread over creation, start, end and removal.
        std::thread::sleep(Duration::from_millis(20 + round * 7 % 230));
        daemon.crash()?;
        let _ = work.join();
        slowest = slowest.max(daemon.launch()?);
        assert_eq!(
            daemon.docker(&["inspect", "-f", "{{.State.Status}}", "steady"])?.out,
            "running",
            "round {round}"
        );
        let all =
            daemon.docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.State}}"])?.out;
        for line in all.lines().filter(|line| !line.contains("steady")) {
            let name = line.split(' ').nth(1).unwrap_or_default();
            // One that was starting may run its 'exit 3' to the end meanwhile.
            daemon.wait_for("the end of an interrupted container", || {
                daemon
                    .docker(&["inspect", "-f", "{{.State.Status}}", name])
                    .is_ok_and(|said| said.out != "running")
            })?;
            let state = daemon.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name])?.out;
            assert!(
                state == "created 0" || state == "exited 3",
                "round {round}: {name} is {state}; the daemon's log:\n{}",
                daemon.log()
            );
            assert_eq!(daemon.docker(&["rm", "-f", name])?.code, 0, "round {round}");
        }
    }
    let id = daemon.docker(&["ps", "-aq", "--no-trunc"])?.out;
    for dir in ["root/snapshots", "root/containers", "run/containers"] {
        assert_eq!(daemon.entries(dir), std::slice::from_ref(&id), "{dir}");
    }
    daemon.docker(&["rm", "-f", "steady"])?;
    assert_eq!(cgroups(&[id]), Vec::<String>::new());
    assert!(slowest < Duration::from_secs(2), "the slowest start took {slowest:?}");
    Ok(())
}
