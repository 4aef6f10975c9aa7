//! Outlier ejection of one origin: answers that come, but are bad. Pure, no clock.
//!
//! Requests are counted in windows of [`WINDOW`]; where enough of them were errors, or some in a row, the origin is left
//! out for a while, ever longer as it happens again. How many origins may be out at once is the group's business
//! ([`super::health`]).

use std::time::{Duration, Instant};

use nearside_fleet::config;

/// Over how long errors are counted. Long enough for a small site to have some requests in it, short enough
/// to act before people write mails.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Doublings of the ejection time at most; bounds the shift, `time_max` bounds the time.
const DOUBLINGS_MAX: u32 = 16;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Outlier {
    began: Option<Instant>,
    requests: u32,
    errors: u32,
    in_a_row: u32,
    /// Ejections lately; one is forgotten for each `time_max` without.
    times: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

impl Outlier {
    /// Whether it is left out now.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Until when it is left out, if it is.
    pub fn ejected_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|&until| now < until)
    }

    /// Counts an answer. True: it should be ejected, if the group can spare it.
    pub fn record(&mut self, was_error: bool, settings: &config::Eject, now: Instant) -> bool {
        if self.is_ejected(now) {
            // What was sent before, or for want of anything better, is no news.
            return false;
        }
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            (self.began, self.requests, self.errors) = (Some(now), 0, 0);
        }
        self.requests = self.requests.saturating_add(1);
        self.errors = self.errors.saturating_add(u32::from(was_error));
        self.in_a_row = if was_error { self.in_a_row.saturating_add(1) } else { 0 };
        let is_bad =
            u64::from(self.errors) * 100 >= u64::from(self.requests) * u64::from(settings.ratio_percent);
        let by_ratio = settings.ratio_percent > 0 && self.requests >= settings.requests_min && is_bad;
        let by_row = settings.failures > 0 && self.in_a_row >= settings.failures;
        was_error && (by_ratio || by_row)
    }

    /// Leaves it out from now on; returns for how long.
    pub fn eject(&mut self, settings: &config::Eject, now: Instant) -> Duration {
        if let Some(last) = self.last {
            let quiet =
                now.saturating_duration_since(last).as_millis() / settings.time_max.as_millis().max(1);
            self.times = self.times.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX));
        }
        let time = (settings.time * (1 << self.times.min(DOUBLINGS_MAX))).min(settings.time_max);
        self.times = self.times.saturating_add(1);
        self.until = Some(now + time);
        self.last = self.until;
        // It starts anew when it comes back.
        (self.began, self.in_a_row) = (None, 0);
        time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: config::Eject = config::Eject {
        failures: 0,
        ratio_percent: 50,
        requests_min: 10,
        time: Duration::from_secs(1),
        time_max: Duration::from_secs(6),
        share_max_percent: 50,
    };

    #[test]
    fn half_of_enough_requests_ejects_and_each_time_for_longer() {
        let (mut outlier, start) = (Outlier::default(), Instant::now());
        let mut now = start;
        for expected in [1, 2, 4, 6, 6] {
            for number in 0..9 {
                assert!(!outlier.record(number % 2 == 0, &SETTINGS, now), "too few");
            }
            assert!(outlier.record(true, &SETTINGS, now));
            assert_eq!(outlier.eject(&SETTINGS, now), Duration::from_secs(expected));
            assert!(outlier.is_ejected(now));
            assert!(!outlier.record(true, &SETTINGS, now), "it is out already");
            now += Duration::from_secs(expected);
            assert!(!outlier.is_ejected(now));
        }
        // A long peace makes up for the past.
        assert_eq!(outlier.eject(&SETTINGS, now + Duration::from_secs(60)), Duration::from_secs(1));
    }

    #[test]
    fn some_in_a_row_eject_however_many_were_good_before() {
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        let settings = config::Eject { failures: 3, ratio_percent: 0, ..SETTINGS };
        for number in 0..1000 {
            assert!(!outlier.record(number % 3 != 0, &settings, now), "two in a row");
        }
        outlier.record(false, &settings, now);
        assert_eq!([true; 3].map(|error| outlier.record(error, &settings, now)), [false, false, true]);
    }

    #[test]
    fn a_few_errors_among_many_and_old_ones_do_not_count() {
        let (mut outlier, start) = (Outlier::default(), Instant::now());
        for number in 0..1000 {
            assert!(!outlier.record(number % 3 == 0, &SETTINGS, start));
        }
        for _ in 0..9 {
            assert!(!outlier.record(true, &SETTINGS, start + WINDOW));
        }
        assert!(!outlier.record(true, &SETTINGS, start + WINDOW * 2), "a window of its own");
    }
}
