//! Machines from outside: real boots of User Mode Linux and QEMU, with what crosses, and what goes wrong.

use std::io::{Read, Write};
use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use support::machine::{Machine, fetch};

/// Runs a test on each kind of machine that can be had here.
fn on_each(test: impl Fn(&Machine) -> Result<()>) -> Result<()> {
    for backend in ["uml", "qemu"] {
        if let Some(machine) = Machine::start(backend)? {
            test(&machine).with_context(|| format!("on {backend}"))?;
        }
    }
    Ok(())
}

fn on_uml(test: impl Fn(&Machine) -> Result<()>) -> Result<()> {
    Machine::start("uml")?.map_or(Ok(()), |machine| test(&machine))
}

#[test]
fn containers_run_in_a_machine_as_they_do_here() -> Result<()> {
    on_each(|machine| {
        let status = machine.status()?;
        ensure!(status["phase"] == "running", "{status}");
        let stages: Vec<&str> =
            status["took"].as_array().into_iter().flatten().filter_map(|took| took[0].as_str()).collect();
        assert_eq!(stages, ["image", "disk", "hypervisor", "kernel", "agent", "shares", "network", "engine"]);
        // The same verbs, codes and streams, by our command line and by Docker's.
        let run = ["run", "--rm", "--network", "none", "busybox"];
        let said = machine.cove(&[&run[..], &["sh", "-c", "echo out; echo err >&2; exit 7"]].concat())?;
        assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (7, "out", "err"));
        let said = machine.docker(&[&run[..], &["sh", "-c", "echo out; exit 8"]].concat())?;
        assert_eq!((said.code, said.out.as_str()), (8, "out"));
        // Input that ends, through every hop.
        let said = machine.cove_with(
            &["run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c"],
            &[b'x'; 300_000],
        )?;
        assert_eq!((said.code, said.out.trim()), (0, "300000"));
        let kernel = machine.cove_ok(&["run", "--rm", "--network", "none", "busybox", "uname", "-r"])?;
        ensure!(kernel == status["kernel"].as_str().unwrap_or_default(), "{kernel}");
        // Beside the containers.
        let said =
            machine.cove(&["machine", "shell", "test", "--", "sh", "-c", "cat /proc/1/comm; exit 3"])?;
        assert_eq!((said.code, said.out.as_str()), (3, "init"));
        let said = machine.cove_with(&["machine", "shell", "test", "--", "wc", "-c"], &[b'x'; 200_000])?;
        assert_eq!((said.code, said.out.trim()), (0, "200000"));
        Ok(())
    })
}

#[test]
fn folders_of_the_host_are_seen_under_the_same_path() -> Result<()> {
    on_each(|machine| {
        let shared = machine.shared();
        let mount = format!("{0}:{0}", shared.display());
        std::fs::write(shared.join("from-host"), "hello")?;
        let script = format!(
            "cd {}; cat from-host; mkdir dir; echo inside > dir/from-guest; ln -s from-host link; chmod 750 dir",
            shared.display()
        );
        let out = machine.cove_ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &mount,
            "busybox",
            "sh",
            "-c",
            &script,
        ])?;
        assert_eq!(out, "hello");
        assert_eq!(std::fs::read_to_string(shared.join("dir/from-guest"))?, "inside\n");
        assert_eq!(std::fs::read_link(shared.join("link"))?.as_os_str(), "from-host");
        // A change here is seen there at once.
        std::fs::write(shared.join("from-host"), "changed")?;
        let read = format!("cat {}/from-host", shared.display());
        machine.wait_for("the changed file", || {
            machine
                .cove_ok(&["machine", "shell", "test", "--", "sh", "-c", &read])
                .is_ok_and(|out| out == "changed")
        })
    })
}

#[test]
fn what_listens_in_a_machine_answers_here_and_no_longer_when_it_is_gone() -> Result<()> {
    on_each(|machine| {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let text = port.to_string();
        let serve = "echo it works > /tmp/index.html; httpd -f -h /tmp -p 0.0.0.0:$0";
        machine.cove_ok(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "host",
            "busybox",
            "sh",
            "-c",
            serve,
            &text,
        ])?;
        machine.wait_for("the port of a container with the machine's network", || {
            fetch(port).is_ok_and(|page| page.contains("it works"))
        })?;
        machine.cove_ok(&["rm", "-f", "web"])?;
        machine.wait_for("the port's end", || TcpListener::bind(("127.0.0.1", port)).is_ok())?;
        if !machine.has_networks()? {
            support::absent("this machine's kernel has no networks: published ports");
            return Ok(());
        }
        let publish = format!("127.0.0.1:{port}:80");
        machine
            .cove_ok(&["run", "-d", "--name", "web", "-p", &publish, "busybox", "sh", "-c", serve, "80"])?;
        machine.wait_for("a published port", || fetch(port).is_ok_and(|page| page.contains("it works")))?;
        machine.cove_ok(&["rm", "-f", "web"])?;
        machine.wait_for("the port's end", || TcpListener::bind(("127.0.0.1", port)).is_ok())?;
        // One that is taken is named with who has it.
        let taken = TcpListener::bind(("127.0.0.1", port))?;
        machine
            .cove_ok(&["run", "-d", "--name", "web", "-p", &publish, "busybox", "sh", "-c", serve, "80"])?;
        machine.wait_for("a warning", || {
            let status = machine.status().unwrap_or_default();
            let warnings = status["warnings"].to_string();
            warnings.contains(&text) && warnings.contains(&format!("process {}", std::process::id()))
        })?;
        drop(taken);
        machine
            .wait_for("the port once it is free", || fetch(port).is_ok_and(|page| page.contains("it works")))
    })
}

#[test]
fn nothing_is_lost_over_a_stop_a_power_cut_and_the_death_of_the_supervisor() -> Result<()> {
    on_uml(|machine| {
        machine
            .cove_ok(&[
                "run",
                "--name",
                "ended",
                "--network",
                "none",
                "busybox",
                "sh",
                "-c",
                "echo kept; exit 9",
            ])
            .ok();
        machine.cove_ok(&[
            "run",
            "-d",
            "--name",
            "always",
            "--restart",
            "always",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ])?;
        machine.cove_ok(&["volume", "create", "data"])?;
        machine.cove_ok(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "echo precious > /d/file; sync",
        ])?;
        let holds = || -> Result<()> {
            let code = machine.cove_ok(&["inspect", "ended", "--format", "{{.State.ExitCode}}"])?;
            ensure!(code == "9", "{code}");
            ensure!(machine.cove_ok(&["logs", "ended"])? == "kept");
            let file = machine.cove_ok(&[
                "run",
                "--rm",
                "--network",
                "none",
                "-v",
                "data:/d",
                "busybox",
                "cat",
                "/d/file",
            ])?;
            ensure!(file == "precious", "{file}");
            machine.wait_for("a container that is always to run", || {
                machine
                    .cove_ok(&["inspect", "always", "--format", "{{.State.Running}}"])
                    .is_ok_and(|running| running == "true")
            })
        };
        machine.cove_ok(&["machine", "stop", "test"])?;
        ensure!(machine.status()?["phase"] == "stopped");
        ensure!(machine.processes("").is_empty(), "left after a stop: {:?}", machine.processes(""));
        // The first call starts it again.
        holds().context("after a stop")?;
        machine.cove_ok(&["machine", "stop", "--force", "test"])?;
        holds().context("after a power cut")?;
        // The program that is the machine, killed from outside.
        let pid = machine.status()?["pid"].as_u64().context("a pid")?;
        machine.kill(&[u32::try_from(pid)?])?;
        machine
            .wait_for("the failure", || machine.status().is_ok_and(|status| status["phase"] == "failed"))?;
        holds().context("after its program was killed")?;
        let supervisors = machine.processes("cove-machine");
        ensure!(!supervisors.is_empty());
        machine.kill(&supervisors)?;
        machine.wait_for("the end of the machine's program", || machine.processes("").is_empty())?;
        holds().context("after its supervisor was killed")
    })
}

#[test]
fn an_engine_that_dies_in_a_machine_is_started_again() -> Result<()> {
    on_uml(|machine| {
        machine.cove_ok(&["run", "-d", "--name", "on", "--network", "none", "busybox", "sleep", "1000"])?;
        machine.cove_ok(&["machine", "shell", "test", "--", "sh", "-c", "kill -9 $(pidof coved)"])?;
        machine.wait_for("the engine", || {
            machine
                .cove_ok(&["inspect", "on", "--format", "{{.State.Running}}"])
                .is_ok_and(|running| running == "true")
        })
    })
}

#[test]
fn an_image_that_is_not_what_it_says_is_refused_by_name() -> Result<()> {
    let Some(machine) = Machine::init("uml")? else { return Ok(()) };
    machine.bring_up()?;
    machine.cove_ok(&["machine", "stop", "test"])?;
    let kept = machine.files().parent().context("a folder")?.join(".images");
    let image = std::fs::read_dir(&kept)?.next().context("a kept image")??.path().join("initrd");
    let mut bytes = std::fs::read(&image)?;
    *bytes.get_mut(1000).context("a byte")? ^= 1;
    std::fs::write(&image, bytes)?;
    let said = machine.cove(&["machine", "start", "test"])?;
    ensure!(
        said.code == 1 && said.err.contains("stage image") && said.err.contains("initrd"),
        "{}",
        said.err
    );
    ensure!(said.err.contains("hint:"), "{}", said.err);
    let status = machine.status()?;
    ensure!(status["phase"] == "failed" && status["failure"]["stage"] == "image", "{status}");
    Ok(())
}

#[test]
fn names_sizes_and_backends_that_can_not_be_are_refused_and_leave_nothing() -> Result<()> {
    let Some(machine) = Machine::init("uml")? else { return Ok(()) };
    for (args, part) in [
        (&["machine", "init", "../x"][..], "can't be a machine's name"),
        (&["machine", "init", "a", "--memory", "1M"], "at least 256 MiB"),
        (&["machine", "init", "a", "--memory", "much"], "write it as 512M or 4G"),
        (&["machine", "init", "a", "--backend", "hyperv"], "this system has qemu and uml"),
        (&["machine", "init", "a", "--share", "/no/such"], "/no/such"),
        (&["machine", "init", "a", "--sleep-after", "soon"], "write it as 30s"),
        (&["machine", "init", "a", "--backend", "uml", "--sleep-after", "10m"], "can't be saved"),
        (&["machine", "init", "test"], "already"),
        (&["machine", "start", "other"], "there is no machine"),
        (&["machine", "shell", "test"], "does not run"),
        (&["machine", "set", "test", "--disk", "1G"], "only grows"),
    ] {
        let said = machine.cove(args)?;
        ensure!(said.code != 0 && said.err.contains(part), "{args:?}: {} {}", said.code, said.err);
    }
    assert_eq!(machine.cove_ok(&["machine", "ls", "-q"])?, "test");
    machine.cove_ok(&["machine", "rm", "-f", "test"])?;
    assert_eq!(machine.cove_ok(&["machine", "ls", "-q"])?, "");
    ensure!(!machine.files().exists());
    Ok(())
}

#[test]
fn changes_of_files_here_wake_watchers_in_containers_once_each() -> Result<()> {
    on_each(|machine| {
        let shared = machine.shared();
        let watched = shared.join("watched");
        std::fs::create_dir(&watched)?;
        std::fs::write(watched.join("old"), "1")?;
        let mount = format!("{0}:{0}", watched.display());
        let watcher = shared.join("watcher");
        let mut cc = stdx::process::command("cc");
        cc.args(["-static", "-O1", "-o"])
            .arg(&watcher)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/watcher.c"));
        ensure!(cc.status().context("a C compiler")?.success());
        let folder = watched.display().to_string();
        let bin = format!("{}:/watcher:ro", watcher.display());
        let run =
            ["run", "-d", "--name", "watcher", "--network", "none", "-v", &mount, "-v", &bin, "busybox"];
        machine.cove_ok(&[&run[..], &["/watcher", &folder]].concat())?;
        let logs = || machine.cove_ok(&["logs", "watcher"]).unwrap_or_default();
        machine.wait_for("the watcher", || logs().contains("ready"))?;
        for at in 0..20 {
            std::fs::write(watched.join(format!("new-{at}")), "x")?;
        }
        let count =
            |kind: &str, name: &str| logs().lines().filter(|line| *line == format!("{kind} {name}")).count();
        // A file that comes and goes before the guest hears of it is none to the guest.
        machine.wait_for("the new files", || count("create", "new-19") > 0)?;
        std::fs::write(watched.join(".save"), "2")?;
        std::fs::rename(watched.join(".save"), watched.join("old"))?;
        std::fs::remove_file(watched.join("new-0"))?;
        machine.wait_for("the last event", || count("delete", "new-0") > 0)?;
        for at in 0..20 {
            assert_eq!(count("create", &format!("new-{at}")), 1, "{}", logs());
        }
        assert_eq!(count("delete", "new-0"), 1, "{}", logs());
        // A save by rename is seen as a file of that name that came anew, and its content is there.
        ensure!(count("create", "old") + count("to", "old") == 1, "{}", logs());
        let read =
            machine.cove_ok(&["exec", "watcher", "cat", &watched.join("old").display().to_string()])?;
        assert_eq!(read, "2");
        Ok(())
    })
}

#[test]
fn volumes_are_got_out_of_a_machine_whose_engine_is_off_and_outlive_a_reset() -> Result<()> {
    on_uml(|machine| {
        machine.cove_ok(&[
            "run",
            "--network",
            "none",
            "-v",
            "data:/d",
            "busybox",
            "sh",
            "-c",
            "echo precious > /d/file",
        ])?;
        machine.cove_ok(&["machine", "stop", "test"])?;
        let tar = machine.shared().join("saved.tar");
        machine.cove_ok(&["machine", "rescue", "test", "--save", &tar.display().to_string()])?;
        let mut archive = tar::Archive::new(std::fs::File::open(&tar)?);
        let mut found = String::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            if entry.path()?.ends_with("data/_data/file") {
                entry.read_to_string(&mut found)?;
            }
        }
        assert_eq!(found, "precious\n");
        ensure!(machine.status()?["phase"] == "stopped");
        machine.cove_ok(&["machine", "reset", "test", "--force"])?;
        assert_eq!(machine.cove_ok(&["ps", "-aq"])?, "");
        assert_eq!(machine.cove_ok(&["volume", "ls", "-q"])?, "data");
        machine.cove_ok(&["machine", "reset", "test", "--force", "--volumes"])?;
        assert_eq!(machine.cove_ok(&["volume", "ls", "-q"])?, "");
        Ok(())
    })
}

#[test]
fn a_newer_image_that_does_not_start_is_rolled_back_and_said_so() -> Result<()> {
    let Some(mut machine) = Machine::start("uml")? else { return Ok(()) };
    machine.cove_ok(&["volume", "create", "kept"])?;
    let before = machine.status()?["image"].clone();
    machine.cove_ok(&["machine", "stop", "test"])?;
    machine.install_broken_image()?;
    machine.bring_up()?;
    let status = machine.status()?;
    ensure!(status["phase"] == "running" && status["image"] == before, "{status}");
    ensure!(status["warnings"].to_string().contains("newest guest image did not start"), "{status}");
    assert_eq!(machine.cove_ok(&["volume", "ls", "-q"])?, "kept");
    Ok(())
}

#[test]
fn the_users_ssh_agent_is_had_only_where_the_user_says_so() -> Result<()> {
    let Some(machine) = Machine::init("uml")? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("agent");
    let agent = std::os::unix::net::UnixListener::bind(&socket)?;
    std::thread::spawn(move || {
        for stream in agent.incoming().flatten() {
            let mut stream = stream;
            let mut heard = [0; 4];
            let _ = stream.read_exact(&mut heard);
            let _ = stream.write_all(b"this is the agent");
        }
    });
    let start = || -> Result<()> {
        let mut start = machine.command(&["machine", "start", "test"])?;
        let status = start.env("SSH_AUTH_SOCK", &socket).stderr(std::process::Stdio::null()).status()?;
        ensure!(status.success(), "it did not start");
        Ok(())
    };
    start()?;
    let there = "/run/host-services/ssh-auth.sock";
    let has = || machine.cove(&["machine", "shell", "test", "--", "test", "-S", there]);
    assert_eq!(has()?.code, 1, "nobody said so");
    machine.cove_ok(&["machine", "stop", "test"])?;
    machine.cove_ok(&["machine", "set", "test", "--ssh-agent", "on"])?;
    start()?;
    machine.load_busybox()?;
    assert_eq!(has()?.code, 0);
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ping.c");
    let program = machine.compile(&source)?.display().to_string();
    let (socket, program) = (format!("{there}:/agent"), format!("{program}:/ping:ro"));
    let run =
        ["run", "--rm", "--network", "none", "--user", "1000", "-v", &socket, "-v", &program, "busybox"];
    let median = machine.cove_ok(&[&run[..], &["/ping", "/agent", "20"]].concat())?;
    ensure!(median.trim().parse::<u64>().is_ok(), "{median}");
    Ok(())
}

#[test]
fn sizes_change_while_it_runs_where_they_can_and_else_say_when() -> Result<()> {
    let Some(machine) = Machine::init("qemu")? else { return Ok(()) };
    machine.bring_up()?;
    let total = |name: &str| machine.status().map(|status| status["report"][name].as_u64().unwrap_or(0));
    // The guest may take back what a balloon holds before it runs out, so its total stays.
    let (memory, disk) = (total("memory_available")?, total("disk_total")?);
    let said = machine.cove(&["machine", "set", "test", "--memory", "384M", "--disk", "4G"])?;
    ensure!(said.code == 0 && said.err.is_empty(), "{}", said.err);
    machine.wait_for("less memory and a larger disk", || {
        let has = |name, is_so: &dyn Fn(u64) -> bool| total(name).is_ok_and(is_so);
        has("memory_available", &|now| now < memory - (100 << 20))
            && has("disk_total", &|now| now > disk * 3 / 2)
    })?;
    // More than it was started with, it has only at the next start.
    let said = machine.cove(&["machine", "set", "test", "--memory", "768M"])?;
    ensure!(said.code == 0 && said.err.contains("from the next start on"), "{}", said.err);
    Ok(())
}
