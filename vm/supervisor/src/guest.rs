//! The conversation with the guest's agent. What it says is checked in length and kind before it is believed.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use vm_proto::frame;
use vm_proto::message::{Configuration, FromGuest, FromHost, LISTENERS_MAX};

/// How long a connection may wait before its first word.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// How long a guest may take to read what it is told.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Words on their way to the guest.
const WAITING: usize = 32;
/// The longest text of a guest that is shown.
const TEXT_MAX: usize = 2000;

/// What is heard of a guest.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is there, and speaks our version.
    Hello { kernel: String, uptime_ms: u64, number: u64, guest: Guest },
    /// It is there, and speaks another.
    Stranger { version: u32, release: String },
    /// A later word.
    Word(FromGuest),
    /// It hung up, or said what can't be.
    Gone(String),
}

/// Speaks to a guest. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Guest(mpsc::Sender<FromHost>);

impl Guest {
    /// Tells it something. A guest that does not read is not waited for: it is as good as gone.
    pub(crate) fn say(&self, word: FromHost) {
        if let Err(error) = self.0.try_send(word) {
            tracing::debug!(%error, "the guest does not listen");
        }
    }

    /// Answers its first word.
    pub(crate) fn welcome(&self, configuration: Configuration) {
        self.say(FromHost::Welcome(Box::new(configuration)));
    }
}

/// Hears a guest out on one connection.
pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite,
    heard: mpsc::Sender<Heard>,
    cancelled: CancellationToken,
) {
    let outcome = tokio::select! {
        outcome = hear(stream, &heard) => outcome,
        () = cancelled.cancelled() => return,
    };
    let why = outcome.map_or_else(|error| format!("{error:#}"), |()| "it hung up".to_owned());
    // The machine may have ended meanwhile.
    let _ = heard.send(Heard::Gone(why)).await;
}

async fn hear(stream: impl AsyncRead + AsyncWrite, heard: &mpsc::Sender<Heard>) -> Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let first = tokio::time::timeout(HELLO_DEADLINE, read(&mut from)).await.context("it said nothing")??;
    let Some(FromGuest::Hello { version, release, kernel, uptime_ms, number }) = first else {
        bail!("it began with something else than a greeting");
    };
    if version != vm_proto::VERSION {
        let _ = heard.send(Heard::Stranger { version, release: shortened(&release) }).await;
        write(&mut to, &FromHost::WrongVersion { version: vm_proto::VERSION }).await?;
        // It waits to be powered off.
        while read(&mut from).await?.is_some() {}
        return Ok(());
    }
    let (sender, mut words) = mpsc::channel(WAITING);
    let kernel = shortened(&kernel);
    heard.send(Heard::Hello { kernel, uptime_ms, number, guest: Guest(sender) }).await?;
    let speak = async {
        while let Some(word) = words.recv().await {
            write(&mut to, &word).await?;
        }
        // Nobody has anything to say any more; the guest may.
        std::future::pending::<Result<()>>().await
    };
    let listen = async {
        while let Some(word) = read(&mut from).await? {
            heard.send(Heard::Word(checked(word)?)).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = speak => ended,
        ended = listen => ended,
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<FromGuest>> {
    let mut head = [0; frame::HEAD];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let mut body = vec![0; frame::length(head, frame::GUEST_MAX)?];
    from.read_exact(&mut body).await?;
    Ok(Some(frame::decode(&body)?))
}

async fn write(to: &mut (impl AsyncWrite + Unpin), word: &FromHost) -> Result<()> {
    let bytes = frame::encode(word)?;
    tokio::time::timeout(WRITE_DEADLINE, to.write_all(&bytes)).await.context("it does not read")??;
    Ok(())
}

/// Refuses what no agent says, and cuts texts to what can be shown.
fn checked(word: FromGuest) -> Result<FromGuest> {
    Ok(match word {
        FromGuest::Hello { .. } => bail!("it greeted twice"),
        FromGuest::Listening { sockets } if sockets.len() > LISTENERS_MAX => {
            bail!("it listens on too many ports")
        }
        FromGuest::Progress { step, detail } => FromGuest::Progress { step, detail: shortened(&detail) },
        FromGuest::Failed { step, cause } => FromGuest::Failed { step, cause: shortened(&cause) },
        FromGuest::NotReady { cause } => FromGuest::NotReady { cause: shortened(&cause) },
        FromGuest::Warning { step, text } => FromGuest::Warning { step, text: shortened(&text) },
        FromGuest::EngineEnded { how, tail } => {
            FromGuest::EngineEnded { how: shortened(&how), tail: shortened(&tail) }
        }
        other @ (FromGuest::Done { .. }
        | FromGuest::EngineBack
        | FromGuest::Listening { .. }
        | FromGuest::Report(_)
        | FromGuest::Ready
        | FromGuest::Bye) => other,
    })
}

/// Without what would move a terminal's cursor, and of bounded length.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard of a guest that writes `bytes` and hangs up.
    async fn heard_of(bytes: Vec<u8>) -> Vec<Heard> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let say = async {
            let _ = theirs.write_all(&bytes).await;
            let _ = theirs.shutdown().await;
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        };
        let (sender, mut receiver) = mpsc::channel(1024);
        tokio::join!(say, converse(ours, sender, CancellationToken::new()));
        let mut all = Vec::new();
        while let Some(heard) = receiver.recv().await {
            all.push(heard);
        }
        all
    }

    fn hello(version: u32) -> Vec<u8> {
        let (release, kernel) = ("1".into(), "7".into());
        let word = FromGuest::Hello { version, release, kernel, uptime_ms: 1, number: 1 };
        frame::encode(&word).unwrap()
    }

    #[tokio::test]
    async fn an_agent_of_another_version_is_told_apart() {
        let heard = heard_of(hello(vm_proto::VERSION + 1)).await;
        assert!(matches!(heard.first(), Some(Heard::Stranger { .. })), "{heard:?}");
    }

    #[tokio::test]
    async fn a_guest_that_greets_twice_or_with_escape_sequences_is_put_in_its_place() {
        let twice = [hello(vm_proto::VERSION), hello(vm_proto::VERSION)].concat();
        let heard = heard_of(twice).await;
        assert!(matches!(heard.last(), Some(Heard::Gone(why)) if why.contains("twice")), "{heard:?}");
        let word = FromGuest::EngineEnded { how: "\x1b[2Jgone".into(), tail: "x".repeat(10_000) };
        let heard = heard_of([hello(vm_proto::VERSION), frame::encode(&word).unwrap()].concat()).await;
        let told = heard.iter().find_map(|heard| match heard {
            Heard::Word(FromGuest::EngineEnded { how, tail }) => Some((how.clone(), tail.len())),
            _ => None,
        });
        assert_eq!(told, Some(("[2Jgone".to_owned(), TEXT_MAX)));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_of_a_guest_do_more_than_end_the_conversation(bytes: Vec<u8>, greets: bool) {
            let bytes = if greets { [hello(vm_proto::VERSION), bytes].concat() } else { bytes };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let heard = runtime.block_on(heard_of(bytes));
            proptest::prop_assert!(matches!(heard.last(), Some(Heard::Gone(_))));
        }
    }
}
