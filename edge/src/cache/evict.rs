//! S3-FIFO: which resident goes when space is short (Yang et al., SOSP 2023).
//!
//! Newcomers wait in a small queue (a tenth of the bytes). Those asked for again before its end move to the main
//! queue, the others leave and are remembered by fingerprint only, so that they enter the main queue when they
//! come back. One-hit wonders, most of a CDN's long tail, thus never push out what is hot. A hit only bumps a
//! counter inside the resident: no lock, no list. The queues know nothing of keys or indexes: who evicts drops
//! the references.

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::{AtomicU8, Ordering},
};

/// Hits remembered per resident. More adds nothing: the paper's traces are flat from 3 on.
const HEAT_MAX: u8 = 3;
/// Share of the bytes given to newcomers, as a divisor.
const SMALL_SHARE: u64 = 10;
/// Fingerprints remembered, however few residents there are: what comes back while its fingerprint is known was asked for
/// twice, and goes to disk. 8 + ~16 bytes each, 1.5 MB at the most.
const GHOSTS_MAX: usize = 65_536;

/// How often something was asked for lately.
#[derive(Debug, Default)]
pub struct Heat(AtomicU8);

impl Heat {
    /// Counts a hit. Relaxed and lossy: a lost increment costs nothing.
    pub fn bump(&self) {
        let heat = self.0.load(Ordering::Relaxed);
        if heat < HEAT_MAX {
            self.0.store(heat + 1, Ordering::Relaxed);
        }
    }

    /// Whether it was asked for since it entered or was last spared.
    pub fn is_warm(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    /// Spends one hit. Whether there was one.
    pub fn cool(&self) -> bool {
        let heat = self.0.load(Ordering::Relaxed);
        self.0.store(heat.saturating_sub(1), Ordering::Relaxed);
        heat > 0
    }

    fn reset(&self) -> bool {
        self.0.swap(0, Ordering::Relaxed) > 0
    }
}

/// Something that takes space.
pub trait Resident {
    /// Bytes, bookkeeping included; the same over its whole stay.
    fn weight(&self) -> u64;
    /// Its hits.
    fn heat(&self) -> &Heat;
    /// Recognises it when it comes back.
    fn fingerprint(&self) -> u64;
    /// Whether it was dropped elsewhere already, so that evicting it is free.
    fn is_gone(&self) -> bool;
}

/// Whether a newcomer is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comes {
    /// Not known.
    New,
    /// It left not long ago.
    Back,
}

/// The two queues and the ghosts.
#[derive(Debug)]
pub struct S3Fifo<R> {
    small: VecDeque<R>,
    main: VecDeque<R>,
    small_bytes: u64,
    main_bytes: u64,
    ghosts: HashSet<u64>,
    ghost_order: VecDeque<u64>,
}

impl<R: Resident> Default for S3Fifo<R> {
    fn default() -> S3Fifo<R> {
        S3Fifo {
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            main_bytes: 0,
            ghosts: HashSet::new(),
            ghost_order: VecDeque::new(),
        }
    }
}

impl<R: Resident> S3Fifo<R> {
    /// Bytes of all residents.
    pub fn bytes(&self) -> u64 {
        self.small_bytes + self.main_bytes
    }

    /// Takes a resident in. The caller evicts afterwards, or before. Gives whether it was here before.
    pub fn insert(&mut self, resident: R) -> Comes {
        if self.ghosts.remove(&resident.fingerprint()) {
            self.main_bytes += resident.weight();
            self.main.push_back(resident);
            Comes::Back
        } else {
            self.small_bytes += resident.weight();
            self.small.push_back(resident);
            Comes::New
        }
    }

    /// Chooses residents to drop until at most `bytes_max` remain. Each step drops, promotes or cools one
    /// resident, so the work is at most `HEAT_MAX + 2` steps per resident.
    pub fn evict_to(&mut self, bytes_max: u64, mut evicted: impl FnMut(R)) {
        while self.bytes() > bytes_max {
            let from_small = self.main.is_empty() || self.small_bytes > bytes_max / SMALL_SHARE;
            let out = if from_small && !self.small.is_empty() { self.step_small() } else { self.step_main() };
            if let Some(resident) = out {
                evicted(resident);
            }
        }
    }

    /// Takes out those that were dropped elsewhere.
    pub fn take_gone(&mut self) -> Vec<R> {
        let mut gone = Vec::new();
        for (queue, bytes) in
            [(&mut self.small, &mut self.small_bytes), (&mut self.main, &mut self.main_bytes)]
        {
            for _ in 0..queue.len() {
                match queue.pop_front() {
                    Some(resident) if resident.is_gone() => {
                        *bytes -= resident.weight();
                        gone.push(resident);
                    }
                    Some(resident) => queue.push_back(resident),
                    None => break,
                }
            }
        }
        gone
    }

    fn step_small(&mut self) -> Option<R> {
        let resident = self.small.pop_front()?;
        self.small_bytes -= resident.weight();
        if !resident.is_gone() && resident.heat().reset() {
            self.main_bytes += resident.weight();
            self.main.push_back(resident);
            return None;
        }
        if !resident.is_gone() {
            self.remember(resident.fingerprint());
        }
        Some(resident)
    }

    fn step_main(&mut self) -> Option<R> {
        let resident = self.main.pop_front()?;
        if !resident.is_gone() && resident.heat().cool() {
            self.main.push_back(resident);
            return None;
        }
        self.main_bytes -= resident.weight();
        Some(resident)
    }

    fn remember(&mut self, fingerprint: u64) {
        if self.ghosts.insert(fingerprint) {
            self.ghost_order.push_back(fingerprint);
        }
        while self.ghost_order.len() > GHOSTS_MAX {
            if let Some(oldest) = self.ghost_order.pop_front() {
                self.ghosts.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Debug)]
    struct Item {
        name: u64,
        weight: u64,
        heat: Heat,
    }

    impl Resident for Arc<Item> {
        fn weight(&self) -> u64 {
            self.weight
        }
        fn heat(&self) -> &Heat {
            &self.heat
        }
        fn fingerprint(&self) -> u64 {
            self.name
        }
        fn is_gone(&self) -> bool {
            false
        }
    }

    fn item(name: u64, weight: u64) -> Arc<Item> {
        Arc::new(Item { name, weight, heat: Heat::default() })
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_asked_for_again() {
        let mut queues = S3Fifo::default();
        let hot: Vec<_> = (0..20).map(|name| item(name, 10)).collect();
        let mut gone = HashSet::new();
        for hot in &hot {
            hot.heat.bump();
            queues.insert(Arc::clone(hot));
        }
        for name in 1000..11_000 {
            queues.insert(item(name, 10));
            queues.evict_to(1000, |item| {
                gone.insert(item.name);
            });
            hot.iter().for_each(|item| item.heat.bump());
            assert!(queues.bytes() <= 1000);
        }
        assert!(hot.iter().all(|item| !gone.contains(&item.name)));
    }

    #[test]
    fn what_comes_back_soon_enters_the_main_queue() {
        let mut queues = S3Fifo::default();
        queues.insert(item(1, 10));
        let mut evicted = Vec::new();
        queues.evict_to(0, |item| evicted.push(item.name));
        assert_eq!(evicted, [1]);
        queues.insert(item(1, 10));
        assert_eq!((queues.small.len(), queues.main.len()), (0, 1));
    }

    proptest::proptest! {
        #[test]
        fn the_bound_holds_and_every_byte_is_accounted(
            weights in proptest::collection::vec((1u64..500, 0u8..4), 1..300), max in 1u64..5000
        ) {
            let mut queues = S3Fifo::default();
            let mut inside = 0;
            for (name, (weight, hits)) in weights.into_iter().enumerate() {
                let item = item(name as u64 % 40, weight);
                (0..hits).for_each(|_| item.heat.bump());
                inside += weight;
                queues.insert(item);
                queues.evict_to(max, |gone| inside -= gone.weight);
                proptest::prop_assert_eq!(queues.bytes(), inside);
                proptest::prop_assert!(inside <= max);
            }
        }
    }
}
