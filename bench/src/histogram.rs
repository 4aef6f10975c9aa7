//! A histogram of durations with a bounded relative error.
//!
//! Buckets are 1/16 of a power of two wide, so a percentile is at most 6.25 % above the true value,
//! and recording is one shift and one increment: cheap enough for every single answer.

use std::time::Duration;

/// Counts of durations from 0 to about 18 s; longer ones land in the last bucket.
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

/// Bits of precision inside one power of two.
const FINE_BITS: u32 = 4;
/// 2^34 ns is about 17 s, longer than any query is waited for.
const BUCKETS: usize = (35 << FINE_BITS) as usize;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0 }
    }
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
    }

    /// Adds everything that `other` has recorded.
    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
    }

    /// The duration below which `share` (0 to 1) of all recorded ones lie; zero when nothing was recorded.
    pub fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return Duration::from_nanos(upper_bound(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < 1 << FINE_BITS {
        return nanos as usize;
    }
    let exponent = nanos.ilog2();
    let fine = (nanos >> (exponent - FINE_BITS)) as usize & ((1 << FINE_BITS) - 1);
    ((((exponent - FINE_BITS + 1) as usize) << FINE_BITS) + fine).min(BUCKETS - 1)
}

fn upper_bound(index: usize) -> u64 {
    let (power, fine) = (index >> FINE_BITS, index & ((1 << FINE_BITS) - 1));
    if power == 0 {
        return fine as u64;
    }
    ((1 << FINE_BITS) + fine as u64 + 1) << (power - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_sixteenth() {
        let mut histogram = Histogram::default();
        for micros in 1..=10_000u64 {
            histogram.record(Duration::from_micros(micros));
        }
        for share in [0.1, 0.5, 0.9, 0.99, 1.0] {
            let found = histogram.percentile(share).as_micros() as f64;
            let exact = 10_000.0 * share;
            assert!(found >= exact && found <= exact * 1.0626, "{share}: {found} for {exact}");
        }
    }

    #[test]
    fn nothing_recorded_is_zero_and_the_longest_fits() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), Duration::ZERO);
        histogram.record(Duration::from_secs(u64::MAX));
        assert!(histogram.percentile(1.0) > Duration::from_secs(10));
    }
}
