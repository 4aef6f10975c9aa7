//! How often a caller may ask: a token bucket for each certificate, token or address.
//!
//! Pure but for its lock; `now` comes in. It bounds what one caller's loop can do to the others, not what it may do.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Requests a second of one caller, for long: a hundred purges a second and as much again of looking on.
pub const RATE_PER_SECOND: f64 = 200.0;
/// Requests at once: a second's worth.
pub const BURST: f64 = 200.0;
/// Of somebody whose token is none, by address: a mistyped pipeline, not a search.
pub const STRANGER_RATE_PER_SECOND: f64 = 1.0;
/// See [`STRANGER_RATE_PER_SECOND`].
pub const STRANGER_BURST: f64 = 20.0;
/// Callers remembered. A caller whose bucket is full is forgotten first: to forget it changes nothing.
pub const CALLERS_MAX: usize = 4096;

/// Which allowance counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Of a certificate or token that is known.
    Known,
    /// Of an address without either.
    Stranger,
}

impl Allowance {
    fn rate_and_burst(self) -> (f64, f64) {
        match self {
            Self::Known => (RATE_PER_SECOND, BURST),
            Self::Stranger => (STRANGER_RATE_PER_SECOND, STRANGER_BURST),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
    of: Allowance,
}

impl Bucket {
    fn filled(&self, now: Instant) -> f64 {
        let (rate, burst) = self.of.rate_and_burst();
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(burst)
    }
}

/// The buckets.
#[derive(Debug, Default)]
pub struct Limits(Mutex<HashMap<String, Bucket>>);

impl Limits {
    /// Takes one request of a caller.
    ///
    /// # Errors
    /// How long to wait for the next one.
    pub fn take(&self, caller: &str, of: Allowance, now: Instant) -> Result<(), Duration> {
        let (rate, burst) = of.rate_and_burst();
        let mut buckets = self.0.lock();
        if !buckets.contains_key(caller) && buckets.len() >= CALLERS_MAX {
            buckets.retain(|_, bucket| bucket.filled(now) < bucket.of.rate_and_burst().1);
            if buckets.len() >= CALLERS_MAX {
                // That many busy callers at once are an attack: who is new waits.
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(caller.to_owned()).or_insert(Bucket { left: burst, at: now, of });
        let left = bucket.filled(now);
        if left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left) / rate));
        }
        (bucket.left, bucket.at) = (left - 1.0, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_in_a_loop_waits_and_others_do_not() {
        let (limits, now) = (Limits::default(), Instant::now());
        let taken = (0..1000).filter(|_| limits.take("a", Allowance::Known, now).is_ok()).count();
        assert_eq!(taken, 200);
        assert!(limits.take("b", Allowance::Known, now).is_ok());
        let wait = limits.take("a", Allowance::Known, now).unwrap_err();
        assert!(limits.take("a", Allowance::Known, now + wait).is_ok());
        let hour = Duration::from_secs(3600);
        let taken = (0..1000).filter(|_| limits.take("a", Allowance::Known, now + hour).is_ok()).count();
        assert_eq!(taken, 200, "what is not used is not saved up");
    }

    #[test]
    fn strangers_get_little_and_take_no_memory() {
        let (limits, now) = (Limits::default(), Instant::now());
        for caller in 0..CALLERS_MAX {
            limits.take(&caller.to_string(), Allowance::Stranger, now).unwrap();
        }
        assert!(limits.take("one more", Allowance::Known, now).is_err());
        let later = now + Duration::from_secs(2);
        assert!(limits.take("one more", Allowance::Known, later).is_ok());
        assert_eq!(limits.0.lock().len(), 1, "those whose buckets are full are forgotten");
        let taken = (0..100).filter(|_| limits.take("x", Allowance::Stranger, later).is_ok()).count();
        assert_eq!(taken, 20);
    }
}
