//! A daemon with directories of its own, and Docker's command line pointed at it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::user::{USER, User};

/// How long anything may take that tests wait for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon; ended, with its containers, when dropped.
#[derive(Debug)]
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Option<Child>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Where its program is; beside the test unless given.
    programs: Option<PathBuf>,
    /// Whom it runs as, if not as the test's user.
    user: Option<User>,
    /// In its place, the engine of others that `COVE_TEST_DOCKER_HOST` names.
    reference: Option<Reference>,
}

/// An engine that is not ours, by which a test that claims to match it is proven.
#[derive(Debug)]
struct Reference {
    socket: PathBuf,
    /// One test at a time, since all share it.
    _turn: std::fs::File,
}

impl Reference {
    /// The one that the environment names, when it is this test's turn.
    fn wait() -> Result<Option<Self>> {
        let Ok(host) = std::env::var("COVE_TEST_DOCKER_HOST") else { return Ok(None) };
        let socket = host.strip_prefix("unix://").context("COVE_TEST_DOCKER_HOST is no unix:// address")?;
        let turn = std::fs::File::create(std::env::temp_dir().join("cove-test-reference.lock"))?;
        turn.lock().context("failed to wait for the engine's turn")?;
        Ok(Some(Self { socket: socket.into(), _turn: turn }))
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output, without the last newline.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// A program of the workspace, beside the test.
///
/// # Errors
/// Where it was not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().nth(2).context("the test has no directory")?;
    let path = dir.join(name);
    ensure!(path.is_file(), "{} was not built: run cargo build first", path.display());
    Ok(path)
}

/// Runs a test with a daemon of root's, and with one of an ordinary user's.
///
/// # Errors
/// The test's, with whose daemon it was.
pub fn of_each_kind(test: impl Fn(Daemon) -> Result<()>) -> Result<()> {
    if !crate::is_root()? {
        crate::skip("it starts daemons of root and of another user");
        return Ok(());
    }
    let daemon = Daemon::start()?;
    let is_cove = daemon.is_cove();
    test(daemon).context("as root")?;
    if !is_cove {
        // An engine of others is there once.
        return Ok(());
    }
    match Daemon::start_as_user()? {
        Some(daemon) => test(daemon).context("as a user"),
        None => Ok(()),
    }
}

impl Daemon {
    /// Starts one of the tests' user, with the busybox image loaded. None where there is no such user.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_as_user() -> Result<Option<Self>> {
        let Some(user) = User::find()? else {
            crate::skip("there is no user cove-test (useradd --create-home cove-test)");
            return Ok(None);
        };
        let dir = tempfile::Builder::new().prefix("cove-user").tempdir()?;
        // The build's own directory may be closed to others.
        let programs = dir.path().join("bin");
        std::fs::create_dir(&programs)?;
        for name in ["coved", "cove-runtime"] {
            std::fs::copy(program(name)?, programs.join(name))?;
            std::fs::set_permissions(programs.join(name), std::fs::Permissions::from_mode(0o755))?;
        }
        std::os::unix::fs::chown(dir.path(), Some(user.uid), Some(user.gid))?;
        let mut daemon = Self {
            dir,
            child: None,
            args: Vec::new(),
            env: Vec::new(),
            programs: Some(programs),
            user: Some(user),
            reference: None,
        };
        daemon.launch()?;
        daemon.load_busybox()?;
        Ok(Some(daemon))
    }

    /// Whether it is an ordinary user's.
    #[must_use]
    pub fn is_rootless(&self) -> bool {
        self.user.is_some()
    }

    /// The process that holds the network of a user's daemon, once there is one.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        self.processes().into_iter().find(|(_, line)| line.contains("netns-holder")).map(|(pid, _)| pid)
    }

    /// Processes that were started with a path of this daemon's: their ids and command lines.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        let own = self.dir.path().display().to_string();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(&own).then_some((pid, line))
        });
        all.collect()
    }

    /// A command where the daemon's bridges and rules are.
    ///
    /// # Errors
    /// A user's daemon that has no network yet.
    pub fn in_network(&self, program: &str) -> Result<std::process::Command> {
        let mut command = if self.is_rootless() {
            let holder = self.holder().context("nobody holds the daemon's network")?;
            let mut command = stdx::process::command("nsenter");
            command.args([&format!("--net=/proc/{holder}/ns/net"), program]);
            command
        } else {
            stdx::process::command(program)
        };
        command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        Ok(command)
    }

    /// Starts one with the busybox image loaded.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start() -> Result<Self> {
        let daemon = match Reference::wait()? {
            Some(reference) => Self::of(reference)?,
            None => Self::start_empty(&[])?,
        };
        daemon.load_busybox()?;
        Ok(daemon)
    }

    /// The engine of others in place of ours, emptied first.
    fn of(reference: Reference) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove").tempdir()?;
        let (args, env) = (Vec::new(), Vec::new());
        let reference = Some(reference);
        let daemon = Self { dir, child: None, args, env, programs: None, user: None, reference };
        ensure!(daemon.get("/_ping").is_ok(), "nobody answers at COVE_TEST_DOCKER_HOST");
        daemon.remove_all();
        Ok(daemon)
    }

    /// Whether it is Cove's, here or in a machine (`COVE_TEST_IN_MACHINE`).
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.is_cove() || std::env::var_os("COVE_TEST_IN_MACHINE").is_some()
    }

    /// Whether it is ours, and not an engine by which a test is proven: what is on disk is ours alone.
    #[must_use]
    pub fn is_cove(&self) -> bool {
        self.reference.is_none()
    }

    /// Removes containers, which would outlive the daemon; of a shared engine, all that tests make.
    fn remove_all(&self) {
        if let Ok(all) = self.docker(&["ps", "-aq"]) {
            let ids: Vec<&str> = all.out.split_whitespace().collect();
            if !ids.is_empty() {
                let _ = self.docker(&[&["rm", "-fv"], ids.as_slice()].concat());
            }
        }
        if !self.is_cove() {
            // Pruning leaves volumes with options.
            let volumes = self.docker(&["volume", "ls", "-q"]).map(|said| said.out).unwrap_or_default();
            for name in volumes.split_whitespace() {
                let _ = self.docker(&["volume", "rm", "-f", name]);
            }
            for args in [&["network", "prune", "-f"][..], &["image", "prune", "-af"]] {
                let _ = self.docker(args);
            }
        }
    }

    /// As [`Self::start`], of the programs in a directory.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_from(programs: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove").tempdir()?;
        let mut daemon = Self {
            dir,
            child: None,
            args: Vec::new(),
            env: Vec::new(),
            programs: Some(programs.to_owned()),
            user: None,
            reference: None,
        };
        daemon.launch()?;
        daemon.load_busybox()?;
        Ok(daemon)
    }

    /// Loads the busybox image.
    ///
    /// # Errors
    /// Where the daemon refuses it.
    pub fn load_busybox(&self) -> Result<()> {
        let daemon = self;
        let image = daemon.dir.path().join("busybox.tar");
        crate::image::write_busybox(&image)?;
        let said = daemon.docker(&["load", "-i", &image.display().to_string()])?;
        ensure!(said.code == 0, "docker load failed: {said:?}");
        Ok(())
    }

    /// Starts one without images, but for the welcome image.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_empty(args: &[&str]) -> Result<Self> {
        Self::start_with(args, &[])
    }

    /// As [`Self::start_empty`], with variables in its environment.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn start_with(args: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cove").tempdir()?;
        let args = args.iter().map(ToString::to_string).collect();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut daemon = Self { dir, child: None, args, env, programs: None, user: None, reference: None };
        daemon.launch()?;
        Ok(daemon)
    }

    /// The directory everything of it is in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match &self.reference {
            Some(reference) => reference.socket.clone(),
            None => self.dir.path().join("c.sock"),
        }
    }

    /// Its address, as clients take it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("coved.log")).unwrap_or_default()
    }

    /// Starts it (again); returns how long until it answered.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn launch(&mut self) -> Result<Duration> {
        if !self.is_cove() {
            return Ok(Duration::ZERO);
        }
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("coved.log"))?;
        let began = Instant::now();
        let coved = match &self.programs {
            Some(dir) => dir.join("coved"),
            None => program("coved")?,
        };
        let mut command = stdx::process::command(coved);
        command.args(["--listen", &self.address()]).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--state")
            .arg(self.dir.path().join("run"));
        if let Some(user) = &self.user {
            command.env("HOME", self.dir.path()).env("USER", USER).env("XDG_RUNTIME_DIR", self.dir.path());
            command.uid(user.uid).gid(user.gid);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn()?);
        while self.get("/_ping").is_err() {
            if began.elapsed() > PATIENCE {
                bail!("coved does not answer: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed())
    }

    /// Kills it with SIGKILL, as a crash would; containers go on. An engine of others is left alone.
    ///
    /// # Errors
    /// Where it can't be waited for.
    pub fn crash(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks it to end, and waits for that; containers go on.
    ///
    /// # Errors
    /// Where it can't be waited for.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child {
            let pid = child.id().to_string();
            let _ = stdx::process::command("kill").args(["-TERM", &pid]).status();
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end && child.try_wait().is_ok_and(|status| status.is_none()) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.crash()
    }

    /// One request without a body; the answer, head and all.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn get(&self, path: &str) -> Result<String> {
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: cove\r\nConnection: close\r\n\r\n").as_bytes())
    }

    /// One request with a body (empty for none); the status and the answer's body.
    ///
    /// # Errors
    /// Where nobody answers, or what is no HTTP.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let length = body.len();
        let answer = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: cove\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        )?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).context("no status")?;
        let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        Ok((status, if is_chunked { joined(body) } else { body.to_owned() }))
    }

    /// Sends any bytes and reads to the end.
    ///
    /// # Errors
    /// Where nobody listens.
    pub fn raw(&self, bytes: &[u8]) -> Result<String> {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // It may refuse to read all of it.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        ensure!(!answer.is_empty(), "no answer");
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Docker's command line against it.
    ///
    /// # Errors
    /// Where `docker` is not installed.
    pub fn docker(&self, args: &[&str]) -> Result<Said> {
        let mut command = stdx::process::command("docker");
        command.env("DOCKER_HOST", self.address()).args(args).stdin(Stdio::null());
        Ok(said(&command.output().context("failed to run docker (package docker-cli or docker.io)")?))
    }

    /// What [`Self::docker`] says, where it must succeed.
    ///
    /// # Errors
    /// Where it does not.
    pub fn docker_ok(&self, args: &[&str]) -> Result<String> {
        let said = self.docker(args)?;
        ensure!(said.code == 0, "docker {args:?}: {said:?}");
        Ok(said.out)
    }

    /// `cove` against it.
    ///
    /// # Errors
    /// Where it was not built.
    pub fn cove(&self, args: &[&str]) -> Result<Said> {
        let mut command = stdx::process::command(program("cove")?);
        command.env("COVE_HOST", self.address()).args(args).stdin(Stdio::null());
        Ok(said(&command.output()?))
    }

    /// As [`Self::docker`], with input.
    ///
    /// # Errors
    /// Where `docker` is not installed.
    pub fn docker_with(&self, args: &[&str], input: &[u8]) -> Result<Said> {
        self.client_with("docker", &[], args, input)
    }

    /// `docker` or `cove` against it, with variables in its environment and with input.
    ///
    /// # Errors
    /// Where the program is not there.
    pub fn client_with(
        &self,
        client: &str,
        env: &[(&str, &str)],
        args: &[&str],
        input: &[u8],
    ) -> Result<Said> {
        use std::io::Write;
        let mut command = match client {
            "cove" => stdx::process::command(program("cove")?),
            other => stdx::process::command(other),
        };
        command.env("DOCKER_HOST", self.address()).env("COVE_HOST", self.address());
        command.envs(env.iter().copied()).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("failed to run {client}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Who refuses need not read all of it.
            let _ = stdin.write_all(input);
        }
        Ok(said(&child.wait_with_output()?))
    }

    /// Waits until `is_done` says yes.
    ///
    /// # Errors
    /// After twenty seconds.
    pub fn wait_for(&self, what: &str, mut is_done: impl FnMut() -> bool) -> Result<()> {
        let began = Instant::now();
        while !is_done() {
            ensure!(
                began.elapsed() < PATIENCE,
                "waited in vain for {what}; the daemon's log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Names below a directory of its own.
    #[must_use]
    pub fn entries(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join(path)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// A body that came in chunks, each behind its length.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap_or(0);
        body.push_str(rest.get(..length).unwrap_or_default());
        chunks = rest.get(length + 2..).filter(|_| length > 0).unwrap_or_default();
    }
    body
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() || !self.is_cove() {
            self.remove_all();
        }
        // Asked to, it takes its bridge along.
        let _ = self.stop();
    }
}
