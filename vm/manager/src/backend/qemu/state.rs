//! Saving the state of QEMU's devices and going on from it, and the devices of ours that are unplugged meanwhile.
//!
//! The guest's memory is a file of ours, which QEMU leaves alone (`x-ignore-shared`); it hands the rest over on a
//! socket of which we are the other end, because it may open no files in its sandbox. Works from QEMU 4.0 on.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use super::Plugged;
use crate::qmp::Qmp;

/// How long a guest may take to let go of a device: without firmware it waits for five seconds whether it is meant.
const UNPLUG_DEADLINE: Duration = Duration::from_secs(15);
/// How long the state of the devices, some hundred kilobytes, may take.
const STATE_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// Takes devices out of a running guest, which lets go of them.
///
/// One after another: of two at once, the guest's firmware tells its kernel of the first a second time, with the second's
/// request. Saved before it has come to that, the guest would throw out what is plugged in when it goes on.
///
/// # Errors
/// QEMU refuses, or the guest does not let go in time.
pub async fn unplug(qmp: &mut Qmp, devices: &[Plugged]) -> io::Result<()> {
    for device in devices {
        let deadline = tokio::time::Instant::now() + UNPLUG_DEADLINE;
        qmp.execute("device_del", json!({ "id": device.id })).await?;
        wait_until_gone(qmp, &device.id).await?;
        // Its socket is busy for a moment longer than the device is there.
        while let Err(error) = qmp.execute("chardev-remove", json!({ "id": device.id })).await {
            if tokio::time::Instant::now() > deadline {
                return Err(error);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Waits until the guest has let go of a device that it was asked for.
async fn wait_until_gone(qmp: &mut Qmp, id: &str) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + UNPLUG_DEADLINE;
    while there(qmp).await?.iter().any(|there| there == id) {
        if tokio::time::Instant::now() > deadline {
            let error = format!("the guest does not let go of {id}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, error));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Plugs in those that were unplugged, or were to be: a guest that was slow to let go of one does so yet, and would throw
/// out what is plugged in before.
///
/// # Errors
/// QEMU refuses, or a device that was asked for is not let go of.
pub async fn plug_again(qmp: &mut Qmp, devices: &[Plugged]) -> io::Result<()> {
    let there = there(qmp).await?;
    // They are asked for one after another: of those that are there, the first may be on its way.
    if let Some(device) = devices.iter().find(|device| there.contains(&device.id)) {
        // Asked for already it refuses, and asked now it goes as the others have.
        let _ = qmp.execute("device_del", json!({ "id": device.id })).await;
        wait_until_gone(qmp, &device.id).await?;
    }
    plug(qmp, devices).await
}

/// Plugs in those that are not.
///
/// # Errors
/// QEMU refuses.
pub async fn plug(qmp: &mut Qmp, devices: &[Plugged]) -> io::Result<()> {
    let there = there(qmp).await?;
    for device in devices.iter().filter(|device| !there.contains(&device.id)) {
        let address = json!({ "type": "unix", "data": { "path": device.socket } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        // One that was unplugged in part has its socket still.
        let _ = qmp.execute("chardev-remove", json!({ "id": device.id })).await;
        qmp.execute("chardev-add", json!({ "id": device.id, "backend": backend })).await?;
        let mut arguments = json!({
            "driver": device.driver, "id": device.id, "chardev": device.id, "bus": device.port,
        });
        if let (Some(tag), Some(arguments)) = (&device.tag, arguments.as_object_mut()) {
            arguments.insert("tag".to_owned(), Value::from(tag.clone()));
        }
        qmp.execute("device_add", arguments).await?;
    }
    Ok(())
}

/// The devices there are, by their names.
async fn there(qmp: &mut Qmp) -> io::Result<Vec<String>> {
    let listed = qmp.execute("qom-list", json!({ "path": "/machine/peripheral" })).await?;
    let names = listed.as_array().into_iter().flatten().filter_map(|entry| entry.get("name")?.as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Stops the guest and writes the state of its devices to `file`; `socket` is a path for the way there.
///
/// # Errors
/// QEMU's, in its words, or the disk's. The guest stands still.
pub async fn save(qmp: &mut Qmp, socket: &Path, file: &Path) -> io::Result<()> {
    qmp.execute("stop", json!({})).await?;
    ignore_memory(qmp).await?;
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    let receive = async {
        let (mut stream, _) = listener.accept().await?;
        let mut file = tokio::fs::File::create(file).await?;
        tokio::io::copy(&mut stream, &mut file).await?;
        file.sync_all().await
    };
    let send = async {
        qmp.execute("migrate", json!({ "uri": format!("unix:{}", socket.display()) })).await?;
        finished(qmp).await
    };
    let both = async { tokio::try_join!(receive, send) };
    let outcome = tokio::time::timeout(STATE_DEADLINE, both).await;
    let _ = std::fs::remove_file(socket);
    outcome??;
    Ok(())
}

/// Has a QEMU that waits (`-incoming defer`) take over the state in `file`; it stands still then.
///
/// # Errors
/// QEMU's, in its words, or the disk's.
pub async fn restore(qmp: &mut Qmp, socket: &Path, file: &Path) -> io::Result<()> {
    ignore_memory(qmp).await?;
    let _ = std::fs::remove_file(socket);
    qmp.execute("migrate-incoming", json!({ "uri": format!("unix:{}", socket.display()) })).await?;
    let send = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut file = tokio::fs::File::open(file).await?;
        tokio::io::copy(&mut file, &mut stream).await?;
        // Its end is the state's: what is cut off is noticed by that.
        drop(stream);
        finished(qmp).await
    };
    let outcome = tokio::time::timeout(STATE_DEADLINE, send).await;
    let _ = std::fs::remove_file(socket);
    outcome?
}

/// Has the guest keep to so many bytes of its memory.
///
/// # Errors
/// QEMU's, in its words.
pub async fn limit_memory(qmp: &mut Qmp, bytes: u64) -> io::Result<()> {
    qmp.execute("balloon", json!({ "value": bytes })).await.map(drop)
}

/// Has the guest see that the data disk's file has grown to so many bytes.
///
/// # Errors
/// QEMU's, in its words.
pub async fn grow_disk(qmp: &mut Qmp, bytes: u64) -> io::Result<()> {
    qmp.execute("block_resize", json!({ "device": "data", "size": bytes })).await.map(drop)
}

/// Has the guest go on.
///
/// # Errors
/// QEMU's, in its words.
pub async fn go_on(qmp: &mut Qmp) -> io::Result<()> {
    qmp.execute("cont", json!({})).await.map(drop)
}

async fn ignore_memory(qmp: &mut Qmp) -> io::Result<()> {
    let capability = json!([{ "capability": "x-ignore-shared", "state": true }]);
    qmp.execute("migrate-set-capabilities", json!({ "capabilities": capability })).await.map(drop)
}

async fn finished(qmp: &mut Qmp) -> io::Result<()> {
    loop {
        let answer = qmp.execute("query-migrate", json!({})).await?;
        match answer.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some(status @ ("failed" | "cancelled")) => {
                let why = answer.get("error-desc").and_then(Value::as_str).unwrap_or(status);
                return Err(io::Error::other(format!("the state of the devices: {why}")));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
