//! Token buckets in fixed memory: how often each of many has asked. Pure but for its locks: time comes in.
//!
//! A bucket is one number, the time at which it would be full again (GCRA's theoretical arrival time, ITU-T I.371
//! appendix I). A bucket that is full is no different from one nobody has heard of, so an entry that has filled up
//! needs no cleaning: it is free.
//!
//! The table is set-associative: a key's hash, keyed by this process, names one set of [`WAYS`] entries. Where all of
//! them are in use, **the one nearest to being full makes room**. What is forgotten is then the smallest debt of the set:
//! - nobody is locked out: a newcomer begins with a full bucket, whoever else is there;
//! - whoever asks too much is remembered longest: to have its own debt forgotten, a flood must bring every other entry of
//!   the set to a higher one, in sets it can't choose, which costs it more requests than it gains;
//! - a flood of addresses with a request each displaces others' single requests first.

use std::time::Duration;

use parking_lot::Mutex;

/// Entries of a set: two cache lines.
pub const WAYS: usize = 8;

/// Sets of a shard.
const SETS: usize = 256;

/// Locks of a table. A set is held for some twenty nanoseconds.
const SHARDS: usize = 64;

/// Buckets of one site that are less than full at one time, in 2 MiB; what comes above makes the fullest be forgotten.
pub const ENTRIES: usize = WAYS * SETS * SHARDS;

/// How tokens flow in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Nanoseconds a token takes to flow in.
    pub token_ns: u64,
    /// Nanoseconds an empty bucket takes to fill.
    pub full_ns: u64,
}

impl Flow {
    /// `count` tokens in `period`, into a bucket of `burst`.
    pub fn new(count: u32, period: Duration, burst: u32) -> Self {
        let period_ns = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let token_ns = (period_ns / u64::from(count.max(1))).max(1);
        Flow { token_ns, full_ns: token_ns.saturating_mul(u64::from(burst.max(1))) }
    }
}

/// What became of a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// There was one.
    Token {
        /// Tokens that are left.
        left: u64,
        /// Nanoseconds until the bucket is full.
        full_in_ns: u64,
    },
    /// There was none.
    Nothing {
        /// Nanoseconds until there is one.
        next_in_ns: u64,
    },
}

/// Keys, then times: an array that the allocator can hand out zeroed.
type Set = [u64; 2 * WAYS];

/// See the module.
pub struct Buckets {
    /// Empty until one of its sets is used.
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    sets: Vec<Set>,
    displaced: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Buckets {
    /// Takes a token from the bucket of `key`, a good hash, at `now_ns` of a clock that began well before.
    pub fn take(&self, key: u64, flow: Flow, now_ns: u64) -> Took {
        let key = key.max(1);
        let mut shard = self.shard(key);
        let set = shard.set(key);
        let known = (0..WAYS).find(|&way| set[way] == key);
        let full_at = known.map_or(now_ns, |way| set[WAYS + way].max(now_ns));
        let next = full_at.saturating_add(flow.token_ns);
        let latest = now_ns.saturating_add(flow.full_ns);
        if next > latest {
            return Took::Nothing { next_in_ns: next - latest };
        }
        let mut displaced = 0;
        let way = known.unwrap_or_else(|| {
            let (way, full_at) =
                (0..WAYS).map(|way| (way, set[WAYS + way])).min_by_key(|&(_, at)| at).unwrap_or_default();
            displaced = u64::from(full_at > now_ns);
            set[way] = key;
            way
        });
        set[WAYS + way] = next;
        shard.displaced += displaced;
        Took::Token { left: (latest - next) / flow.token_ns, full_in_ns: next - now_ns }
    }

    /// Gives a token back that was not used.
    pub fn give_back(&self, key: u64, flow: Flow) {
        let key = key.max(1);
        let mut shard = self.shard(key);
        let set = shard.set(key);
        if let Some(way) = (0..WAYS).find(|&way| set[way] == key) {
            set[WAYS + way] = set[WAYS + way].saturating_sub(flow.token_ns);
        }
    }

    /// Learns that the bucket of `key` will not be full before `full_at_ns`. Nothing is learned of who is not known
    /// here any more.
    pub fn learn(&self, key: u64, full_at_ns: u64) {
        let key = key.max(1);
        let mut shard = self.shard(key);
        let set = shard.set(key);
        if let Some(way) = (0..WAYS).find(|&way| set[way] == key) {
            set[WAYS + way] = set[WAYS + way].max(full_at_ns);
        }
    }

    /// Buckets that were forgotten before they were full.
    pub fn displaced(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().displaced).sum()
    }

    fn shard(&self, key: u64) -> parking_lot::MutexGuard<'_, Shard> {
        self.shards[key as usize % SHARDS].lock()
    }
}

impl Shard {
    fn set(&mut self, key: u64) -> &mut Set {
        if self.sets.is_empty() {
            self.sets = vec![[0; 2 * WAYS]; SETS];
        }
        &mut self.sets[key as usize / SHARDS % SETS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn takes(buckets: &Buckets, key: u64, flow: Flow, now: u64) -> bool {
        matches!(buckets.take(key, flow, now), Took::Token { .. })
    }

    #[test]
    fn a_bucket_holds_a_burst_and_fills_steadily() {
        let (buckets, flow) = (Buckets::default(), Flow::new(10, Duration::from_secs(1), 5));
        let now = 100 * SECOND;
        for left in [4, 3, 2, 1, 0] {
            let full_in_ns = (5 - left) * SECOND / 10;
            assert_eq!(buckets.take(7, flow, now), Took::Token { left, full_in_ns });
        }
        assert_eq!(buckets.take(7, flow, now), Took::Nothing { next_in_ns: SECOND / 10 });
        assert_eq!(buckets.take(7, flow, now + SECOND / 20), Took::Nothing { next_in_ns: SECOND / 20 });
        assert!(takes(&buckets, 7, flow, now + SECOND / 10));
        assert!(
            !takes(&buckets, 7, flow, now + SECOND / 10),
            "asking in vain costs nothing and gains nothing"
        );
        assert!(takes(&buckets, 8, flow, now), "another's bucket");
        buckets.give_back(7, flow);
        assert!(takes(&buckets, 7, flow, now + SECOND / 10));
    }

    /// Against a model: tokens as a real number that flows in.
    #[test]
    fn no_more_than_the_flow_over_any_time() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let (buckets, flow) = (Buckets::default(), Flow::new(7, Duration::from_secs(1), 13));
        let (mut now, mut tokens, mut admitted, mut differing) = (SECOND, 13.0, 0u64, 0);
        let start = now;
        for _ in 0..20_000 {
            let pause = rng.u64(0..SECOND / 4);
            now += pause;
            tokens = f64::min(13.0, tokens + pause as f64 / flow.token_ns as f64);
            let took = takes(&buckets, 42, flow, now);
            if took != (tokens >= 1.0) {
                differing += 1;
            }
            if took {
                tokens -= 1.0;
                admitted += 1;
            }
            assert!(admitted <= 13 + (now - start) / flow.token_ns + 1, "seed {seed}");
        }
        assert!(differing < 5, "rounding alone may differ; seed {seed}: {differing}");
    }

    #[test]
    fn a_flood_forgets_neither_the_greedy_nor_locks_newcomers_out() {
        let (buckets, flow) = (Buckets::default(), Flow::new(1000, Duration::from_secs(3600), 1000));
        let mut rng = fastrand::Rng::with_seed(3);
        let now = 10 * SECOND;
        let greedy: Vec<u64> = (0..100).map(|_| rng.u64(..)).collect();
        for &key in &greedy {
            while takes(&buckets, key, flow, now) {}
        }
        for _ in 0..4 * ENTRIES {
            assert!(takes(&buckets, rng.u64(..), flow, now), "a newcomer is let in");
        }
        assert!(buckets.displaced() > ENTRIES as u64);
        let let_in = greedy.iter().filter(|&&key| takes(&buckets, key, flow, now)).count();
        assert_eq!(let_in, 0, "what they owe is remembered");
    }

    #[test]
    fn what_is_learned_counts_and_is_never_less_than_what_is_known() {
        let (buckets, flow) = (Buckets::default(), Flow::new(10, Duration::from_secs(1), 10));
        let now = 5 * SECOND;
        assert!(takes(&buckets, 9, flow, now));
        buckets.learn(9, now + 2 * SECOND);
        assert_eq!(buckets.take(9, flow, now), Took::Nothing { next_in_ns: SECOND + SECOND / 10 });
        buckets.learn(9, now);
        assert!(!takes(&buckets, 9, flow, now));
        buckets.learn(10, now + 9 * SECOND);
        assert!(takes(&buckets, 10, flow, now), "who is not known is new");
    }
}
