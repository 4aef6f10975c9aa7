//! How many requests may be sent a second time: a share of all, and a small floor. Pure, no clock.
//!
//! Without it, an origin in trouble would get the more requests the worse it is.

use std::time::Instant;

/// Retries saved up at most: what fails with one connection pool's worth of requests may be tried again at once, a
/// day's quiet must not buy a storm.
pub const TOKENS_MAX: u32 = 100;

/// Thousandths of a retry.
const UNIT: u64 = 1000;

/// See the module.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    floor_per_second: u32,
    tokens: u64,
    at: Option<Instant>,
}

impl Budget {
    /// `percent` of all requests, `floor_per_second` in any case. It starts with ten seconds' worth of the floor.
    pub fn new(percent: u32, floor_per_second: u32) -> Self {
        let tokens = (u64::from(floor_per_second) * 10).min(u64::from(TOKENS_MAX)) * UNIT;
        Budget { percent, floor_per_second, tokens, at: None }
    }

    /// Takes one retry; `requests` have been made since it was asked last. False: there is none left.
    pub fn take(&mut self, requests: u64, now: Instant) -> bool {
        let since = self.at.map_or(0, |at| now.saturating_duration_since(at).as_millis());
        self.at = Some(now);
        let share = requests.saturating_mul(u64::from(self.percent) * UNIT / 100);
        let floor = u64::try_from(since).unwrap_or(u64::MAX).saturating_mul(u64::from(self.floor_per_second));
        let tokens = self.tokens.saturating_add(share).saturating_add(floor);
        self.tokens = tokens.min(u64::from(TOKENS_MAX) * UNIT);
        let is_left = self.tokens >= UNIT;
        if is_left {
            self.tokens -= UNIT;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_nothing() {
        let (mut budget, now) = (Budget::new(0, 0), Instant::now());
        assert!(!budget.take(1_000_000, now));
        assert!(!budget.take(1_000_000, now + Duration::from_secs(3600)));
    }

    proptest! {
        #[test]
        fn retries_stay_within_share_floor_and_what_was_saved(
            percent in 0u32..=100, floor in 0u32..20, steps in prop::collection::vec((0u64..50, 0u64..500), 1..300),
        ) {
            let (mut budget, start) = (Budget::new(percent, floor), Instant::now());
            let (mut now, mut requests, mut retries) = (start, 0, 0u64);
            for (made, pause) in steps {
                now += Duration::from_millis(pause);
                requests += made;
                retries += u64::from(budget.take(made, now));
            }
            let seconds = (now - start).as_secs_f64();
            let allowed = requests as f64 * f64::from(percent) / 100.0 + f64::from(floor) * (seconds + 10.0);
            prop_assert!(retries as f64 <= allowed + 1.0, "{retries} of {allowed}");
        }
    }
}
