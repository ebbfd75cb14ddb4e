//! A pull's stream of small steps, added up by layer.

use std::time::{Duration, Instant};

use api::image::Progress;
use serde::{Deserialize, Serialize};

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// What is pulled.
    pub reference: String,
    /// In the order the engine named them.
    pub layers: Vec<Layer>,
    /// Bytes that have arrived, of those layers whose size is known.
    pub current: u64,
    /// Bytes of all layers whose size is known.
    pub total: u64,
    /// Of those that have arrived, how many are unpacked too.
    pub unpacked: u64,
    /// Bytes a second, over the last seconds.
    pub rate: u64,
    /// What the engine says about the whole.
    pub status: String,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Its short id.
    pub id: String,
    /// What happens to it.
    pub state: LayerState,
    /// Bytes done of what its state names.
    pub current: u64,
    /// Bytes in all, 0 if unknown.
    pub total: u64,
    /// Its compressed size, 0 if unknown.
    pub size: u64,
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "as Docker words them")]
pub enum LayerState {
    Waiting,
    Downloading,
    Downloaded,
    Extracting,
    Done,
    /// It was here before.
    Present,
}

/// Adds up the steps of one pull.
#[derive(Debug)]
pub struct Tally {
    transfer: Transfer,
    window: (Instant, u64),
}

/// Over how long the rate is taken.
const RATE_WINDOW: Duration = Duration::from_secs(2);

impl Tally {
    /// A pull of `reference` that has not begun.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        let transfer = Transfer { reference: reference.to_owned(), ..Transfer::default() };
        Self { transfer, window: (Instant::now(), 0) }
    }

    /// Takes one step in.
    pub fn add(&mut self, step: &Progress, now: Instant) {
        let status = step.status.as_deref().unwrap_or_default();
        let Some(state) = state_of(status) else {
            // The first line names the repository under the tag's id, the last ones the digest.
            status.clone_into(&mut self.transfer.status);
            return;
        };
        let Some(id) = step.id.as_deref() else { return };
        let index = self.transfer.layers.iter().position(|layer| layer.id == id).unwrap_or_else(|| {
            let layer = Layer { id: id.to_owned(), state, current: 0, total: 0, size: 0 };
            self.transfer.layers.push(layer);
            self.transfer.layers.len() - 1
        });
        let layer = &mut self.transfer.layers[index];
        layer.state = state;
        let detail = step.progress_detail.as_ref();
        let (current, total) =
            detail.map_or((0, 0), |detail| (detail.current.unwrap_or(0), detail.total.unwrap_or(0)));
        match state {
            LayerState::Waiting => {}
            LayerState::Downloading => {
                (layer.current, layer.total) = (current, total.max(layer.size));
                layer.size = layer.total;
            }
            LayerState::Extracting => (layer.current, layer.total) = (current, total),
            LayerState::Downloaded | LayerState::Done | LayerState::Present => {
                (layer.current, layer.total) = (layer.size, layer.size);
            }
        }
        self.sum(now);
    }

    fn sum(&mut self, now: Instant) {
        let layers = &self.transfer.layers;
        self.transfer.total = layers.iter().map(|layer| layer.size).sum();
        self.transfer.current = layers
            .iter()
            .map(|layer| match layer.state {
                LayerState::Downloading => layer.current.min(layer.size),
                LayerState::Waiting | LayerState::Present => 0,
                LayerState::Downloaded | LayerState::Extracting | LayerState::Done => layer.size,
            })
            .sum();
        self.transfer.unpacked = layers.iter().map(unpacked).sum();
        let (since, bytes) = self.window;
        let passed = now.saturating_duration_since(since);
        if passed >= RATE_WINDOW {
            let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX).max(1);
            self.transfer.rate = self.transfer.current.saturating_sub(bytes) * 1000 / millis;
            self.window = (now, self.transfer.current);
        }
    }

    /// The sum so far.
    #[must_use]
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }
}

/// An engine tells how far unpacking is in bytes of one or the other form; the share is what counts.
fn unpacked(layer: &Layer) -> u64 {
    match layer.state {
        LayerState::Done => layer.size,
        LayerState::Extracting if layer.total > 0 => {
            let part = u128::from(layer.size) * u128::from(layer.current.min(layer.total));
            u64::try_from(part / u128::from(layer.total)).unwrap_or(layer.size)
        }
        _ => 0,
    }
}

fn state_of(status: &str) -> Option<LayerState> {
    Some(match status {
        "Pulling fs layer" | "Waiting" => LayerState::Waiting,
        "Downloading" | "Retrying" => LayerState::Downloading,
        "Verifying Checksum" | "Download complete" => LayerState::Downloaded,
        "Extracting" => LayerState::Extracting,
        "Pull complete" => LayerState::Done,
        "Already exists" => LayerState::Present,
        _ if status.starts_with("Retrying in") => LayerState::Waiting,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::image::ProgressDetail;

    fn step(id: &str, status: &str, current: u64, total: u64) -> Progress {
        Progress {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail {
                current: (current > 0).then_some(current),
                total: (total > 0).then_some(total),
            }),
            ..Progress::default()
        }
    }

    #[test]
    fn layers_add_up_through_their_stages() {
        let mut tally = Tally::new("acme/api:dev");
        let now = Instant::now();
        for step in [
            step("dev", "Pulling from acme/api", 0, 0),
            step("aaa", "Already exists", 0, 0),
            step("bbb", "Pulling fs layer", 0, 0),
            step("ccc", "Waiting", 0, 0),
            step("bbb", "Downloading", 40, 100),
            step("ccc", "Downloading", 10, 50),
        ] {
            tally.add(&step, now);
        }
        assert_eq!((tally.transfer().current, tally.transfer().total), (50, 150));
        tally.add(&step("bbb", "Download complete", 0, 0), now);
        tally.add(&step("bbb", "Extracting", 7, 100), now);
        assert_eq!((tally.transfer().current, tally.transfer().total), (110, 150));
        assert_eq!(tally.transfer().unpacked, 7);
        tally.add(&step("bbb", "Pull complete", 0, 0), now);
        tally.add(&step("ccc", "Pull complete", 0, 0), now + RATE_WINDOW);
        assert_eq!((tally.transfer().current, tally.transfer().rate), (150, 75));
        let states: Vec<_> = tally.transfer().layers.iter().map(|layer| layer.state).collect();
        assert_eq!(states, [LayerState::Present, LayerState::Done, LayerState::Done]);
        assert_eq!(tally.transfer().status, "Pulling from acme/api");
    }
}
