//! Docker's own command line works against the socket.

use anyhow::Result;
use support::daemon::Daemon;

#[test]
fn run_returns_output_and_exit_codes_as_docker_does() -> Result<()> {
    let daemon = Daemon::start()?;
    let run = |args: &[&str]| daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat());
    assert_eq!(run(&["busybox", "echo", "hi"])?.out, "hi");
    assert_eq!(run(&["busybox", "sh", "-c", "echo e >&2; exit 7"])?.code, 7);
    assert_eq!(run(&["busybox", "nosuch"])?.code, 127);
    assert_eq!(run(&["busybox", "/etc"])?.code, 126);
    assert_eq!(run(&["nosuch.invalid/image", "true"])?.code, 125);
    assert_eq!(run(&["--memory", "1m", "busybox", "true"])?.code, 125);
    assert_eq!(
        run(&["-u", "app", "-w", "/tmp", "-e", "A=b", "busybox", "sh", "-c", "id -u; pwd; echo $A"])?.out,
        "1000\n/tmp\nb"
    );
    assert_eq!(run(&["--hostname", "here", "busybox", "hostname"])?.out, "here");
    assert_eq!(
        run(&["--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", "touch /x || touch /t/x && echo ok"])?
            .out,
        "ok"
    );
    let echoed =
        daemon.docker_with(&["run", "-i", "--rm", "--network", "none", "busybox", "cat"], b"to and fro")?;
    assert_eq!(echoed.out, "to and fro");
    assert_eq!(daemon.docker(&["ps", "-aq"])?.out, "", "--rm leaves nothing");
    for dir in ["root/snapshots", "root/containers", "run/containers"] {
        assert_eq!(daemon.entries(dir), Vec::<String>::new(), "{dir}");
    }
    Ok(())
}

#[test]
fn a_container_lives_through_every_verb() -> Result<()> {
    let daemon = Daemon::start()?;
    let ok = |args: &[&str]| daemon.docker_ok(args);
    ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "-l",
        "k=v",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done",
    ])?;
    daemon
        .wait_for("the first line", || daemon.docker(&["logs", "box"]).is_ok_and(|said| said.out == "up"))?;
    assert_eq!(ok(&["ps", "-q", "--filter", "label=k=v", "--filter", "name=box"])?.len(), 12);
    assert_eq!(daemon.docker(&["exec", "box", "sh", "-c", "echo out; echo err >&2; exit 3"])?.code, 3);
    assert_eq!(ok(&["exec", "-u", "1000", "-e", "X=1", "box", "sh", "-c", "id -u; echo $X"])?, "1000\n1");
    ok(&["exec", "box", "sh", "-c", "echo changed > /new; rm /etc/group"])?;
    let diff = ok(&["diff", "box"])?;
    assert!(diff.contains("A /new") && diff.contains("D /etc/group"), "{diff}");
    let file = daemon.dir().join("copied");
    ok(&["cp", "box:/new", &file.display().to_string()])?;
    assert_eq!(std::fs::read_to_string(&file)?, "changed\n");
    ok(&["cp", &file.display().to_string(), "box:/tmp/back"])?;
    assert_eq!(ok(&["exec", "box", "cat", "/tmp/back"])?, "changed");
    ok(&["pause", "box"])?;
    assert_eq!(ok(&["inspect", "-f", "{{.State.Status}}", "box"])?, "paused");
    ok(&["unpause", "box"])?;
    ok(&["update", "--memory", "64m", "--memory-swap", "128m", "box"])?;
    assert_eq!(ok(&["inspect", "-f", "{{.HostConfig.Memory}}", "box"])?, "67108864");
    ok(&["commit", "box", "made:1"])?;
    assert_eq!(ok(&["run", "--rm", "--network", "none", "made:1", "cat", "/new"])?, "changed");
    ok(&["rename", "box", "crate"])?;
    assert!(ok(&["top", "crate"])?.contains("sleep"));
    ok(&["stop", "crate"])?;
    assert_eq!(ok(&["inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", "crate"])?, "5 false");
    assert_eq!(ok(&["wait", "crate"])?, "5");
    ok(&["start", "crate"])?;
    assert_eq!(daemon.docker(&["rm", "crate"])?.code, 1, "a running container is not removed");
    ok(&["kill", "crate"])?;
    ok(&["rm", "crate"])?;
    assert_eq!(daemon.docker(&["inspect", "crate"])?.code, 1);
    Ok(())
}

#[test]
fn images_are_saved_loaded_tagged_and_removed() -> Result<()> {
    let daemon = Daemon::start()?;
    let file = daemon.dir().join("saved.tar").display().to_string();
    assert_eq!(daemon.docker(&["save", "-o", &file, "busybox"])?.code, 0);
    assert_eq!(daemon.docker(&["tag", "busybox", "other/name:2"])?.code, 0);
    assert!(daemon.docker(&["rmi", "busybox"])?.out.contains("Untagged: busybox:latest"));
    assert!(daemon.docker(&["rmi", "other/name:2"])?.out.contains("Deleted: sha256:"));
    assert_eq!(daemon.docker(&["image", "inspect", "busybox"])?.code, 1);
    assert_eq!(daemon.docker(&["load", "-i", &file])?.out, "Loaded image: busybox:latest");
    assert_eq!(daemon.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "back"])?.out, "back");
    assert_eq!(
        daemon.docker(&["run", "-d", "--name", "user", "--network", "none", "busybox", "sleep", "60"])?.code,
        0
    );
    let refused = daemon.docker(&["rmi", "busybox"])?;
    assert!(refused.err.contains("is using its referenced image"), "{refused:?}");
    Ok(())
}

#[test]
fn limits_security_and_mounts_reach_the_process() -> Result<()> {
    let daemon = Daemon::start()?;
    let run = |args: &[&str]| -> Result<String> {
        let said = daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat())?;
        assert_eq!(said.code, 0, "{args:?}: {said:?}");
        Ok(said.out)
    };
    let status = |args: &[&str], key: &str| -> Result<String> {
        let text = run(&[args, &["busybox", "cat", "/proc/self/status"]].concat())?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        Ok(line.trim_start_matches(':').trim().to_owned())
    };
    assert_eq!(status(&[], "CapEff")?, "00000000a80425fb", "Docker's fourteen");
    assert_eq!(status(&["--cap-drop", "ALL"], "CapEff")?, "0000000000000000");
    assert_eq!(status(&["-u", "app"], "CapEff")?, "0000000000000000");
    assert_eq!(status(&[], "Seccomp")?, "2");
    assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp")?, "0");
    assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs")?, "1");
    let refused = run(&["busybox", "sh", "-c", "mount -t tmpfs none /tmp 2>&1 || true"])?;
    assert!(refused.contains("ermitted") || refused.contains("denied"), "{refused}");
    let dir = daemon.dir().join("shared");
    std::fs::create_dir(&dir)?;
    let bind = format!("{}:/data", dir.display());
    run(&["-v", &bind, "busybox", "sh", "-c", "echo written > /data/f"])?;
    assert_eq!(std::fs::read_to_string(dir.join("f"))?, "written\n");
    let readonly = format!("{bind}:ro");
    assert_eq!(run(&["-v", &readonly, "busybox", "sh", "-c", "touch /data/g 2>/dev/null || echo ro"])?, "ro");
    assert_eq!(
        run(&[
            "--pids-limit",
            "50",
            "busybox",
            "sh",
            "-c",
            "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
        ])?,
        "50"
    );
    let killed = daemon.docker(&[
        "run",
        "--name",
        "hungry",
        "--network",
        "none",
        "-m",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "sh",
        "-c",
        "tail /dev/zero",
    ])?;
    assert_eq!(killed.code, 137);
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.OOMKilled}}", "hungry"])?.out, "true");
    Ok(())
}

#[test]
fn restart_policies_health_and_events_are_followed() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.docker(&[
        "run",
        "-d",
        "--name",
        "again",
        "--network",
        "none",
        "--restart",
        "on-failure:2",
        "busybox",
        "false",
    ])?;
    daemon.wait_for("two restarts", || {
        daemon
            .docker(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "again"])
            .is_ok_and(|said| said.out == "2 exited")
    })?;
    daemon.docker(&[
        "run",
        "-d",
        "--name",
        "well",
        "--network",
        "none",
        "--health-cmd",
        "test -e /tmp/ok",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "busybox",
        "sleep",
        "60",
    ])?;
    let health = |wanted: &str| {
        daemon
            .docker(&["inspect", "-f", "{{.State.Health.Status}}", "well"])
            .is_ok_and(|said| said.out == wanted)
    };
    daemon.wait_for("unhealthy", || health("unhealthy"))?;
    daemon.docker(&["exec", "well", "touch", "/tmp/ok"])?;
    daemon.wait_for("healthy", || health("healthy"))?;
    // The time is cut to the second, so the stream is asked to end in the next one.
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 1;
    let events = daemon.docker(&[
        "events",
        "--since",
        "1",
        "--until",
        &until.to_string(),
        "--filter",
        "container=well",
        "--format",
        "{{.Action}}",
    ])?;
    for action in ["create", "start", "health_status: unhealthy", "health_status: healthy"] {
        assert!(events.out.lines().any(|line| line == action), "{action}: {events:?}");
    }
    Ok(())
}

#[test]
fn an_init_reaps_passes_signals_on_and_is_closed_to_its_container() -> Result<()> {
    let daemon = Daemon::start()?;
    let run = ["run", "-d", "--init", "--name", "box", "--network", "none", "busybox", "sh", "-c"];
    // Orphans of a shell that ends, which only the first process can reap.
    let script =
        "trap 'exit 9' TERM; (sh -c 'sleep 0.1 & sleep 0.1 &'); echo $$; while :; do sleep 0.05; done";
    let said = daemon.docker(&[run.as_slice(), &[script]].concat())?;
    assert_eq!(said.code, 0, "{said:?}");
    daemon.wait_for("the program", || {
        daemon.docker(&["logs", "box"]).is_ok_and(|said| said.out.parse::<u32>().is_ok_and(|pid| pid > 1))
    })?;
    let ok = |args: &[&str]| daemon.docker(&[&["exec", "box"], args].concat());
    let init = if daemon.is_ours() { "cove-runtime" } else { "docker-init" };
    assert_eq!(ok(&["cat", "/proc/1/comm"])?.out, init);
    // Docker's own init is open to its container.
    for closed in ["/proc/1/exe", "/proc/1/mem", "/proc/1/environ"].into_iter().filter(|_| daemon.is_ours()) {
        assert_ne!(ok(&["cat", closed])?.code, 0, "{closed} is open");
    }
    daemon.wait_for("the orphans to be reaped", || {
        ok(&["sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l"]).is_ok_and(|said| said.out == "0")
    })?;
    assert_eq!(daemon.docker(&["stop", "-t", "10", "box"])?.code, 0);
    assert_eq!(
        daemon.docker(&["inspect", "-f", "{{.State.ExitCode}} {{.HostConfig.Init}}", "box"])?.out,
        "9 true"
    );
    let plain =
        |args: &[&str]| daemon.docker(&[&["run", "--rm", "--init", "--network", "none"], args].concat());
    assert_eq!(plain(&["busybox", "sh", "-c", "kill -9 $$"])?.code, 137);
    assert_eq!(plain(&["-u", "1000", "busybox", "id", "-u"])?.out, "1000");
    assert_eq!(plain(&["busybox", "/none"])?.code, 127);
    Ok(())
}

#[test]
fn only_what_a_container_changed_is_a_change() -> Result<()> {
    let daemon = Daemon::start()?;
    let ok = |args: &[&str]| daemon.docker_ok(args);
    ok(&["run", "--name", "same", "--network", "none", "busybox", "true"])?;
    assert_eq!(ok(&["diff", "same"])?, "");
    ok(&["run", "--name", "other", "--network", "none", "busybox", "sh", "-c", "echo a > /etc/motd"])?;
    assert_eq!(ok(&["diff", "other"])?.lines().collect::<Vec<_>>(), ["C /etc", "A /etc/motd"]);
    ok(&[
        "commit",
        "-c",
        "CMD [\"cat\", \"/etc/motd\"]",
        "--change",
        "ENV GREETING=\"hello there\"",
        "-c",
        "WORKDIR /tmp",
        "other",
        "made",
    ])?;
    assert_eq!(ok(&["run", "--rm", "--network", "none", "made"])?, "a");
    assert_eq!(
        ok(&["run", "--rm", "--network", "none", "made", "sh", "-c", "echo $GREETING; pwd"])?,
        "hello there\n/tmp"
    );
    let id = |image: &str| daemon.docker_ok(&["image", "inspect", "-f", "{{.Id}}", image]);
    assert_eq!(ok(&["image", "inspect", "-f", "{{.Parent}}", "made"])?, id("busybox")?);
    let history = ok(&["history", "-q", "--no-trunc", "made"])?;
    assert_eq!(history.lines().take(2).collect::<Vec<_>>(), [id("made")?, id("busybox")?]);
    let said = daemon.docker(&["commit", "-c", "RUN true", "other", "bad"])?;
    assert!(said.code != 0 && said.err.contains("RUN is not a valid change command"), "{said:?}");
    Ok(())
}
