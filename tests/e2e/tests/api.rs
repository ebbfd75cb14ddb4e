//! Docker's API as its clients of any age see it: versions, fields that are refused, attach over a websocket.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::daemon::Daemon;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;

fn get(daemon: &Daemon, path: &str) -> Result<Value> {
    let (status, body) = daemon.ask("GET", path, "")?;
    ensure!(status == 200, "GET {path}: {status} {body}");
    serde_json::from_str(&body).with_context(|| format!("GET {path}: {body}"))
}

/// The command lines there are: the system's, and an older one where `COVE_TEST_OLDER_DOCKER` names it.
fn clients() -> Vec<String> {
    let older = std::env::var("COVE_TEST_OLDER_DOCKER").ok();
    ["docker".to_owned()].into_iter().chain(older).collect()
}

#[test]
fn dockers_command_line_works_at_every_version() -> Result<()> {
    let daemon = Daemon::start()?;
    for client in clients() {
        let newest = daemon.client_with(&client, &[], &["version", "-f", "{{.Client.APIVersion}}"], b"")?.out;
        let newest: u32 = newest.trim_start_matches("1.").parse().with_context(|| newest.clone())?;
        for minor in [24, 25, 30, 39, 41, 43, 44, 45, 47, 50, 51] {
            if minor > newest {
                continue;
            }
            let version = format!("1.{minor}");
            let ok = |args: &[&str]| -> Result<String> {
                let said = daemon.client_with(&client, &[("DOCKER_API_VERSION", &version)], args, b"")?;
                ensure!(said.code == 0, "{client} at {version}: {args:?}: {said:?}");
                Ok(said.out)
            };
            ensure!(ok(&["run", "--rm", "--network", "none", "busybox", "echo", "hi"])? == "hi", "{version}");
            ok(&["network", "create", "--label", "a=b", "net"])?;
            ok(&["volume", "create", "--label", "a=b", "vol"])?;
            let volume = ["-v", "vol:/data"];
            ok(&[
                &["create", "--name", "box", "--network", "none", "--label", "a=b", "-e", "A=b"],
                &volume[..],
                &["busybox", "sh", "-c", "echo up; sleep 60"],
            ]
            .concat())?;
            ok(&["start", "box"])?;
            ensure!(ok(&["ps", "--filter", "label=a=b", "--format", "{{.Names}}"])? == "box", "{version}");
            ensure!(ok(&["exec", "box", "sh", "-c", "echo $A > /data/f; cat /data/f"])? == "b", "{version}");
            ensure!(ok(&["inspect", "-f", "{{.State.Running}} {{.Config.Image}}", "box"])? == "true busybox");
            daemon.wait_for("a line", || ok(&["logs", "box"]).is_ok_and(|said| said == "up"))?;
            ensure!(ok(&["images", "--format", "{{.Repository}}"])?.contains("busybox"), "{version}");
            ok(&["image", "inspect", "busybox"])?;
            ok(&["network", "inspect", "net"])?;
            ok(&["stats", "--no-stream", "box"])?;
            if minor >= 25 {
                ok(&["system", "df", "-v"])?;
            }
            ok(&["info"])?;
            ok(&["top", "box"])?;
            ok(&["diff", "box"])?;
            ok(&["update", "--cpu-shares", "512", "box"])?;
            ok(&["commit", "box", "made"])?;
            ok(&["stop", "-t", "0", "box"])?;
            ensure!(ok(&["wait", "box"])? == "137", "{version}");
            ok(&["rm", "-v", "box"])?;
            ok(&["rmi", "made"])?;
            ok(&["volume", "rm", "vol"])?;
            ok(&["network", "rm", "net"])?;
        }
    }
    Ok(())
}

#[test]
fn each_version_sees_what_it_knows() -> Result<()> {
    let daemon = Daemon::start()?;
    daemon.docker_ok(&["network", "create", "web"])?;
    let has_network = support::is_root()?;
    let network = if has_network { "web" } else { "none" };
    daemon.docker_ok(&["run", "-d", "--name", "box", "--network", network, "busybox", "sleep", "60"])?;
    let inspect = |minor: u32| get(&daemon, &format!("/v1.{minor}/containers/box/json"));
    let (old, middle) = (inspect(44)?, inspect(45)?);
    if has_network {
        let short = old["Id"].as_str().and_then(|id| id.get(..12)).context("no id")?.to_owned();
        let aliases = |answer: &Value| answer["NetworkSettings"]["Networks"]["web"]["Aliases"].clone();
        ensure!(aliases(&old) == json!([short]), "{old}");
        ensure!(aliases(&middle).is_null(), "{middle}");
        ensure!(
            middle["NetworkSettings"]["Networks"]["web"]["DNSNames"] == json!(["box", short]),
            "{middle}"
        );
    }
    ensure!(middle["NetworkSettings"].get("IPAddress").is_some());
    let image = |minor: u32| get(&daemon, &format!("/v1.{minor}/images/busybox/json"));
    ensure!(image(43)?["VirtualSize"] == image(43)?["Size"] && image(44)?.get("VirtualSize").is_none());
    ensure!(image(44)?["ContainerConfig"].is_object() && image(45)?.get("ContainerConfig").is_none());
    ensure!(image(49)?["Config"].get("Hostname").is_some() && image(50)?["Config"].get("Hostname").is_none());
    let images = |minor: u32| get(&daemon, &format!("/v1.{minor}/images/json?shared-size=1"));
    let row = |minor: u32| -> Result<Value> {
        let all = images(minor)?;
        let rows = all.as_array().context("no list")?;
        Ok(rows
            .iter()
            .find(|row| row["RepoTags"] == json!(["busybox:latest"]))
            .context("no busybox")?
            .clone())
    };
    ensure!(row(50)?["Containers"] == -1 && row(51)?["Containers"] == 1);
    ensure!(row(41)?["SharedSize"] == -1 && row(42)?["SharedSize"].as_i64().is_some_and(|size| size >= 0));
    ensure!(get(&daemon, "/v1.27/networks")?[0]["Containers"].is_object());
    ensure!(get(&daemon, "/v1.51/system/df")?.get("ImageUsage").is_none());
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 1;
    let events = |minor: u32| {
        daemon.get(&format!(
            "/v1.{minor}/events?since=1&until={until}&filters=%7B%22event%22%3A%5B%22start%22%5D%7D"
        ))
    };
    ensure!(events(51)?.contains("\"status\":\"start\""));
    ensure!(!daemon.is_cove() || !events(52)?.contains("\"status\""));

    // What the version of a client does not know does not exist; what it may not say is refused.
    let create = |minor: u32, body: &Value| {
        daemon.ask("POST", &format!("/v1.{minor}/containers/create"), &body.to_string())
    };
    let mut body = json!({ "Image": "busybox", "HostConfig": { "NetworkMode": "none" } });
    let made = |answer: (u16, String)| -> Result<Value> {
        ensure!(answer.0 == 201, "{answer:?}");
        let id: Value = serde_json::from_str(&answer.1)?;
        get(&daemon, &format!("/containers/{}/json", id["Id"].as_str().unwrap_or_default()))
    };
    ensure!(made(create(39, &body)?)?["HostConfig"]["IpcMode"] == "shareable");
    ensure!(made(create(40, &body)?)?["HostConfig"]["IpcMode"] == "private");
    body["HostConfig"]["annotations"] = json!({ "a": "b" });
    ensure!(made(create(42, &body)?)?["HostConfig"].get("Annotations").is_none());
    ensure!(
        made(create(43, &body)?)?["HostConfig"]["Annotations"]["a"] == "b",
        "whatever the case of a name"
    );
    let mac = json!({ "Image": "busybox", "MacAddress": "02:00:00:00:00:07", "Nobodys": [1] });
    ensure!(!has_network || made(create(51, &mac)?)?["Config"]["MacAddress"] == "02:00:00:00:00:07");
    Ok(())
}

#[test]
fn the_newest_version_leaves_out_what_was_said_twice() -> Result<()> {
    let daemon = Daemon::start()?;
    if !daemon.is_cove() {
        support::absent("the engine that is compared with may be older");
        return Ok(());
    }
    daemon.docker_ok(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"])?;
    let new = get(&daemon, "/v1.52/containers/box/json")?;
    ensure!(
        new["NetworkSettings"].get("IPAddress").is_none() && new["NetworkSettings"].get("Ports").is_some()
    );
    let image = |minor: u32| get(&daemon, &format!("/v1.{minor}/images/busybox/json"));
    ensure!(image(51)?.get("Author").is_some() && image(52)?.get("Author").is_none());
    let usage = get(&daemon, "/v1.52/system/df?verbose=1")?;
    ensure!(usage["ContainerUsage"]["ActiveCount"] == 1 && usage["Images"] == json!([]), "{usage}");
    ensure!(usage["ContainerUsage"]["Items"][0]["Names"] == json!(["/box"]), "{usage}");
    let mac = json!({ "Image": "busybox", "MacAddress": "02:00:00:00:00:07" });
    ensure!(daemon.ask("POST", "/v1.52/containers/create", &mac.to_string())?.0 == 501);
    Ok(())
}

#[test]
fn nothing_is_accepted_and_ignored() -> Result<()> {
    let daemon = Daemon::start()?;
    if !daemon.is_cove() {
        support::absent("it is of Cove alone");
        return Ok(());
    }
    let refused = |method: &str, path: &str, body: &Value, status: u16, says: &str| -> Result<()> {
        let answer = daemon.ask(method, path, &body.to_string())?;
        let parsed: Value = serde_json::from_str(&answer.1).with_context(|| answer.1.clone())?;
        let message = parsed["message"].as_str().unwrap_or_default();
        ensure!(answer.0 == status && message.contains(says), "{method} {path} {body}: {answer:?}");
        Ok(())
    };
    let create = |host: Value| json!({ "Image": "busybox", "HostConfig": host });
    for (host, says) in [
        (json!({ "StorageOpt": { "size": "1g" } }), "HostConfig.StorageOpt is not supported"),
        (json!({ "DeviceRequests": [{ "Count": -1 }] }), "HostConfig.DeviceRequests is not supported"),
        (json!({ "Isolation": "hyperv" }), "HostConfig.Isolation is not supported"),
        (json!({ "cpucount": 2 }), "HostConfig.CpuCount is not supported"),
        (json!({ "Runtime": "kata" }), "only Cove's own runtime"),
        (
            json!({ "Mounts": [{ "Type": "cluster", "Target": "/a", "ClusterOptions": { "a": 1 } }] }),
            "HostConfig.Mounts[].ClusterOptions is not supported",
        ),
    ] {
        refused("POST", "/containers/create", &create(host), 501, says)?;
    }
    let swarm = json!({ "Name": "a", "Scope": "swarm" });
    refused("POST", "/networks/create", &swarm, 501, "Scope is not supported")?;
    refused(
        "POST",
        "/networks/create",
        &json!({ "Name": "a", "IPAM": { "Driver": "x" } }),
        400,
        "IPAM plugin",
    )?;
    refused("POST", "/volumes/create", &json!({ "ClusterVolumeSpec": { "a": 1 } }), 501, "Swarm")?;
    daemon.docker_ok(&["create", "--name", "box", "--network", "none", "busybox", "sleep", "60"])?;
    let update = json!({ "Ulimits": [{ "Name": "nofile", "Soft": 1, "Hard": 1 }] });
    refused("POST", "/containers/box/update", &update, 501, "Ulimits is not supported")?;
    refused("POST", "/containers/box/start?checkpoint=a", &Value::Null, 501, "checkpoint is not supported")?;
    refused("GET", "/networks/none?scope=swarm", &Value::Null, 404, "not found")?;
    let arm = "/images/busybox/json?platform=%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22s390x%22%7D";
    refused("GET", arm, &Value::Null, 404, "does not match the specified platform")?;
    refused("POST", "/build", &Value::Null, 501, "not supported")?;
    refused("GET", "/nodes", &Value::Null, 503, "not part of a swarm")?;
    refused("GET", "/containers/box/nothing", &Value::Null, 404, "page not found")?;
    refused(
        "GET",
        "/containers/json?filters=%7B%22publish%22%3A%5B%22x%22%5D%7D",
        &Value::Null,
        400,
        "publish=x",
    )?;
    // What asks for nothing is no reason to refuse.
    let (status, said) = daemon.ask(
        "POST",
        "/containers/create",
        &json!({ "Image": "busybox", "HostConfig": {
            "StorageOpt": {}, "DeviceRequests": null, "Isolation": "default", "CpuCount": 0, "Runtime": "runc",
            "NetworkMode": "none", "KernelMemory": 5
        } })
        .to_string(),
    )?;
    ensure!(status == 201, "{said}");

    // The archive's owner, and the user's.
    daemon.docker_ok(&[
        "create",
        "--name",
        "mine",
        "-u",
        "app",
        "--network",
        "none",
        "busybox",
        "ls",
        "-ln",
        "/tmp/f",
    ])?;
    let file = daemon.dir().join("f");
    std::fs::write(&file, "x")?;
    daemon.docker_ok(&["cp", "-a", &file.display().to_string(), "mine:/tmp/f"])?;
    let said = daemon.docker_ok(&["start", "-a", "mine"])?;
    ensure!(said.contains(" 1000 "), "{said}");
    // Without a network, whatever the mode says.
    let body = json!({ "Image": "busybox", "NetworkDisabled": true, "Cmd": ["ls", "/sys/class/net"] });
    let (_, made) = daemon.ask("POST", "/containers/create?name=alone", &body.to_string())?;
    ensure!(made.contains("Id"), "{made}");
    let said = daemon.docker_ok(&["start", "-a", "alone"])?;
    ensure!(said == "lo", "{said}");
    Ok(())
}

type Websocket = tungstenite::WebSocket<UnixStream>;

fn websocket(daemon: &Daemon, path: &str) -> Result<Websocket> {
    let stream = UnixStream::connect(daemon.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut request = format!("ws://cove{path}").into_client_request()?;
    // Docker's own takes none without.
    request.headers_mut().insert("Origin", HeaderValue::from_static("http://cove"));
    let (socket, _) = tungstenite::client(request, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(socket)
}

/// All that comes until the end; whether any of it was text.
fn read_all(socket: &mut Websocket) -> Result<(String, bool)> {
    let (mut bytes, mut is_text) = (Vec::new(), false);
    loop {
        match socket.read() {
            Ok(Message::Binary(more)) => bytes.extend_from_slice(&more),
            Ok(Message::Text(more)) => {
                is_text = true;
                bytes.extend_from_slice(more.as_bytes());
            }
            Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => break,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), is_text))
}

#[test]
fn a_container_is_attached_to_over_a_websocket() -> Result<()> {
    let daemon = Daemon::start()?;
    let script = "echo before; read line; echo got $line; echo error >&2; exit 3";
    let create = |name: &str, flags: &[&str]| {
        let run = ["create", "-i", "--name", name, "--network", "none"];
        daemon.docker_ok(&[&run[..], flags, &["busybox", "sh", "-c", script]].concat())
    };
    create("box", &[])?;
    let mut socket = websocket(&daemon, "/containers/box/attach/ws?stream=1&stdin=1&stdout=1&stderr=1")?;
    daemon.docker_ok(&["start", "box"])?;
    socket.send(Message::Text("a line\n".into()))?;
    let (said, is_text) = read_all(&mut socket)?;
    ensure!(
        said.contains("before\n") && said.contains("got a line\n") && said.contains("error\n"),
        "{said:?}"
    );
    ensure!(!is_text, "since 1.28, frames are binary");
    ensure!(daemon.docker_ok(&["wait", "box"])? == "3");
    // What was written before, without the stream.
    let mut socket = websocket(&daemon, "/v1.27/containers/box/attach/ws?logs=1")?;
    let (said, is_text) = read_all(&mut socket)?;
    ensure!(said.contains("got a line\n") && is_text, "{said:?} {is_text}");
    // Only what was asked for.
    let mut socket = websocket(&daemon, "/containers/box/attach/ws?logs=1&stderr=1")?;
    ensure!(read_all(&mut socket)?.0 == "error\n");

    create("tty", &["-t"])?;
    let mut socket =
        websocket(&daemon, "/containers/tty/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a")?;
    daemon.docker_ok(&["start", "tty"])?;
    socket.send(Message::Binary(b"\x01".to_vec().into()))?;
    read_all(&mut socket)?;
    ensure!(daemon.docker_ok(&["inspect", "-f", "{{.State.Running}}", "tty"])? == "true", "it only let go");
    let (status, said) = daemon.ask("GET", "/containers/tty/attach/ws", "")?;
    ensure!(status == 400 && (said.contains("message") || !daemon.is_cove()), "{status} {said}");
    Ok(())
}
