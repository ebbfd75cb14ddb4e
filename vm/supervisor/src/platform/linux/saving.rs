//! Sending a machine to sleep, and waking it; keeping what it is right after its boot, and beginning from there: what is
//! done with its program and its files. When, `machine` decides.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::MemfdFlags;
use vm_manager::backend::qemu::{self, Plugged, state};
use vm_manager::places::Places;
use vm_manager::qmp::Qmp;
use vm_manager::saved::{self, Draft, Moment, Record};

use super::sparse::copy_sparse;

/// How long the program may take until it listens.
const QMP_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What it takes to save a machine that runs.
#[derive(Debug, Clone)]
pub(crate) struct Saving {
    pub(crate) places: Places,
    pub(crate) qmp: PathBuf,
    /// The guest's memory.
    pub(crate) memory: Arc<File>,
    /// Devices that are not saved.
    pub(crate) devices: Vec<Plugged>,
    /// What has to be the same when it wakes up.
    pub(crate) record: Record,
}

/// A file without a name for a guest's memory, in bytes.
pub(crate) fn memory(size: u64) -> Result<Arc<File>> {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).context("failed to make memory")?;
    let file = File::from(file);
    file.set_len(size).context("failed to make the guest's memory")?;
    Ok(Arc::new(file))
}

impl Saving {
    /// Writes the state of a guest that is ready for it; its program stands still then. After a failure the guest goes
    /// on, and says hello again.
    pub(crate) async fn save(&self) -> Result<()> {
        let mut qmp = self.connect().await?;
        let outcome = match self.write(&mut qmp, Moment::Sleep).await {
            Ok(draft) => self.keep_sleep(draft).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.forget(Moment::Sleep);
            self.go_on(&mut qmp).await?;
        }
        outcome
    }

    /// Has the guest keep to so much memory.
    pub(crate) async fn limit_memory(&self, bytes: u64) -> Result<()> {
        let most = self.memory.metadata()?.len();
        anyhow::ensure!(bytes <= most, "it was started with less");
        let mut qmp = self.connect().await?;
        Ok(state::limit_memory(&mut qmp, bytes).await?)
    }

    /// Lets its disk grow.
    pub(crate) async fn grow_disk(&self, bytes: u64) -> Result<()> {
        let path = self.places.disk();
        let file = File::options().write(true).open(&path).context("failed to open the disk")?;
        anyhow::ensure!(file.metadata()?.len() <= bytes, "a disk only grows");
        file.set_len(bytes).context("failed to let the disk grow")?;
        let mut qmp = self.connect().await?;
        Ok(state::grow_disk(&mut qmp, bytes).await?)
    }

    /// Keeps the state of a guest that has booted and is ready for it, for later starts. The guest goes on then, whether
    /// it was kept or not, and says hello again; it is on disk some time later.
    ///
    /// # Errors
    /// The guest can't go on.
    pub(crate) async fn keep_template(&self) -> Result<()> {
        let mut qmp = self.connect().await?;
        let written = self.write(&mut qmp, Moment::Boot).await;
        self.go_on(&mut qmp).await?;
        // It hears one at a time.
        drop(qmp);
        let outcome = match written {
            Ok(draft) => {
                let record = self.record.of_boot();
                tokio::task::spawn_blocking(move || Ok(draft.keep(&record)?)).await?
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.forget(Moment::Boot);
            tracing::warn!("the next start boots, as this one did: {error:#}");
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Qmp> {
        Qmp::connect(&self.qmp).await.context("failed to reach the machine's program")
    }

    /// Half of it would take room that may be what is missing.
    fn forget(&self, moment: Moment) {
        if let Err(error) = saved::forget(&self.places, moment) {
            tracing::warn!(%error, "what was saved in part is left");
        }
    }

    async fn go_on(&self, qmp: &mut Qmp) -> Result<()> {
        let again = async {
            state::go_on(qmp).await?;
            state::plug_again(qmp, &self.devices).await
        };
        again.await.context("failed to have the guest go on")
    }

    async fn write(&self, qmp: &mut Qmp, moment: Moment) -> Result<Draft> {
        state::unplug(qmp, &self.devices).await.context("failed to unplug its devices")?;
        let draft = Record::begin(&self.places, moment)?;
        let socket = self.places.device("state");
        state::save(qmp, &socket, &draft.devices()).await.context("failed to save its devices")?;
        let this = self.clone();
        let copy = move || {
            let memory = File::options().write(true).create_new(true).open(draft.memory())?;
            copy_sparse(&this.memory, &memory).context("failed to save its memory")?;
            Ok(draft)
        };
        tokio::task::spawn_blocking(copy).await?
    }

    async fn keep_sleep(&self, draft: Draft) -> Result<()> {
        let (disk, record) = (self.places.disk(), self.record.clone());
        let keep = move || {
            // The guest takes for written what the host has only in memory yet.
            File::open(disk)?.sync_all().context("failed to write its disk")?;
            Ok(draft.keep(&record)?)
        };
        tokio::task::spawn_blocking(keep).await?
    }
}

/// A guest's memory on its way back from what was saved.
#[derive(Debug)]
pub(crate) struct Restored(std::thread::JoinHandle<std::io::Result<()>>);

impl Restored {
    /// Waits until all of it is there.
    pub(crate) fn finish(self) -> Result<()> {
        let copied = self.0.join().map_err(|_| anyhow::anyhow!("a bug ended the copy of its memory"))?;
        copied.context("failed to restore its memory")
    }
}

/// Begins to fill the memory of a guest with what was saved.
pub(crate) fn begin_to_restore_memory(places: &Places, moment: Moment, memory: &File) -> Result<Restored> {
    let saved = File::open(saved::memory(&moment.folder(places))).context("its memory is gone")?;
    let memory = memory.try_clone()?;
    let copy = move || copy_sparse(&saved, &memory);
    Ok(Restored(std::thread::Builder::new().name("memory".to_owned()).spawn(copy)?))
}

/// Has a program that waits for it take over the state of the devices, and go on. What was saved of a sleep is used up
/// then.
pub(crate) async fn wake(
    places: &Places,
    moment: Moment,
    qmp: &std::path::Path,
    devices: &[Plugged],
) -> Result<()> {
    let mut qmp = connect(qmp).await?;
    let state = saved::devices(&moment.folder(places));
    state::restore(&mut qmp, &places.device("state"), &state)
        .await
        .context("failed to restore its devices")?;
    if moment == Moment::Sleep {
        // From here on its disk changes.
        saved::forget(places, moment)?;
    }
    state::plug(&mut qmp, devices).await.context("failed to plug in its devices")?;
    state::go_on(&mut qmp).await.context("failed to have it go on")
}

async fn connect(socket: &std::path::Path) -> Result<Qmp> {
    let connected = async {
        loop {
            match Qmp::connect(socket).await {
                Ok(qmp) => return qmp,
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    };
    tokio::time::timeout(QMP_DEADLINE, connected).await.context("the machine's program does not listen")
}

/// Whether what was saved can be gone on from with what there is now; the error says what differs.
pub(crate) fn check(record: &Record, now: &Record) -> Result<()> {
    anyhow::ensure!(record.program == now.program, "QEMU is another now");
    anyhow::ensure!(record.acceleration == now.acceleration, "the processor's acceleration is another now");
    Ok(())
}

/// The program that is the machine, told from a newer one under the same path.
pub(crate) fn program(architecture: &str) -> Result<String> {
    let path = qemu::program(architecture)?;
    let metadata = path.metadata().with_context(|| format!("failed to look at {}", path.display()))?;
    Ok(format!("{} {} {}", path.display(), metadata.size(), metadata.mtime()))
}
