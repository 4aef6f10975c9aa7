//! What the store counts: plain atomics that whoever exports metrics reads.
//!
//! Hits and misses are not here: only the request machine knows what a lookup came to.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or a level that is set.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes `n` off a level.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Sets a level.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $kind:ident $name:ident),+ $(,)?) => {
        /// All counters and levels of one store.
        #[derive(Debug, Default)]
        pub struct Metrics { $($(#[doc = $doc])+ pub $name: Count,)+ }

        impl Metrics {
            /// Each with its name, help and kind, in a fixed order.
            pub fn each(&self) -> Vec<(&'static str, &'static str, Kind, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_ascii(), Kind::$kind, self.$name.read()),)+]
            }
        }
    };
}

/// How a metric is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

metrics! {
    /// Objects committed by fills.
    Counter objects_stored,
    /// Objects written to the disk's segments: what was asked for twice, and heads of large ones.
    Counter disk_records,
    /// Bytes written for them.
    Counter disk_record_bytes,
    /// Objects dropped from memory for space.
    Counter memory_evicted,
    /// Files and segments dropped from disk for space.
    Counter disk_evicted,
    /// Objects removed because a purge covers them.
    Counter purged,
    /// Bytes resident in the memory tier.
    Gauge memory_bytes,
    /// Bytes pinned by fills under way.
    Gauge fill_bytes,
    /// Bytes reserved on disk.
    Gauge disk_bytes,
    /// Keys in the index.
    Gauge keys,
    /// Fetches under way, from the question until the last byte is stored.
    Gauge fetches,
    /// Fills begun.
    Counter fills,
    /// Fills that ended without committing.
    Counter fills_failed,
    /// Fills of what was missing of a stored object.
    Counter gaps_filled,
    /// Objects with gaps that were dropped because their origin has another generation.
    Counter generations,
    /// URLs fetched ahead of clients.
    Counter warmed,
    /// URLs that could not be fetched ahead, or not be stored.
    Counter warm_failed,
    /// Fills ended because nobody read them any more.
    Counter fills_abandoned,
    /// Fills streamed without storing: no space, or a disk that fails.
    Counter fills_unstored,
    /// Requests that waited for another's fetch.
    Counter collapsed,
    /// Waits for another's fetch that took too long.
    Counter waits_timed_out,
    /// Responses that gave out in the store midway and went on from the origin.
    Counter mended,
    /// Readers cut off because they held up a fill that could not be stored.
    Counter readers_cut,
    /// Objects found on disk and loaded.
    Counter disk_loads,
    /// Failed operations on the cache directory.
    Counter disk_errors,
    /// Stored copies that were torn or damaged, and dropped.
    Counter damaged,
    /// Objects not written to disk because its queue was full.
    Counter disk_queue_full,
    /// Purge orders applied.
    Counter purge_orders,
    /// Purge records widened because there were too many.
    Counter purges_widened,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_a_help_text() {
        let metrics = Metrics::default();
        metrics.objects_stored.one();
        let all = metrics.each();
        assert_eq!(all[0], ("objects_stored", "Objects committed by fills.", Kind::Counter, 1));
        assert!(all.iter().all(|(_, help, ..)| help.ends_with('.')));
    }
}
