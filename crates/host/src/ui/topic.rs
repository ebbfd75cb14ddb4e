//! What a window can follow: topics, what they send, and what can be sent to them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::UiError;
use super::hub::EngineState;
use super::image::ImageRow;
use super::machine::MachineRow;
use super::network::NetworkRow;
use super::progress::Transfer;
use super::row::ContainerRow;
use super::run::RunForm;
use super::stats::Sample;
use super::volume::{VolumeRow, VolumeSize};

/// How many messages may wait for a transport.
const QUEUE: usize = 32;
/// How many bytes of log or terminal output may be on their way to a window that has not told that it
/// took them: neither of its transports slows a sender down by itself.
pub(crate) const WINDOW: u32 = 1 << 20;

/// Something that goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "topic", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Topic {
    /// The engine's state, now and at each change: [`Update::Engine`].
    Engine,
    /// All containers: [`Update::Containers`], then [`Update::Changed`].
    Containers,
    /// All images, now and at each change: [`Update::Images`].
    Images,
    /// All networks, now and at each change: [`Update::Networks`].
    Networks,
    /// All volumes, now and at each change: [`Update::Volumes`].
    Volumes,
    /// What volumes occupy, for as long as somebody looks, since it takes reading all of them:
    /// [`Update::VolumeSizes`].
    VolumeSizes,
    /// All machines of this computer, now and at each change: [`Update::Machines`].
    Machines,
    /// What some containers use, every two seconds: [`Update::Stats`].
    Stats {
        /// Their ids.
        ids: Vec<String>,
    },
    /// A container's log, and what it writes from now on, across restarts: [`Update::Lines`]. Takes
    /// [`Input::Ack`].
    Logs {
        /// The container's id.
        id: String,
        /// Begin so many lines before the end; with all if nothing.
        #[serde(default)]
        #[cfg_attr(test, ts(optional))]
        tail: Option<u32>,
    },
    /// A shell in a container: [`Message::Bytes`], ended by [`Update::TerminalEnd`]. Takes all inputs.
    Terminal {
        /// The container's id.
        id: String,
        /// The terminal's width in characters.
        columns: u16,
        /// The terminal's height in lines.
        rows: u16,
    },
    /// A pull: [`Update::Transfer`], then [`Update::Done`] or [`Update::Failed`]. Closing it cancels.
    Pull {
        /// What to pull.
        reference: String,
    },
    /// A container made and started, its image pulled where it is missing: [`Update::Stage`] and
    /// [`Update::Transfer`], then [`Update::Done`] with its id, or [`Update::Failed`].
    Run {
        /// What to run.
        form: RunForm,
    },
}

/// What a window sends to a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Input {
    /// Typed text.
    Data {
        /// The text.
        text: String,
    },
    /// The terminal has another size.
    Resize {
        /// Characters.
        columns: u16,
        /// Lines.
        rows: u16,
    },
    /// So many bytes of output were taken in.
    Ack {
        /// Bytes.
        bytes: u32,
    },
}

/// What a topic sends as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Update {
    /// The engine's state.
    Engine(EngineState),
    /// All containers there are: replaces what was known.
    Containers {
        /// In no order.
        rows: Vec<ContainerRow>,
    },
    /// Containers that are new or differ, and those that are gone.
    Changed {
        /// New ones and changed ones.
        rows: Vec<ContainerRow>,
        /// Ids.
        removed: Vec<String>,
    },
    /// All images there are.
    Images {
        /// In no order.
        rows: Vec<ImageRow>,
    },
    /// All networks there are.
    Networks {
        /// In no order.
        rows: Vec<NetworkRow>,
    },
    /// All volumes there are.
    Volumes {
        /// In no order.
        rows: Vec<VolumeRow>,
    },
    /// What volumes occupy.
    VolumeSizes {
        /// One for each that could be measured.
        sizes: Vec<VolumeSize>,
    },
    /// All machines there are.
    Machines {
        /// By name.
        rows: Vec<MachineRow>,
    },
    /// What containers use.
    Stats {
        /// One for each that runs.
        samples: Vec<Sample>,
    },
    /// Lines of a log. To be acknowledged with `weight`.
    Lines {
        /// The lines, joined by line feeds.
        text: String,
        /// When each was written, milliseconds since the epoch.
        times: Vec<u64>,
        /// Which of them are from standard error.
        errors: Vec<u32>,
        /// What to acknowledge.
        weight: u32,
    },
    /// Everything written so far has been sent; from here on it is live.
    LogCaughtUp,
    /// A terminal's process ended.
    TerminalEnd {
        /// Its exit code, if there is one.
        exit_code: Option<i32>,
    },
    /// What a run is busy with.
    Stage {
        /// Which stage.
        stage: super::run::Stage,
    },
    /// How far a pull is.
    Transfer(Transfer),
    /// It worked.
    Done {
        /// The container, if one was made.
        id: Option<String>,
        /// What the engine warns about.
        warnings: Vec<String>,
    },
    /// It did not.
    Failed(UiError),
}

/// One message to a window.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Travels as JSON.
    Update(Box<Update>),
    /// Travels as it is: a terminal's output, to be acknowledged with its length.
    Bytes(Bytes),
}

/// A topic that was opened; dropping it closes it.
#[derive(Debug)]
pub struct Subscription {
    messages: mpsc::Receiver<Message>,
    /// What it takes.
    pub input: mpsc::Sender<Input>,
    _guard: DropGuard,
}

impl Subscription {
    /// The next message; `None` is the topic's end.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

/// The topic's side of a [`Subscription`].
#[derive(Debug)]
pub(crate) struct Feed {
    messages: mpsc::Sender<Message>,
    pub(crate) input: mpsc::Receiver<Input>,
    pub(crate) cancelled: CancellationToken,
    credit: Arc<Semaphore>,
}

/// The window has gone, or asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

/// Both sides of a new subscription, which also ends with `parent`.
pub(crate) fn subscription(parent: &CancellationToken) -> (Subscription, Feed) {
    let (messages_tx, messages) = mpsc::channel(QUEUE);
    let (input, input_rx) = mpsc::channel(QUEUE);
    let cancelled = parent.child_token();
    let feed = Feed {
        messages: messages_tx,
        input: input_rx,
        cancelled: cancelled.clone(),
        credit: Arc::new(Semaphore::new(WINDOW as usize)),
    };
    (Subscription { messages, input, _guard: cancelled.drop_guard() }, feed)
}

impl Feed {
    pub(crate) async fn update(&self, update: Update) -> Result<(), Closed> {
        self.send(Message::Update(Box::new(update))).await
    }

    pub(crate) async fn send(&self, message: Message) -> Result<(), Closed> {
        tokio::select! {
            () = self.cancelled.cancelled() => Err(Closed),
            sent = self.messages.send(message) => sent.map_err(|_| Closed),
        }
    }

    /// Sends something that weighs `weight` bytes once the window has taken enough of what was sent
    /// before. Meanwhile the acknowledgements must be read: see [`Self::credit`].
    pub(crate) async fn send_weighed(&self, message: Message, weight: u32) -> Result<(), Closed> {
        let weight = weight.clamp(1, WINDOW);
        tokio::select! {
            () = self.cancelled.cancelled() => return Err(Closed),
            permit = self.credit.acquire_many(weight) => permit.map_err(|_| Closed)?.forget(),
        }
        self.send(message).await
    }

    /// Where acknowledgements go.
    pub(crate) fn credit(&self) -> Credit {
        Credit(Arc::clone(&self.credit))
    }

    /// Takes the inputs, for a task of their own.
    pub(crate) fn take_input(&mut self) -> mpsc::Receiver<Input> {
        let (_, empty) = mpsc::channel(1);
        std::mem::replace(&mut self.input, empty)
    }
}

/// The right to send more bytes.
#[derive(Debug, Clone)]
pub(crate) struct Credit(Arc<Semaphore>);

impl Credit {
    /// Gives `bytes` back; never more than were ever lent, whatever a window claims.
    pub(crate) fn give(&self, bytes: u32) {
        let room = (WINDOW as usize).saturating_sub(self.0.available_permits());
        self.0.add_permits(room.min(bytes as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_waits_for_acknowledgement_and_a_lie_gains_nothing() {
        let (mut subscription, feed) = subscription(&CancellationToken::new());
        let credit = feed.credit();
        let message = || Message::Bytes(Bytes::from_static(b"x"));
        feed.send_weighed(message(), WINDOW).await.unwrap();
        {
            let mut second = std::pin::pin!(feed.send_weighed(message(), 10));
            assert!(futures_util::poll!(second.as_mut()).is_pending());
            credit.give(u32::MAX);
            second.await.unwrap();
        }
        assert_eq!(feed.credit.available_permits(), WINDOW as usize - 10);
        assert!(subscription.next().await.is_some());
    }

    #[tokio::test]
    async fn dropping_a_subscription_ends_its_feed() {
        let (subscription, feed) = subscription(&CancellationToken::new());
        drop(subscription);
        assert_eq!(feed.update(Update::LogCaughtUp).await, Err(Closed));
    }
}
