//! One fetch per key: who asks the origin, and who waits for the answer's head.
//!
//! The leader of a key holds a [`Lease`] until its origin's head is there; those who ask meanwhile wait, bounded.
//! With the head, the object is in the index, and from then on there are only readers of what [`super::fill`] brings.
//! A key whose responses were not storable is remembered for a while: its requests don't queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    Cache, Found,
    fill::{Extent, Filler, Keep, Purpose},
    index::KeyHash,
    live::{Live, Mode},
    object::{Content, Object, Span, own_values},
};
use crate::{
    policy::{CacheKey, Meta},
    purge::{Subject, Validity},
};

/// Keys remembered as not worth waiting for, per shard of the table.
const UNCOLLAPSED_MAX: usize = 4096;
const SHARDS: usize = 16;

/// What [`super::Cache::join`] makes of a request.
#[derive(Debug)]
pub enum Join {
    /// Nobody fetches it: the caller must.
    Lead(Lease),
    /// Somebody does: wait for the head, then look up again. Join at most once per request: where the
    /// object found then is of no use to this one, fetch [`super::Cache::alone`].
    Follow(Waiter),
    /// The key's responses were not storable lately: fetch without waiting for anyone. The lease's answer may
    /// still be stored.
    Pass(Lease),
}

/// How a fetch that others waited for turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored or being stored: look up again.
    Ready,
    /// Not to be shared: fetch for yourself.
    Pass,
    /// The origin failed.
    Failed,
    /// The leader went away without an answer: join again.
    Retry,
    /// The bound on waiting passed: fetch for yourself.
    TimedOut,
}

/// What is being fetched, and what need not be waited for.
#[derive(Debug)]
pub(super) struct Flights {
    shards: Box<[Mutex<Shard>]>,
}

/// By key and hint.
type Shard = HashMap<(KeyHash, u64), Entry>;

#[derive(Debug)]
enum Entry {
    Flight { tick: u64, outcome: watch::Receiver<Option<Outcome>> },
    Uncollapsed { until: Instant },
}

impl Flights {
    pub fn new() -> Flights {
        Flights { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    pub fn join(&self, cache: &Arc<Cache>, key: &CacheKey, hash: KeyHash, hint: u64, now: Instant) -> Join {
        let slot = (hash, hint);
        let mut shard = self.shard(hash).lock();
        match shard.get(&slot) {
            Some(Entry::Flight { tick, outcome }) if !is_purged(cache, key, *tick) => {
                cache.metrics.collapsed.one();
                return Join::Follow(Waiter { outcome: outcome.clone(), cache: Arc::clone(cache) });
            }
            Some(Entry::Uncollapsed { until }) if *until > now => {
                return Join::Pass(Lease::new(cache, key, hash, None));
            }
            _ => {}
        }
        let (sender, outcome) = watch::channel(None);
        let lease = Lease::new(cache, key, hash, Some(Flight { hint, sender }));
        shard.insert(slot, Entry::Flight { tick: lease.tick, outcome });
        Join::Lead(lease)
    }

    fn shard(&self, hash: KeyHash) -> &Mutex<Shard> {
        &self.shards[(hash.0 >> 64) as usize % SHARDS]
    }

    /// Ends a flight, if its slot is still its own: after a purge a later one may have taken it.
    fn land(&self, hash: KeyHash, hint: u64, tick: u64, uncollapsed: Option<Instant>) {
        let mut shard = self.shard(hash).lock();
        let is_own =
            matches!(shard.get(&(hash, hint)), Some(Entry::Flight { tick: own, .. }) if *own == tick);
        if !is_own {
            return;
        }
        match uncollapsed {
            Some(until) => {
                let marks = |entry: &Entry| matches!(entry, Entry::Uncollapsed { .. });
                if shard.len() >= UNCOLLAPSED_MAX
                    && shard.values().filter(|entry| marks(entry)).count() >= UNCOLLAPSED_MAX
                {
                    // All of them: a mark is a hint, and losing it costs one wait.
                    shard.retain(|_, entry| !marks(entry));
                }
                shard.insert((hash, hint), Entry::Uncollapsed { until });
            }
            None => drop(shard.remove(&(hash, hint))),
        }
    }
}

/// Whether a hard or soft purge of the key came after `tick`. Tags are not known before the head.
fn is_purged(cache: &Cache, key: &CacheKey, tick: u64) -> bool {
    cache.purges.latest() > tick
        && cache.purges.check(&Subject { key, tags: &[], birth: tick }) != Validity::Valid
}

/// The right and duty to fetch a key. Dropped unused, those who wait are told to [`Outcome::Retry`].
#[derive(Debug)]
pub struct Lease {
    cache: Arc<Cache>,
    key: CacheKey,
    hash: KeyHash,
    tick: u64,
    flight: Option<Flight>,
    is_settled: bool,
}

#[derive(Debug)]
struct Flight {
    hint: u64,
    sender: watch::Sender<Option<Outcome>>,
}

impl Lease {
    pub(super) fn alone(cache: &Arc<Cache>, key: &CacheKey, hash: KeyHash) -> Lease {
        Lease::new(cache, key, hash, None)
    }

    fn new(cache: &Arc<Cache>, key: &CacheKey, hash: KeyHash, flight: Option<Flight>) -> Lease {
        let tick = cache.begin_fetch();
        Lease { cache: Arc::clone(cache), key: key.clone(), hash, tick, flight, is_settled: false }
    }

    /// Begins storing: readers may start at once. Those who wait are told [`Outcome::Ready`]. The object is not
    /// found by anyone if a purge came since the lease was taken, but it can be read.
    pub fn start(self, meta: Meta, keep: Keep) -> (Filler, Arc<Object>) {
        let extent = Extent::of(&meta);
        self.start_extent(meta, extent, keep)
    }

    /// As [`Lease::start`], where only `span` of the content that `meta` describes comes: whole chunks of it. The rest is
    /// a gap, which [`Object::claim`] fills. Where `meta` has no length or no strong validator, nothing is stored.
    pub fn start_part(self, meta: Meta, span: Span, keep: Keep) -> (Filler, Arc<Object>) {
        let extent = Extent::part(&meta, span);
        self.start_extent(meta, extent, keep)
    }

    fn start_extent(mut self, mut meta: Meta, extent: Extent, keep: Keep) -> (Filler, Arc<Object>) {
        own_values(&mut meta.headers);
        let cache = Arc::clone(&self.cache);
        cache.metrics.fills.one();
        let mode = extent.mode(&cache);
        let live = Arc::new(Live::new(self.tick, &Arc::downgrade(&cache), extent.length));
        live.begin(self.tick, extent.start, extent.end, mode, keep);
        let owner = (self.key.clone(), self.hash);
        let content = Content::Live(Arc::clone(&live));
        let object = Arc::new(Object::new(&Arc::downgrade(&cache), owner, self.tick, meta, content));
        if mode == Mode::Window {
            cache.metrics.fills_unstored.one();
        } else {
            cache.publish(&object);
        }
        // Before the lease ends, so that its tick stays counted as under way.
        let filler = Filler::new(&cache, &object, &live, self.tick, Purpose::Whole);
        self.settle(if mode == Mode::Window { Outcome::Pass } else { Outcome::Ready }, None);
        (filler, object)
    }

    /// The answer is not to be stored: those who wait fetch for themselves, and for `uncollapsed` nobody waits.
    pub fn pass(mut self, uncollapsed: Duration) {
        let until =
            (!uncollapsed.is_zero()).then(|| Instant::now() + uncollapsed.min(Duration::from_secs(86_400)));
        self.settle(Outcome::Pass, until);
    }

    /// The origin failed.
    pub fn fail(mut self) {
        self.settle(Outcome::Failed, None);
    }

    /// A 304 confirmed `validated`: `meta` is its head from now on, over the same content. Gives the new object.
    pub fn update(mut self, validated: &Found, mut meta: Meta) -> Arc<Object> {
        own_values(&mut meta.headers);
        let cache = Arc::clone(&self.cache);
        let old = &validated.object;
        let owner = (self.key.clone(), self.hash);
        let content = old.content.clone();
        let mut object = Object::new(&Arc::downgrade(&cache), owner, self.tick, meta, content);
        object.generation = old.generation;
        let object = Arc::new(object);
        if old.heat.is_warm() {
            object.heat.bump();
        }
        cache.supersede(old, &object);
        self.settle(Outcome::Ready, None);
        object
    }

    fn settle(&mut self, outcome: Outcome, uncollapsed: Option<Instant>) {
        self.is_settled = true;
        if let Some(flight) = self.flight.take() {
            // Out of the table first: whoever joins from now on finds the object, not the flight.
            self.cache.flights.land(self.hash, flight.hint, self.tick, uncollapsed);
            flight.sender.send_replace(Some(outcome));
        }
        // A started fill keeps the tick alive on its own account.
        self.cache.end_fetch(self.tick);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.is_settled {
            self.settle(Outcome::Retry, None);
        }
    }
}

/// Waits for a leader's response head.
#[derive(Debug)]
pub struct Waiter {
    outcome: watch::Receiver<Option<Outcome>>,
    cache: Arc<Cache>,
}

impl Waiter {
    /// Waits for the head, at most `wait_max`. Cancel-safe.
    pub async fn wait(mut self, wait_max: Duration) -> Outcome {
        match tokio::time::timeout(wait_max, self.outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.unwrap_or(Outcome::Retry),
            Ok(Err(_closed)) => Outcome::Retry,
            Err(_elapsed) => {
                self.cache.metrics.waits_timed_out.one();
                Outcome::TimedOut
            }
        }
    }
}
