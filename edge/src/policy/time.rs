//! Points in time, given from outside: milliseconds since the Unix epoch.
//!
//! HTTP counts in seconds; the cache counts in milliseconds, so that a response fetched in 0.9 s
//! with `max-age=1` is fresh for 0.1 s and not for 0 or 1. All arithmetic saturates: a clock
//! stepped backwards makes ages zero, never enormous.

use std::time::Duration;

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time this many milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Timestamp {
        Timestamp(millis)
    }

    /// The time this many seconds after the epoch.
    pub const fn from_secs(secs: u64) -> Timestamp {
        Timestamp(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down: the resolution of an HTTP-date.
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }

    /// Time passed since `earlier`; zero when the clock went backwards.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This much later, at most the end of time.
    pub fn plus(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}
