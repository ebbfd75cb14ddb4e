//! A container's streams and the user's, carried between each other.

use api::client::{Channel, FrameDecoder, Reader, Upgraded, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::exit::Outcome;
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
