//! The socket where `cove` and windows ask: one request a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;
use vm_manager::control::{Answer, LINE_MAX, Request};
use vm_manager::status::Status;
use vm_proto::stream::Open;

use crate::execute;
use crate::platform::Channel;

/// How long a client may take to say what it wants.
const DEADLINE: Duration = Duration::from_secs(10);

/// A request for the machine's task, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What requests are answered from.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    /// To the task that owns the machine.
    pub(crate) asked: mpsc::Sender<Asked>,
    /// How the machine stands.
    pub(crate) status: watch::Receiver<Status>,
    /// The channel to the guest, while there is one.
    pub(crate) vsock: watch::Receiver<Option<Arc<Channel>>>,
    /// Connections that are being answered.
    pub(crate) tasks: TaskTracker,
}

/// Accepts for as long as it is polled.
pub(crate) async fn serve(mut listener: ipc::Listener, desk: Desk) {
    loop {
        match ipc::accept(&mut listener).await {
            Ok(stream) => {
                let desk = desk.clone();
                desk.tasks.clone().spawn(async move {
                    // Whoever asked is gone; nobody needs to know.
                    let _ = desk.answer(stream).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a request");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Desk {
    async fn answer(mut self, stream: ipc::Stream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        tokio::time::timeout(DEADLINE, (&mut stream).take(LINE_MAX).read_until(b'\n', &mut line)).await??;
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let cause = format!("this is no request: {error}");
                return Ok(say(&mut stream, &Answer::Refused { cause, hint: None }).await?);
            }
        };
        match request {
            Request::Follow => Ok(self.follow(&mut stream).await?),
            Request::Execute { command, terminal } => {
                let vsock = self.vsock.borrow_and_update().clone();
                let refused = |cause: String| Answer::Refused { cause, hint: None };
                let Some(vsock) = vsock else {
                    return Ok(say(&mut stream, &refused("the machine does not run".to_owned())).await?);
                };
                match execute::open(&vsock, &Open::Execute { command, terminal }).await {
                    Ok(mut inner) => {
                        say(&mut stream, &Answer::Done).await?;
                        ipc::relay(&mut stream, &mut inner).await;
                        Ok(())
                    }
                    Err(error) => Ok(say(&mut stream, &refused(format!("{error:#}"))).await?),
                }
            }
            request @ (Request::Status
            | Request::Start { .. }
            | Request::Stop
            | Request::Sleep
            | Request::Kill
            | Request::Resize { .. }
            | Request::GiveBack) => {
                let (answer, answered) = oneshot::channel();
                self.asked.send(Asked { request, answer }).await?;
                Ok(say(&mut stream, &answered.await?).await?)
            }
        }
    }

    /// Tells how the machine stands now and whenever that changes, to its end.
    async fn follow(&mut self, stream: &mut BufReader<ipc::Stream>) -> io::Result<()> {
        loop {
            let now = self.status.borrow_and_update().clone();
            say(stream, &Answer::Status(Box::new(now))).await?;
            if self.status.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn say(to: &mut BufReader<ipc::Stream>, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    to.write_all(&line).await
}
