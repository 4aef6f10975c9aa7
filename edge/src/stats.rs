//! Counts what happens, without two cores ever writing to one cache line.
//!
//! A site's counters exist once per worker; whoever scrapes adds them up. The counters of a site live as
//! long as its name is in the fleet file, across reloads. What other edges ask of a shield is counted beside what clients
//! ask: the clients' own PoP counts those.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crossbeam_utils::CachePadded;
use nearside_fleet::stats::{self as sums, BUCKETS, Sums};
use parking_lot::Mutex;

use crate::{framing::Violation, policy, top::Sketch, worker};

/// Requests of a site, worker and minute whose paths are all noted; of further ones a sixteenth is, at random: at
/// such rates the order of the busiest paths is certain all the same, and the others pay a load and a store.
const VISITS_EXACT: u32 = 1_024;
/// One of so many is noted past [`VISITS_EXACT`].
const VISITS_SAMPLED: u32 = 16;

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

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Anybody.
    Client,
    /// Another edge of the fleet, which this one shields.
    Node,
}

/// One worker's share of a site's counters.
pub struct Counters {
    requests: [[AtomicU64; CLASSES]; Outcome::ALL.len()],
    /// Bytes of response bodies sent.
    pub body_bytes: AtomicU64,
    /// Requests sent to the origin.
    pub origin_fetches: AtomicU64,
    /// Those of them that a shield answered instead.
    pub shield_fetches: AtomicU64,
    /// Those that gave no answer.
    pub origin_failures: AtomicU64,
    /// Bytes of bodies that origins sent.
    pub origin_bytes: AtomicU64,
    /// Refreshes in the background.
    pub refreshes: AtomicU64,
    latency: [AtomicU64; BUCKETS],
    latency_sum_us: AtomicU64,
    /// Requests noted or passed over since the paths were last taken.
    visits: AtomicU32,
    /// Only its own worker locks it, and the collector once a minute.
    top: Mutex<Sketch>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            requests: Default::default(),
            body_bytes: AtomicU64::default(),
            origin_fetches: AtomicU64::default(),
            shield_fetches: AtomicU64::default(),
            origin_failures: AtomicU64::default(),
            origin_bytes: AtomicU64::default(),
            refreshes: AtomicU64::default(),
            latency: [const { AtomicU64::new(0) }; BUCKETS],
            latency_sum_us: AtomicU64::default(),
            visits: AtomicU32::default(),
            top: Mutex::default(),
        }
    }
}

impl Counters {
    /// A response head is ready.
    pub fn responded(&self, outcome: Outcome, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.requests[outcome as usize][class].fetch_add(1, Relaxed);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency[sums::bucket(took_us)].fetch_add(1, Relaxed);
        self.latency_sum_us.fetch_add(took_us, Relaxed);
    }

    /// A path was asked for. Cheap where many are: see [`VISITS_EXACT`].
    pub fn visited(&self, path: &str) {
        // Not a read-modify-write: this worker alone writes, but for the collector's 0, and losing that once means
        // that a minute begins sampled.
        let visits = self.visits.load(Relaxed);
        let weight = match visits {
            0..VISITS_EXACT => {
                self.visits.store(visits + 1, Relaxed);
                1
            }
            _ if fastrand::u32(0..VISITS_SAMPLED) == 0 => u64::from(VISITS_SAMPLED),
            _ => return,
        };
        // While the collector takes it, one path is not noted.
        if let Some(mut top) = self.top.try_lock() {
            top.add(path, weight);
        }
    }
}

type PerWorker = Box<[CachePadded<Counters>]>;

/// A site's counters, one set per worker.
pub struct SiteStats {
    clients: PerWorker,
    /// What other edges ask; only shields have it.
    nodes: OnceLock<PerWorker>,
}

fn per_worker(workers: usize) -> PerWorker {
    (0..workers.max(1)).map(|_| CachePadded::default()).collect()
}

impl SiteStats {
    /// Zeros for so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(SiteStats { clients: per_worker(workers), nodes: OnceLock::new() })
    }

    /// This worker's set.
    pub fn here(&self) -> &Counters {
        &self.clients[worker::index() % self.clients.len()]
    }

    /// This worker's set for those who ask.
    pub fn here_for(&self, asker: Asker) -> &Counters {
        match asker {
            Asker::Client => self.here(),
            Asker::Node => {
                let nodes = self.nodes.get_or_init(|| per_worker(self.clients.len()));
                &nodes[worker::index() % nodes.len()]
            }
        }
    }

    fn sum(&self, pick: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        let nodes = self.nodes.get().into_iter().flatten();
        self.clients.iter().chain(nodes).map(|counters| pick(counters).load(Relaxed)).sum()
    }

    fn sum_of_clients(&self, pick: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.clients.iter().map(|counters| pick(counters).load(Relaxed)).sum()
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

    /// Bytes of bodies that origins sent.
    pub fn origin_bytes(&self) -> u64 {
        self.sum(|counters| &counters.origin_bytes)
    }

    /// Refreshes in the background.
    pub fn refreshes(&self) -> u64 {
        self.sum(|counters| &counters.refreshes)
    }

    /// Seconds summed, count, and (bound in seconds, count) per bucket: a histogram of the time from a
    /// request read to its response head written. Its buckets double, from 16 microseconds on.
    pub fn latency(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        let mut count = 0;
        for index in 0..BUCKETS {
            count += self.sum(|counters| &counters.latency[index]);
            match sums::bucket_end_us(index) {
                Some(end) if !end.is_power_of_two() => {}
                Some(end) => buckets.push((end as f64 / 1e6, std::mem::take(&mut count))),
                None => buckets.push((f64::MAX, std::mem::take(&mut count))),
            }
        }
        let count = buckets.iter().map(|&(_, count)| count).sum();
        (self.sum(|counters| &counters.latency_sum_us) as f64 / 1e6, count, buckets)
    }

    /// All that was counted since the start, as it goes home. Requests and bytes out are those of clients.
    pub fn totals(&self) -> Sums {
        let mut requests = Vec::new();
        for outcome in Outcome::ALL {
            for class in 0..CLASSES {
                let count = self.sum_of_clients(|counters| &counters.requests[outcome as usize][class]);
                if count > 0 {
                    requests.push((outcome as u8, class as u8 + 1, count));
                }
            }
        }
        let latency = (0..BUCKETS).filter_map(|index| {
            let count = self.sum_of_clients(|counters| &counters.latency[index]);
            (count > 0).then_some((index as u16, count))
        });
        let shielded = self.sum(|counters| &counters.shield_fetches);
        Sums {
            requests,
            latency: latency.collect(),
            bytes_out: self.sum_of_clients(|counters| &counters.body_bytes),
            bytes_origin: self.origin_bytes(),
            origin_requests: self.origin().0.saturating_sub(shielded),
            origin_failures: self.origin().1,
        }
    }

    /// Takes the busiest paths since the last call, most first.
    pub fn take_top(&self) -> Vec<(String, u64)> {
        let mut all = Sketch::default();
        for counters in &self.clients {
            let taken = std::mem::take(&mut *counters.top.lock());
            counters.visits.store(0, Relaxed);
            all.join(taken);
        }
        all.busiest(sums::TOP_MAX)
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
        assert_eq!((count, buckets[2]), (3, (0.000_064, 3)));
        assert!((sum - 0.000_18).abs() < 1e-9);
    }

    #[test]
    fn what_other_edges_ask_is_in_the_metrics_and_not_in_what_goes_home() {
        let stats = SiteStats::new(1);
        for asker in [Asker::Client, Asker::Node] {
            stats.here_for(asker).responded(Outcome::Hit, http::StatusCode::OK, Duration::from_micros(60));
            stats.here_for(asker).body_bytes.fetch_add(10, Relaxed);
        }
        assert_eq!(stats.body_bytes(), 20);
        let totals = stats.totals();
        assert_eq!((totals.total(), totals.bytes_out), (1, 10));
    }

    #[test]
    fn busy_paths_stay_in_front_when_only_some_are_noted() {
        let stats = SiteStats::new(1);
        for number in 0..200_000_u32 {
            stats.here().visited(if number % 4 == 0 { "/often" } else { "/always" });
        }
        let top = stats.take_top();
        assert_eq!((top[0].0.as_str(), top[1].0.as_str()), ("/always", "/often"));
        assert!((140_000..160_000).contains(&top[0].1), "{top:?}");
        assert_eq!(stats.take_top(), []);
        stats.here().visited("/once");
        assert_eq!(stats.take_top(), [("/once".to_owned(), 1)]);
    }

    #[test]
    fn labels_and_numbers_agree() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!((outcome as usize, outcome.name()), (index, sums::OUTCOMES[index]));
        }
        for (index, why) in Turned::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
        for (index, what) in Violation::ALL.into_iter().enumerate() {
            assert_eq!(what as usize, index);
        }
    }
}
