//! Counts what happens, without two cores ever writing to one cache line.
//!
//! A site's counters exist once per worker; whoever scrapes adds them up. The counters of a site live as
//! long as its name is in the fleet file, across reloads.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;

use crate::{framing::Violation, policy, worker};

/// Upper bounds of the latency histogram's buckets, microseconds: from a hit in memory to an origin's
/// worst day.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000, 10_000_000];

/// How a request met the cache. The names are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store, fresh.
    Hit,
    /// From the store, stale, as allowed.
    Stale,
    /// From the store after the origin confirmed it.
    Revalidated,
    /// From the origin, by way of the store if it may be stored.
    Miss,
    /// From a fetch that another request began.
    Collapsed,
    /// From the origin, past the store.
    Pass,
    /// Answered here: refusals, health, redirects.
    Local,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Outcome; 7] = [
        Outcome::Hit,
        Outcome::Stale,
        Outcome::Revalidated,
        Outcome::Miss,
        Outcome::Collapsed,
        Outcome::Pass,
        Outcome::Local,
    ];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Stale => "stale",
            Outcome::Revalidated => "revalidated",
            Outcome::Miss => "miss",
            Outcome::Collapsed => "collapsed",
            Outcome::Pass => "pass",
            Outcome::Local => "local",
        }
    }

    /// As `Cache-Status` and `X-Cache-Status` say it.
    pub fn policy(self) -> policy::status::Outcome {
        match self {
            Outcome::Hit | Outcome::Collapsed => policy::status::Outcome::Hit,
            Outcome::Stale => policy::status::Outcome::Stale,
            Outcome::Revalidated => policy::status::Outcome::Revalidated,
            Outcome::Miss => policy::status::Outcome::Miss,
            Outcome::Pass | Outcome::Local => policy::status::Outcome::Bypass,
        }
    }
}

/// Status classes: 1xx to 5xx.
const CLASSES: usize = 5;

/// One worker's share of a site's counters.
#[derive(Default)]
pub struct Counters {
    requests: [[AtomicU64; CLASSES]; Outcome::ALL.len()],
    /// Bytes of response bodies sent.
    pub body_bytes: AtomicU64,
    /// Requests sent to the origin.
    pub origin_fetches: AtomicU64,
    /// Those that gave no answer.
    pub origin_failures: AtomicU64,
    /// Refreshes in the background.
    pub refreshes: AtomicU64,
    latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_us: AtomicU64,
}

impl Counters {
    /// A response head is ready.
    pub fn responded(&self, outcome: Outcome, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.requests[outcome as usize][class].fetch_add(1, Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|&bound| bound < took_us);
        self.latency[bucket].fetch_add(1, Relaxed);
        self.latency_sum_us.fetch_add(took_us, Relaxed);
    }
}

/// A site's counters, one set per worker.
pub struct SiteStats {
    workers: Box<[CachePadded<Counters>]>,
}

impl SiteStats {
    /// Zeros for so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(SiteStats { workers: (0..workers.max(1)).map(|_| CachePadded::default()).collect() })
    }

    /// This worker's set.
    pub fn here(&self) -> &Counters {
        &self.workers[worker::index() % self.workers.len()]
    }

    fn sum(&self, pick: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.workers.iter().map(|counters| pick(counters).load(Relaxed)).sum()
    }

    /// Requests by outcome and status class (1 to 5).
    pub fn requests(&self) -> impl Iterator<Item = (Outcome, usize, u64)> + '_ {
        Outcome::ALL.into_iter().flat_map(move |outcome| {
            (0..CLASSES).map(move |class| {
                (outcome, class + 1, self.sum(|counters| &counters.requests[outcome as usize][class]))
            })
        })
    }

    /// Bytes of response bodies sent.
    pub fn body_bytes(&self) -> u64 {
        self.sum(|counters| &counters.body_bytes)
    }

    /// Requests sent to the origin, and those that gave no answer.
    pub fn origin(&self) -> (u64, u64) {
        (self.sum(|counters| &counters.origin_fetches), self.sum(|counters| &counters.origin_failures))
    }

    /// Refreshes in the background.
    pub fn refreshes(&self) -> u64 {
        self.sum(|counters| &counters.refreshes)
    }

    /// Seconds summed, count, and (bound in seconds, count) per bucket: a histogram of the time from a
    /// request read to its response head written.
    pub fn latency(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = LATENCY_BOUNDS_US.iter().map(|&bound| bound as f64 / 1e6).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds
            .enumerate()
            .map(|(index, bound)| (bound, self.sum(|counters| &counters.latency[index])))
            .collect();
        let count = buckets.iter().map(|&(_, count)| count).sum();
        (self.sum(|counters| &counters.latency_sum_us) as f64 / 1e6, count, buckets)
    }
}

/// Why a connection or request was turned away before any site was known. The names are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// As many connections as may be are open.
    Connections,
    /// As many connections of this client as may be are open.
    ConnectionsOfClient,
    /// As many handshakes as may be are under way.
    Handshakes,
    /// A handshake failed.
    HandshakeFailed,
    /// A handshake took too long.
    HandshakeTimeout,
    /// A load balancer sent no PROXY header, or a bad one.
    ProxyHeader,
    /// A head took too long.
    HeadTimeout,
    /// A request body stopped coming.
    BodyTimeout,
    /// The client stopped reading.
    WriteStall,
    /// The client reads, but too slowly.
    DownloadRate,
    /// The client left while the origin was being asked.
    Gone,
    /// Nothing was asked for long enough.
    Idle,
    /// `accept` failed.
    Accept,
    /// An HTTP/3 frame that must be read whole was too long for that.
    FrameTooLong,
}

impl Turned {
    /// All of them, in the order of their numbers.
    pub const ALL: [Turned; 14] = [
        Turned::Connections,
        Turned::ConnectionsOfClient,
        Turned::Handshakes,
        Turned::HandshakeFailed,
        Turned::HandshakeTimeout,
        Turned::ProxyHeader,
        Turned::HeadTimeout,
        Turned::BodyTimeout,
        Turned::WriteStall,
        Turned::DownloadRate,
        Turned::Gone,
        Turned::Idle,
        Turned::Accept,
        Turned::FrameTooLong,
    ];

    /// The metric label.
    pub fn name(self) -> &'static str {
        match self {
            Turned::Connections => "connections_max",
            Turned::ConnectionsOfClient => "connections_per_client_max",
            Turned::Handshakes => "handshakes_max",
            Turned::HandshakeFailed => "handshake_failed",
            Turned::HandshakeTimeout => "handshake_timeout",
            Turned::ProxyHeader => "proxy_header",
            Turned::HeadTimeout => "head_timeout",
            Turned::BodyTimeout => "body_timeout",
            Turned::WriteStall => "write_stall",
            Turned::DownloadRate => "download_rate_min",
            Turned::Gone => "client_gone",
            Turned::Idle => "idle",
            Turned::Accept => "accept",
            Turned::FrameTooLong => "h3_frame_max",
        }
    }
}

/// What listeners count. Rare events: one set for all workers.
#[derive(Default)]
pub struct FrontStats {
    turned: [AtomicU64; Turned::ALL.len()],
    violations: [AtomicU64; Violation::ALL.len()],
    /// Clients asked to prove their address before a QUIC handshake.
    pub retries: CachePadded<AtomicU64>,
    /// Requests over HTTP/3.
    pub http3_requests: CachePadded<AtomicU64>,
    /// Connections accepted.
    pub accepted: CachePadded<AtomicU64>,
    /// Handshakes completed, of which resumed.
    pub handshakes: CachePadded<AtomicU64>,
    /// Handshakes that resumed a session.
    pub handshakes_resumed: CachePadded<AtomicU64>,
}

impl FrontStats {
    /// Counts one.
    pub fn turned(&self, why: Turned) {
        self.turned[why as usize].fetch_add(1, Relaxed);
    }

    /// Counts one.
    pub fn violation(&self, what: Violation) {
        self.violations[what as usize].fetch_add(1, Relaxed);
    }

    /// All of them.
    pub fn all_turned(&self) -> impl Iterator<Item = (Turned, u64)> + '_ {
        Turned::ALL.into_iter().map(|why| (why, self.turned[why as usize].load(Relaxed)))
    }

    /// All of them.
    pub fn all_violations(&self) -> impl Iterator<Item = (Violation, u64)> + '_ {
        Violation::ALL.into_iter().map(|what| (what, self.violations[what as usize].load(Relaxed)))
    }
}

impl fmt::Debug for SiteStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SiteStats")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up() {
        let stats = SiteStats::new(2);
        for index in [0, 1, 1] {
            worker::enter(index);
            stats.here().responded(Outcome::Hit, http::StatusCode::OK, Duration::from_micros(60));
        }
        let hits = stats.requests().find(|&(outcome, class, _)| outcome == Outcome::Hit && class == 2);
        assert_eq!(hits, Some((Outcome::Hit, 2, 3)));
        let (sum, count, buckets) = stats.latency();
        assert_eq!((count, buckets[1]), (3, (0.0001, 3)));
        assert!((sum - 0.000_18).abs() < 1e-9);
    }

    #[test]
    fn labels_and_numbers_agree() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, why) in Turned::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
        for (index, what) in Violation::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
        }
    }
}
