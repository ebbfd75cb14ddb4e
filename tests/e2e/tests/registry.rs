//! Debian's registry, and a disk that fills up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;
use support::image::{Blobs, Compression, Layer, busybox_layer, docker_archive, header, noise};
use support::registry::{Guarded, Registry};
use tar::{Builder, EntryType};

/// Busybox and a file of this size that does not compress.
fn image(size: usize) -> Result<Blobs> {
    let mut large = Builder::new(Vec::new());
    let data = noise(11, size);
    large.append_data(&mut header(EntryType::Regular, 0o644, size as u64), "large", data.as_slice())?;
    let layers = vec![
        Layer::pack(&busybox_layer()?, Compression::Gzip)?,
        Layer::pack(&large.into_inner()?, Compression::Zstd)?,
    ];
    Ok(Blobs::new(layers, &serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] })))
}

/// user:secret, by bcrypt.
const PASSWORDS: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

#[test]
fn an_image_of_a_real_registry_runs() -> Result<()> {
    let registry = Registry::start()?;
    let image = image(1 << 20)?;
    registry.push("team/app", "1.0", &image)?;
    let daemon = Daemon::start_empty(&[])?;
    let name = format!("{}/team/app:1.0", registry.host());
    let said = daemon.docker(&["pull", &name])?;
    ensure!(said.code == 0, "{said:?}");
    assert!(said.out.contains(&image.digest()), "{said:?}");
    let said = daemon.docker(&["run", "--rm", "--network", "none", &name, "stat", "-c", "%s", "/large"])?;
    assert_eq!(said.out, (1 << 20).to_string(), "{said:?}");

    // By digest; and an image that is not there is pulled by run.
    assert_eq!(daemon.docker(&["rmi", &name])?.code, 0);
    let by_digest = format!("{}/team/app@{}", registry.host(), image.digest());
    let said = daemon.cove(&["run", "--rm", "--network", "none", &by_digest, "echo", "pulled"])?;
    assert_eq!((said.code, said.out.as_str()), (0, "pulled"), "{said:?}");

    let said = daemon.docker(&["pull", &format!("{}/team/app:2.0", registry.host())])?;
    assert_ne!(said.code, 0);
    assert!(said.err.contains("not found") || said.err.contains("unknown"), "{said:?}");
    Ok(())
}

/// A small tmpfs at a path; unmounted with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Result<Self> {
        let status = stdx::process::command("/bin/mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .status()?;
        ensure!(status.success(), "mount failed");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = stdx::process::command("/bin/umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_fails_what_needs_room_and_nothing_else() -> Result<()> {
    if !support::is_root()? {
        support::skip("it mounts a tmpfs, which only root can");
        return Ok(());
    }
    let registry = Registry::start()?;
    registry.push("small", "1", &image(1 << 10)?)?;
    registry.push("large", "1", &image(64 << 20)?)?;
    let mut daemon = Daemon::start_empty(&[])?;
    daemon.crash()?;
    let disk = SmallDisk::mount(&daemon.dir().join("root"), "24m")?;
    daemon.launch()?;

    // In mid-pull.
    let said = daemon.docker(&["pull", &format!("{}/large:1", registry.host())])?;
    assert_ne!(said.code, 0, "{said:?}");
    assert!(said.err.to_lowercase().contains("no space left"), "{said:?}");
    // The other layer's thread may need a moment to notice.
    assert!(daemon.dir().join("root/ingest").is_dir());
    // A part of it that is right is kept for the next pull.
    daemon.wait_for("an end of what the failed pull left", || {
        daemon.entries("root/ingest").iter().all(|name| name.ends_with(".partial"))
    })?;
    let small = format!("{}/small:1", registry.host());
    let said = daemon.docker(&["pull", &small])?;
    assert_eq!(said.code, 0, "{said:?}");

    // In mid-run: the container is told, the daemon goes on.
    let fill = "dd if=/dev/zero of=/fill bs=1M count=100; echo ended with $?";
    let said = daemon.docker(&["run", "--name", "fills", "--network", "none", &small, "sh", "-c", fill])?;
    assert!(said.out.contains("ended with 1"), "{said:?}");
    assert!(said.err.to_lowercase().contains("no space left"), "{said:?}");
    let listed = daemon.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"])?;
    assert!(listed.out.starts_with("fills Exited (0)"), "{listed:?}");
    // Full: what needs room is refused in words, what makes room works.
    let said = daemon.docker(&["create", "--network", "none", &small, "true"])?;
    assert!(
        said.code == 0 || said.err.to_lowercase().contains("space") || said.err.contains("full"),
        "{said:?}"
    );
    let removed = daemon.docker(&["rm", "-f", "fills"])?;
    assert_eq!(removed.code, 0, "{removed:?}");
    let said = daemon.docker(&["run", "--rm", "--network", "none", &small, "echo", "again"])?;
    assert_eq!((said.code, said.out.as_str()), (0, "again"), "{said:?}");
    let ids = daemon.docker(&["ps", "-aq"])?.out;
    for id in ids.split_whitespace() {
        daemon.docker(&["rm", "-f", id])?;
    }
    daemon.crash()?;
    drop(disk);
    Ok(())
}

/// Takes all room that is left; given back when dropped.
struct Filler(PathBuf);

impl Filler {
    fn fill(root: &Path) -> Result<Self> {
        use std::io::Write;
        let path = root.join("filler");
        let mut file = std::fs::File::create(&path)?;
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Ok(Self(path))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn images_are_removed_from_a_full_disk() -> Result<()> {
    if !support::is_root()? {
        support::skip("it mounts a tmpfs, which only root can");
        return Ok(());
    }
    let mut daemon = Daemon::start_empty(&[])?;
    daemon.crash()?;
    let root = daemon.dir().join("root");
    let disk = SmallDisk::mount(&root, "32m")?;
    daemon.launch()?;
    let load = |name: &str, seed: u64| -> Result<()> {
        let mut layer = Builder::new(Vec::new());
        let data = noise(seed, 100_000);
        layer.append_data(&mut header(EntryType::Regular, 0o644, 100_000), name, data.as_slice())?;
        let layers = [busybox_layer()?, layer.into_inner()?];
        let archive = docker_archive(name, &layers, &serde_json::json!({ "Env": ["PATH=/bin"] }))?;
        // Not on the small disk.
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), archive)?;
        daemon.docker_ok(&["load", "-i", &file.path().display().to_string()]).map(drop)
    };
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3), ("used", 4), ("kept", 5)] {
        load(name, seed)?;
    }
    daemon.docker_ok(&["create", "--name", "box", "--network", "none", "used", "ls", "/used"])?;
    let steps: [&[&str]; 4] = [
        &["rmi", "one"],
        // It writes down the layers that the container stands on.
        &["rmi", "--force", "used"],
        &["image", "prune", "--force", "--all"],
        &["rm", "box"],
    ];
    for step in steps {
        let filler = Filler::fill(&root)?;
        assert!(std::fs::write(root.join("more"), [1; 4096]).is_err(), "the disk is not full");
        let said = daemon.docker(step)?;
        assert_eq!(said.code, 0, "{step:?}: {said:?}; the daemon's log:\n{}", daemon.log());
        drop(filler);
        // With room again, the next write has the reserve taken back.
        load("kept", 5)?;
        let said = daemon.docker(&["rmi", "kept"])?;
        assert_eq!(said.code, 0, "{said:?}");
        assert!(root.join("images.reserve").exists(), "behind {step:?}");
        load("kept", 5)?;
        daemon.wait_for("an end of what was removed", || daemon.entries("root/trash").is_empty())?;
    }
    // A daemon that starts on a full disk finds all that, and makes room too.
    load("late", 6)?;
    daemon.crash()?;
    let filler = Filler::fill(&root)?;
    daemon.launch()?;
    let said = daemon.docker(&["rmi", "late"])?;
    assert_eq!(said.code, 0, "{said:?}");
    drop(filler);
    let listed = daemon.docker_ok(&["images", "--format", "{{.Repository}}"])?;
    assert!(listed.contains("kept") && !listed.contains("two") && !listed.contains("used"), "{listed}");
    daemon.crash()?;
    drop(disk);
    Ok(())
}

/// An address of this machine that is not loopback, while it lives: TLS is checked there.
struct Address;

impl Address {
    /// Of the block kept for documentation (RFC 5737).
    const IP: &'static str = "192.0.2.77";

    fn add() -> Result<Self> {
        // One that a killed test left is as good.
        let _ = ip("del");
        ensure!(ip("add")?.success(), "ip addr add failed");
        Ok(Self)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = ip("del");
    }
}

fn ip(verb: &str) -> std::io::Result<std::process::ExitStatus> {
    let mut command = stdx::process::command("ip");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
        .args(["addr", verb, &format!("{}/32", Address::IP), "dev", "lo"])
        .stderr(std::process::Stdio::null());
    command.status()
}

#[test]
fn a_registry_is_trusted_by_its_authority_and_trusts_us_by_certificate_and_password() -> Result<()> {
    if !support::is_root()? {
        support::skip("it adds an address to the loopback interface, which only root can");
        return Ok(());
    }
    let _address = Address::add()?;
    let dir = tempfile::tempdir()?;
    support::certificate(dir.path(), "authority", None, Address::IP)?;
    support::certificate(dir.path(), "server", Some("authority"), Address::IP)?;
    support::certificate(dir.path(), "client", Some("authority"), Address::IP)?;
    std::fs::write(dir.path().join("htpasswd"), PASSWORDS)?;
    let open = Registry::start()?;
    let image = image(1 << 10)?;
    open.push("private", "1", &image)?;
    let guarded = open.guarded(
        Address::IP,
        &Guarded {
            certificate: dir.path().join("server.crt"),
            key: dir.path().join("server.key"),
            client_authority: dir.path().join("authority.crt"),
            passwords: dir.path().join("htpasswd"),
        },
    )?;
    let name = format!("{}/private:1", guarded.host());

    // A helper that knows the password, as docker's configuration names it.
    let helper = dir.path().join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\nread key\n[ \"$1 $key\" = \"get {}\" ] || exit 1\necho '{{\"Username\":\"user\",\"Secret\":\"secret\"}}'\n",
        guarded.host()
    );
    std::fs::write(&helper, script)?;
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let configuration = serde_json::json!({ "credHelpers": { guarded.host(): "test" } });
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.path().display());
    let docker_config = dir.path().display().to_string();
    let certs = dir.path().join("certs.d");
    let ours = certs.join(guarded.host());
    std::fs::create_dir_all(&ours)?;
    let pull = || -> Result<support::daemon::Said> {
        let env = [("PATH", path.as_str()), ("DOCKER_CONFIG", docker_config.as_str())];
        let daemon = Daemon::start_with(&["--registry-certs", &certs.display().to_string()], &env)?;
        daemon.cove(&["pull", "-q", &name])
    };

    let said = pull()?;
    ensure!(said.code != 0 && said.err.contains("certificate"), "an unknown authority: {said:?}");
    std::fs::copy(dir.path().join("authority.crt"), ours.join("authority.crt"))?;
    let said = pull()?;
    ensure!(said.code != 0 && said.err.contains("ertificate"), "no certificate of ours: {said:?}");
    std::fs::copy(dir.path().join("client.crt"), ours.join("client.cert"))?;
    std::fs::copy(dir.path().join("client.key"), ours.join("client.key"))?;
    let said = pull()?;
    ensure!(said.code != 0 && said.err.contains("login"), "no password: {said:?}");
    std::fs::write(dir.path().join("config.json"), configuration.to_string())?;
    let said = pull()?;
    ensure!(said.code == 0, "{said:?}");
    // The same without a helper.
    let configuration = serde_json::json!({ "auths": { guarded.host(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    std::fs::write(dir.path().join("config.json"), configuration.to_string())?;
    let said = pull()?;
    ensure!(said.code == 0, "{said:?}");
    // A push shows the same certificate and password.
    let env = [("DOCKER_CONFIG", docker_config.as_str())];
    let daemon = Daemon::start_with(&["--registry-certs", &certs.display().to_string()], &env)?;
    let other = format!("{}/pushed:1", guarded.host());
    for args in [vec!["pull", "-q", &name], vec!["tag", &name, &other], vec!["push", &other]] {
        let said = daemon.cove(&args)?;
        ensure!(said.code == 0, "{args:?}: {said:?}");
    }
    Ok(())
}

/// The digest in the last line of a push.
fn pushed_digest(said: &support::daemon::Said) -> Result<String> {
    let text = format!("{}\n{}", said.out, said.err);
    let digest = text.lines().find_map(|line| line.split_once(": digest: ")?.1.split(' ').next());
    Ok(digest.with_context(|| format!("no digest: {said:?}"))?.to_owned())
}

#[test]
fn an_image_is_pushed_pulled_again_by_digest_and_mounted_elsewhere() -> Result<()> {
    let registry = Registry::start()?;
    for (client, size) in [("docker", 1 << 20), ("cove", 20 << 20)] {
        let daemon = Daemon::start_empty(&[])?;
        let run = |args: &[&str]| daemon.client_with(client, &[], args, b"");
        let name = format!("{}/{client}/app:1.0", registry.host());
        // Uncompressed, as docker save writes them: busybox, and a file that does not compress.
        let mut large = Builder::new(Vec::new());
        let data = noise(17, size);
        large.append_data(&mut header(EntryType::Regular, 0o644, size as u64), "large", data.as_slice())?;
        let layers = [busybox_layer()?, large.into_inner()?];
        let config = serde_json::json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] });
        daemon.docker_with(&["load"], &docker_archive(&name, &layers, &config)?)?;

        let said = run(&["push", &name])?;
        let text = format!("{}{}", said.out, said.err);
        ensure!(said.code == 0 && text.matches(": Pushed").count() == 2, "{said:?}");
        assert!(text.contains(&format!("The push refers to repository [{}/{client}/app]", registry.host())));
        let digest = pushed_digest(&said)?;
        let again = run(&["push", &name])?;
        let text = format!("{}{}", again.out, again.err);
        ensure!(again.code == 0 && text.matches(": Layer already exists").count() == 2, "{again:?}");
        assert_eq!(pushed_digest(&again)?, digest);

        let other = format!("{}/{client}/other:2", registry.host());
        assert_eq!(run(&["tag", &name, &other])?.code, 0);
        let said = run(&["push", &other])?;
        let text = format!("{}{}", said.out, said.err);
        let mounted = format!(": Mounted from {client}/app");
        ensure!(said.code == 0 && text.matches(&mounted).count() == 2, "{said:?}");
        assert!(daemon.entries("root/ingest").is_empty(), "{:?}", daemon.entries("root/ingest"));

        // Gone here, it comes back by digest; and pushed once more it has that digest still.
        assert_eq!(run(&["rmi", &name])?.code, 0);
        assert_eq!(run(&["rmi", &other])?.code, 0);
        let by_digest = format!("{}/{client}/app@{digest}", registry.host());
        ensure!(run(&["pull", &by_digest])?.code == 0);
        let said = run(&["run", "--rm", "--network", "none", &by_digest, "stat", "-c", "%s", "/large"])?;
        assert_eq!(said.out, size.to_string(), "{said:?}");
        let third = format!("{}/{client}/third:3", registry.host());
        assert_eq!(run(&["tag", &by_digest, &third])?.code, 0);
        assert_eq!(pushed_digest(&run(&["push", &third])?)?, digest);

        // All tags at once, and none at all.
        let fourth = format!("{}/{client}/third:4", registry.host());
        assert_eq!(run(&["tag", &third, &fourth])?.code, 0);
        let said = run(&["push", "--all-tags", &format!("{}/{client}/third", registry.host())])?;
        let text = format!("{}{}", said.out, said.err);
        ensure!(said.code == 0 && text.contains("3: digest: ") && text.contains("4: digest: "), "{said:?}");
        let said = run(&["push", &format!("{}/{client}/third:5", registry.host())])?;
        ensure!(said.code == 1 && said.err.contains("tag does not exist"), "{said:?}");
        let said = run(&["push", &format!("{}/nothing:1", registry.host())])?;
        ensure!(
            said.code == 1 && said.err.contains("An image does not exist locally with the tag"),
            "{said:?}"
        );
    }
    Ok(())
}

#[test]
fn logins_are_checked_kept_used_and_forgotten() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let passwords = dir.path().join("htpasswd");
    std::fs::write(&passwords, PASSWORDS)?;
    let open = Registry::start()?;
    let registry = open.with_passwords(&passwords)?;
    let host = registry.host();
    // The daemon itself knows no login.
    let nothing = dir.path().join("nothing").display().to_string();
    let daemon = Daemon::start_with(&[], &[("DOCKER_CONFIG", &nothing)])?;
    for client in ["docker", "cove"] {
        let config = dir.path().join(client);
        let config_dir = config.display().to_string();
        let run = |args: &[&str], input: &str| {
            daemon.client_with(client, &[("DOCKER_CONFIG", &config_dir)], args, input.as_bytes())
        };
        let name = format!("{host}/{client}/private:1");
        assert_eq!(run(&["tag", "cove/welcome", &name], "")?.code, 0);
        let said = run(&["push", &name], "")?;
        ensure!(said.code == 1 && said.err.contains("unauthorized") && said.err.contains(&host), "{said:?}");

        let login = ["login", "-u", "user", "--password-stdin", host.as_str()];
        let said = run(&login, "wrong\n")?;
        ensure!(said.code == 1 && said.err.contains("401 Unauthorized"), "{said:?}");
        ensure!(!std::fs::read_to_string(config.join("config.json")).unwrap_or_default().contains(&host));
        let said = run(&login, "secret\n")?;
        ensure!(said.code == 0 && said.out.contains("Login Succeeded"), "{said:?}");
        ensure!(said.err.contains("stored unencrypted in"), "{said:?}");
        let file = config.join("config.json");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
        assert_eq!(mode & 0o777, 0o600);
        // Each reads what the other wrote.
        let other = if client == "docker" { "cove" } else { "docker" };
        for client in [client, other] {
            let env = [("DOCKER_CONFIG", config_dir.as_str())];
            let said = daemon.client_with(client, &env, &["push", &name], b"")?;
            ensure!(said.code == 0, "{client}: {said:?}");
            let said = daemon.client_with(client, &env, &["pull", &name], b"")?;
            ensure!(said.code == 0, "{client}: {said:?}");
            let said = daemon.client_with(client, &env, &["login", &host], b"")?;
            ensure!(said.code == 0 && said.out.contains("Login Succeeded"), "{client}: {said:?}");
        }
        let said = run(&["logout", &host], "")?;
        ensure!(
            said.code == 0 && said.out.contains(&format!("Removing login credentials for {host}")),
            "{said:?}"
        );
        ensure!(!std::fs::read_to_string(&file)?.contains(&host));
        let said = run(&["push", &name], "")?;
        ensure!(said.code == 1 && said.err.contains("unauthorized"), "{said:?}");

        // Nobody at the terminal.
        let said = run(&["login", "-u", "user", &host], "")?;
        ensure!(
            said.code == 1 && said.err.contains("Cannot perform an interactive login from a non TTY device")
        );
        let said = run(&["login", "--password-stdin", &host], "secret")?;
        ensure!(said.code == 1 && said.err.contains("requires --username"), "{said:?}");
    }
    Ok(())
}

#[test]
fn a_credential_helper_keeps_what_the_file_does_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let passwords = dir.path().join("htpasswd");
    std::fs::write(&passwords, PASSWORDS)?;
    let registry = Registry::start()?.with_passwords(&passwords)?;
    let host = registry.host();
    let helper = dir.path().join("docker-credential-file");
    // One login, in a file beside it.
    let kept = dir.path().join("kept.json");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0};;\nget) cat {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }};;\nerase) rm {0};;\nesac\n",
        kept.display()
    );
    std::fs::write(&helper, script)?;
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let config = dir.path().join("config");
    std::fs::create_dir(&config)?;
    let file = config.join("config.json");
    std::fs::write(&file, serde_json::json!({ "credsStore": "file", "detachKeys": "ctrl-x" }).to_string())?;
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let nothing = dir.path().join("nothing").display().to_string();
    let daemon = Daemon::start_with(&[], &[("DOCKER_CONFIG", &nothing)])?;
    let config = config.display().to_string();
    let env = [("DOCKER_CONFIG", config.as_str()), ("PATH", path.as_str())];
    let run = |args: &[&str], input: &str| daemon.client_with("cove", &env, args, input.as_bytes());

    let said = run(&["login", "-u", "user", "--password-stdin", &host], "secret")?;
    ensure!(said.code == 0 && !said.err.contains("unencrypted"), "{said:?}");
    assert!(std::fs::read_to_string(&kept)?.contains("\"Secret\":\"secret\""));
    let text = std::fs::read_to_string(&file)?;
    assert!(!text.contains("dXNlcjpzZWNyZXQ=") && text.contains("ctrl-x") && text.contains(&host), "{text}");
    let name = format!("{host}/private:1");
    assert_eq!(run(&["tag", "cove/welcome", &name], "")?.code, 0);
    let said = run(&["push", "-q", &name], "")?;
    assert_eq!((said.code, said.out.as_str()), (0, name.as_str()), "{said:?}");
    assert_eq!(run(&["logout", &host], "")?.code, 0);
    assert!(!kept.exists() && !std::fs::read_to_string(&file)?.contains(&host));
    Ok(())
}
