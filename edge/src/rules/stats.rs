//! How often each rule has matched, without two cores writing to one cache line.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::worker;

/// See the module. Counts go on over reloads by a rule's name.
pub struct RuleStats {
    names: Vec<String>,
    /// One allocation per worker.
    workers: Arc<[Box<[AtomicU64]>]>,
}

impl RuleStats {
    pub(super) fn new(names: Vec<String>, last: Option<&RuleStats>, workers: usize) -> Arc<RuleStats> {
        if let Some(last) = last
            && last.names == names
        {
            // The same counters, so that what is counted meanwhile is not lost.
            return Arc::new(RuleStats { names, workers: last.workers.clone() });
        }
        let zeros = || names.iter().map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let workers: Arc<[Box<[AtomicU64]>]> = (0..workers.max(1)).map(|_| zeros()).collect();
        if let (Some(last), Some(first)) = (last, workers.first()) {
            for (name, counter) in names.iter().zip(first) {
                counter.store(last.of(name), Relaxed);
            }
        }
        Arc::new(RuleStats { names, workers })
    }

    /// Counts a match of each.
    pub fn matched(&self, rules: &[u16]) {
        let Some(mine) = self.workers.get(worker::index() % self.workers.len()) else { return };
        for &rule in rules {
            if let Some(counter) = mine.get(usize::from(rule)) {
                counter.fetch_add(1, Relaxed);
            }
        }
    }

    /// Rules with their counts.
    pub fn all(&self) -> impl Iterator<Item = (&str, u64)> {
        self.names.iter().enumerate().map(|(at, name)| {
            let sum = self.workers.iter().map(|counters| counters[at].load(Relaxed)).sum();
            (name.as_str(), sum)
        })
    }

    fn of(&self, name: &str) -> u64 {
        self.all().find(|(known, _)| *known == name).map_or(0, |(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_by_name() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let first = RuleStats::new(names(&["a", "b"]), None, 2);
        first.matched(&[0, 1, 1]);
        let next = RuleStats::new(names(&["b", "c"]), Some(&first), 2);
        assert_eq!(next.all().collect::<Vec<_>>(), [("b", 2), ("c", 0)]);
        let same = RuleStats::new(names(&["b", "c"]), Some(&next), 2);
        same.matched(&[1]);
        assert_eq!(same.all().collect::<Vec<_>>(), [("b", 2), ("c", 1)]);
    }
}
