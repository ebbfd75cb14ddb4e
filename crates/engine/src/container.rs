//! One container in memory: what it is, the state it is in, and who is connected to it.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use model::container::ContainerSpec;
use oci_runtime::monitor::protocol::Streams;
use tokio::sync::watch;

use crate::error::Result;
use crate::exec::{Ended, ExecProcess};
use crate::health::Health;
use crate::info::ContainerInfo;
use crate::lifecycle::State;
use crate::link::Link;
use crate::networks::Live;
use crate::store::Record;

/// A container. Its operations are serialised by `turn`; readers never wait for them.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    /// Nanoseconds since the epoch.
    pub(crate) created: u64,
    pub(crate) image_id: String,
    identity: RwLock<Identity>,
    dynamic: Mutex<Dynamic>,
    /// Counts changes of both.
    version: AtomicU64,
    /// Who has its layers mounted while it does not run.
    layers: Mutex<Layers>,
    /// What it was shown as last.
    pub(crate) shown: Mutex<Option<Shown>>,
    /// Held by whoever changes the container's state.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// How often it ended, and whether it is gone: what `wait` waits for.
    pub(crate) progress: watch::Sender<Progress>,
}

/// What a container was shown as, and what that was made of: its own version and the networks'.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) versions: (u64, u64),
    pub(crate) info: Arc<ContainerInfo>,
}

/// The changing part, locked. Who takes it to change something makes a new version of the container.
#[derive(Debug)]
pub(crate) struct Changing<'a> {
    dynamic: MutexGuard<'a, Dynamic>,
    version: &'a AtomicU64,
}

impl Deref for Changing<'_> {
    type Target = Dynamic;

    fn deref(&self) -> &Dynamic {
        &self.dynamic
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Dynamic {
        // Before the change: nobody sees the new version without it, because that takes the lock.
        self.version.fetch_add(1, Ordering::Release);
        &mut self.dynamic
    }
}

/// The layers of a container that does not run. The kernel lets them be mounted twice at a time, and loses files
/// then: whoever copies shares one mount, and a start waits for its end.
#[derive(Debug, Default)]
struct Layers {
    shared: Weak<OwnedFd>,
    is_starting: bool,
}

/// Keeps others from a container's layers while it starts.
#[derive(Debug)]
pub(crate) struct Starting<'a>(&'a Container);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.layers().is_starting = false;
    }
}

/// What can be changed by rename and update.
#[derive(Debug, Clone)]
struct Identity {
    name: String,
    spec: Arc<ContainerSpec>,
}

/// What changes while it lives.
#[derive(Debug)]
pub(crate) struct Dynamic {
    pub(crate) state: State,
    pub(crate) restart_count: u32,
    pub(crate) is_stopped_by_user: bool,
    pub(crate) link: Option<Arc<Link>>,
    /// What it has on its networks while it runs.
    pub(crate) network: Live,
    /// Clients that attached before the start.
    pub(crate) waiting: Vec<(OwnedFd, Streams)>,
    pub(crate) execs: HashMap<String, Arc<ExecProcess>>,
    pub(crate) ended_execs: Ended,
    pub(crate) health: Option<Health>,
    /// Whether the image has been taken away from a running start.
    pub(crate) restart_delay: std::time::Duration,
    /// Ends a restart that waits for its delay.
    pub(crate) cancel_restart: Option<tokio_util::sync::CancellationToken>,
}

/// What `wait` sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How often it has ended since the engine knows it.
    pub(crate) ends: u64,
    /// The last exit code.
    pub(crate) code: i32,
    /// Whether it is running (or about to be again).
    pub(crate) is_running: bool,
    /// Whether it has been removed.
    pub(crate) is_removed: bool,
}

impl Container {
    pub(crate) fn new(record: Record) -> Self {
        let code = record.state.end().map_or(0, |end| end.code);
        let is_running = record.state.run().is_some();
        Self {
            id: record.id,
            created: record.created,
            image_id: record.image_id,
            identity: RwLock::new(Identity { name: record.name, spec: Arc::new(record.spec) }),
            dynamic: Mutex::new(Dynamic {
                state: record.state,
                restart_count: record.restart_count,
                is_stopped_by_user: record.is_stopped_by_user,
                link: None,
                network: Live::default(),
                waiting: Vec::new(),
                execs: HashMap::new(),
                ended_execs: Ended::default(),
                health: None,
                restart_delay: std::time::Duration::ZERO,
                cancel_restart: None,
            }),
            version: AtomicU64::new(0),
            layers: Mutex::default(),
            shown: Mutex::new(None),
            turn: tokio::sync::Mutex::new(()),
            progress: watch::Sender::new(Progress { code, is_running, ..Progress::default() }),
        }
    }

    pub(crate) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    pub(crate) fn name(&self) -> String {
        self.identity.read().unwrap_or_else(PoisonError::into_inner).name.clone()
    }

    pub(crate) fn set_name(&self, name: &str) {
        let mut identity = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        name.clone_into(&mut identity.name);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn spec(&self) -> Arc<ContainerSpec> {
        Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner).spec)
    }

    pub(crate) fn set_spec(&self, spec: ContainerSpec) {
        let mut identity = self.identity.write().unwrap_or_else(PoisonError::into_inner);
        identity.spec = Arc::new(spec);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The changing part. Never held over an await.
    pub(crate) fn dynamic(&self) -> Changing<'_> {
        let dynamic = self.dynamic.lock().unwrap_or_else(PoisonError::into_inner);
        Changing { dynamic, version: &self.version }
    }

    /// Grows with every change. What is read after it may be newer, never older.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its layers, mounted by `mount` unless somebody has them mounted already. `None` while it starts.
    pub(crate) fn share_layers(
        &self,
        mount: impl FnOnce() -> Result<OwnedFd>,
    ) -> Result<Option<Arc<OwnedFd>>> {
        let mut layers = self.layers();
        if layers.is_starting {
            return Ok(None);
        }
        if let Some(shared) = layers.shared.upgrade() {
            return Ok(Some(shared));
        }
        let mounted = Arc::new(mount()?);
        layers.shared = Arc::downgrade(&mounted);
        Ok(Some(mounted))
    }

    /// Keeps the layers from who would copy to or from them now, for a start; those who do already go on.
    pub(crate) fn take_layers(&self) -> Starting<'_> {
        self.layers().is_starting = true;
        Starting(self)
    }

    /// Whether anybody copies to or from them.
    pub(crate) fn are_layers_shared(&self) -> bool {
        self.layers().shared.strong_count() > 0
    }

    pub(crate) fn state(&self) -> State {
        self.dynamic().state.clone()
    }

    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.dynamic().link.clone()
    }

    /// What is kept of it on disk.
    pub(crate) fn record(&self) -> Record {
        let identity = self.identity.read().unwrap_or_else(PoisonError::into_inner).clone();
        let dynamic = self.dynamic();
        Record {
            id: self.id.clone(),
            name: identity.name,
            created: self.created,
            image_id: self.image_id.clone(),
            spec: (*identity.spec).clone(),
            state: dynamic.state.clone(),
            restart_count: dynamic.restart_count,
            is_stopped_by_user: dynamic.is_stopped_by_user,
        }
    }
}
