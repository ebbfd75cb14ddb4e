//! A display and a session bus, private to one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::process::Process;
use crate::{Missing, installed, program, wait_for};

/// See the module.
#[derive(Debug)]
pub struct Desktop {
    /// `:99`
    pub display: String,
    /// The session bus.
    pub bus: String,
    dir: tempfile::TempDir,
    desktop: PathBuf,
    driver: PathBuf,
    // Dropped in this order: what uses a thing goes before it.
    _bus: Process,
    _display: Process,
}

impl Desktop {
    /// Starts a display and a bus.
    ///
    /// # Errors
    /// A program for it is missing.
    ///
    /// # Panics
    /// One is there and does not start.
    pub async fn start() -> Result<Self, Missing> {
        let xvfb = installed("Xvfb", "xvfb")?;
        let bus = installed("dbus-daemon", "dbus-daemon")?;
        let driver = installed("WebKitWebDriver", "webkit2gtk-driver")?;
        let desktop = program("cove-desktop")?;
        let dir = tempfile::tempdir().map_err(|error| Missing(error.to_string()))?;
        for name in ["home", "config", "data", "cache", "run", "machines"] {
            std::fs::create_dir(dir.path().join(name)).expect("a folder of our own");
        }
        let (display_process, display) = start_display(&xvfb, dir.path()).await.expect("Xvfb starts");
        let (bus_process, bus) = start_bus(&bus, dir.path()).await.expect("dbus-daemon starts");
        Ok(Self { display, bus, dir, desktop, driver, _bus: bus_process, _display: display_process })
    }

    /// A program in this desktop, with nothing of the user's own.
    #[must_use]
    pub fn command(&self, program: &Path, engine: &str) -> Command {
        let mut command = stdx::process::command(program);
        let path = |name: &str| self.dir.path().join(name);
        command
            .env("DISPLAY", &self.display)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus)
            .env("HOME", path("home"))
            .env("XDG_CONFIG_HOME", path("config"))
            .env("XDG_DATA_HOME", path("data"))
            .env("XDG_CACHE_HOME", path("cache"))
            .env("XDG_RUNTIME_DIR", path("run"))
            .env("COVE_MACHINES", path("machines"))
            .env("GDK_BACKEND", "x11")
            .env("NO_AT_BRIDGE", "1")
            .env("COVE_HOST", engine)
            // Trying KVM takes seconds where it hangs.
            .env("COVE_ACCELERATION", "tcg");
        // No machine of a window's starts without.
        if let Some(images) = support::machine::images("uml") {
            command.env("COVE_GUEST_IMAGES", images);
        }
        command
    }

    /// The folders of machines that programs in this desktop see.
    #[must_use]
    pub fn machines(&self) -> vm_manager::places::Folders {
        support::supervisor::folders(&self.dir.path().join("machines"))
    }

    /// The window's program by itself.
    ///
    /// # Errors
    /// It can't be executed.
    pub fn open(&self, engine: &str, log: &str) -> anyhow::Result<Process> {
        Process::start(self.command(&self.desktop, engine), &self.dir.path().join(log))
    }

    /// The window's program under WebDriver.
    ///
    /// # Errors
    /// The driver or the program does not start.
    pub async fn drive(&self, engine: &str) -> anyhow::Result<Driven> {
        self.drive_program(&self.desktop, &[], engine).await
    }

    /// A plain browser under WebDriver: the small one that comes with WebKitGTK.
    ///
    /// # Errors
    /// The driver or the browser does not start.
    pub async fn browse(&self) -> anyhow::Result<Driven> {
        let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let browser = libraries
            .iter()
            .map(|dir| Path::new(dir).join("webkit2gtk-4.1/MiniBrowser"))
            .find(|path| path.is_file())
            .context("WebKitGTK brings its MiniBrowser along")?;
        self.drive_program(&browser, &["--automation"], "").await
    }

    async fn drive_program(&self, program: &Path, args: &[&str], engine: &str) -> anyhow::Result<Driven> {
        let port = free_port()?;
        let mut command = self.command(&self.driver, engine);
        command.env("TAURI_WEBVIEW_AUTOMATION", "true").arg(format!("--port={port}"));
        let driver = Process::start(command, &self.dir.path().join("driver.log"))?;
        let capabilities = json!({
            "webkitgtk:browserOptions": { "binary": program, "args": args },
        });
        let serde_json::Value::Object(capabilities) = capabilities else { anyhow::bail!("no object") };
        let url = format!("http://127.0.0.1:{port}");
        let client = wait_for("a WebDriver session", 30, async || {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            let session = builder.capabilities(capabilities.clone()).connect(&url).await;
            // The driver refuses connections until it listens; any other refusal stays.
            session.map(Some).map_err(anyhow::Error::from)
        })
        .await?;
        Ok(Driven { client, _driver: driver })
    }

    /// What a program wrote, for a failing test.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// A window under WebDriver.
#[derive(Debug)]
pub struct Driven {
    /// The session.
    pub client: Client,
    _driver: Process,
}

async fn start_display(xvfb: &Path, dir: &Path) -> anyhow::Result<(Process, String)> {
    let number = dir.join("display");
    let mut command = stdx::process::command("sh");
    // -displayfd wants a descriptor that is open already.
    command.args(["-c", r#"exec "$0" -displayfd 3 -screen 0 1280x900x24 -nolisten tcp 3>"$1""#]);
    command.arg(xvfb).arg(&number);
    let process = Process::start(command, &dir.join("xvfb.log"))?;
    let read = async || Ok(std::fs::read_to_string(&number).ok().filter(|text| text.ends_with('\n')));
    let display = wait_for("Xvfb's display", 10, read).await?;
    Ok((process, format!(":{}", display.trim())))
}

async fn start_bus(daemon: &Path, dir: &Path) -> anyhow::Result<(Process, String)> {
    let address = dir.join("bus-address");
    let mut command = stdx::process::command("sh");
    command.args(["-c", r#"exec "$0" --session --nofork --print-address=3 3>"$1""#]);
    command.arg(daemon).arg(&address).stdin(Stdio::null());
    let process = Process::start(command, &dir.join("bus.log"))?;
    let read = async || Ok(std::fs::read_to_string(&address).ok().filter(|text| text.ends_with('\n')));
    let address = wait_for("the session bus", 10, read).await?;
    Ok((process, address.trim().to_owned()))
}

/// A port that was free a moment ago; the driver takes no 0.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// How long a window may take to show something.
pub const PATIENCE: Duration = Duration::from_secs(20);
