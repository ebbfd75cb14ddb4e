//! Streams into the guest that begin with what they are for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vm_proto::stream::{Open, Opened};
use vm_proto::{frame, port};

use crate::platform::{self, Channel, Stream};

/// How long the guest may take to answer.
const DEADLINE: Duration = Duration::from_secs(15);

/// Opens one; it is what was asked for when this returns.
pub(crate) async fn open(vsock: &Arc<Channel>, what: &Open) -> Result<Stream> {
    let opened = platform::open(vsock, port::STREAM, DEADLINE).await;
    let mut stream = opened.context("the guest does not answer")?;
    stream.write_all(&frame::encode(what)?).await?;
    match tokio::time::timeout(DEADLINE, read_answer(&mut stream))
        .await
        .context("the guest does not answer")??
    {
        Opened::Ready => Ok(stream),
        Opened::Refused { cause } => bail!("{cause}"),
    }
}

async fn read_answer(stream: &mut Stream) -> Result<Opened> {
    let mut head = [0; frame::HEAD];
    stream.read_exact(&mut head).await.context("the guest hung up")?;
    let mut body = vec![0; frame::length(head, frame::GUEST_MAX)?];
    stream.read_exact(&mut body).await.context("the guest hung up")?;
    Ok(frame::decode(&body)?)
}
