//! What containers use, asked for every two seconds for those a window shows.

use std::collections::HashMap;
use std::time::Duration;

use api::client::Client;
use api::container::Stats;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::topic::{Closed, Feed, Update};

const EVERY: Duration = Duration::from_secs(2);
/// How many are asked at once.
const AT_ONCE: usize = 4;
/// More rows than this no window shows.
const MOST: usize = 100;

/// What one container uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// The container's id.
    pub id: String,
    /// Hundredths of one processor; `None` at the first look, since it takes two.
    pub cpu: Option<f64>,
    /// Bytes, without what the kernel would give up at once.
    pub memory: u64,
    /// The bound on them, 0 if there is none below the machine's own.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
}

pub(crate) async fn follow(client: &Client, feed: &Feed, mut ids: Vec<String>) -> Result<(), Closed> {
    ids.truncate(MOST);
    let mut last: HashMap<String, (u64, u64)> = HashMap::new();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = feed.cancelled.cancelled() => return Err(Closed),
            _ = every.tick() => {}
        }
        let answers: Vec<_> = stream::iter(ids.clone())
            .map(|id| async move {
                {
                    let stats = client.container_stats_once(&id).await;
                    (id, stats)
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        // One that has stopped or gone has no sample; its row says why.
        let samples =
            answers.into_iter().filter_map(|(id, stats)| Some(sample(id, &stats.ok()?, &mut last))).collect();
        feed.update(Update::Stats { samples }).await?;
    }
}

fn sample(id: String, stats: &Stats, last: &mut HashMap<String, (u64, u64)>) -> Sample {
    let cpu = &stats.cpu_stats;
    // The machine's own time: a sample's clock without trusting anybody's wall clock.
    let now = (cpu.cpu_usage.total_usage, cpu.system_cpu_usage.unwrap_or(0));
    let before = last.insert(id.clone(), now);
    let memory = &stats.memory_stats;
    let cache = ["inactive_file", "total_inactive_file"].iter().find_map(|key| memory.stats.get(*key));
    Sample {
        cpu: before.and_then(|before| percent(before, now, cpu.online_cpus.unwrap_or(1))),
        memory: memory.usage.unwrap_or(0).saturating_sub(cache.copied().unwrap_or(0)),
        memory_limit: memory.limit.unwrap_or(0),
        pids: stats.pids_stats.current.unwrap_or(0),
        id,
    }
}

/// How much of one processor was used between two looks.
fn percent(before: (u64, u64), now: (u64, u64), cpus: u32) -> Option<f64> {
    let used = now.0.checked_sub(before.0)?;
    let passed = now.1.checked_sub(before.1).filter(|passed| *passed > 0)?;
    // Tenths of a percent as whole numbers: exact enough, and no cast loses anything.
    let tenths = u128::from(used) * u128::from(cpus) * 1000 / u128::from(passed);
    Some(f64::from(u32::try_from(tenths).ok()?) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_processors_is_a_hundred_percent() {
        assert_eq!(percent((0, 0), (1_000, 2_000), 2), Some(100.0));
        assert_eq!(percent((1_000, 2_000), (1_000, 4_000), 2), Some(0.0));
        assert_eq!(percent((5, 5), (0, 0), 2), None, "it was restarted");
        assert_eq!(percent((0, 5), (1, 5), 2), None, "no time has passed");
    }
}
