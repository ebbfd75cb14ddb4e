//! A file system of ours in front of a share whose server is another's, as on macOS and in WSL2 (FUSE, `/dev/fuse`).
//!
//! Such a server tells of no changes, and does whatever it is asked. So all calls pass us by: what the guest does goes on to
//! the share below, which is mounted at no place; what the host told of, the agent acts out ([`acting`]), and that thread is
//! answered without the share. Then this kernel tells its watchers, as if it had happened here.
//!
//! [`server`] takes the kernel's requests ([`abi`]), [`folder`] decides, [`below`] holds the share's files, [`told`] knows
//! what was told and what the guest did itself.

mod abi;
mod acting;
mod below;
mod folder;
mod server;
mod told;

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount};
use vm_proto::change::Change;

use crate::shares::Stage;
use crate::tell;
use below::Below;
use folder::Folder;

/// What the mount is called in /proc/mounts.
pub(crate) const KIND: &str = "fuse.cove";
/// Requests that may wait for the share's server at once.
const THREADS: usize = 4;
/// How long they may take to see that it is mounted nowhere.
const END_DEADLINE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A share with its layer.
struct Layer {
    folder: Arc<Folder>,
    threads: Vec<JoinHandle<()>>,
}

/// Those that are mounted, by their places.
static MOUNTED: Mutex<Option<HashMap<String, Layer>>> = Mutex::new(None);

fn all() -> MutexGuard<'static, Option<HashMap<String, Layer>>> {
    MOUNTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mounts one at `path`, in front of the share whose root this is, as `source`.
pub(crate) fn put(root: OwnedFd, source: &str, path: &str, is_read_only: bool) -> Result<()> {
    let below = Below::new(root).context("failed to look at the share below")?;
    let device = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("failed to open /dev/fuse")?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount(source, path, KIND, flags, Some(&*CString::new(data)?)).context("failed to mount the layer")?;
    server::greet(&device).context("failed to agree with the kernel on the layer")?;
    let folder = Arc::new(Folder::new(below, device, is_read_only));
    let mut layer = Layer { folder, threads: Vec::new() };
    for _ in 0..THREADS {
        let folder = Arc::clone(&layer.folder);
        let serve = move || {
            if let Err(error) = server::serve(&folder) {
                tell(format_args!("cove-agent: a share is served no more: {error}"));
            }
        };
        layer.threads.push(thread::Builder::new().name("share".to_owned()).spawn(serve)?);
    }
    all().get_or_insert_default().insert(path.to_owned(), layer);
    Ok(())
}

/// Waits until the layer that was mounted at `path`, and is nowhere any more, has let go of the share below. Blocks.
pub(crate) fn end(path: &str) {
    let Some(layer) = all().as_mut().and_then(|layers| layers.remove(path)) else { return };
    layer.folder.lock().end();
    layer.folder.told.notify_all();
    let begin = Instant::now();
    while layer.threads.iter().any(|thread| !thread.is_finished()) && begin.elapsed() < END_DEADLINE {
        thread::sleep(LOOK_EVERY);
    }
}

/// Acts out what the host tells of the share at `path`, until it tells no more. Blocks.
pub(crate) fn hear(path: &str, is_complete: bool, mut from: impl BufRead) -> io::Result<()> {
    let folder = all().as_ref().and_then(|layers| layers.get(path)).map(|layer| Arc::clone(&layer.folder));
    let folder = folder.ok_or(io::ErrorKind::NotFound)?;
    let stage = Stage::of(Path::new(path))?;
    let stream = folder.lock().begin(is_complete);
    // Another stream's thread, of before, ends.
    folder.told.notify_all();
    let actor = Arc::clone(&folder);
    let act = move || actor.act_out(stream, stage.root.as_fd());
    let acting = thread::Builder::new().name("acting".to_owned()).spawn(act)?;
    let outcome = loop {
        match Change::read(&mut from) {
            Ok(Some(change)) => folder.lock().take_in(change),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        folder.told.notify_all();
    };
    {
        let mut state = folder.lock();
        if state.is_told_by(stream) {
            state.end();
        }
    }
    folder.told.notify_all();
    let _ = acting.join();
    outcome
}
