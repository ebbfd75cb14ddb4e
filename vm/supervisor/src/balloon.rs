//! Memory that a guest does not use, taken back by a balloon and given again before it is missed: how much, and when.
//!
//! ```text
//! available:   0 ────── a quarter ────── half ────── SLACK ────── one and a half ──────>
//!                give all  │  give some   │      leave it as it is      │  take, after a while
//! ```
//!
//! For hypervisors to which unused pages do not go back by themselves. To take is to guess: it is done in steps, and never
//! below what is used with slack on top. To give can't wait: a kernel whose balloon does not yield kills programs.

use std::time::{Duration, Instant};

/// Slack is a quarter of the machine, but at least and at most so much.
const SLACK_MIN: u64 = 256 << 20;
const SLACK_MAX: u64 = 2 << 30;
/// No machine is made smaller.
const FLOOR: u64 = 512 << 20;
/// Sizes are multiples of this.
const STEP: u64 = 16 << 20;
/// What is less is not worth the guest's effort.
const WORTH: u64 = 64 << 20;
/// How long memory must have been spare before it is taken.
const CALM: Duration = Duration::from_secs(30);

/// What a guest said of its memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// What programs could have without anything being swapped: free, or only cached.
    pub(crate) available: u64,
    /// What its balloon holds.
    pub(crate) ballooned: u64,
}

/// A machine's memory as it was told to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Balloon {
    /// Bytes that it was started with.
    booted: u64,
    /// What it is to keep to; `None` until it was told: one that was saved may have a balloon already.
    told: Option<u64>,
    calm: Option<Calm>,
}

/// More has been available than is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Calm {
    since: Instant,
    /// The least of it meanwhile.
    least: u64,
}

impl Balloon {
    /// That of a machine which starts with so many bytes.
    pub(crate) fn new(booted: u64) -> Self {
        Self { booted, told: None, calm: None }
    }

    /// Somebody else told it.
    pub(crate) fn was_told(&mut self, bytes: u64) {
        *self = Self { told: Some(bytes), calm: None, ..*self };
    }

    /// What the machine is to keep to from now on, if that is another amount. `limit` is what it may have at most.
    pub(crate) fn look(&mut self, seen: Seen, limit: u64, now: Instant) -> Option<u64> {
        let limit = limit.min(self.booted);
        let Some(told) = self.told.filter(|told| *told <= limit) else { return self.tell(limit) };
        let slack = slack(limit);
        let size = self.booted.saturating_sub(seen.ballooned);
        let used = size.saturating_sub(seen.available);
        if seen.available < slack / 2 {
            self.calm = None;
            let all = seen.available < slack / 4;
            let wanted = if all { limit } else { rounded(used.saturating_add(2 * slack)).min(limit) };
            return if wanted > told { self.tell(wanted) } else { None };
        }
        if seen.available < slack + slack / 2 {
            self.calm = None;
            return None;
        }
        let before = self.calm.unwrap_or(Calm { since: now, least: seen.available });
        let calm = Calm { least: before.least.min(seen.available), ..before };
        if now.saturating_duration_since(calm.since) < CALM {
            self.calm = Some(calm);
            return None;
        }
        self.calm = Some(Calm { since: now, least: seen.available });
        let spare = calm.least.saturating_sub(slack).min(limit / 4);
        // By a guest's word that can't be, what is spare may be more than there is.
        let least = used.saturating_add(slack).max(FLOOR);
        let wanted = rounded(size.saturating_sub(spare).max(least)).min(limit);
        if wanted.saturating_add(WORTH) <= told { self.tell(wanted) } else { None }
    }

    fn tell(&mut self, bytes: u64) -> Option<u64> {
        self.was_told(bytes);
        Some(bytes)
    }
}

/// What a machine of that size is to have available beside what it uses.
fn slack(size: u64) -> u64 {
    (size / 4).clamp(SLACK_MIN, SLACK_MAX)
}

fn rounded(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(STEP).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A guest whose balloon follows within a second, by at most so much.
    struct Guest {
        booted: u64,
        used: u64,
        ballooned: u64,
        pace: u64,
    }

    impl Guest {
        fn seen(&self) -> Seen {
            let available = self.booted.saturating_sub(self.ballooned + self.used);
            Seen { available, ballooned: self.ballooned }
        }

        /// A balloon takes no more than there is.
        fn follow(&mut self, told: u64) {
            let wanted = self.booted.saturating_sub(told);
            let room = self.booted.saturating_sub(self.used);
            let most = (self.ballooned + self.pace).min(room.max(self.ballooned));
            self.ballooned = wanted.clamp(self.ballooned.saturating_sub(self.pace), most);
        }
    }

    /// Lets seconds pass, each of which begins with a report. What was told, with the second.
    fn pass(
        balloon: &mut Balloon,
        guest: &mut Guest,
        from: Instant,
        seconds: std::ops::Range<u64>,
    ) -> Vec<(u64, u64)> {
        let mut told = Vec::new();
        for second in seconds {
            let now = from + Duration::from_secs(second);
            told.extend(balloon.look(guest.seen(), guest.booted, now).map(|bytes| (second, bytes)));
            guest.follow(balloon.told.unwrap());
        }
        told
    }

    #[test]
    fn an_idle_machine_shrinks_in_steps_to_what_it_uses_and_some_more() {
        let (mut balloon, begin) = (Balloon::new(8 * GIB), Instant::now());
        let mut guest = Guest { booted: 8 * GIB, used: GIB, ballooned: 0, pace: 256 * MIB };
        let told = pass(&mut balloon, &mut guest, begin, 0..200);
        let sizes: Vec<u64> = told.iter().map(|(_, bytes)| *bytes / GIB).collect();
        assert_eq!(sizes, [8, 6, 4, 3], "{told:?}");
        assert!(told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 30), "{told:?}");
        assert_eq!(guest.seen().available, 2 * GIB);
    }

    #[test]
    fn memory_that_is_needed_is_given_at_once() {
        let (mut balloon, begin) = (Balloon::new(8 * GIB), Instant::now());
        let mut guest = Guest { booted: 8 * GIB, used: GIB, ballooned: 0, pace: GIB };
        pass(&mut balloon, &mut guest, begin, 0..200);
        guest.used = 2 * GIB + 200 * MIB;
        let told = pass(&mut balloon, &mut guest, begin, 200..201);
        assert_eq!(told, [(200, 6 * GIB + 208 * MIB)], "used, and twice the slack");
        guest.used = 6 * GIB;
        let told = pass(&mut balloon, &mut guest, begin, 201..203);
        assert_eq!(told, [(201, 8 * GIB)], "all, and that once");
    }

    #[test]
    fn what_was_needed_a_moment_ago_is_not_taken() {
        let (mut balloon, begin) = (Balloon::new(8 * GIB), Instant::now());
        let mut guest = Guest { booted: 8 * GIB, used: GIB, ballooned: 0, pace: GIB };
        for second in 0..600 {
            // A build that takes four of its eight every twenty seconds.
            guest.used = if second % 20 < 2 { 5 * GIB } else { GIB };
            let told = pass(&mut balloon, &mut guest, begin, second..second + 1);
            assert!(told.iter().all(|(_, bytes)| *bytes >= 7 * GIB), "{told:?}");
        }
    }

    #[test]
    fn one_that_woke_with_a_balloon_is_told_what_it_may_have() {
        let seen = Seen { available: 50 * MIB, ballooned: 6 * GIB };
        assert_eq!(Balloon::new(8 * GIB).look(seen, 8 * GIB, Instant::now()), Some(8 * GIB));
        assert_eq!(Balloon::new(8 * GIB).look(seen, 4 * GIB, Instant::now()), Some(4 * GIB));
    }

    #[test]
    fn who_may_have_less_from_now_on_is_told_so_once() {
        let mut balloon = Balloon::new(8 * GIB);
        let seen = Seen { available: 3 * GIB, ballooned: 0 };
        balloon.was_told(8 * GIB);
        assert_eq!(balloon.look(seen, 4 * GIB, Instant::now()), Some(4 * GIB));
        assert_eq!(balloon.look(seen, 4 * GIB, Instant::now()), None);
    }

    #[test]
    fn the_smallest_machines_are_left_alone() {
        let (mut balloon, begin) = (Balloon::new(256 * MIB), Instant::now());
        let mut guest = Guest { booted: 256 * MIB, used: 0, ballooned: 0, pace: GIB };
        assert_eq!(pass(&mut balloon, &mut guest, begin, 0..300), [(0, 256 * MIB)]);
    }

    fn bytes() -> impl Strategy<Value = u64> {
        prop_oneof![0..32 * GIB, Just(0), Just(u64::MAX)]
    }

    proptest! {
        /// Whatever a guest says, lies among it.
        #[test]
        fn it_is_never_squeezed_below_what_it_uses_with_slack(
            booted in 256 * MIB..32 * GIB,
            looks in prop::collection::vec((bytes(), bytes(), bytes(), 0_u64..100), 1..60),
        ) {
            let (mut balloon, mut now) = (Balloon::new(booted), Instant::now());
            for (available, ballooned, limit, passed) in looks {
                now += Duration::from_secs(passed);
                let before = balloon.told;
                let told = balloon.look(Seen { available, ballooned }, limit, now);
                let limit = limit.min(booted);
                let Some(told) = told else {
                    prop_assert!(balloon.told.is_some_and(|told| told <= limit));
                    continue;
                };
                prop_assert!(told <= limit && (told >= FLOOR || told == limit));
                prop_assert_ne!(before, Some(told));
                let used = booted.saturating_sub(ballooned).saturating_sub(available);
                if told < limit {
                    prop_assert!(told >= used.saturating_add(slack(limit)), "{told} for {used}");
                }
                if let Some(before) = before.filter(|before| *before <= limit && told < *before) {
                    prop_assert!(before - told >= WORTH);
                    prop_assert!(available >= slack(limit) + slack(limit) / 2);
                }
            }
        }

        /// One that uses the same all the time is told less and less, and then nothing any more.
        #[test]
        fn it_comes_to_rest(
            booted in 256 * MIB..32 * GIB,
            share in 0_u64..100,
            pace in 16 * MIB..4 * GIB,
            ballooned in 0_u64..90,
        ) {
            let (mut balloon, begin) = (Balloon::new(booted), Instant::now());
            let mut guest = Guest { booted, used: booted / 100 * share, ballooned: 0, pace };
            guest.ballooned = (booted - guest.used) / 100 * ballooned;
            let told = pass(&mut balloon, &mut guest, begin, 0..3600);
            prop_assert_eq!(told[0], (0, booted));
            prop_assert!(told.windows(2).all(|pair| pair[1].1 < pair[0].1), "{told:?}");
            prop_assert!(told.iter().all(|(second, _)| *second < 3000), "{told:?}");
            let left = guest.seen().available;
            let size = booted - guest.ballooned;
            prop_assert!(left >= slack(booted).min(booted - guest.used), "{left} of {size}");
            // What could be taken was.
            prop_assert!(size <= FLOOR.max(guest.used + slack(booted) + slack(booted) / 2) + WORTH, "{size}");
        }
    }
}
