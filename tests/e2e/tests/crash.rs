//! The daemon dies at any moment; nothing acknowledged is lost and nothing is left behind.

use std::time::Duration;

use anyhow::Result;
use support::daemon::Daemon;
use support::image::{Blobs, Compression, Layer, busybox_layer, header, noise, sha256};
use support::registry::Registry;

/// What a start may take, right after a crash and on a machine that is busy with other tests; alone it
/// is a twentieth of that.
const LAUNCH: Duration = Duration::from_millis(500);

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
    assert!(took < LAUNCH, "a start after a crash took {took:?}");
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

/// An image of a real registry, and the digest of the file in it.
fn image(registry: &Registry) -> Result<(String, String)> {
    let data = noise(3, 6 << 20);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header(tar::EntryType::Regular, 0o644, 6 << 20), "large", data.as_slice())?;
    let layers = vec![
        Layer::pack(&busybox_layer()?, Compression::Gzip)?,
        Layer::pack(&layer.into_inner()?, Compression::Zstd)?,
    ];
    registry.push("app", "1", &Blobs::new(layers, &serde_json::json!({ "Env": ["PATH=/bin"] })))?;
    Ok((format!("{}/app:1", registry.host()), sha256(&data)))
}

/// Runs and removes containers until the daemon is gone.
fn work_with_containers(address: &str, round: u64) {
    for n in 0..40 {
        let name = format!("r{round}-{n}");
        let docker =
            |args: &[&str]| stdx::process::command("docker").env("DOCKER_HOST", address).args(args).output();
        if docker(&["run", "--name", &name, "--network", "none", "busybox", "sh", "-c", "exit 3"])
            .is_ok_and(|o| o.status.code() != Some(3))
        {
            return;
        }
        let _ = docker(&["rm", &name]);
    }
}

/// Pulls and removes an image until the daemon is gone.
fn work_with_images(address: &str, image: &str) {
    for _ in 0..40 {
        let docker =
            |args: &[&str]| stdx::process::command("docker").env("DOCKER_HOST", address).args(args).output();
        if docker(&["pull", "-q", image]).is_ok_and(|output| !output.status.success()) {
            return;
        }
        let _ = docker(&["rmi", image]);
    }
}

#[test]
fn fifty_crashes_at_any_moment_leave_nothing_behind() -> Result<()> {
    let registry = Registry::start()?;
    let (image, digest) = image(&registry)?;
    let mut daemon = Daemon::start()?;
    daemon.docker(&["run", "-d", "--name", "steady", "--network", "none", "busybox", "sleep", "600"])?;
    let kept = |daemon: &Daemon| ["root/layers", "root/blobs/sha256"].map(|dir| daemon.entries(dir));
    let at_first = kept(&daemon);
    let (mut slowest, mut pulled) = (Duration::ZERO, 0);
    for round in 0..50_u64 {
        let address = daemon.address();
        let containers = std::thread::spawn({
            let address = address.clone();
            move || work_with_containers(&address, round)
        });
        let images = std::thread::spawn({
            let image = image.clone();
            move || work_with_images(&address, &image)
        });
        // Spread over creation, start, end and removal, and over the pull.
        std::thread::sleep(Duration::from_millis(20 + round * 7 % 230));
        daemon.crash()?;
        let _ = (containers.join(), images.join());
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
        // An image is there whole or not at all.
        if !daemon.docker(&["images", "-q", &image])?.out.is_empty() {
            pulled += 1;
            let said = daemon.docker(&[
                "run",
                "--rm",
                "--network",
                "none",
                &image,
                "busybox",
                "sha256sum",
                "/large",
            ])?;
            assert_eq!(said.out, format!("{digest}  /large"), "round {round}: {said:?}");
        }
    }
    let said = daemon.docker(&["pull", "-q", &image])?;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(daemon.docker(&["rmi", &image])?.code, 0);
    assert_eq!(kept(&daemon), at_first, "layers and blobs of an image that was removed");
    for dir in ["root/ingest", "root/trash"] {
        daemon.wait_for("an empty directory", || daemon.entries(dir).is_empty())?;
    }
    let id = daemon.docker(&["ps", "-aq", "--no-trunc"])?.out;
    for dir in ["root/snapshots", "root/containers", "run/containers"] {
        assert_eq!(daemon.entries(dir), std::slice::from_ref(&id), "{dir}");
    }
    daemon.docker(&["rm", "-f", "steady"])?;
    assert_eq!(cgroups(&[id]), Vec::<String>::new());
    support::tell(&format!("the slowest start took {slowest:?}; {pulled} times the image was there"));
    assert!(slowest < LAUNCH, "the slowest start took {slowest:?}");
    Ok(())
}
