//! A container's streams and the user's, carried between each other.

use api::client::{Channel, FrameDecoder, FrameEnd, Reader, Upgraded, Writer};
use api::container::RunEvent;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::exit::{Failure, Outcome};
use crate::printer;

/// How much is carried at once.
const CHUNK: usize = 128 * 1024;

/// Carries both directions until the output ends.
pub(crate) async fn carry(connection: Upgraded, takes_input: bool) -> Outcome<()> {
    let Upgraded { reader, writer, multiplexed } = connection;
    if takes_input {
        // Its own task: a terminal's read can't be called off, and output decides when it is over.
        let input = carry_input(writer);
        let output = carry_output(reader, multiplexed);
        tokio::pin!(input, output);
        tokio::select! {
            done = &mut output => return done,
            () = &mut input => {}
        }
        return output.await;
    }
    // Kept open: closing it would end the container's input.
    let _writer = writer;
    carry_output(reader, multiplexed).await
}

async fn carry_output(mut reader: Reader, is_multiplexed: bool) -> Outcome<()> {
    let mut buffer = vec![0; CHUNK];
    let mut decoder = FrameDecoder::new();
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            printer::flush();
            return Ok(());
        }
        let chunk = buffer.get(..length).unwrap_or_default();
        if is_multiplexed {
            demultiplex(&mut decoder, chunk);
        } else {
            printer::bytes(chunk);
        }
        printer::flush();
    }
}

/// Takes frames apart and prints each where it belongs.
pub(crate) fn demultiplex(decoder: &mut FrameDecoder, chunk: &[u8]) {
    decoder.decode(chunk, |channel, payload, _| match channel {
        Channel::Stdout => printer::bytes(payload),
        Channel::Stderr | Channel::System => printer::error_bytes(payload),
    });
}

/// A container that was run by one request: its output, with events between.
pub(crate) struct Running {
    reader: Reader,
    writer: Writer,
    events: Events,
}

/// The events of a stream, while its output is printed.
#[derive(Default)]
struct Events {
    decoder: FrameDecoder,
    /// Of the next one, what has come.
    partial: Vec<u8>,
    /// What was made. The end may come with it, in one piece.
    first: Option<RunEvent>,
    /// The exit code.
    ended: Option<i64>,
}

impl Events {
    fn take(&mut self, chunk: &[u8]) -> Outcome<()> {
        let Self { decoder, partial, first, ended } = self;
        let mut outcome = Ok(());
        decoder.decode(chunk, |channel, payload, end| match channel {
            Channel::Stdout => printer::bytes(payload),
            Channel::Stderr => printer::error_bytes(payload),
            Channel::System => {
                partial.extend_from_slice(payload);
                if end == FrameEnd::Yes {
                    match serde_json::from_slice::<RunEvent>(partial) {
                        Ok(event) => {
                            *ended = event.status_code.or(*ended);
                            first.get_or_insert(event);
                        }
                        Err(error) => {
                            outcome = Err(Failure::new(format!("the engine's answer is malformed: {error}")));
                        }
                    }
                    partial.clear();
                }
            }
        });
        outcome
    }
}

impl Running {
    /// Waits until it is known what was made, and whether it runs.
    pub(crate) async fn begin(connection: Upgraded) -> Outcome<(Self, RunEvent)> {
        let Upgraded { mut reader, writer, .. } = connection;
        let mut events = Events::default();
        let mut buffer = vec![0; CHUNK];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return Err(Failure::new("the engine went away before the container ran"));
            }
            events.take(buffer.get(..length).unwrap_or_default())?;
            if let Some(made) = events.first.clone() {
                return Ok((Self { reader, writer, events }, made));
            }
        }
    }

    /// Carries both directions until the output ends. The exit code, unless the user let go of it.
    pub(crate) async fn carry(self, takes_input: bool) -> Outcome<Option<i64>> {
        let Self { mut reader, writer, mut events } = self;
        let output = async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                printer::flush();
                let length = reader.read(&mut buffer).await?;
                if length == 0 {
                    return Ok(events.ended);
                }
                events.take(buffer.get(..length).unwrap_or_default())?;
            }
        };
        if !takes_input {
            // Kept open: closing it would end the container's input.
            let _writer = writer;
            return output.await;
        }
        let input = carry_input(writer);
        tokio::pin!(input, output);
        tokio::select! {
            done = &mut output => return done,
            () = &mut input => {}
        }
        output.await
    }
}

async fn carry_input(mut writer: Writer) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = stdin.read(&mut buffer).await {
        if length == 0 || writer.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
            break;
        }
    }
    // The container sees the end of its input.
    let _ = writer.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_known_though_the_end_comes_with_it() {
        let frame = |text: &str| {
            let length = u32::try_from(text.len()).unwrap().to_be_bytes();
            [&[3, 0, 0, 0][..], &length, text.as_bytes()].concat()
        };
        let stream = [frame(r#"{"Id":"a","Warnings":["w"]}"#), frame(r#"{"StatusCode":3}"#)].concat();
        for cut in 0..stream.len() {
            let mut events = Events::default();
            let (before, after) = stream.split_at(cut);
            events.take(before).and_then(|()| events.take(after)).unwrap();
            let made = events.first.unwrap();
            assert_eq!((made.id.as_str(), made.warnings.len(), events.ended), ("a", 1, Some(3)), "{cut}");
        }
    }
}
