//! Counts what gates find, per worker and without a lock; kept by the site's name across reloads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crossbeam_utils::CachePadded;
use nearside_fleet::config::gates::Mode;

use super::Gate;
use crate::worker;

/// See the module.
pub struct GateStats {
    workers: Box<[CachePadded<[[AtomicU64; 2]; Gate::ALL.len()]>]>,
}

impl GateStats {
    /// Zeros for so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(GateStats { workers: (0..workers.max(1)).map(|_| CachePadded::default()).collect() })
    }

    /// A gate objected.
    pub fn found(&self, gate: Gate, mode: Mode) {
        let here = &self.workers[worker::index() % self.workers.len()];
        here[gate as usize][column(mode)].fetch_add(1, Relaxed);
    }

    /// How often it did: refused, or let go on.
    pub fn count(&self, gate: Gate, mode: Mode) -> u64 {
        self.workers.iter().map(|worker| worker[gate as usize][column(mode)].load(Relaxed)).sum()
    }
}

fn column(mode: Mode) -> usize {
    match mode {
        Mode::Enforce => 0,
        Mode::Detect => 1,
    }
}
