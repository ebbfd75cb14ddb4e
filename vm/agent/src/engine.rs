//! Keeping `coved` running: started, asked whether it answers, started again when it ends.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::children::{Children, Started};
use crate::tell;

/// Its socket for programs of this guest, and for what the host asks of its own accord.
pub(crate) const SOCKET: &str = "/run/cove/cove.sock";
const PROGRAM: &str = "/usr/bin/coved";
/// How long it may take from its start to its first answer: a crash may have left much to look through.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Pauses before it is started again: the first is this, each later one twice as long.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// One that ran so long before it ended begins anew with the shortest pause.
const STEADY: Duration = Duration::from_secs(60);
/// How long it may take to end when told to.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How much of its words is kept for an error.
const TAIL: usize = 4 << 10;

/// What it is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Variables beside those every program has: the proxies.
    pub(crate) environment: Vec<(String, String)>,
    /// The host's addresses as seen from here.
    pub(crate) host: Vec<IpAddr>,
    /// Where its clients on the host connect.
    pub(crate) clients: OwnedFd,
    /// Whether those may name folders by drives.
    pub(crate) has_drives: bool,
}

/// What becomes of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It answers for the first time.
    Ready,
    /// It did not come up at all.
    Failed(String),
    /// It ended; it is started again.
    Ended { how: String, tail: String },
    /// It answers again.
    Back,
}

/// Keeps it running until `stop` says otherwise; events are told in order.
pub(crate) async fn keep(
    children: Children,
    settings: Settings,
    events: tokio::sync::mpsc::Sender<Event>,
    mut stop: watch::Receiver<bool>,
) {
    let mut pause = PAUSE;
    let mut has_answered = false;
    while !*stop.borrow() {
        let begin = Instant::now();
        let words = Words::default();
        let mut engine = match start(&children, &settings, &words) {
            Ok(engine) => engine,
            Err(error) => {
                let _ = events.send(Event::Failed(format!("{error:#}"))).await;
                return;
            }
        };
        let answered = tokio::select! {
            answered = answers() => answered,
            status = engine.wait() => Err(anyhow::anyhow!("it ended with {}", how(&status))),
        };
        match answered {
            Ok(()) => {
                let event = if has_answered { Event::Back } else { Event::Ready };
                has_answered = true;
                let _ = events.send(event).await;
            }
            Err(error) if !has_answered => {
                let _ = events.send(Event::Failed(format!("{error:#}: {}", words.tail()))).await;
                has_answered = true;
            }
            Err(error) => tell(format_args!("cove-agent: the engine does not answer: {error:#}")),
        }
        tokio::select! {
            status = engine.wait() => {
                let event = Event::Ended { how: how(&status), tail: words.tail() };
                let _ = events.send(event).await;
            }
            () = told_to_stop(&mut stop) => {
                end(&mut engine).await;
                return;
            }
        }
        pause = if begin.elapsed() > STEADY { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = told_to_stop(&mut stop) => {}
        }
    }
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // Who could say so is gone: that is as good.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn how(status: &Result<std::process::ExitStatus>) -> String {
    status.as_ref().map_or_else(|_| "an unknown status".to_owned(), ToString::to_string)
}

async fn end(engine: &mut Started) {
    let pid = i32::try_from(engine.child.id()).ok().and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    // One that is gone needs no signal.
    let _ = kill_process(pid, Signal::TERM);
    if tokio::time::timeout(STOP_DEADLINE, engine.wait()).await.is_err() {
        let _ = kill_process(pid, Signal::KILL);
        let _ = tokio::time::timeout(STOP_DEADLINE, engine.wait()).await;
    }
}

fn start(children: &Children, settings: &Settings, words: &Words) -> Result<Started> {
    let (sender, receiver) = pipe::pipe().context("failed to make a pipe")?;
    let output = sender.into_blocking_fd()?;
    let mut command = stdx::process::command(PROGRAM);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
    command.args(settings.host.iter().flat_map(|host| ["--host-gateway-ip".to_owned(), host.to_string()]));
    command.envs(settings.environment.iter().map(|(name, value)| (name, value)));
    if settings.has_drives {
        command.arg("--drives");
    }
    command.args(["--listen", &format!("unix://{SOCKET}"), "--listen", "fd://0"]);
    let clients = settings.clients.try_clone().context("failed to hand the clients' socket on")?;
    command.stdin(clients).stdout(output.try_clone()?).stderr(output);
    let started = children.spawn(&mut command)?;
    let words = words.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with the engine's last copy of the pipe; the guest ends with us"
    )]
    tokio::spawn(async move { words.keep(receiver).await });
    Ok(started)
}

/// The end of what the engine says, which goes to the console as well.
#[derive(Debug, Clone, Default)]
struct Words(Arc<Mutex<VecDeque<u8>>>);

impl Words {
    async fn keep(self, from: pipe::Receiver) {
        let mut lines = BufReader::new(from).split(b'\n');
        while let Ok(Some(mut line)) = lines.next_segment().await {
            line.push(b'\n');
            let _ = io::Write::write_all(&mut io::stderr(), &line);
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(line);
            let too_many = kept.len().saturating_sub(TAIL);
            kept.drain(..too_many);
        }
    }

    fn tail(&self) -> String {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned()
    }
}

/// Waits until it answers.
async fn answers() -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < START_DEADLINE {
        if ping().await.unwrap_or(false) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    bail!("it did not answer within {} s", START_DEADLINE.as_secs())
}

async fn ping() -> io::Result<bool> {
    let mut stream = UnixStream::connect(SOCKET).await?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer.ends_with(b" 200"))
}

/// Whether it answers now.
pub(crate) async fn runs() -> bool {
    tokio::time::timeout(Duration::from_secs(1), ping()).await.is_ok_and(|answer| answer.unwrap_or(false))
}
