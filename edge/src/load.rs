//! How busy this edge is, as one number for whoever sends it clients: 1 is all it has.
//!
//! The highest of what would run out first: processor time of this process, of what its workers can get (time that
//! the host took away from a virtual machine counts as gone), and places for connections. An average over
//! [`WINDOW`], because one second of a small machine says little. Told on the health page, where DNS nodes read it.
//! What else runs on the machine is not in it: an edge that shares its machine should have fewer workers.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

use crate::listen::Front;

/// The load is the average over about so long.
const WINDOW: Duration = Duration::from_secs(5);

/// Looked at so often.
const INTERVAL: Duration = Duration::from_millis(500);

/// The least part of the workers' time that counts as theirs, whatever the host took.
const LEFT_MIN: f64 = 0.1;

/// `/proc/stat` counts in hundredths of a second on every Linux there is.
const STOLEN_TICK_MS: u64 = 10;

/// The load of now. Readers take an atomic.
#[derive(Debug, Default)]
pub struct Load(AtomicU64);

impl Load {
    /// 0 idle, 1 all there is; may exceed 1 for a while, since helpers work beside the workers.
    pub fn now(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

/// Keeps a load true. Runs until cancelled.
pub async fn keep(load: Arc<Load>, front: Arc<Front>, workers: usize) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = workers.min(cores) as f64;
    let mut before = Usage::now();
    let mut average = Average(0.0);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let usage = Usage::now();
        let processor = usage.since(&before, workers);
        let places = front.admission.open() as f64 / front.admission.limits().connections_max as f64;
        average.add(processor.max(places), usage.at - before.at);
        load.0.store(average.0.to_bits(), Ordering::Relaxed);
        before = usage;
    }
}

/// What was used up to a moment.
struct Usage {
    at: Instant,
    /// Processor time of this process, all threads.
    own: Duration,
    /// Time that the host gave to others, all processors.
    stolen: Duration,
}

impl Usage {
    fn now() -> Self {
        let own = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        let stolen = fs::read_to_string("/proc/stat").map_or(Duration::ZERO, |stat| stolen(&stat));
        Self { at: Instant::now(), own, stolen }
    }

    /// Part of the time of so many workers that was used since.
    fn since(&self, before: &Self, workers: f64) -> f64 {
        let all = (self.at - before.at).as_secs_f64() * workers;
        if all <= 0.0 {
            return 0.0;
        }
        let stolen = self.stolen.saturating_sub(before.stolen).as_secs_f64();
        let left = (all - stolen).max(all * LEFT_MIN);
        self.own.saturating_sub(before.own).as_secs_f64() / left
    }
}

/// `steal` of the first line: `cpu user nice system idle iowait irq softirq steal …`.
fn stolen(stat: &str) -> Duration {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: u64 = first.split_ascii_whitespace().nth(8).and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_millis(ticks.saturating_mul(STOLEN_TICK_MS))
}

/// An average in which the past fades.
struct Average(f64);

impl Average {
    fn add(&mut self, value: f64, over: Duration) {
        let weight = 1.0 - (-over.as_secs_f64() / WINDOW.as_secs_f64()).exp();
        self.0 += (value - self.0) * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(at: Instant, seconds: u64, own_ms: u64, stolen_ms: u64) -> Usage {
        Usage {
            at: at + Duration::from_secs(seconds),
            own: Duration::from_millis(own_ms),
            stolen: Duration::from_millis(stolen_ms),
        }
    }

    #[test]
    fn used_time_counts_against_what_the_workers_can_get() {
        let start = Instant::now();
        let before = usage(start, 0, 1000, 500);
        let part = |own, stolen, workers| usage(start, 1, own, stolen).since(&before, workers);
        assert_eq!(part(1500, 500, 1.0), 0.5);
        assert_eq!(part(1500, 500, 2.0), 0.25);
        assert_eq!(part(1500, 1000, 1.0), 1.0, "half was stolen, the other half used");
        assert_eq!(part(1100, 9000, 1.0), 1.0, "never more than nine tenths are taken to be gone");
        assert_eq!(usage(start, 0, 9000, 0).since(&before, 1.0), 0.0, "no time has passed");
    }

    #[test]
    fn stolen_time_is_the_eighth_number() {
        let stat = "cpu  10 20 30 40 50 60 70 250 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(stolen(stat), Duration::from_millis(2500));
        assert_eq!(stolen("cpu 1 2"), Duration::ZERO);
        assert_eq!(stolen(""), Duration::ZERO);
    }

    #[test]
    fn the_average_follows_within_its_window() {
        let mut average = Average(0.0);
        for _ in 0..10 {
            average.add(1.0, INTERVAL);
        }
        assert!((average.0 - 0.632).abs() < 0.01, "{}", average.0);
        for _ in 0..60 {
            average.add(0.0, INTERVAL);
        }
        assert!(average.0 < 0.01, "{}", average.0);
    }

    #[test]
    fn this_process_has_used_something() {
        let before = Usage::now();
        let begun = Instant::now();
        let mut numbers = 0u64;
        while begun.elapsed() < Duration::from_millis(30) {
            numbers = std::hint::black_box(numbers.wrapping_mul(31).wrapping_add(7));
        }
        assert!(Usage::now().own > before.own);
    }
}
