//! Removes what purges cover, in the background, so that their records and its bytes can go; and what the index says of
//! segments that were dropped for space.
//!
//! A lookup never needs it: it checks for itself. The sweep frees memory soon after a wide purge; and when records
//! have piled up it reads every head on disk too, snapshots the index without what is covered, and only then forgets
//! the records. What a soft purge covers is removed as well by then: a stale object nobody asked for since.

use std::{
    io,
    sync::{Arc, Weak, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use super::{
    Cache,
    index::{KeyHash, Variant, Variants},
};
use crate::purge::{Subject, Validity};

/// Records that make a full sweep worth its reads: a lookup of an unchecked object then costs some 10 µs at worst.
const RECORDS_MAX: usize = 2048;
/// At most one sweep in this time, however many purges come.
const REST: Duration = Duration::from_secs(2);
/// How often a dropped store is noticed.
const IDLE: Duration = Duration::from_secs(1);

/// Wakes the sweeper.
#[derive(Debug)]
pub(super) struct Signal(mpsc::SyncSender<()>);

impl Signal {
    pub fn wake(&self) {
        // Full: it is awake already.
        let _ = self.0.try_send(());
    }
}

pub(super) fn signal() -> (Signal, mpsc::Receiver<()>) {
    let (sender, receiver) = mpsc::sync_channel(1);
    (Signal(sender), receiver)
}

/// Starts the sweeper; it ends with the store.
pub(super) fn start(cache: &Arc<Cache>, signals: mpsc::Receiver<()>) -> io::Result<()> {
    let cache = Arc::downgrade(cache);
    thread::Builder::new().name("cache-sweep".into()).spawn(move || run(&cache, &signals)).map(drop)
}

fn run(cache: &Weak<Cache>, signals: &mpsc::Receiver<()>) {
    loop {
        match signals.recv_timeout(IDLE) {
            Ok(()) => {
                let Some(cache) = cache.upgrade() else { return };
                cache.sweep();
                drop(cache);
                thread::sleep(REST);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// How thorough a sweep is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What is in memory.
    Memory,
    /// Heads on disk as well: afterwards nothing is left of what the records cover.
    Disk,
}

impl Cache {
    fn sweep(&self) {
        if let Some(disk) = &self.disk {
            disk.forget_lost_records(&self.index);
        }
        let depth = if self.purges.records() > RECORDS_MAX { Depth::Disk } else { Depth::Memory };
        let is_swept = self.swept.swap(self.purges.latest(), Ordering::AcqRel) >= self.purges.latest();
        if depth == Depth::Disk || !is_swept {
            self.sweep_to(depth);
        }
    }

    /// Sweeps now. Waits for the disk.
    pub(super) fn sweep_to(&self, depth: Depth) {
        let tick = self.purges.latest();
        self.index.each_shard(|keys| {
            for (hash, variants) in keys {
                self.sweep_key(hash, &variants, depth);
            }
        });
        let gone = self.memory.sweep();
        self.let_go(gone);
        if depth == Depth::Disk && self.no_fetch_before(tick) {
            let durable = self.disk.as_ref().map_or(Ok(()), |disk| disk.snapshot());
            if let Err(error) = durable.and_then(|()| self.purges.forget(tick)) {
                tracing::warn!(%error, "purge records are kept: the index could not be made durable");
                self.metrics.disk_errors.one();
            }
        }
    }

    fn no_fetch_before(&self, tick: u64) -> bool {
        self.fetches.lock().first_key_value().is_none_or(|(&oldest, _)| oldest > tick)
    }

    fn sweep_key(&self, hash: KeyHash, variants: &Variants, depth: Depth) {
        for variant in variants {
            let validity = match variant {
                Variant::Resident(object) => object.validity(self),
                Variant::Packed(packed) if depth == Depth::Disk => {
                    let record = self.disk.as_ref().and_then(|disk| disk.read_record_blocking(packed.place));
                    record.map_or(Validity::Gone, |record| {
                        let tags = crate::purge::tags(&record.meta.headers);
                        self.purges.check(&Subject { key: &record.key, tags: &tags, birth: packed.id })
                    })
                }
                Variant::Packed(_) => Validity::Valid,
            };
            let goes = match validity {
                Validity::Gone => true,
                Validity::StaleSince(_) => depth == Depth::Disk,
                Validity::Valid => false,
            };
            if goes {
                let id = variant.id();
                self.remove_purged(hash, |known| known.id() == id);
            }
        }
    }
}
