//! The engine behind the window.

use api::client::containers::{ListContainers, RemoveContainer};
use api::client::{Client, Filters};
use api::container::ContainerSummary;
use futures_util::StreamExt;

use crate::process::Process;
use crate::{Missing, program, wait_for};

/// An engine, and what there was in it before.
#[derive(Debug)]
pub struct Engine {
    /// For `COVE_HOST`.
    pub address: String,
    /// To look at it without the window.
    pub client: Client,
    /// An image with a shell.
    pub image: String,
    process: Option<Process>,
    _dir: tempfile::TempDir,
    /// One test at a time, in whatever process: they share the computer's ports, on which the welcome
    /// container listens, and two webviews at once are slow enough to miss deadlines.
    _turn: std::fs::File,
}

impl Engine {
    /// The engine of `COVE_TEST_HOST`, or one of our own.
    ///
    /// # Errors
    /// Neither is there.
    ///
    /// # Panics
    /// It is there and does not work.
    pub async fn start() -> Result<Self, Missing> {
        let dir = tempfile::tempdir().map_err(|error| Missing(error.to_string()))?;
        let turn = take_turn().await;
        let (address, process) = match std::env::var("COVE_TEST_HOST") {
            Ok(address) => (address, None),
            Err(_) => {
                let address = format!("unix://{}/cove.sock", dir.path().display());
                let mut command = stdx::process::command(program("coved")?);
                command.args(["--listen", &address, "--idle-exit", "off"]);
                command.arg("--root").arg(dir.path().join("root"));
                command.arg("--state").arg(dir.path().join("state"));
                let process = Process::start(command, &dir.path().join("coved.log"));
                (address, Some(process.expect("coved can be executed")))
            }
        };
        let client = Client::new(address.parse().expect("an engine's address"));
        let ping = async || Ok(client.ping(std::time::Duration::from_secs(1)).await.ok());
        wait_for("the engine's answer", 20, ping).await.expect("the engine answers");
        let image = std::env::var("COVE_TEST_IMAGE").unwrap_or_else(|_| "busybox:latest".to_owned());
        let engine = Self { address, client, image, process, _dir: dir, _turn: turn };
        engine.empty().await;
        engine.bring_image().await?;
        Ok(engine)
    }

    /// All containers, whatever their state.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn containers(&self) -> anyhow::Result<Vec<ContainerSummary>> {
        let list = ListContainers { all: true, ..ListContainers::default() };
        Ok(self.client.list_containers(&list).await?)
    }

    /// Removes all containers, networks and volumes: the window's first sight is that of an empty engine.
    ///
    /// # Panics
    /// The engine does not do so.
    pub async fn empty(&self) {
        clear(&self.client).await.expect("an engine can be emptied");
    }

    /// Removes all containers, and leaves what they used.
    ///
    /// # Panics
    /// The engine does not do so.
    pub async fn remove_containers(&self) {
        remove_containers(&self.client).await.expect("containers can be removed");
    }

    /// Whether containers can have networks of their own: not under a user's engine.
    ///
    /// # Panics
    /// The engine does not answer.
    pub async fn has_bridge(&self) -> bool {
        let plugins = self.client.info().await.expect("an engine's description").plugins;
        plugins.get("Network").into_iter().flatten().flatten().any(|driver| driver == "bridge")
    }

    async fn bring_image(&self) -> Result<(), Missing> {
        if self.client.inspect_image(&self.image).await.is_ok() {
            return Ok(());
        }
        let Some(tar) = std::env::var_os("COVE_TEST_IMAGE_TAR") else {
            return Err(Missing(format!(
                "{} is not in the engine, and COVE_TEST_IMAGE_TAR not set",
                self.image
            )));
        };
        let bytes = std::fs::read(&tar).map_err(|error| Missing(format!("{}: {error}", tar.display())))?;
        let chunks = futures_util::stream::iter(vec![Ok::<_, std::io::Error>(bytes.into())]);
        let mut progress = self.client.load_images(true, chunks).await.expect("an image is taken in");
        while let Some(step) = progress.next().await {
            let step = step.expect("progress of a load");
            assert_eq!(step.error, None, "loading {}", tar.display());
        }
        Ok(())
    }
}

impl Drop for Engine {
    /// Containers and networks outlive their engine, so they are removed before it goes, also after a failure.
    fn drop(&mut self) {
        let client = self.client.clone();
        let clean = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(clear(&client))
        };
        // A test may be inside a runtime, in which no other one can wait. An engine that is gone has
        // failed the test already.
        drop(std::thread::spawn(clean).join());
        drop(self.process.take());
    }
}

async fn remove_containers(client: &Client) -> anyhow::Result<()> {
    let list = ListContainers { all: true, ..ListContainers::default() };
    for container in client.list_containers(&list).await? {
        client.remove_container(&container.id, RemoveContainer { force: true, volumes: true }).await?;
    }
    Ok(())
}

async fn clear(client: &Client) -> anyhow::Result<()> {
    remove_containers(client).await?;
    client.prune_networks(&Filters::default()).await?;
    client.prune_volumes(&Filters::default().with("all", "true")).await?;
    Ok(())
}

/// Waits until no other test drives a window.
///
/// # Panics
/// There is no temp folder to lock a file in.
pub async fn take_turn() -> std::fs::File {
    let path = std::env::temp_dir().join("cove-window-tests.lock");
    let lock = move || -> std::io::Result<std::fs::File> {
        let file = std::fs::File::create(path)?;
        file.lock()?;
        Ok(file)
    };
    tokio::task::spawn_blocking(lock)
        .await
        .expect("locking does not panic")
        .expect("a lock in the temp folder")
}
