//! A folder of the host as a file system of a guest (virtiofs), served by virtiofsd's library in this process.

mod device;
mod folder;
mod owner;
mod state;
mod told;
mod watch;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use virtiofsd::passthrough::read_only::PassthroughFsRo;
use virtiofsd::passthrough::{CachePolicy, Config, PassthroughFs};

use crate::error::{Error, Result};
use crate::session::Session;
use device::ShareDevice;
use folder::Folder;
use watch::Watch;

pub use owner::Owner;
pub use vm_changes::{Event, EventKind};

/// The longest name of a share, which the guest mounts it by.
const MAX_TAG: usize = 36;

/// What a guest may do with a share. Enforced here, whatever the guest mounts it as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anything that the owner may.
    ReadWrite,
    /// Look. Every change is refused with `EROFS`.
    ReadOnly,
}

/// Which folder is shared, and how.
#[derive(Clone, Debug)]
pub struct ShareConfig {
    /// The folder. The guest reaches nothing above it.
    pub root: PathBuf,
    /// What the guest may do.
    pub access: Access,
    /// As whom the guest acts.
    pub owner: Owner,
    /// How long the guest may believe what it knows of names and attributes where it is not told of each change
    /// ([`Share::watch`]). What changes on the host is seen after at most so long; contents are looked at anew whenever
    /// a file is opened after its time or size changed.
    pub freshness: Duration,
}

impl ShareConfig {
    /// A folder that the guest may change, as the user that we run as, and sees changes of within a second.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        ShareConfig {
            root: root.into(),
            access: Access::ReadWrite,
            owner: Owner::current(),
            freshness: Duration::from_secs(1),
        }
    }
}

/// A shared folder.
///
/// Dropping it takes the socket away; a monitor that is connected keeps its device until it goes.
#[derive(Debug)]
pub struct Share {
    watch: Arc<Watch>,
    _session: Session,
}

impl Share {
    /// Serves monitors that connect to `socket`, one after another; the guest mounts `tag` as type `virtiofs`.
    ///
    /// # Errors
    ///
    /// If the folder is none, or may not be entered; if the owner is another than the user we run as and we are not
    /// root; if the tag is empty or has over 36 bytes; if the socket can't be made, where one that is left over from
    /// before is in the way.
    pub fn serve(socket: &Path, tag: &str, config: ShareConfig) -> Result<Share> {
        if tag.is_empty() || tag.len() > MAX_TAG {
            return Err(Error::Tag { tag: tag.to_owned() });
        }
        let failed = |source| Error::Root { root: config.root.clone(), source };
        let metadata = std::fs::metadata(config.root.join(".")).map_err(failed)?;
        if metadata.ino() == 0 || config.root.to_str().is_none() {
            return Err(failed(io::ErrorKind::InvalidFilename.into()));
        }
        config.owner.check().map_err(failed)?;
        let watch = Watch::new(&config.root).map_err(failed)?;
        let watched = Arc::clone(&watch);
        let tag = tag.to_owned();
        let access = config.access;
        let mut thread = ServingThread { config, is_ready: false };
        let session = match access {
            Access::ReadWrite => Session::serve("share", socket, move || {
                let folder = Folder::new(PassthroughFs::new(thread.enter()?)?, &watched);
                ShareDevice::new(folder, &tag).map(Arc::new)
            }),
            Access::ReadOnly => Session::serve("share", socket, move || {
                let folder = Folder::new(PassthroughFsRo::new(thread.enter()?)?, &watched);
                ShareDevice::new(folder, &tag).map(Arc::new)
            }),
        }?;
        Ok(Share { watch, _session: session })
    }

    /// From now on `sink` is told of what changes on the host in folders that the guest knows, but not of what the guest
    /// changes itself. It is called on a thread of the share's, in the order of what happened, and may block; what
    /// happens meanwhile waits. It says whether the guest will get the event; one that it won't get, and what comes after,
    /// waits until [`Events::resume`]. A second call replaces it.
    ///
    /// The guest has to act each event out (see the agent's `trigger.rs`), on one thread that looks up
    /// [`Events::next_trigger`] in the share's root before each, and with `-over` behind it when it ends. Then programs in the guest that watch files see it, and what
    /// the guest has cached is renewed at once.
    ///
    /// # Errors
    ///
    /// If the thread can't be started.
    pub fn watch(&self, sink: impl Fn(Event) -> bool + Send + Sync + 'static) -> Result<()> {
        self.watch
            .listen(Arc::new(sink))
            .map_err(|source| Error::Resource { action: "watch a folder", source })
    }

    /// What is told of.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(Arc::clone(&self.watch))
    }
}

/// The changes of a share.
#[derive(Clone, Debug)]
pub struct Events(Arc<Watch>);

impl Events {
    /// A number for who is to listen, and the name by which its acting thread makes itself known from [`Events::resume`] on.
    #[must_use]
    pub fn next_trigger(&self) -> (u64, String) {
        self.0.next_trigger()
    }

    /// The guest listens again, from when `begin` has been called: it is told what waited, and what was told before and is
    /// not done.
    pub fn resume(&self, listener: u64, begin: impl FnOnce()) {
        self.0.resume(listener, begin);
    }
}

/// The thread that serves a share's monitors; what it is, its devices' threads inherit.
struct ServingThread {
    config: ShareConfig,
    is_ready: bool,
}

impl ServingThread {
    /// Makes the thread fit for virtiofsd, and says how virtiofsd is to serve.
    fn enter(&mut self) -> io::Result<Config> {
        if !self.is_ready {
            crate::sys::unshare_working_directory()?;
            self.config.owner.become_it()?;
            self.is_ready = true;
        }
        let root = self.config.root.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        let (uid_map, gid_map) = self.config.owner.id_maps();
        Ok(Config {
            root_dir: root.to_owned(),
            cache_policy: CachePolicy::Auto,
            entry_timeout: self.config.freshness,
            attr_timeout: self.config.freshness,
            xattr: true,
            // Folders within the share may be mounts of their own, whose inodes' numbers are not unique with its.
            announce_submounts: true,
            killpriv_v2: true,
            guest_fd_limit: guest_descriptors(),
            uid_map,
            gid_map,
            ..Config::default()
        })
    }
}

/// Every inode that the guest remembers is a descriptor of ours. The rest of the process needs some, too.
fn guest_descriptors() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(1 << 20, |limit| limit / 2)
}
