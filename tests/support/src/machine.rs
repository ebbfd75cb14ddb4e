//! A machine of a test's own, with `cove` and Docker's command line pointed at it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::daemon::{Said, program};

/// How long anything but a start may take that tests wait for. Emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine; ended and removed when dropped.
#[derive(Debug)]
pub struct Machine {
    dir: tempfile::TempDir,
    images: PathBuf,
    name: String,
    backend: &'static str,
    /// Where its programs are; beside the test unless given.
    programs: Option<PathBuf>,
    /// What is searched for programs of others before PATH.
    searched_first: Option<PathBuf>,
    /// Shares are as where their server is another's: a layer of the guest's stands in front.
    is_layered: bool,
}

/// The folder of guest images that `cargo xtask test` has made, if there is one for `backend` in it.
#[must_use]
pub fn images(backend: &str) -> Option<PathBuf> {
    let has = |images: &Path, origin| images.join(format!("{backend}-{origin}/image.json")).is_file();
    all_images().filter(|images| has(images, "own") || has(images, "debian"))
}

/// A guest image for machines of a kind: of our own kernel, where there is one.
#[must_use]
pub fn image(backend: &str) -> Option<PathBuf> {
    let images = images(backend)?;
    let kinds = ["own", "debian"].map(|origin| images.join(format!("{backend}-{origin}")));
    kinds.into_iter().find(|image| image.join("image.json").is_file())
}

fn all_images() -> Option<PathBuf> {
    // Of a test in `deps`, and of a program beside it.
    let built = || {
        let exe = std::env::current_exe().ok()?;
        exe.ancestors().skip(2).take(2).map(|dir| dir.join("guest")).find(|dir| dir.is_dir())
    };
    std::env::var_os("COVE_GUEST_IMAGES").map(PathBuf::from).or_else(built)
}

/// The folder of guest images for another processor, `aarch64`, beside those for this one: that which was made last of what
/// ships and what is tried. `None` where there is none.
#[must_use]
pub fn foreign_images(architecture: &str) -> Option<PathBuf> {
    let images = all_images()?;
    let folders = [images.join(architecture), images.join(format!("{architecture}-dev"))];
    let made = |image: PathBuf| image.join("image.json").metadata()?.modified();
    let times = folders.into_iter().flat_map(|folder| {
        let kinds = ["qemu-debian", "qemu-own"].map(|kind| made(folder.join(kind)).ok());
        kinds.into_iter().flatten().max().map(|time| (time, folder))
    });
    times.max().map(|(_, folder)| folder)
}

/// The kinds of machines for tests that take minutes where the processor is emulated: all with `COVE_TEST_MACHINES=all`.
#[must_use]
pub fn fast_backends() -> &'static [&'static str] {
    let is_all = std::env::var("COVE_TEST_MACHINES").is_ok_and(|which| which == "all");
    if is_all { &["uml", "qemu"] } else { &["uml"] }
}

/// The answer of a web server on this computer's loopback.
///
/// # Errors
/// Nobody answers.
pub fn fetch(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Machine {
    /// One that is made, with a folder of the test's shared ([`Self::shared`]), and not started. `None`, with the reason
    /// told, where there is no image for it.
    ///
    /// # Errors
    /// It can't be made.
    pub fn init(backend: &'static str) -> Result<Option<Self>> {
        Self::init_from(backend, None)
    }

    /// The same with programs that are not beside the test.
    ///
    /// # Errors
    /// It can't be made.
    pub fn init_from(backend: &'static str, programs: Option<&Path>) -> Result<Option<Self>> {
        let Some(images) = images(backend) else {
            crate::skip(&format!("there is no guest image for {backend} (cargo xtask guest-image)"));
            return Ok(None);
        };
        if programs.is_none() && program("cove-machine").is_err() {
            crate::skip("cove-machine was not built");
            return Ok(None);
        }
        Self::make(backend, images, programs).map(Some)
    }

    /// One of QEMU's with a guest for another processor, which is emulated. `None`, with the reason told, where there is no
    /// image for it or no program that runs it.
    ///
    /// # Errors
    /// It can't be made.
    pub fn init_foreign(architecture: &str) -> Result<Option<Self>> {
        let Some(images) = foreign_images(architecture) else {
            crate::skip(&format!("there is no guest image for {architecture} (cargo xtask cross guest)"));
            return Ok(None);
        };
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let emulator = format!("qemu-system-{architecture}");
        if !std::env::split_paths(&paths).any(|dir| dir.join(&emulator).is_file()) {
            crate::skip(&format!("{emulator} is not installed"));
            return Ok(None);
        }
        Self::make("qemu", images, None).map(Some)
    }

    fn make(backend: &'static str, images: PathBuf, programs: Option<&Path>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove-machine").tempdir()?;
        let machine = Self {
            dir,
            images,
            name: "test".to_owned(),
            backend,
            programs: programs.map(Path::to_owned),
            searched_first: None,
            // Whatever of shares is tested can be tested so.
            is_layered: std::env::var("COVE_SHARES").is_ok_and(|how| how == "layer"),
        };
        std::fs::create_dir(machine.shared())?;
        let share = machine.shared().display().to_string();
        machine.cove_ok(&[
            "machine",
            "init",
            "test",
            "--backend",
            backend,
            "--memory",
            "512M",
            "--disk",
            "2G",
            "--cpus",
            "2",
            "--share",
            &share,
        ])?;
        Ok(machine)
    }

    /// One that runs, with the busybox image loaded.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(backend: &'static str) -> Result<Option<Self>> {
        let Some(machine) = Self::init(backend)? else { return Ok(None) };
        machine.bring_up()?;
        machine.load_busybox()?;
        Ok(Some(machine))
    }

    /// The same with shares as they are where their server is another's, as on macOS: with the guest's layer in front.
    ///
    /// # Errors
    /// As those of [`Self::start`].
    pub fn start_layered(backend: &'static str) -> Result<Option<Self>> {
        let Some(mut machine) = Self::init(backend)? else { return Ok(None) };
        machine.is_layered = true;
        machine.bring_up()?;
        machine.load_busybox()?;
        Ok(Some(machine))
    }

    /// Has its supervisor, when it is started, look here for QEMU and the like before anywhere else.
    pub fn search_first(&mut self, folder: &Path) {
        self.searched_first = Some(folder.to_owned());
    }

    /// `uml` or `qemu`.
    #[must_use]
    pub fn backend(&self) -> &str {
        self.backend
    }

    /// Whether its kernel has what networks of one's own need; Debian's of User Mode Linux does not.
    ///
    /// # Errors
    /// The machine can't be asked.
    pub fn has_networks(&self) -> Result<bool> {
        let said = self.cove(&["run", "--rm", "busybox", "ip", "link", "show", "eth0"])?;
        Ok(said.code == 0)
    }

    /// A folder of the host that the machine sees under the same path.
    #[must_use]
    pub fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    /// A program made of a C source, in the shared folder: linked statically, it runs in any container and here.
    ///
    /// # Errors
    /// It can't be made.
    pub fn compile(&self, source: &Path) -> Result<PathBuf> {
        let program = self.shared().join(source.file_stem().context("a file")?);
        let mut cc = stdx::process::command("cc");
        cc.args(["-static", "-O1", "-o"]).arg(&program).arg(source);
        if !cc.status().context("there is no C compiler")?.success() {
            bail!("{} does not compile", source.display());
        }
        Ok(program)
    }

    /// Runs a command in a container that sees the shared folder under its own path, and nothing of the network.
    ///
    /// # Errors
    /// It can't be run.
    pub fn run_in_share(&self, args: &[&str]) -> Result<Said> {
        let mount = format!("{0}:{0}", self.shared().display());
        let run = ["run", "--rm", "--network", "none", "-v", &mount, "busybox"];
        self.cove(&[&run[..], args].concat())
    }

    /// Puts this test's own program and others of the workspace into the shared folder, where they find each other as
    /// they do here. Returns the test's path there.
    ///
    /// # Errors
    /// One was not built, or can't be copied.
    pub fn share_tests(&self, programs: &[&str]) -> Result<PathBuf> {
        let bin = self.shared().join("bin");
        let test = bin.join("deps/test");
        std::fs::create_dir_all(bin.join("deps"))?;
        std::fs::copy(std::env::current_exe()?, &test)?;
        for name in programs {
            std::fs::copy(self.program(name)?, bin.join(name))?;
        }
        Ok(test)
    }

    /// Loads an image of one layer.
    ///
    /// # Errors
    /// It can't be loaded.
    pub fn load_layer(&self, name: &str, layer: Vec<u8>) -> Result<()> {
        let archive = self.dir.path().join("layer.tar");
        std::fs::write(&archive, crate::image::docker_archive(name, &[layer], &serde_json::json!({}))?)?;
        self.cove_ok(&["load", "-i", &archive.display().to_string()]).map(drop)
    }

    /// Where its files are.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not come up; with what was printed.
    pub fn bring_up(&self) -> Result<()> {
        let said = self.cove(&["machine", "start", &self.name])?;
        if said.code != 0 {
            let log = std::fs::read_to_string(self.files().join("machine.log")).unwrap_or_default();
            let console = std::fs::read_to_string(self.files().join("console.log")).unwrap_or_default();
            bail!("the machine did not start: {}\n--- supervisor\n{log}\n--- console\n{console}", said.err);
        }
        Ok(())
    }

    /// Loads the tests' busybox image.
    ///
    /// # Errors
    /// It can't be made or loaded.
    pub fn load_busybox(&self) -> Result<()> {
        let tar = self.dir.path().join("busybox.tar");
        if !tar.exists() {
            match std::env::var_os("COVE_TEST_IMAGE_TAR") {
                Some(made) => drop(std::fs::copy(made, &tar)?),
                None => crate::image::write_busybox(&tar)?,
            }
        }
        self.docker_ok(&["load", "-q", "-i", &tar.display().to_string()])?;
        Ok(())
    }

    /// Puts a newer image in the place of the installed one, whose first process is none.
    ///
    /// # Errors
    /// It can't be written.
    pub fn install_broken_image(&mut self) -> Result<()> {
        self.install_image(|_| b"no archive at all".to_vec())
    }

    /// The same, whose first process is another program: it finds files of its own beside it.
    ///
    /// # Errors
    /// It can't be written.
    pub fn install_stranger(&mut self, program: &Path, files: &[(&str, &[u8])]) -> Result<()> {
        let program = std::fs::read(program)?;
        // The kernel takes archives that follow each other one after another, and the last of a name.
        self.install_image(|mut initrd| {
            let files = files.iter().map(|(name, content)| (*name, 0o100_644, *content));
            for (name, mode, content) in std::iter::once(("init", 0o100_755, &program[..])).chain(files) {
                add_to_archive(&mut initrd, name, mode, content);
            }
            add_to_archive(&mut initrd, "TRAILER!!!", 0, b"");
            initrd
        })
    }

    fn install_image(&mut self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Result<()> {
        let origin = ["own", "debian"]
            .into_iter()
            .find(|origin| self.images.join(format!("{}-{origin}/image.json", self.backend)).is_file());
        let name = format!("{}-{}", self.backend, origin.context("an image")?);
        let broken = self.dir.path().join("broken").join(&name);
        copy_all(&self.images.join(&name), &broken)?;
        let initrd = std::fs::read(broken.join("initrd"))?;
        std::fs::write(broken.join("initrd"), change(initrd))?;
        let path = broken.join("image.json");
        let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let files = manifest["files"].as_object().context("files")?.keys().cloned().collect::<Vec<_>>();
        let mut lines = Vec::new();
        for name in files {
            let bytes = std::fs::read(broken.join(&name))?;
            let sha256 = crate::image::sha256(&bytes);
            let sha256 = sha256.trim_start_matches("sha256:");
            writeln!(lines, "{sha256} {} {name}", bytes.len())?;
            manifest["files"][name] = serde_json::json!({ "sha256": sha256, "size": bytes.len() });
        }
        let digest = crate::image::sha256(&lines);
        manifest["digest"] = format!("sha256:{}", digest.trim_start_matches("sha256:")).into();
        std::fs::write(&path, serde_json::to_vec(&manifest)?)?;
        self.images = self.dir.path().join("broken");
        Ok(())
    }

    /// `cove` with these arguments, about this machine, not yet started.
    ///
    /// # Errors
    /// It was not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let address = format!("machine://{}", self.name);
        Ok(self.prepare(&self.program("cove")?, "COVE_HOST", &address, args))
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        self.programs.as_ref().map_or_else(|| program(name), |dir| Ok(dir.join(name)))
    }

    fn prepare(&self, program: &Path, variable: &str, address: &str, args: &[&str]) -> Command {
        let mut command = stdx::process::command(program);
        command.args(args).env(variable, address);
        command.env("COVE_MACHINES", self.dir.path()).env("COVE_GUEST_IMAGES", &self.images);
        command.env("DOCKER_CONFIG", self.dir.path().join("docker"));
        // Trying KVM takes seconds where it hangs, and finds the same each time.
        let acceleration = std::env::var("COVE_ACCELERATION").unwrap_or_else(|_| "tcg".to_owned());
        command.env("COVE_ACCELERATION", acceleration);
        if self.is_layered {
            command.env("COVE_SHARES", "layer");
        }
        if let Some(folder) = &self.searched_first {
            let paths = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{paths}", folder.display()));
        }
        command
    }

    fn run(mut command: Command, input: &[u8]) -> Result<Said> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start a client")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A client that does not read its input is its own matter.
            let _ = std::io::Write::write_all(&mut stdin, input);
        }
        let output = child.wait_with_output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        })
    }

    /// Runs `cove` against the machine's engine, or about the machine.
    ///
    /// # Errors
    /// It can't be run.
    pub fn cove(&self, args: &[&str]) -> Result<Said> {
        self.cove_with(args, b"")
    }

    /// The same with something to read.
    ///
    /// # Errors
    /// It can't be run.
    pub fn cove_with(&self, args: &[&str], input: &[u8]) -> Result<Said> {
        Self::run(self.command(args)?, input)
    }

    /// The same, which must end with 0.
    ///
    /// # Errors
    /// It ends otherwise.
    pub fn cove_ok(&self, args: &[&str]) -> Result<String> {
        let said = self.cove(args)?;
        if said.code != 0 {
            bail!("cove {args:?} ended with {}: {}", said.code, said.err);
        }
        Ok(said.out)
    }

    /// Runs Docker's command line against the machine's engine.
    ///
    /// # Errors
    /// It can't be run.
    pub fn docker(&self, args: &[&str]) -> Result<Said> {
        Self::run(self.prepare(Path::new("docker"), "DOCKER_HOST", &self.address(), args), b"")
    }

    /// The same, which must end with 0.
    ///
    /// # Errors
    /// It ends otherwise.
    pub fn docker_ok(&self, args: &[&str]) -> Result<String> {
        let said = self.docker(args)?;
        if said.code != 0 {
            bail!("docker {args:?} ended with {}: {}", said.code, said.err);
        }
        Ok(said.out)
    }

    /// The engine's address on the host.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join(".run").join(&self.name).join("engine.sock").display())
    }

    /// How it stands.
    ///
    /// # Errors
    /// It can't be asked.
    pub fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.cove_ok(&["machine", "status", &self.name, "--format", "json"])?)?)
    }

    /// Processes that were started with a path of this machine's, and hold `word` in their command line.
    #[must_use]
    pub fn processes(&self, word: &str) -> Vec<u32> {
        let dir = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.contains(&dir) && line.contains(word)
            })
            .collect()
    }

    /// Kills processes, and waits until they have let go of all that they had open: one that ends has no name any more a
    /// while before that, and who connects to it meanwhile is reset.
    ///
    /// # Errors
    /// They can't be killed, or do not end.
    pub fn kill(&self, pids: &[u32]) -> Result<()> {
        for pid in pids {
            let pid = rustix::process::Pid::from_raw(i32::try_from(*pid)?).context("a process id")?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        }
        let is_over = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .map_or(true, |stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
        };
        self.wait_for("the end of what was killed", || pids.iter().all(is_over))
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It is not, for too long.
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
        let begin = Instant::now();
        while !is_so() {
            if begin.elapsed() > PATIENCE {
                bail!("{what} did not come about within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// An entry of cpio's form `newc`, of root's and of the time 0 (initramfs-buffer-format of the kernel's documentation).
fn add_to_archive(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    pad(archive);
    let (inode, size, name_size) = (archive.len(), content.len(), name.len() + 1);
    let fields = [inode, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.cove(&["machine", "stop", "--force", &self.name]);
    }
}
