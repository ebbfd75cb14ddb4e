//! Starting `coved` in the background and waiting until it answers.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use api::client::{Client, Endpoint};

use super::locate::{Origin, Surroundings, Target};
use crate::error::Error;
use crate::sys;

/// How long an engine may take from its start to its first answer.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long another engine may take to answer after ours ended because that one was first.
const RIVAL_DEADLINE: Duration = Duration::from_secs(1);
/// How soon ours is started once more where another has its folder, which may be about to answer, or to end.
const AGAIN: Duration = Duration::from_millis(200);
/// The longest pause between two looks at the socket; the first is a twentieth of it.
const POLL_MAX: Duration = Duration::from_millis(10);
/// How long an engine started here stays with nothing to do.
const IDLE_SECONDS: u32 = 600;
/// A log beyond this is set aside at the next start, and the one set aside before is dropped.
const LOG_LIMIT: u64 = 4 << 20;
/// How much of a log an error shows.
const TAIL: u64 = 2048;

/// Whom an engine trusts beside what its system does.
const TRUSTED: &[&str] = &["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// What it takes to start an engine.
#[derive(Debug, Clone)]
pub struct Starter {
    /// The program; looked for when `None`.
    pub program: Option<PathBuf>,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The folder of its socket and its log, made with mode 0700 if missing.
    pub state_dir: PathBuf,
}

impl Starter {
    /// How to start `target`; `None` if it is not ours to start.
    #[must_use]
    pub fn of(target: &Target) -> Option<Self> {
        let (Origin::Default, Endpoint::Unix(socket), true) =
            (&target.origin, &target.endpoint, sys::HAS_ENGINES)
        else {
            return None;
        };
        Some(Self {
            program: None,
            arguments: vec![
                "--listen".to_owned(),
                target.endpoint.to_string(),
                "--idle-exit".to_owned(),
                IDLE_SECONDS.to_string(),
            ],
            state_dir: socket.parent()?.to_owned(),
        })
    }

    /// The log of an engine started here for the default target of this process.
    ///
    /// # Errors
    /// There is no place for it.
    pub fn default_log() -> Result<PathBuf, Error> {
        Ok(Surroundings::of_this_process().state_dir()?.join("coved.log"))
    }

    /// Starts the engine and returns once `client` is answered.
    ///
    /// # Errors
    /// It can't be found or executed, ends, or stays silent; the last two with the end of its log.
    pub async fn start(&self, client: &Client) -> Result<(), Error> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => find_program()?,
        };
        let begin = Instant::now();
        loop {
            match self.try_to_start(&program, client).await {
                Err(Error::Ended { status, .. }) if is_in_use(status) && begin.elapsed() < START_DEADLINE => {
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_to_start(&self, program: &Path, client: &Client) -> Result<(), Error> {
        let log = self.state_dir.join("coved.log");
        stdx::fs::make_private_dir(&self.state_dir)
            .map_err(|source| Error::Prepare { path: self.state_dir.clone(), source })?;
        let prepare = |source| Error::Prepare { path: log.clone(), source };
        let file = open_log(&log).map_err(prepare)?;
        let begin = file.metadata().map_err(prepare)?.len();
        let mut command = stdx::process::command(program);
        command.args(&self.arguments).stdin(Stdio::null());
        // How an engine reaches registries.
        stdx::process::pass(&mut command, stdx::process::PROXIES);
        stdx::process::pass(&mut command, TRUSTED);
        stdx::process::pass(&mut command, stdx::process::CREDENTIAL_HELPER);
        command.stdout(file.try_clone().map_err(prepare)?).stderr(file);
        sys::detach(&mut command);
        tracing::info!(program = %program.display(), "starting the engine");
        let spawned = command.spawn();
        let child = spawned.map_err(|source| Error::Spawn { program: program.to_owned(), source })?;
        await_answer(child, client, &log, begin).await
    }
}

async fn await_answer(mut child: Child, client: &Client, log: &Path, begin: u64) -> Result<(), Error> {
    let started = Instant::now();
    let mut pause = POLL_MAX / 20;
    let mut ended = None;
    loop {
        // Connecting fails at once while nobody listens, so the deadline only guards a stuck engine.
        if client.ping(START_DEADLINE).await.is_ok() {
            return Ok(());
        }
        if ended.is_none() {
            // An engine can't tell us more than its exit; losing the child to init is no error.
            ended = child.try_wait().ok().flatten().map(|status| (status, Instant::now()));
        }
        // Two commands may start an engine at once: the loser ends, the winner answers.
        if let Some((status, when)) = ended
            && when.elapsed() > patience_after(status)
        {
            return Err(Error::Ended { status, tail: tail_of(log, begin), log: log.to_owned() });
        }
        if started.elapsed() > START_DEADLINE {
            let after = START_DEADLINE;
            return Err(Error::Silent { after, tail: tail_of(log, begin), log: log.to_owned() });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_MAX);
    }
}

/// How long another engine is waited for once ours has ended so.
fn patience_after(status: std::process::ExitStatus) -> Duration {
    match status.code() {
        // It is no program, or there is none.
        Some(126 | 127) => Duration::ZERO,
        _ if is_in_use(status) => AGAIN,
        _ => RIVAL_DEADLINE,
    }
}

fn is_in_use(status: std::process::ExitStatus) -> bool {
    status.code() == Some(i32::from(api::EXIT_IN_USE))
}

/// `coved`: beside this program, or in PATH.
///
/// # Errors
/// It is in neither.
pub fn find_program() -> Result<PathBuf, Error> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("coved")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path).map(|dir| dir.join("coved")))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::NoProgram)
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        std::fs::rename(path, path.with_extension("log.old"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// What was written to the log since `begin`, its end if that is long. An unreadable log is an empty
/// one: the error it belongs to matters more.
fn tail_of(log: &Path, begin: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(begin.max(length.saturating_sub(TAIL)).min(length)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starter(dir: &Path, script: &str) -> (Starter, Client) {
        let program = dir.join("coved");
        // Written by another process: a test beside this one that starts a program at this moment would
        // inherit the open file, and one that is being written can't be executed.
        let write = "printf '%s\n' '#!/bin/sh' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let mut writer = stdx::process::command("/bin/sh");
        writer.args(["-c", write, "sh", script]).arg(&program);
        assert!(writer.status().unwrap().success());
        let client = Client::new(Endpoint::Unix(dir.join("state/cove.sock")));
        let starter = Starter { program: Some(program), arguments: vec![], state_dir: dir.join("state") };
        (starter, client)
    }

    #[tokio::test]
    async fn an_engine_that_ends_is_an_error_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        std::fs::write(dir.path().join("state/coved.log"), "words of an earlier start\n").unwrap();
        let (starter, client) = starter(dir.path(), "echo 'the database is locked' >&2; exit 127");
        let error = starter.start(&client).await.unwrap_err();
        assert_eq!(error.log_tail(), Some("the database is locked"));
        assert!(error.hint().unwrap().contains("coved.log"));
        assert!(matches!(error, Error::Ended { .. }), "{error}");
    }

    #[tokio::test]
    async fn an_engine_started_by_somebody_else_meanwhile_is_as_good() {
        somebody_else_answers_after(Duration::from_millis(50), "exit 1").await;
    }

    #[tokio::test]
    async fn one_that_is_known_to_be_there_may_take_its_time() {
        somebody_else_answers_after(RIVAL_DEADLINE + Duration::from_millis(500), "exit 75").await;
    }

    async fn somebody_else_answers_after(time: Duration, script: &str) {
        let dir = tempfile::tempdir().unwrap();
        let (starter, client) = starter(dir.path(), script);
        let state = starter.state_dir.clone();
        let rival = async {
            tokio::time::sleep(time).await;
            let listener = tokio::net::UnixListener::bind(state.join("cove.sock")).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            // Read first: a socket that is closed with something unread takes back what it has sent.
            let mut request = [0; 4096];
            assert!(tokio::io::AsyncReadExt::read(&mut stream, &mut request).await.unwrap() > 0);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        };
        let (started, ()) = tokio::join!(starter.start(&client), rival);
        started.unwrap();
    }

    #[tokio::test]
    async fn the_engine_runs_in_a_session_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        // Field 6 of stat is the session; the shell leads one exactly if that is its own pid.
        let script =
            "read -r pid comm state ppid pgrp session rest </proc/$$/stat; echo $pid $session; exit 126";
        let (starter, client) = starter(dir.path(), script);
        let error = starter.start(&client).await.unwrap_err();
        let (pid, session) = error.log_tail().unwrap().split_once(' ').unwrap();
        assert_eq!(pid, session);
    }
}
