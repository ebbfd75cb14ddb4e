//! Speaking to a machine's supervisor, and starting it.

use std::env::consts::EXE_SUFFIX;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use vm_manager::control::{Answer, LINE_MAX, Request};
use vm_manager::places::{Places, make_private};
use vm_manager::status::Status;
use vm_proto::message::Mode;

use super::{Error, images};
use crate::sys;

/// What a supervisor is called.
const PROGRAM: &str = "cove-machine";
/// How long a supervisor may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to answer: it never waits for its machine.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// A log beyond this is set aside at the next start.
const LOG_LIMIT: u64 = 4 << 20;
/// What a supervisor is told by the environment, beside proxies. `COVE_SHARES=layer` is for trying.
const HANDED_ON: &[&str] =
    &["SSL_CERT_FILE", "SSH_AUTH_SOCK", "COVE_ACCELERATION", "COVE_SHARES", "COVE_LOG"];

/// A connection to a supervisor, for one request.
#[derive(Debug)]
pub struct Supervisor {
    stream: BufReader<ipc::Stream>,
    name: String,
}

impl Supervisor {
    /// Connects to the one of a machine that runs.
    ///
    /// # Errors
    /// There is none.
    pub async fn connect(places: &Places) -> Result<Self, Error> {
        let connected = ipc::connect(&places.control()).await;
        let stream = connected.map_err(failed("reach", &places.name))?;
        Ok(Self { stream: BufReader::new(stream), name: places.name.clone() })
    }

    async fn say(&mut self, request: &Request) -> Result<(), Error> {
        let mut line =
            serde_json::to_vec(request).map_err(io::Error::from).map_err(failed("ask", &self.name))?;
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(failed("ask", &self.name))
    }

    async fn hear(&mut self) -> io::Result<Option<Answer>> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Ends the process, as `kill -9` does.
    pub(super) fn end(&self) -> Result<(), Error> {
        let ended = ipc::peer(self.stream.get_ref()).and_then(|pid| sys::end(pid, PROGRAM));
        ended.map_err(failed("end", &self.name))
    }

    /// Asks for something.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(mut self, request: &Request) -> Result<Answer, Error> {
        self.say(request).await?;
        let name = self.name.clone();
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.hear()).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let answer = answer.and_then(|answer| answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
        answer.map_err(failed("understand", &name))
    }

    /// Hears of every change from now on.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn follow(mut self) -> Result<Follower, Error> {
        self.say(&Request::Follow).await?;
        Ok(Follower(self))
    }

    /// Runs a program in the guest; the stream carries `vm_proto::stream::Piece`s.
    ///
    /// # Errors
    /// It is not started.
    pub async fn execute(
        mut self,
        command: Vec<String>,
        terminal: Option<(u16, u16)>,
    ) -> Result<BufReader<ipc::Stream>, Error> {
        self.say(&Request::Execute { command, terminal }).await?;
        let name = self.name.clone();
        let answer = self.hear().await.map_err(failed("understand", &name))?;
        answer.unwrap_or_else(gone).done()?;
        Ok(self.stream)
    }
}

/// Hears how a machine stands.
#[derive(Debug)]
pub struct Follower(Supervisor);

impl Follower {
    /// The next change; `None` when the supervisor is over.
    ///
    /// # Errors
    /// It says what can't be understood.
    pub async fn next(&mut self) -> Result<Option<Status>, Error> {
        match self.0.hear().await {
            Ok(Some(Answer::Status(status))) => Ok(Some(*status)),
            Ok(Some(Answer::Refused { cause, hint })) => Err(Error::Refused { cause, hint }),
            // Its end may break the connection.
            Ok(None | Some(Answer::Done | Answer::Resized { .. })) | Err(_) => Ok(None),
        }
    }
}

/// An answer, as far as it is one.
pub(super) trait Done {
    /// # Errors
    /// It is a refusal.
    fn done(self) -> Result<(), Error>;
}

impl Done for Answer {
    fn done(self) -> Result<(), Error> {
        match self {
            Self::Done | Self::Resized { .. } | Self::Status(_) => Ok(()),
            Self::Refused { cause, hint } => Err(Error::Refused { cause, hint }),
        }
    }
}

fn gone() -> Answer {
    Answer::Refused { cause: "the machine went away".to_owned(), hint: None }
}

pub(super) fn unexpected(places: &Places, answer: &Answer) -> Error {
    let source = io::Error::other(format!("it answered {answer:?}"));
    failed("understand", &places.name)(source)
}

fn failed(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Error {
    let name = name.to_owned();
    move |source| Error::Supervisor { action, name, source }
}

/// A connection to the machine's supervisor, which is started first if there is none.
pub(super) async fn ensure(places: &Places, mode: Mode) -> Result<Supervisor, Error> {
    if let Ok(supervisor) = Supervisor::connect(places).await {
        return Ok(supervisor);
    }
    let program = find_program()?;
    let start = failed("start", &places.name);
    // A machine's folders lie in those of all.
    let all = |folder: &std::path::Path| folder.parent().unwrap_or(folder).to_owned();
    let mut command = stdx::process::command(&program);
    command.arg("run").arg(&places.name).arg("--data").arg(all(&places.data));
    command.arg("--run").arg(all(&places.run));
    command.arg("--images").arg(images());
    if mode == Mode::Rescue {
        command.arg("--rescue");
    }
    stdx::process::pass(&mut command, stdx::process::PROXIES);
    stdx::process::pass(&mut command, HANDED_ON);
    make_private(&places.data)?;
    let log = places.log();
    let log = || -> io::Result<std::fs::File> {
        if std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
            std::fs::rename(&log, log.with_extension("log.old"))?;
        }
        std::fs::OpenOptions::new().create(true).append(true).open(&log)
    };
    let spawned = log().and_then(|log| {
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::detach(&mut command);
        command.spawn()
    });
    let mut child = spawned.map_err(start)?;
    let begin = Instant::now();
    let mut ended = None;
    loop {
        if let Ok(supervisor) = Supervisor::connect(places).await {
            return Ok(supervisor);
        }
        ended = ended.or_else(|| child.try_wait().ok().flatten());
        // Another one may have been quicker, and not be listening yet.
        if begin.elapsed() > START_DEADLINE || ended.is_some_and(|_| begin.elapsed() > Duration::from_secs(2))
        {
            let how = ended
                .map_or_else(|| "it does not answer".to_owned(), |status| format!("it ended ({status})"));
            return Err(failed("start", &places.name)(io::Error::other(how)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until a supervisor that said its last word has let go of the machine.
pub(super) async fn wait_until_over(places: &Places) -> Result<(), Error> {
    let begin = Instant::now();
    while begin.elapsed() < ANSWER_DEADLINE {
        let Ok(lock) = std::fs::File::open(places.lock()) else { return Ok(()) };
        if lock.try_lock_shared().is_ok() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(failed("see the end of", &places.name)(io::ErrorKind::TimedOut.into()))
}

/// `cove-machine` beside this program, else in `PATH`.
fn find_program() -> Result<std::path::PathBuf, Error> {
    let name = format!("{PROGRAM}{EXE_SUFFIX}");
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(&name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = beside.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(&name)));
    places.find(|candidate| candidate.is_file()).ok_or(Error::NoProgram)
}
