//! Ways that clients of others reach an engine: a context, TCP with certificates, and what
//! Compose and Dev Containers do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use support::daemon::Daemon;

/// A free port of the loopback, as far as one can tell beforehand.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Docker's command line without anything that would tell it where to go but its configuration.
fn docker(config: &Path, args: &[&str]) -> Result<(bool, String)> {
    let mut command = stdx::process::command("docker");
    command.env("DOCKER_CONFIG", config).args(args);
    let output = command.output()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status.success(), text.concat()))
}

#[test]
fn dockers_programs_speak_to_cove_when_told_and_no_longer_when_told() -> Result<()> {
    let daemon = Daemon::start()?;
    let config = tempfile::tempdir()?;
    let cove = |args: &[&str]| -> Result<String> {
        let mut command = stdx::process::command(support::daemon::program("cove")?);
        command.env("COVE_HOST", daemon.address()).env("DOCKER_CONFIG", config.path()).args(args);
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    cove(&["docker", "use"])?;
    let (_, name) = docker(config.path(), &["context", "show"])?;
    ensure!(name.trim() == "cove", "{name}");
    let (is_fine, said) =
        docker(config.path(), &["version", "--format", "{{range .Server.Components}}{{.Name}} {{end}}"])?;
    ensure!(is_fine, "{said}");
    let (is_fine, images) = docker(config.path(), &["images", "--format", "{{.Repository}}"])?;
    ensure!(is_fine && images.contains("busybox"), "{images}");
    cove(&["docker", "back"])?;
    let (_, name) = docker(config.path(), &["context", "show"])?;
    ensure!(name.trim() == "default", "{name}");
    Ok(())
}

#[test]
fn over_tcp_only_clients_with_a_certificate_of_ours_get_in() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (name, by) in [
        ("ours", None),
        ("server", Some("ours")),
        ("client", Some("ours")),
        ("theirs", None),
        ("stranger", Some("theirs")),
    ] {
        support::certificate(dir.path(), name, by, "127.0.0.1")?;
    }
    let file = |name: &str| dir.path().join(name).display().to_string();
    let port = free_port()?;
    let address = format!("tcp://127.0.0.1:{port}");
    let (cert, key, authority) = (file("server.crt"), file("server.key"), file("ours.crt"));
    let daemon = Daemon::start_empty(&[
        "--listen",
        &address,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tls-ca",
        &authority,
    ])?;
    let archive = dir.path().join("busybox.tar");
    support::image::write_busybox(&archive)?;
    let load = daemon.docker(&["load", "-i", &archive.display().to_string()])?;
    ensure!(load.code == 0, "{load:?}");
    let as_client = |who: Option<&str>, args: &[&str]| -> Result<(bool, String)> {
        let mut all = vec![
            "-H".to_owned(),
            address.clone(),
            "--tlsverify".into(),
            "--tlscacert".into(),
            authority.clone(),
        ];
        if let Some(who) = who {
            all.extend([
                "--tlscert".into(),
                file(&format!("{who}.crt")),
                "--tlskey".into(),
                file(&format!("{who}.key")),
            ]);
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        docker(dir.path(), &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (is_fine, said) =
        as_client(Some("client"), &["run", "--rm", "--network", "none", "busybox", "echo", "over", "tls"])?;
    ensure!(is_fine && said.contains("over tls"), "{said}");
    for who in [None, Some("stranger")] {
        let (is_fine, said) = as_client(who, &["ps"])?;
        ensure!(!is_fine, "{who:?}: {said}");
    }
    // Without TLS, nothing; and who says nothing holds nobody up.
    let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let mut plain = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    plain.set_read_timeout(Some(Duration::from_secs(2)))?;
    plain.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    ensure!(!String::from_utf8_lossy(&said).contains("OK"), "{said:?}");
    ensure!(as_client(Some("client"), &["ps"])?.0);

    // Open to everybody only by a word of its own.
    let mut open = stdx::process::command(support::daemon::program("coved")?);
    let root = dir.path().join("other");
    open.args(["--listen", &format!("tcp://127.0.0.1:{}", free_port()?), "--root"])
        .arg(&root)
        .arg("--state")
        .arg(&root);
    let refused = open.output()?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("--tcp-open-to-everybody"), "{said}");
    Ok(())
}

#[test]
fn docker_py_takes_its_ordinary_paths() -> Result<()> {
    if !support::is_root()? {
        support::skip("a bridge needs root");
        return Ok(());
    }
    // The system's Python, which its package of docker-py is for.
    let python = || stdx::process::command("/usr/bin/python3");
    if !python().args(["-c", "import docker"]).output().is_ok_and(|output| output.status.success()) {
        support::skip("docker-py is not installed (package python3-docker)");
        return Ok(());
    }
    let daemon = Daemon::start()?;
    let mut command = python();
    command.env("DOCKER_HOST", daemon.address()).args(["-c", include_str!("docker_py.py")]);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Clients that come by PyPI, by `COVE_TEST_PYTHON`.
fn python_client(name: &str, script: &str) -> Result<()> {
    if !support::is_root()? {
        support::skip("a bridge needs root");
        return Ok(());
    }
    let Some(folder) = std::env::var_os("COVE_TEST_PYTHON") else {
        support::skip(&format!("COVE_TEST_PYTHON leads to no {name} (tests/e2e/python/requirements.txt)"));
        return Ok(());
    };
    let daemon = Daemon::start()?;
    let mut command = stdx::process::command("python3");
    // Its helper is an image of its own, which is not at hand.
    command.env("TESTCONTAINERS_RYUK_DISABLED", "true").env("PYTHONPATH", folder);
    let output = command.env("DOCKER_HOST", daemon.address()).args(["-c", script]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn docker_py_of_today_takes_its_ordinary_paths() -> Result<()> {
    python_client("docker", include_str!("docker_py.py"))
}

#[test]
fn testcontainers_for_python_take_their_ordinary_paths() -> Result<()> {
    python_client("testcontainers", include_str!("testcontainers.py"))
}

/// Clients that come by npm, by `NODE_PATH`.
fn node_client(name: &str) -> Result<()> {
    if !support::is_root()? {
        support::skip("a bridge needs root");
        return Ok(());
    }
    let node = |script: &str| {
        let mut command = stdx::process::command("node");
        command.env("NODE_PATH", std::env::var_os("NODE_PATH").unwrap_or_default()).args(["-e", script]);
        command
    };
    if !node(&format!("require('{name}')")).output().is_ok_and(|output| output.status.success()) {
        support::skip(&format!("NODE_PATH leads to no {name} (npm ci --prefix tests/e2e/node)"));
        return Ok(());
    }
    let daemon = Daemon::start()?;
    let mut command = node(include_str!("../node/clients.js"));
    // Its helper is an image of its own, which is not at hand.
    command.env("TESTCONTAINERS_RYUK_DISABLED", "true");
    let output = command.env("DOCKER_HOST", daemon.address()).env("COVE_CLIENT", name).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn dockerode_takes_its_ordinary_paths() -> Result<()> {
    node_client("dockerode")
}

#[test]
fn testcontainers_take_their_ordinary_paths() -> Result<()> {
    node_client("testcontainers")
}

const FILE: &str = r#"
name: NAME
services:
  db:
    image: busybox
    command: sh -c "echo ready > /data/state; trap exit TERM; busybox nc -ll -p 5432 -e busybox cat /data/state & wait"
    volumes: [data:/data]
    networks: [back]
    healthcheck: {test: [CMD, busybox, test, -s, /data/state], interval: 200ms, retries: 50}
  api:
    image: busybox
    command: sh -c "trap exit TERM; busybox nc -ll -p 80 -e busybox nc db 5432 & wait"
    depends_on: {db: {condition: service_healthy}}
    networks: {back: {}, front: {aliases: [backend]}}
    configs: [conf]
  web:
    image: busybox
    command: sh -c "trap exit TERM; busybox nc -ll -p 80 -e busybox nc backend 80 & wait"
    ports: ["127.0.0.1:PORT:80"]
    depends_on: [api]
    networks: [front]
  worker:
    image: busybox
    command: sh -c "trap exit TERM; sleep 600 & wait"
    networks: [back]
    deploy: {replicas: 3}
configs: {conf: {content: "x=1"}}
networks: {front: {}, back: {internal: true}}
volumes: {data: {}}
"#;

#[test]
fn compose_brings_several_services_up_and_down() -> Result<()> {
    if !support::is_root()? {
        support::skip("a bridge needs root");
        return Ok(());
    }
    let daemon = Daemon::start()?;
    let dir = tempfile::tempdir()?;
    let is_there = daemon.docker(&["compose", "version", "--short"])?;
    if !is_there.out.trim_start_matches('v').starts_with(['2', '5']) {
        support::absent("Docker's Compose v2 is not installed, and the system has no package of it");
        return Ok(());
    }
    let (port, name) = (free_port()?, format!("cove{}", std::process::id()));
    let file = dir.path().join("compose.yaml");
    std::fs::write(&file, FILE.replace("NAME", &name).replace("PORT", &port.to_string()))?;
    let file = file.display().to_string();
    let compose = |args: &[&str]| -> Result<String> {
        let said = daemon.docker(&[&["compose", "-f", &file], args].concat())?;
        ensure!(said.code == 0, "{args:?}: {said:?}");
        Ok(said.out)
    };
    compose(&["up", "-d"])?;
    let hear = || -> Result<String> {
        let mut stream =
            TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    // From the host to the front, by name to the back, by name to the volume's file.
    daemon.wait_for("the shop", || hear().is_ok_and(|said| said.trim() == "ready"))?;
    ensure!(compose(&["exec", "api", "cat", "/conf"])?.trim() == "x=1");
    ensure!(compose(&["ps", "-q", "worker"])?.lines().count() == 3);
    ensure!(
        compose(&["up", "-d", "--scale", "worker=1"]).is_ok()
            && compose(&["ps", "-q", "worker"])?.lines().count() == 1
    );
    // What has not changed stays as it is; a volume outlives its containers.
    let before = compose(&["ps", "-q", "db"])?;
    compose(&["up", "-d"])?;
    ensure!(compose(&["ps", "-q", "db"])? == before);
    compose(&["restart", "db"])?;
    compose(&["down"])?;
    ensure!(daemon.docker_ok(&["volume", "ls", "-q"])?.contains("data"));
    compose(&["down", "-v"])?;
    let left =
        [&["ps", "-aq"][..], &["volume", "ls", "-q"], &["network", "ls", "-q", "--filter", "type=custom"]];
    for args in left {
        let said = daemon.docker_ok(args).with_context(|| format!("{args:?}"))?;
        ensure!(said.is_empty(), "{args:?}: {said}");
    }
    Ok(())
}

const DEV_CONTAINER: &str = r#"{
  "image": "busybox",
  "containerEnv": {"GREETING": "hello"},
  "remoteEnv": {"EXTRA": "${containerEnv:GREETING} there"},
  "mounts": ["source=VOLUME,target=/cache,type=volume", {"source": "FOLDER", "target": "/more", "type": "bind"}],
  "appPort": ["127.0.0.1:PORT:3000"],
  "forwardPorts": [3000],
  "runArgs": ["--init", "--cap-add=SYS_PTRACE"],
  "onCreateCommand": "echo created > /cache/steps",
  "postCreateCommand": ["sh", "-c", "echo prepared >> /cache/steps"],
  "postStartCommand": "echo started >> /cache/steps"
}"#;

const DEV_COMPOSE: &str = r#"{
  "dockerComposeFile": "compose.yaml",
  "service": "app",
  "workspaceFolder": "/work",
  "overrideCommand": true,
  "forwardPorts": ["db:5432"],
  "postCreateCommand": "echo prepared > /tmp/steps"
}"#;

const DEV_SERVICES: &str = r#"
services:
  app: {image: busybox, volumes: ["..:/work"], depends_on: [db]}
  db: {image: busybox, command: sh -c "trap exit TERM; sleep 600 & wait"}
"#;

#[test]
fn dev_containers_are_brought_up_used_and_found_again() -> Result<()> {
    if !support::is_root()? {
        support::skip("a bridge needs root");
        return Ok(());
    }
    let is_there = stdx::process::command("devcontainer").arg("--version").output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        support::absent("the Dev Containers CLI is not installed, and the system has no package of it");
        return Ok(());
    }
    let daemon = Daemon::start()?;
    let dir = tempfile::tempdir()?;
    let (port, name) = (free_port()?, format!("cove{}", std::process::id()));
    let write = |project: &str, file: &str, text: &str| -> Result<()> {
        let folder = dir.path().join(project).join(".devcontainer");
        std::fs::create_dir_all(&folder)?;
        let more = dir.path().join("more").display().to_string();
        let text = text.replace("VOLUME", &name).replace("FOLDER", &more).replace("PORT", &port.to_string());
        Ok(std::fs::write(folder.join(file), text)?)
    };
    // What it writes for Compose goes to the temporary folder.
    let devcontainer = |verb: &str, project: &str, args: &[&str]| -> Result<String> {
        let mut command = stdx::process::command("devcontainer");
        command.env("DOCKER_HOST", daemon.address()).env("TMPDIR", dir.path()).arg(verb);
        command.arg("--workspace-folder").arg(dir.path().join(project)).args(args);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{verb} {project}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    };
    let up = |project: &str, args: &[&str]| -> Result<String> {
        let said = devcontainer("up", project, args)?;
        let answer: serde_json::Value = serde_json::from_str(said.lines().last().unwrap_or_default())?;
        ensure!(answer["outcome"] == "success", "{said}");
        Ok(answer["containerId"].as_str().unwrap_or_default().to_owned())
    };

    std::fs::create_dir(dir.path().join("more"))?;
    std::fs::write(dir.path().join("more/file"), "from outside\n")?;
    write("one", "devcontainer.json", DEV_CONTAINER)?;
    std::fs::write(dir.path().join("one/source"), "ours\n")?;
    let first = up("one", &[])?;
    let look = "cat /cache/steps /more/file source; echo $EXTRA";
    let said = devcontainer("exec", "one", &["sh", "-c", look])?;
    let wanted = ["created", "prepared", "started", "from outside", "ours", "hello there"];
    ensure!(said.lines().eq(wanted), "{said}");
    let failed = devcontainer("exec", "one", &["sh", "-c", "exit 7"]);
    ensure!(failed.is_err(), "an exit code is passed on");
    devcontainer(
        "exec",
        "one",
        &["sh", "-c", "busybox nc -ll -p 3000 -e busybox cat /cache/steps >/dev/null 2>&1 &"],
    )?;
    daemon.wait_for("the container's port", || {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let mut said = String::new();
        stream.is_ok_and(|mut stream| stream.read_to_string(&mut said).is_ok() && said.contains("prepared"))
    })?;
    // The same container is found again, also stopped; nothing is prepared twice.
    ensure!(up("one", &[])? == first);
    daemon.docker_ok(&["stop", "-t", "1", &first])?;
    ensure!(up("one", &[])? == first);
    let steps = devcontainer("exec", "one", &["cat", "/cache/steps"])?;
    ensure!(steps.lines().eq(["created", "prepared", "started", "started"]), "{steps}");
    ensure!(up("one", &["--remove-existing-container"])? != first);

    let is_there = daemon.docker(&["compose", "version", "--short"])?;
    if !is_there.out.trim_start_matches('v').starts_with(['2', '5']) {
        support::absent("Docker's Compose v2 is not installed, and the system has no package of it");
        return Ok(());
    }
    let project = format!("{name}two");
    write(&project, "devcontainer.json", DEV_COMPOSE)?;
    write(&project, "compose.yaml", DEV_SERVICES)?;
    let app = up(&project, &[])?;
    let said = devcontainer("exec", &project, &["sh", "-c", "pwd; cat /tmp/steps; ls -d .devcontainer"])?;
    ensure!(said.lines().eq(["/work", "prepared", ".devcontainer"]), "{said}");
    let label = format!("label=com.docker.compose.project={project}_devcontainer");
    let all = daemon.docker_ok(&["ps", "-q", "--no-trunc", "--filter", &label])?;
    ensure!(all.lines().count() == 2 && all.contains(&app), "{all}");
    ensure!(up(&project, &[])? == app);
    Ok(())
}
