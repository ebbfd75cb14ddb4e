//! What Linux and macOS have in common: a machine's disk is a sparse file, and both sides of a stream to its guest can be
//! sockets of the kernel's, so that what a client is connected by is handed to the channel as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::client::Endpoint;
use tokio::net::TcpSocket;
use vm_manager::config::Config;
use vm_manager::image::Image;
use vm_manager::places::Places;

use super::Channel;

/// A stream to or from the guest.
pub(crate) type Stream = tokio::net::UnixStream;
/// One of the guest's, before the event loop has it.
pub(crate) type Accepted = StdStream;

/// Whether paths of this computer may begin with a drive.
pub(crate) const HAS_DRIVES: bool = false;

/// Has the event loop carry one of the guest's.
pub(crate) fn accepted(stream: Accepted) -> io::Result<Stream> {
    stream.set_nonblocking(true)?;
    Stream::from_std(stream)
}

/// Has a client speak to a port of the guest. One that is still booting is waited for until the deadline. Returns at once;
/// `done` hears how it went, unless the machine ends before.
pub(crate) fn attach(
    channel: &Channel,
    port: u32,
    client: ipc::Stream,
    deadline: Duration,
    done: impl FnOnce(io::Result<()>) + Send + 'static,
) {
    match client.into_std() {
        Ok(client) => channel.attach(port, client, deadline, done),
        Err(error) => done(Err(error)),
    }
}

/// Connects to a port of the guest.
pub(crate) async fn open(channel: &Arc<Channel>, port: u32, deadline: Duration) -> io::Result<Stream> {
    let (ours, theirs) = StdStream::pair()?;
    let (told, answer) = tokio::sync::oneshot::channel();
    channel.attach(port, theirs, deadline, move |outcome| drop(told.send(outcome)));
    answer.await.map_err(|_| io::Error::new(io::ErrorKind::NotConnected, "the machine went away"))??;
    accepted(ours)
}

/// How a client of an engine reaches what listens at `path`.
pub(crate) fn endpoint(path: PathBuf) -> Endpoint {
    Endpoint::Unix(path)
}

/// Lets a port be listened at although a connection of before lingers; version 6 for itself, so that version 4 may have the
/// same.
pub(crate) fn prepare_listener(socket: &TcpSocket, is_version6: bool) -> io::Result<()> {
    socket.set_reuseaddr(true)?;
    if is_version6 {
        rustix::net::sockopt::set_ipv6_v6only(socket, true)?;
    }
    Ok(())
}

/// Bytes that are left where a folder is.
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// Makes the disk's file, or lets it grow. It takes no room but what is used of it.
pub(crate) fn prepare_disk(config: &Config, places: &Places, _: &Image, is_new_image: bool) -> Result<()> {
    let path = places.disk();
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.with_context(|| format!("failed to open {}", path.display()))?;
    let length = file.metadata()?.len();
    if length < config.disk {
        file.set_len(config.disk).with_context(|| format!("failed to let {} grow", path.display()))?;
    }
    let free = free(&places.data).context("failed to look at the disk")?;
    ensure!(free > 16 << 20, "the disk that holds {} has only {} KiB left", path.display(), free >> 10);
    if is_new_image && length > 0 {
        // Where the file system can share blocks this costs nothing, and elsewhere a copy would cost too much.
        let before = places.disk_before();
        if super::share_blocks(&file, &before).is_err() {
            let _ = std::fs::remove_file(&before);
        }
    }
    Ok(())
}

/// Bytes that the disk's file takes.
pub(crate) fn disk_taken(places: &Places) -> u64 {
    std::fs::metadata(places.disk()).map_or(0, |metadata| metadata.blocks() * 512)
}
