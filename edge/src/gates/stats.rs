//! Counts what gates find, per worker and without a lock; kept by the site's name across reloads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crossbeam_utils::CachePadded;
use nearside_fleet::config::gates::Mode;

use super::Gate;
use crate::worker;

/// Lines that a site's gates write to the log in one second: a flood of requests is not to be one of lines.
pub const LINES_MAX: u64 = 100;

/// See the module.
pub struct GateStats {
    /// The second in which lines are counted (40 bits), and how many there were.
    lines: AtomicU64,
    workers: Box<[CachePadded<[[AtomicU64; 2]; Gate::ALL.len()]>]>,
}

impl GateStats {
    /// Zeros for so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(GateStats {
            lines: AtomicU64::new(0),
            workers: (0..workers.max(1)).map(|_| CachePadded::default()).collect(),
        })
    }

    /// A gate objected.
    pub fn found(&self, gate: Gate, mode: Mode) {
        let here = &self.workers[worker::index() % self.workers.len()];
        here[gate as usize][column(mode)].fetch_add(1, Relaxed);
    }

    /// Whether another line may be written in this second, of whatever clock.
    pub fn may_log(&self, second: u64) -> bool {
        const COUNT_BITS: u32 = 24;
        let second = second << COUNT_BITS;
        let before = self.lines.fetch_update(Relaxed, Relaxed, |lines| {
            let same = lines >> COUNT_BITS == second >> COUNT_BITS;
            let count = if same { lines & ((1 << COUNT_BITS) - 1) } else { 0 };
            (count < LINES_MAX).then_some(second | (count + 1))
        });
        before.is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_so_many_lines() {
        let stats = GateStats::new(1);
        let lines = |second| (0..1000).filter(|_| stats.may_log(second)).count() as u64;
        assert_eq!([lines(7), lines(7), lines(8)], [LINES_MAX, 0, LINES_MAX]);
    }
}
