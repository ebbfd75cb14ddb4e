//! A container's log as batches of lines.

use api::client::containers::Logs;
use api::client::{Channel, FrameDecoder};
use futures_util::StreamExt;
use tokio::sync::broadcast::error::RecvError;

use super::error::UiError;
use super::hub::{Change, Hub};
use super::row::millis;
use super::topic::{Closed, Feed, Input, Message, Update};

/// A batch is sent when it is this large, or when nothing more lies ready.
const BATCH: usize = 192 << 10;
/// A longer line is cut into several.
const LINE: usize = 32 << 10;
/// How long a log that is being read may be quiet before it counts as read to its end.
const QUIET: std::time::Duration = std::time::Duration::from_millis(40);

pub(crate) async fn follow(hub: &Hub, feed: &mut Feed, id: &str, tail: Option<u32>) -> Result<(), Closed> {
    let credit = feed.credit();
    let mut input = feed.take_input();
    let acks = async {
        while let Some(input) = input.recv().await {
            if let Input::Ack { bytes } = input {
                credit.give(bytes);
            }
        }
        std::future::pending::<Closed>().await
    };
    tokio::select! {
        closed = acks => Err(closed),
        result = read_all(hub, feed, id, tail) => result,
    }
}

/// Reads to the end, and goes on where it was when the container runs again.
async fn read_all(hub: &Hub, feed: &Feed, id: &str, tail: Option<u32>) -> Result<(), Closed> {
    let tty = match hub.client().inspect_container(id).await {
        Ok(page) => page.config.tty,
        Err(error) => return feed.update(Update::Failed(error.into())).await,
    };
    let mut logs = Logs {
        stdout: true,
        stderr: true,
        follow: true,
        timestamps: true,
        tail: tail.map(u64::from),
        ..Logs::default()
    };
    let mut lines = Lines::new(tty);
    loop {
        if let Err(error) = read_once(hub, feed, id, &logs, &mut lines).await? {
            return feed.update(Update::Failed(error)).await;
        }
        feed.update(Update::LogCaughtUp).await?;
        until_running(hub, feed, id).await?;
        logs.tail = None;
        logs.since = lines.after_last();
    }
}

async fn read_once(
    hub: &Hub,
    feed: &Feed,
    id: &str,
    logs: &Logs,
    lines: &mut Lines,
) -> Result<Result<(), UiError>, Closed> {
    let mut body = match hub.client().container_logs(id, logs).await {
        Ok(body) => body,
        Err(error) => return Ok(Err(error.into())),
    };
    let mut live = false;
    loop {
        let chunk = match tokio::time::timeout(QUIET, body.next()).await {
            Ok(chunk) => chunk,
            Err(_) => {
                flush(feed, lines).await?;
                if !live {
                    live = true;
                    feed.update(Update::LogCaughtUp).await?;
                }
                tokio::select! {
                    () = feed.cancelled.cancelled() => return Err(Closed),
                    chunk = body.next() => chunk,
                }
            }
        };
        match chunk {
            Some(Ok(chunk)) => lines.add(&chunk),
            Some(Err(error)) => {
                flush(feed, lines).await?;
                return Ok(Err(error.into()));
            }
            None => {
                lines.finish();
                flush(feed, lines).await?;
                return Ok(Ok(()));
            }
        }
        // While the log is read to its end, large batches; live, what there is.
        if live || lines.batch.text.len() >= BATCH {
            flush(feed, lines).await?;
        }
    }
}

async fn flush(feed: &Feed, lines: &mut Lines) -> Result<(), Closed> {
    let batch = std::mem::take(&mut lines.batch);
    if batch.times.is_empty() {
        return Ok(());
    }
    let weight = u32::try_from(batch.text.len() + batch.times.len() * 8).unwrap_or(u32::MAX);
    let update = Update::Lines { text: batch.text, times: batch.times, errors: batch.errors, weight };
    feed.send_weighed(Message::Update(Box::new(update)), weight).await
}

async fn until_running(hub: &Hub, feed: &Feed, id: &str) -> Result<(), Closed> {
    let (_, mut changes) = hub.containers();
    while hub.row(id).is_none_or(|row| row.state != "running") {
        let change = tokio::select! {
            () = feed.cancelled.cancelled() => return Err(Closed),
            change = changes.recv() => change,
        };
        match change {
            // The log of a container that is gone can't go on.
            Ok(Change::Rows { removed, .. }) if removed.iter().any(|gone| gone == id) => return Err(Closed),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Err(Closed),
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Batch {
    text: String,
    times: Vec<u64>,
    errors: Vec<u32>,
}

/// Puts lines together from whatever pieces arrive.
#[derive(Debug)]
struct Lines {
    frames: Option<FrameDecoder>,
    /// Lines begun on standard output and standard error.
    begun: [Vec<u8>; 2],
    batch: Batch,
    last_time: String,
}

impl Lines {
    fn new(tty: bool) -> Self {
        Self {
            frames: (!tty).then(FrameDecoder::new),
            begun: [Vec::new(), Vec::new()],
            batch: Batch::default(),
            last_time: String::new(),
        }
    }

    fn add(&mut self, chunk: &[u8]) {
        let Some(mut frames) = self.frames.take() else {
            return self.add_output(0, chunk);
        };
        frames.decode(chunk, |channel, bytes, _| {
            self.add_output(usize::from(channel == Channel::Stderr), bytes);
        });
        self.frames = Some(frames);
    }

    fn add_output(&mut self, output: usize, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if self.begun[output].is_empty() {
                self.push(output, &bytes[..end]);
            } else {
                let mut line = std::mem::take(&mut self.begun[output]);
                line.extend_from_slice(&bytes[..end]);
                self.push(output, &line);
            }
            bytes = &bytes[end + 1..];
        }
        self.begun[output].extend_from_slice(bytes);
        if self.begun[output].len() > LINE {
            let line = std::mem::take(&mut self.begun[output]);
            self.push(output, &line);
        }
    }

    fn finish(&mut self) {
        for output in 0..2 {
            let line = std::mem::take(&mut self.begun[output]);
            if !line.is_empty() {
                self.push(output, &line);
            }
        }
        if self.frames.is_some() {
            self.frames = Some(FrameDecoder::new());
        }
    }

    /// Takes a line apart into its time and its text. What has no time (the rest of a line that was
    /// cut) gets that of the line before.
    fn push(&mut self, output: usize, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        let (time, text) = line.split_once(' ').unwrap_or((line, ""));
        let (time, text) = match millis(time) {
            Some(millis) => {
                time.clone_into(&mut self.last_time);
                (millis, text)
            }
            None => (self.batch.times.last().copied().unwrap_or(0), line),
        };
        if !self.batch.times.is_empty() {
            self.batch.text.push('\n');
        }
        self.batch.text.push_str(text);
        if output == 1 {
            self.batch.errors.push(u32::try_from(self.batch.times.len()).unwrap_or(u32::MAX));
        }
        self.batch.times.push(time);
    }

    /// Just after the last line, as Docker's `since` takes it.
    fn after_last(&self) -> Option<String> {
        let last: jiff::Timestamp = self.last_time.parse().ok()?;
        let next = last.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
        Some(format!("{}.{:09}", next.as_second(), next.subsec_nanosecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut out = vec![stream, 0, 0, 0];
        out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        out.extend(text.as_bytes());
        out
    }

    #[test]
    fn lines_keep_their_output_and_time_however_the_stream_is_cut() {
        let mut wire = frame(1, "2026-11-24T11:00:00.000000001Z one\r\n2026-11-24T11:00:00.5Z two ");
        wire.extend(frame(2, "2026-11-24T11:00:01Z oops\n"));
        wire.extend(frame(1, "words\n"));
        for size in [1, 7, wire.len()] {
            let mut lines = Lines::new(false);
            for chunk in wire.chunks(size) {
                lines.add(chunk);
            }
            assert_eq!(lines.batch.text, "one\noops\ntwo words");
            assert_eq!(lines.batch.errors, [1]);
            assert_eq!(lines.batch.times, [1_795_518_000_000, 1_795_518_001_000, 1_795_518_000_500]);
        }
    }

    #[test]
    fn a_line_without_end_is_cut_and_one_without_time_takes_the_last() {
        let mut lines = Lines::new(true);
        lines.add(b"2026-11-24T11:00:00Z a\n");
        lines.add(&vec![b'x'; LINE + 1]);
        lines.add(b"tail");
        lines.finish();
        assert_eq!(lines.batch.times, [1_795_518_000_000; 3]);
        assert!(lines.batch.text.ends_with("x\ntail"));
    }

    #[test]
    fn reading_goes_on_just_after_the_last_line() {
        let mut lines = Lines::new(true);
        assert_eq!(lines.after_last(), None);
        lines.add(b"2026-11-24T11:00:00.999999999Z a\n");
        assert_eq!(lines.after_last().as_deref(), Some("1795518001.000000000"));
    }
}
