//! What an edge counted, minute by minute, on its way home (`GET /v1/stats` of an edge).
//!
//! An edge hands out numbered pieces of minutes; whoever keeps them keeps the last number with them, so that each counts once.
//!
//! Sums only: minutes add up to hours and days, PoPs to the fleet, in any order. Latencies are counted in buckets that
//! are the same everywhere ([`bucket`]), so that percentiles of a sum are those of all its requests, within a bucket's width.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names of how a request met the cache, in the order of their numbers in [`Count`].
pub const OUTCOMES: [&str; 7] = ["hit", "stale", "revalidated", "miss", "collapsed", "pass", "local"];
/// Outcomes answered without bytes from the origin's side: what a hit ratio counts.
pub const HITS: [usize; 4] = [0, 1, 2, 4];
/// Answers of the edge itself: left out of the hit ratio.
pub const LOCAL: usize = 6;
/// Paths kept of a site and minute.
pub const TOP_MAX: usize = 20;
/// Bytes of a path that are kept; the rest is cut off.
pub const PATH_BYTES_MAX: usize = 256;

/// Parts of a doubling: a bucket is at most an eighth wide, so a percentile is within 6 % of the truth.
const PARTS_LOG2: u32 = 3;
/// Below 16 µs everything is one bucket: no request is that fast on any machine of today.
const FIRST_LOG2: u32 = 4;
/// From 2^26 µs, a bit more than a minute, everything is one bucket.
const LAST_LOG2: u32 = 26;
/// Buckets of latency.
pub const BUCKETS: usize = 2 + ((LAST_LOG2 - FIRST_LOG2) << PARTS_LOG2) as usize;

/// The bucket of a latency in microseconds; below [`BUCKETS`].
#[inline]
pub fn bucket(us: u64) -> usize {
    if us < 1 << FIRST_LOG2 {
        return 0;
    }
    if us >= 1 << LAST_LOG2 {
        return BUCKETS - 1;
    }
    let log2 = us.ilog2();
    let part = (us >> (log2 - PARTS_LOG2)) & ((1 << PARTS_LOG2) - 1);
    1 + (((log2 - FIRST_LOG2) << PARTS_LOG2) as usize) + part as usize
}

/// Where a bucket ends, microseconds, exclusive; `None` for the last.
pub fn bucket_end_us(bucket: usize) -> Option<u64> {
    match bucket {
        0 => Some(1 << FIRST_LOG2),
        _ if bucket >= BUCKETS - 1 => None,
        _ => {
            let (octave, part) = ((bucket - 1) >> PARTS_LOG2, (bucket - 1) & ((1 << PARTS_LOG2) - 1));
            let start = 1_u64 << (FIRST_LOG2 as usize + octave);
            Some(start + (start >> PARTS_LOG2) * (part as u64 + 1))
        }
    }
}

/// Requests of one outcome (of [`OUTCOMES`]) and status class (1 to 5): `[outcome, class, requests]`.
pub type Count = (u8, u8, u64);

/// What was counted of a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Clients' requests; other PoPs' are not among them.
    #[serde(default, rename = "r", skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Count>,
    /// Bytes of bodies sent to clients.
    #[serde(default, rename = "out")]
    pub bytes_out: u64,
    /// Bytes of bodies from origins; those from a shield are not among them.
    #[serde(default, rename = "in")]
    pub bytes_origin: u64,
    /// Requests to origins.
    #[serde(default, rename = "o")]
    pub origin_requests: u64,
    /// Those without an answer.
    #[serde(default, rename = "f")]
    pub origin_failures: u64,
    /// `[bucket, requests]`: from a request read to its response head made.
    #[serde(default, rename = "l", skip_serializing_if = "Vec::is_empty")]
    pub latency: Vec<(u16, u64)>,
}

impl Sums {
    /// Adds another's. What does not fit stays at its most.
    pub fn add(&mut self, other: &Sums) {
        for &(outcome, class, more) in &other.requests {
            match self.requests.iter_mut().find(|(o, c, _)| (*o, *c) == (outcome, class)) {
                Some((.., count)) => *count = count.saturating_add(more),
                None => self.requests.push((outcome, class, more)),
            }
        }
        self.requests.sort_unstable();
        for &(bucket, more) in &other.latency {
            match self.latency.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, count)) => *count = count.saturating_add(more),
                None => self.latency.push((bucket, more)),
            }
        }
        self.latency.sort_unstable();
        for (sum, more) in [
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.bytes_origin, other.bytes_origin),
            (&mut self.origin_requests, other.origin_requests),
            (&mut self.origin_failures, other.origin_failures),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        *self == Sums::default()
    }

    /// All requests.
    pub fn total(&self) -> u64 {
        self.count(|_, _| true)
    }

    /// Requests that satisfy, by outcome and class.
    pub fn count(&self, wanted: impl Fn(usize, u8) -> bool) -> u64 {
        let counts = self.requests.iter().filter(|(outcome, class, _)| wanted(usize::from(*outcome), *class));
        counts.map(|(.., count)| count).fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Of the requests that could have been hits, the part that was; `None` without any.
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.count(|outcome, _| outcome != LOCAL);
        let hits = self.count(|outcome, _| HITS.contains(&outcome));
        (all > 0).then(|| hits as f64 / all as f64)
    }

    /// The latency, in microseconds, that `part` (0 to 1) of the requests did not exceed, by the middle of its bucket.
    pub fn percentile_us(&self, part: f64) -> Option<u64> {
        let total: u64 = self.latency.iter().map(|(_, count)| count).sum();
        let wanted = ((total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.latency.iter().find(|(_, count)| {
            seen += count;
            seen >= wanted
        })?;
        let found = usize::from(found.0);
        let start = found.checked_sub(1).and_then(bucket_end_us).unwrap_or(0);
        Some(bucket_end_us(found).map_or(start, |end| u64::midpoint(start, end)))
    }
}

/// One site in one minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteMinute {
    /// What was counted.
    #[serde(flatten)]
    pub sums: Sums,
    /// Paths asked for most, without queries, and about how often; most first, at most [`TOP_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<(String, u64)>,
}

/// What an edge counted from one moment to the next, within one minute. Sites in which nothing happened are not in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Numbers grow by one; a number is given once in a life of the process.
    pub number: u64,
    /// Minutes since the epoch.
    pub minute: u64,
    /// How much of the minute it covers, seconds.
    pub seconds: f64,
    /// By site.
    pub sites: BTreeMap<String, SiteMinute>,
}

/// Answer of an edge: what home does not have yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pieces {
    /// Tells one life of the process from another.
    pub life: u64,
    /// Oldest first.
    pub pieces: Vec<Piece>,
    /// Whether later ones are there that did not fit into this answer.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_join_without_gap() {
        assert_eq!((bucket(0), bucket(15), bucket(u64::MAX)), (0, 0, BUCKETS - 1));
        for index in 0..BUCKETS - 1 {
            let end = bucket_end_us(index).unwrap();
            assert_eq!((bucket(end - 1), bucket(end)), (index, index + 1), "{index} ends at {end}");
        }
        assert_eq!(bucket_end_us(BUCKETS - 1), None);
    }

    #[test]
    fn a_percentile_is_within_its_bucket() {
        let mut sums = Sums::default();
        for us in 1..=10_000_u64 {
            sums.add(&Sums { latency: vec![(u16::try_from(bucket(us)).unwrap(), 1)], ..Sums::default() });
        }
        for (part, truth) in [(0.5, 5_000.0), (0.95, 9_500.0), (0.99, 9_900.0)] {
            let found = sums.percentile_us(part).unwrap() as f64;
            assert!((found / truth - 1.0).abs() < 0.07, "{part}: {found}");
        }
        assert_eq!(Sums::default().percentile_us(0.5), None);
    }

    #[test]
    fn sums_add_up_in_any_order() {
        let one = Sums { requests: vec![(0, 2, 3), (3, 5, 1)], bytes_out: 7, ..Sums::default() };
        let two = Sums { requests: vec![(3, 5, 2), (6, 4, 9)], origin_requests: 1, ..Sums::default() };
        let (mut a, mut b) = (one.clone(), two.clone());
        a.add(&two);
        b.add(&one);
        assert_eq!(a, b);
        assert_eq!((a.total(), a.count(|_, class| class == 5)), (15, 3));
        assert_eq!(a.hit_ratio(), Some(0.5));
    }
}
