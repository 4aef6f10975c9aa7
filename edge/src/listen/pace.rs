//! Whether a client is too slow: bytes against the time it was waited for. Pure: time comes in.
//!
//! Only time spent waiting for the client counts. One that takes all there is at once, of an origin that sends little,
//! is never slow; one that trickles is, however regularly. Deadlines for silence are elsewhere: this finds those
//! who move a byte just before each deadline.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Bytes per second; 0: any.
    rate_min: u64,
    /// Waiting time after which it is judged.
    window: Duration,
    waited: Duration,
    bytes: u64,
    since: Option<Instant>,
}

/// What [`Pace::moved`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Fast enough, or not yet known.
    Fine,
    /// Too slow for a whole window.
    TooSlow,
}

impl Pace {
    /// Asks for `rate_min` bytes per second over `window` of waiting.
    pub fn new(rate_min: u64, window: Duration) -> Self {
        Pace { rate_min, window, waited: Duration::ZERO, bytes: 0, since: None }
    }

    /// The client is waited for.
    pub fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The client took `bytes` at once.
    pub fn took(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.since = None;
    }

    /// There is nothing to wait for any more.
    pub fn rests(&mut self) {
        self.since = None;
    }

    /// The client moved `bytes` after it was waited for.
    pub fn moved(&mut self, bytes: usize, now: Instant) -> Verdict {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let Some(since) = self.since.take() else { return Verdict::Fine };
        self.waited += now.saturating_duration_since(since);
        if self.waited < self.window {
            return Verdict::Fine;
        }
        let due = u128::from(self.rate_min) * self.waited.as_millis() / 1000;
        let verdict = if u128::from(self.bytes) < due { Verdict::TooSlow } else { Verdict::Fine };
        *self = Pace::new(self.rate_min, self.window);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves `bytes` after each of `pauses` seconds of waiting; the number of the move that was too slow.
    fn judged(rate_min: u64, bytes: usize, pause_secs: u64, moves: usize) -> Option<usize> {
        let mut pace = Pace::new(rate_min, Duration::from_secs(60));
        let mut now = Instant::now();
        (1..=moves).find(|_| {
            pace.waits(now);
            now += Duration::from_secs(pause_secs);
            // Polled again without progress: the wait is one.
            pace.waits(now);
            pace.moved(bytes, now) == Verdict::TooSlow
        })
    }

    #[test]
    fn tricklers_are_found_after_a_window_and_steady_clients_never() {
        assert_eq!(judged(512, 1, 10, 100), Some(6));
        assert_eq!(judged(512, 29 * 512, 29, 1000), None, "just fast enough");
        assert_eq!(judged(512, 29 * 512 - 30, 29, 1000), Some(3), "just not");
        assert_eq!(judged(0, 1, 29, 1000), None, "any rate");
    }

    #[test]
    fn time_in_which_there_was_nothing_for_the_client_does_not_count() {
        let mut pace = Pace::new(512, Duration::from_secs(60));
        let mut now = Instant::now();
        for _ in 0..100 {
            now += Duration::from_secs(30);
            assert_eq!(pace.moved(1, now), Verdict::Fine);
        }
    }

    #[test]
    fn a_good_minute_does_not_pay_for_a_bad_hour() {
        let mut pace = Pace::new(512, Duration::from_secs(60));
        let mut now = Instant::now();
        pace.waits(now);
        now += Duration::from_secs(60);
        assert_eq!(pace.moved(1 << 30, now), Verdict::Fine);
        pace.waits(now);
        now += Duration::from_secs(60);
        assert_eq!(pace.moved(1, now), Verdict::TooSlow);
    }
}
