//! A shell in a container.

use std::time::Duration;

use api::client::{Client, Reader, Writer};
use api::exec::{CreateExec, StartExec};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::error::UiError;
use super::topic::{Closed, Credit, Feed, Input, Message, Update};

/// The best shell there is: it is looked for from inside.
const SHELL: [&str; 3] = ["/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh"];
/// Output is gathered so long, or until there is so much: a message costs more than a byte.
const GATHER: Duration = Duration::from_millis(4);
const BATCH: usize = 128 << 10;

pub(crate) async fn open(
    client: &Client,
    feed: &mut Feed,
    id: &str,
    columns: u16,
    rows: u16,
) -> Result<(), Closed> {
    let size = Some([rows, columns]);
    let exec = CreateExec {
        tty: true,
        attach_stdin: true,
        attach_stdout: true,
        attach_stderr: true,
        console_size: size,
        env: vec!["TERM=xterm-256color".to_owned()],
        cmd: Some(SHELL.map(str::to_owned).to_vec()),
        ..CreateExec::default()
    };
    let start = StartExec { tty: true, console_size: size, detach: false };
    let started = async {
        let exec = client.create_exec(id, &exec).await?.id;
        let connection = client.start_exec(&exec, &start).await?;
        Ok::<_, api::client::Error>((exec, connection))
    };
    let (exec, connection) = match started.await {
        Ok(started) => started,
        Err(error) => return feed.update(Update::Failed(no_shell(error.into()))).await,
    };
    // Engines before API 1.42 don't know the size at the start. One that does ignores the repetition.
    let _ = client.resize_exec(&exec, rows, columns).await;
    let credit = feed.credit();
    let input = feed.take_input();
    tokio::select! {
        () = feed.cancelled.cancelled() => return Err(Closed),
        () = take_input(client, &exec, connection.writer, input, credit) => return Err(Closed),
        result = send_output(feed, connection.reader) => result?,
    }
    let code = client.inspect_exec(&exec).await.ok().and_then(|exec| exec.exit_code);
    let exit_code = code.and_then(|code| i32::try_from(code).ok());
    feed.update(Update::TerminalEnd { exit_code }).await
}

/// What to a terminal is the one thing that matters, whichever engine words it.
fn no_shell(error: UiError) -> UiError {
    let missing = ["no such file or directory", "executable file not found"];
    if !missing.iter().any(|words| error.message.contains(words)) {
        return error;
    }
    UiError {
        message: "its image has no shell, so there is nothing a terminal could talk to".to_owned(),
        detail: Some(error.message),
        ..error
    }
}

/// Ends when the window closes its side, or the process no longer reads.
async fn take_input(
    client: &Client,
    exec: &str,
    mut writer: Writer,
    mut input: mpsc::Receiver<Input>,
    credit: Credit,
) {
    while let Some(input) = input.recv().await {
        match input {
            Input::Data { text } => {
                if writer.write_all(text.as_bytes()).await.is_err() {
                    // Its output tells how it ended.
                    return std::future::pending().await;
                }
            }
            // A process that has ended has no size to change.
            Input::Resize { columns, rows } => drop(client.resize_exec(exec, rows, columns).await),
            Input::Ack { bytes } => credit.give(bytes),
        }
    }
}

async fn send_output(feed: &Feed, mut reader: Reader) -> Result<(), Closed> {
    let mut buffer = BytesMut::with_capacity(BATCH);
    loop {
        // A connection that breaks ends the terminal as one that closes does.
        if reader.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + GATHER;
        let mut open = true;
        while open && buffer.len() < BATCH {
            match tokio::time::timeout_at(deadline, reader.read_buf(&mut buffer)).await {
                Ok(read) => open = read.unwrap_or(0) > 0,
                Err(_) => break,
            }
        }
        let output = buffer.split().freeze();
        let weight = u32::try_from(output.len()).unwrap_or(u32::MAX);
        feed.send_weighed(Message::Bytes(output), weight).await?;
        if !open {
            return Ok(());
        }
        buffer.reserve(BATCH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ErrorKind;

    #[test]
    fn an_image_without_a_shell_is_told_from_a_container_that_is_gone() {
        let say = |message: &str| no_shell(UiError::new(ErrorKind::NotFound, message)).message;
        assert!(say("exec: \"/bin/sh\": no such file or directory").contains("no shell"));
        assert!(
            say("exec: \"/bin/sh\": stat /bin/sh: executable file not found in $PATH").contains("no shell")
        );
        assert_eq!(say("No such container: abc"), "No such container: abc");
    }
}
