//! How fast a registry sends, when that is too slow to go on, and how long until it is tried again.

use std::time::{Duration, Instant};

use reqwest::Response;

use super::Registries;

/// What a registry must send at least, so that a byte now and then does not keep a pull alive for ever.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Bytes in a second.
    rate: u64,
    /// Over how long that is measured.
    window: Duration,
}

/// Why no more came.
pub(super) enum Interrupted {
    /// The connection failed.
    Broke(reqwest::Error),
    /// Too little came for too long.
    TooSlow(TooSlow),
}

/// Too little came for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooSlow {
    bytes: u64,
    waited: Duration,
    rate: u64,
}

impl std::fmt::Display for TooSlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bytes, waited, rate } = self;
        let seconds = waited.as_secs_f64();
        write!(f, "it sent {bytes} bytes in {seconds:.1} seconds, at least {rate} in each are asked for")
    }
}

impl Pace {
    pub(super) fn new(registries: &Registries) -> Self {
        Self { rate: registries.least_rate, window: registries.rate_window }
    }

    /// What has to come in one window.
    pub(super) fn least(&self) -> u64 {
        let millis = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        self.rate.saturating_mul(millis) / 1000
    }

    /// Watches one answer.
    pub(super) fn watch(self) -> Watch {
        Watch { pace: self, bytes: 0, waited: Duration::ZERO }
    }
}

/// One answer's pace. Only waiting for the network counts, not what is done with the bytes meanwhile.
pub(super) struct Watch {
    pace: Pace,
    /// Since the window began.
    bytes: u64,
    waited: Duration,
}

impl Watch {
    /// The answer's next piece.
    pub(super) async fn chunk(
        &mut self,
        response: &mut Response,
    ) -> Result<Option<bytes::Bytes>, Interrupted> {
        let began = Instant::now();
        // Complete silence ends this: the client's own deadline for reads is shorter than any window.
        let chunk = response.chunk().await.map_err(Interrupted::Broke)?;
        if let Some(chunk) = &chunk {
            self.note(chunk.len() as u64, began.elapsed()).map_err(Interrupted::TooSlow)?;
        }
        Ok(chunk)
    }

    fn note(&mut self, bytes: u64, waited: Duration) -> Result<(), TooSlow> {
        self.bytes += bytes;
        self.waited += waited;
        if self.waited < self.pace.window {
            return Ok(());
        }
        let millis = u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX);
        let (bytes, waited) = (self.bytes, self.waited);
        *self = self.pace.watch();
        if bytes.saturating_mul(1000) < self.pace.rate.saturating_mul(millis) {
            return Err(TooSlow { bytes, waited, rate: self.pace.rate });
        }
        Ok(())
    }
}

/// Pauses between tries: 0.2 s, doubling.
pub(super) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(200 << attempt.min(6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trickles_is_too_slow_and_what_pauses_is_not() {
        let pace = Pace { rate: 1024, window: Duration::from_secs(30) };
        let watched = |pieces: &[(u64, u64)]| {
            let mut watch = pace.watch();
            pieces.iter().try_for_each(|(bytes, seconds)| watch.note(*bytes, Duration::from_secs(*seconds)))
        };
        let trickle = watched(&[(1, 5); 6]);
        assert_eq!(trickle, Err(TooSlow { bytes: 6, waited: Duration::from_secs(30), rate: 1024 }));
        assert!(watched(&[(1, 5); 5]).is_ok(), "before the window is over");
        assert!(watched(&[(30 << 10, 15), (0, 15)]).is_ok(), "a pause behind a piece");
        assert!(watched(&[(2048, 1); 100]).is_ok());
        assert!(watched(&[(1 << 20, 29), (1, 1), (1, 31)]).is_err(), "each window counts for itself");
        assert_eq!(pace.least(), 30 << 10);
    }
}
