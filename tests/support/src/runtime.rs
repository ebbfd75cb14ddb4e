//! OCI runtimes, ours and others', and bundles to try them with.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::daemon::program;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A runtime by its program. All run in a mount namespace that hides the second version of the cgroups
/// where both are mounted, because crun and runc refuse a hybrid; ours also runs as it is.
#[derive(Debug)]
pub struct Runtime {
    /// What it is called.
    pub name: &'static str,
    program: PathBuf,
    sees_everything: bool,
    /// Before every command.
    flags: &'static [&'static str],
}

impl Runtime {
    /// Ours twice, and those of the system.
    ///
    /// # Errors
    /// Where ours was not built, or in CI where there is no other.
    pub fn all() -> Result<Vec<Self>> {
        let ours = program("cove-runtime")?;
        let mut all = vec![
            Self { name: "cove-runtime", program: ours.clone(), sees_everything: true, flags: &[] },
            Self { name: "cove-runtime (v1)", program: ours, sees_everything: false, flags: &[] },
        ];
        for name in ["crun", "runc"] {
            let found = ["/usr/bin", "/usr/sbin"]
                .iter()
                .map(|dir| Path::new(dir).join(name))
                .find(|path| path.is_file());
            if let Some(program) = found {
                all.push(Self { name, program, sees_everything: false, flags: &[] });
            }
        }
        let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        ensure!(!is_ci || all.len() > 2, "neither crun nor runc is there to prove the checks");
        Ok(all)
    }

    /// Ours and those of the system, with cgroups that systemd makes.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn all_by_systemd() -> Result<Vec<Self>> {
        let all = Self::all()?.into_iter().filter(|runtime| runtime.name != "cove-runtime (v1)");
        // Nothing is to be hidden from any where version 2 is alone.
        Ok(all
            .map(|runtime| Self { sees_everything: true, flags: &["--systemd-cgroup"], ..runtime })
            .collect())
    }

    fn command(&self, state: &Path, args: &[&str]) -> Command {
        let mut command = if self.sees_everything {
            stdx::process::command(&self.program)
        } else {
            let mut command = stdx::process::command("/usr/bin/unshare");
            let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$0\" \"$@\"";
            command.args(["-m", "--propagation", "slave", "sh", "-c", script]).arg(&self.program);
            command
        };
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.arg("--root").arg(state).args(self.flags).args(args).stdin(Stdio::null());
        command
    }
}

/// A bundle of busybox, made anew for each check.
#[derive(Debug)]
pub struct Bundle<'a> {
    /// Where it is.
    pub dir: tempfile::TempDir,
    runtime: &'a Runtime,
}

impl<'a> Bundle<'a> {
    /// A bundle that runs a shell script.
    ///
    /// # Errors
    /// Any error of writing it.
    pub fn new(runtime: &'a Runtime, layer: &[u8], script: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove-bundle").tempdir()?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let rootfs = dir.path().join("rootfs");
        std::fs::create_dir(&rootfs)?;
        tar::Archive::new(layer).unpack(&rootfs)?;
        let bundle = Self { dir, runtime };
        let mut config = default_config();
        config["process"]["args"] = json!(["sh", "-c", script]);
        bundle.write(&config)?;
        Ok(bundle)
    }

    /// Of a file in its directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(self.path("config.json"))?)?)
    }

    fn write(&self, config: &Value) -> Result<()> {
        Ok(std::fs::write(self.path("config.json"), serde_json::to_vec(config)?)?)
    }

    /// Changes its `config.json`.
    ///
    /// # Errors
    /// Any error of reading or writing it.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let mut config = self.config()?;
        change(&mut config);
        self.write(&config)
    }

    /// A command line of the runtime.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        self.runtime.command(&self.path("state"), args)
    }

    /// Runs a command; exit code and what it printed.
    ///
    /// # Errors
    /// Where the runtime can't be run.
    pub fn call(&self, args: &[&str]) -> Result<(i32, String)> {
        Ok(said(&self.command(args).output()?))
    }

    /// As [`Self::call`], of a command that must succeed.
    ///
    /// # Errors
    /// Where it does not.
    pub fn must(&self, args: &[&str]) -> Result<String> {
        let (code, text) = self.call(args)?;
        ensure!(code == 0, "{}: {args:?}: {code} {text}", self.runtime.name);
        Ok(text)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Where the runtime can't be run.
    pub fn run(&self) -> Result<(i32, String)> {
        let bundle = self.dir.path().display().to_string();
        self.call(&["run", "--bundle", &bundle, &self.id()])
    }

    /// Creates it, with output to the file `out`.
    ///
    /// # Errors
    /// Where the runtime refuses.
    pub fn create(&self) -> Result<()> {
        let bundle = self.dir.path().display().to_string();
        let mut command = self.command(&["create", "--bundle", &bundle, &self.id()]);
        // A pipe would be held open by the container.
        let file = std::fs::File::create(self.path("out"))?;
        let status = command.stdout(file.try_clone()?).stderr(file).status()?;
        let text = std::fs::read_to_string(self.path("out"))?;
        ensure!(status.success(), "{}: create failed: {text}", self.runtime.name);
        Ok(())
    }

    /// Unique on this machine, for cgroups are named by it.
    #[must_use]
    pub fn id(&self) -> String {
        self.dir.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What the runtime says of it.
    ///
    /// # Errors
    /// Where it says nothing.
    pub fn state(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.must(&["state", &self.id()])?)?)
    }

    /// Waits until it is so.
    ///
    /// # Errors
    /// Where it does not come.
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !is_so() {
            ensure!(Instant::now() < end, "{}: no {what} in {PATIENCE:?}", self.runtime.name);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id()]).output();
    }
}

/// Exit code and what was printed, standard output first.
#[must_use]
pub fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).trim().to_owned())
}

fn default_config() -> Value {
    let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount", "cgroup"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": { "uid": 0, "gid": 0 },
            "capabilities": {
                "bounding": ["CAP_KILL", "CAP_CHOWN"],
                "effective": ["CAP_KILL", "CAP_CHOWN"],
                "permitted": ["CAP_KILL", "CAP_CHOWN"],
            },
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "box",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    })
}
