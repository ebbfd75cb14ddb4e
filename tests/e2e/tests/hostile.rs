//! Input that means harm: layers that climb, digests that lie, garbage on the socket.

use anyhow::Result;
use support::daemon::Daemon;
use support::image::{docker_archive, header, sha256};
use tar::{Builder, EntryType};

/// An entry whose name the builder itself would refuse.
fn raw_entry(
    builder: &mut Builder<Vec<u8>>,
    name: &str,
    kind: EntryType,
    link: Option<&str>,
    data: &[u8],
) -> Result<()> {
    let mut header = header(kind, 0o644, data.len() as u64);
    let old = header.as_old_mut();
    old.name = [0; 100];
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    if let Some(link) = link {
        old.linkname = [0; 100];
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    builder.append(&header, data)?;
    Ok(())
}

fn load(daemon: &Daemon, archive: &[u8]) -> Result<support::daemon::Said> {
    let file = daemon.dir().join("hostile.tar");
    std::fs::write(&file, archive)?;
    daemon.docker(&["load", "-i", &file.display().to_string()])
}

#[test]
fn layers_that_climb_write_nothing_outside() -> Result<()> {
    let daemon = Daemon::start_empty(&[])?;
    let outside = daemon.dir().join("outside");
    std::fs::create_dir(&outside)?;
    std::fs::write(outside.join("kept"), "kept")?;
    let target = outside.display().to_string();
    let mut layer = Builder::new(Vec::new());
    raw_entry(&mut layer, "../../../../../../../../../../tmp/cove-climbed", EntryType::Regular, None, b"x")?;
    raw_entry(&mut layer, "/tmp/cove-absolute", EntryType::Regular, None, b"x")?;
    raw_entry(&mut layer, "out", EntryType::Symlink, Some(&target), b"")?;
    raw_entry(&mut layer, "out/through", EntryType::Regular, None, b"x")?;
    raw_entry(&mut layer, "up", EntryType::Symlink, Some("../../../../../../.."), b"")?;
    raw_entry(&mut layer, "up/tmp/cove-up", EntryType::Regular, None, b"x")?;
    let archive = docker_archive("climb:1", &[layer.into_inner()?], &serde_json::json!({ "Cmd": ["/x"] }))?;
    // Either outcome is right, as long as nothing is written outside.
    load(&daemon, &archive)?;
    for path in ["/tmp/cove-climbed", "/tmp/cove-absolute", "/tmp/cove-up"] {
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
    assert_eq!(std::fs::read_dir(&outside)?.count(), 1, "something was written through a symlink");

    let mut layer = Builder::new(Vec::new());
    raw_entry(&mut layer, "stolen", EntryType::Link, Some("/etc/passwd"), b"")?;
    let archive = docker_archive("steal:1", &[layer.into_inner()?], &serde_json::json!({ "Cmd": ["/x"] }))?;
    let said = load(&daemon, &archive)?;
    assert_ne!(said.code, 0, "a hard link to outside was made: {said:?}");
    assert_eq!(daemon.entries("root/ingest"), Vec::<String>::new(), "a failed load left something");
    Ok(())
}

#[test]
fn a_digest_that_lies_is_refused() -> Result<()> {
    let daemon = Daemon::start_empty(&[])?;
    let mut layer = Builder::new(Vec::new());
    layer.append_data(&mut header(EntryType::Regular, 0o755, 4), "file", b"true".as_slice())?;
    let layer = layer.into_inner()?;
    let honest = docker_archive("liar:1", std::slice::from_ref(&layer), &serde_json::json!({}))?;
    let lie = sha256(b"something else");
    let text = String::from_utf8_lossy(&honest).replace(&sha256(&layer), &lie);
    let said = load(&daemon, text.as_bytes())?;
    assert_ne!(said.code, 0);
    assert!(said.err.contains(&lie), "the message names neither digest: {said:?}");
    assert_eq!(daemon.docker(&["images", "-q", "liar"])?.out, "");
    Ok(())
}

#[test]
fn garbage_on_the_socket_harms_nobody() -> Result<()> {
    let daemon = Daemon::start()?;
    let samples: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{{{{{",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /v1.99/containers/json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /containers/..%2f..%2fetc/json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ];
    for sample in samples {
        if let Ok(answer) = daemon.raw(sample) {
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let request = format!(
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{deep}",
        deep.len()
    );
    assert!(daemon.raw(request.as_bytes())?.starts_with("HTTP/1.1 400"));
    // Half a request is dropped with its connection.
    {
        use std::io::Write;
        let mut half = std::os::unix::net::UnixStream::connect(daemon.socket())?;
        half.write_all(
            b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{\"Image\"",
        )?;
    }
    assert_eq!(daemon.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "fine"])?.out, "fine");
    Ok(())
}
