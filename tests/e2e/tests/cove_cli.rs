//! `cove` itself: the verbs, their exit codes, and what is printed.

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;

#[test]
fn a_container_is_run_watched_and_removed() -> Result<()> {
    let daemon = Daemon::start()?;
    let said =
        daemon.cove(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; exit 7"])?;
    assert_eq!((said.code, said.out.as_str()), (7, "out"), "{said:?}");

    let said =
        daemon.cove(&["run", "-d", "--name", "web", "--network", "none", "busybox", "sleep", "1000"])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(daemon.cove(&["ps"])?.out.contains("web"));
    assert_eq!(daemon.cove(&["exec", "web", "echo", "inside"])?.out, "inside");
    let inspected = daemon.cove(&["inspect", "web"])?;
    let value: serde_json::Value = serde_json::from_str(&inspected.out)?;
    assert_eq!(value[0]["State"]["Running"], true, "{}", inspected.out);
    assert_eq!(daemon.cove(&["stop", "-t", "0", "web"])?.code, 0);
    assert_eq!(daemon.cove(&["wait", "web"])?.out, "137");
    assert_eq!(daemon.cove(&["rm", "web"])?.code, 0);
    assert_eq!(daemon.docker(&["ps", "-aq"])?.out, "");
    Ok(())
}

#[test]
fn several_copy_at_once_while_it_starts() -> Result<()> {
    const WRITERS: usize = 4;
    const FILES: usize = 200;
    let daemon = Daemon::start()?;
    let dir = daemon.dir().join("given");
    std::fs::create_dir(&dir)?;
    for at in 0..FILES {
        std::fs::write(dir.join(at.to_string()), b"x")?;
    }
    let script = "while [ ! -e /end ]; do busybox sleep 0.05; done";
    let make = ["create", "--name", "box", "--network", "none", "busybox", "sh", "-c", script];
    daemon.docker_ok(&make)?;
    let dir = dir.display().to_string();
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let (daemon, dir) = (&daemon, &dir);
        let copies = (0..WRITERS).map(|at| {
            scope.spawn(move || -> Result<()> {
                for turn in 0..3 {
                    daemon.docker_ok(&["cp", dir, &format!("box:/{at}-{turn}")])?;
                }
                Ok(())
            })
        });
        let copies: Vec<_> = copies.collect();
        let started = scope.spawn(move || daemon.docker_ok(&["start", "box"]).map(drop));
        copies
            .into_iter()
            .chain([started])
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            .collect()
    });
    outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    let count = daemon.docker_ok(&["exec", "box", "sh", "-c", "cat /?-?/* | busybox wc -c"])?;
    ensure!(count.trim() == (WRITERS * 3 * FILES).to_string(), "{count}");
    // The daemon opens many files; its containers begin with the limit that it began with.
    let own = std::fs::read_to_string("/proc/self/limits")?;
    let soft = own.lines().find(|line| line.starts_with("Max open files")).context("no limit")?;
    let soft = soft.split_whitespace().nth(3).context("no limit")?;
    ensure!(daemon.docker_ok(&["exec", "box", "sh", "-c", "ulimit -n"])? == soft);
    ensure!(
        daemon.docker_ok(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", "ulimit -n"])? == soft
    );
    Ok(())
}

#[test]
fn files_are_copied_both_ways_and_output_is_kept() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.cove(&[
        "run",
        "--name",
        "files",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo kept; echo made > /made",
    ])?;
    assert_eq!(daemon.cove(&["logs", "files"])?.out, "kept");
    assert!(daemon.cove(&["diff", "files"])?.out.contains("/made"));
    let here = daemon.dir().join("made");
    let said = daemon.cove(&["cp", "files:/made", &here.display().to_string()])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(std::fs::read_to_string(&here)?, "made\n");
    std::fs::write(daemon.dir().join("given"), "given")?;
    let said = daemon.cove(&["cp", &daemon.dir().join("given").display().to_string(), "files:/"])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(daemon.cove(&["diff", "files"])?.out.contains("/given"));

    // Directories: by name, under another name, and what is in them; and back, the same as docker's.
    let tree = daemon.dir().join("tree");
    std::fs::create_dir_all(tree.join("deep"))?;
    std::fs::write(tree.join("deep/a"), vec![7; 300_000])?;
    std::os::unix::fs::symlink("deep/a", tree.join("link"))?;
    let long = "n".repeat(150);
    std::fs::write(tree.join(&long), "long")?;
    std::os::unix::fs::symlink(&long, tree.join("far"))?;
    let at = |name: &str| daemon.dir().join(name).display().to_string();
    for (from, to) in [(at("tree"), "files:/"), (at("tree"), "files:/other"), (at("tree/."), "files:/tmp")] {
        let said = daemon.cove(&["cp", &from, to])?;
        assert_eq!(said.code, 0, "{from} to {to}: {said:?}");
    }
    for (from, name) in [("files:/tree", "one"), ("files:/other/.", "two"), ("files:/tmp/.", "three")] {
        for client in ["cove", "docker"] {
            let to = at(&format!("{name}-{client}"));
            let args = ["cp", from, &to];
            let said = if client == "cove" { daemon.cove(&args)? } else { daemon.docker(&args)? };
            assert_eq!(said.code, 0, "{from} by {client}: {said:?}");
            let to = std::path::Path::new(&to);
            let found = std::fs::read(to.join("deep/a")).with_context(|| format!("{from} by {client}"))?;
            assert_eq!(found, vec![7; 300_000], "{from} by {client}");
            assert_eq!(std::fs::read_link(to.join("link"))?, std::path::Path::new("deep/a"));
            assert_eq!(std::fs::read_to_string(to.join("far"))?, "long", "{from} by {client}");
        }
    }
    let said = daemon.cove(&["cp", "files:/missing", "."])?;
    assert!(said.code == 1 && said.err.contains("/missing"), "{said:?}");
    Ok(())
}

#[test]
fn what_goes_wrong_is_said_and_has_its_exit_code() -> Result<()> {
    let daemon = Daemon::start()?;
    let said = daemon.cove(&["run", "--rm", "--network", "none", "-p", "80", "busybox", "true"])?;
    assert!(said.code == 0 && said.err.contains("Published ports are discarded"), "{said:?}");
    let said = daemon.cove(&["run", "--rm", "--network", "none", "busybox", "/none"])?;
    assert_eq!(said.code, 127, "{said:?}");
    let said = daemon.cove(&["rm", "nobody"])?;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("nobody"), "{said:?}");
    let said = daemon.cove(&["frobnicate"])?;
    assert_eq!(said.code, 125, "{said:?}");
    let said = daemon.cove(&["run", "--rm", "--frobnicate", "busybox", "true"])?;
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.err.contains("unknown flag: --frobnicate"), "{said:?}");
    Ok(())
}

/// Docker's own command line is asked the same of the same engine.
#[test]
fn lists_and_templates_print_what_dockers_print() -> Result<()> {
    let daemon = Daemon::start()?;
    for (name, label) in [("one", "a=1"), ("two", "b=2")] {
        let run = ["run", "-d", "--name", name, "--label", label, "--label", "c.d=x", "--network", "none"];
        assert_eq!(daemon.cove(&[run.as_slice(), &["busybox", "sleep", "1000"]].concat())?.code, 0);
    }
    for args in [
        &["ps", "--format", "{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.State}} {{.CreatedAt}}"][..],
        &["ps", "--format", "{{.Names}}|{{.Label \"c.d\"}}|{{upper .Image}}|{{json .Names}}|{{.Mounts}}"],
        &["ps", "--format", "table {{.Names}}\\t{{.Image}}\\t{{.State}}"],
        &["ps", "-aq", "--no-trunc"],
        &["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}} {{.Size}}"],
        &["images", "--format", "table {{.Repository}}\\t{{.Size}}"],
        &["inspect", "-f", "{{.State.Status}} {{.Name}} {{.Config.Image}}", "one", "two"],
        &[
            "inspect",
            "-f",
            "{{range .Config.Env}}{{.}};{{end}} {{.HostConfig.RestartPolicy.Name}} {{json .Config.Cmd}}",
            "one",
        ],
        &["inspect", "-f", "{{if and .State.Running (eq .State.ExitCode 0)}}up{{else}}down{{end}}", "one"],
        &["inspect", "-f", "{{index .Config.Labels \"a\"}}-{{len .Mounts}}-{{.Config.Labels}}", "one"],
        &["inspect", "-f", "{{printf \"%s %5d %-6v|\" .Name .State.ExitCode .State.Paused}}", "one"],
        &["inspect", "--type", "image", "-f", "{{.Os}}/{{.Architecture}} {{slice .Id 0 12}}", "busybox"],
        &["history", "--format", "{{.ID}} {{.CreatedBy}}", "busybox"],
        &["info", "--format", "{{.ServerVersion}} {{.NCPU}} {{.OSType}}"],
        &["version", "--format", "{{.Server.Version}} {{.Server.Os}}"],
    ] {
        let (cove, docker) = (daemon.cove(args)?, daemon.docker(args)?);
        assert_eq!(
            (cove.code, cove.out),
            (docker.code, docker.out),
            "{args:?}: {} / {}",
            cove.err,
            docker.err
        );
    }
    // The long forms.
    assert_eq!(daemon.cove(&["container", "ls", "-q"])?.out, daemon.docker(&["container", "ls", "-q"])?.out);
    assert_eq!(daemon.cove(&["image", "ls", "-q"])?.out, daemon.docker(&["image", "ls", "-q"])?.out);
    let said = daemon.cove(&["ps", "--format", "{{.Nmes}}"])?;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("template parsing error") && said.err.contains("Names"), "{said:?}");
    Ok(())
}

/// What chroot was used for, without its escapes.
#[test]
fn a_directory_is_run_without_an_image() -> Result<()> {
    let daemon = Daemon::start_empty(&[])?;
    let rootfs = daemon.dir().join("tree");
    std::fs::create_dir(&rootfs)?;
    tar::Archive::new(support::image::busybox_layer()?.as_slice()).unpack(&rootfs)?;
    let dir = rootfs.display().to_string();
    let run = ["run", "--rm", "--network", "none", "--env", "PATH=/bin", "--rootfs", &dir];
    let said = daemon.cove(
        &[run.as_slice(), &["sh", "-c", "echo $0 $1 > /made; pwd; ls / | wc -l", "a", "-b"]].concat(),
    )?;
    assert_eq!((said.code, said.out.lines().next()), (0, Some("/")), "{said:?}");
    assert_eq!(std::fs::read_to_string(rootfs.join("made"))?, "a -b\n");
    // Up and out leads nowhere.
    let said =
        daemon.cove(&[run.as_slice(), &["sh", "-c", "cat ../../../../../../../made; ls -id /"]].concat())?;
    assert!(said.out.starts_with("a -b"), "{said:?}");
    Ok(())
}
